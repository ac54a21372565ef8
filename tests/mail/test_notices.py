"""The mails that are due, their texts, and that a jumping clock tells no news twice."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import park
from park.cli.broker_terms import mail_settings
from park.core.server import own_notify
from park.errors import InvalidRequest
from park.mail.letter import composed
from park.mail.notices import GATHER_SECONDS, Letter, MailPolicy, Notice, Notices
from park.mail.settings import MailSettings
from park.model import notify_words

BERLIN = MailPolicy(7, 0, "Europe/Berlin", 5)
NOON = datetime(2026, 3, 10, 11, tzinfo=UTC).timestamp()
HOUR, DAY = 3600.0, 86400.0
SETTINGS = MailSettings("localhost", "park@example.org", page="https://park.example.org/x/")


def notice(
    job: int, state: str = "complete", ended: float = NOON, when: str = "daily", **more: Any
) -> Notice:
    return Notice(job, "ada", "ada@example.org", when, state, ended=ended, **more)


def write(notices: Notices, wall: float) -> list[tuple[str, list[int]]]:
    """The letters of this moment: their kinds and jobs. They leave at once."""
    found = []
    for owner, address, kind in notices.due(wall):
        jobs = [n.job for n in notices.take(owner, address, kind)]
        notices.count(Letter(notices.new_number(), owner, address, kind, "", wall))
        notices.letters.clear()
        found.append((kind, jobs))
    return found


def test_failures_go_at_once_and_are_gathered_for_ten_minutes() -> None:
    notices = Notices(BERLIN, 1)
    notices.add(notice(1, "failed"), 0.0)
    assert write(notices, NOON) == [("urgent", [1])]
    for job in range(2, 40):
        notices.add(notice(job, "failed", NOON + job), 0.0)
    assert write(notices, NOON + 60) == []
    assert write(notices, NOON + GATHER_SECONDS) == [("urgent", list(range(2, 40)))]


def test_the_rest_waits_for_the_digest_of_the_site() -> None:
    notices = Notices(BERLIN, 1)
    notices.add(notice(1), 0.0)
    six = datetime(2026, 3, 11, 6, tzinfo=UTC).timestamp()  # 07:00 in Berlin
    assert write(notices, NOON) == write(notices, six - 1) == []
    assert write(notices, six) == [("digest", [1])]
    assert write(notices, six + DAY) == []  # a day without news
    notices.add(notice(2, ended=six + DAY + 1), 0.0)
    assert write(notices, six + DAY + 2) == []
    summer = datetime(2026, 3, 29, 5, tzinfo=UTC).timestamp()  # the clocks have gone forward in the night
    notices.add(notice(3, ended=summer - HOUR), 0.0)
    assert BERLIN.last_digest(summer - 1)[1] == "2026-03-28"
    assert BERLIN.last_digest(summer) == (summer, "2026-03-29")


def test_an_owner_gets_no_more_than_the_limit_and_the_last_mail_is_the_digest() -> None:
    notices = Notices(BERLIN, 1)
    sent = []
    for n in range(60):
        notices.add(notice(n, "failed", NOON + n * GATHER_SECONDS), 0.0)
        sent += write(notices, NOON + n * GATHER_SECONDS)
    assert len(sent) == 4  # until midnight
    (kind, jobs), *_ = write(notices, NOON + 20 * HOUR)
    assert kind == "digest"
    assert jobs == list(range(4, 60))


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([60.0, 601.0, 5 * HOUR, DAY, 400 * DAY, -60.0, -7 * HOUR, -DAY, -400 * DAY]),
            st.lists(st.sampled_from(["complete", "failed", "aborted"]), max_size=3),
        ),
        max_size=30,
    )
)
def test_each_news_is_told_once_whatever_the_clock_does(steps: list[tuple[float, list[str]]]) -> None:
    notices, wall, job = Notices(BERLIN, 1), NOON, 0
    told: Counter[int] = Counter()
    for seconds, states in steps:
        wall += seconds
        for state in states:
            job += 1
            notices.add(notice(job, state, wall), 0.0)
        for _ in range(2):
            letters = write(notices, wall)
            assert len(letters) <= 1
            told.update(n for _, jobs in letters for n in jobs)
    for _ in range(5):  # and none is kept for ever
        wall += DAY
        told.update(n for _, jobs in write(notices, wall) for n in jobs)
    assert told == Counter(range(1, job + 1))


def test_a_letter_shows_results_and_causes_as_text() -> None:
    fit = b'{"format": 1, "statistic": "chisq", "chisq": 1.0234, "parameters": [{"label": "width", "text": "2.31(4)"}]}'
    bad = notice(
        2, "failed", name="<script>x</script>", reason="unit 3: <b>ValueError</b>", done=9, total=9, failed=1
    )
    good = notice(1, name="peak", started=NOON - 5400)
    running = {"job": 4, "name": "long", "part": 0.25, "left": 5400.0}
    rows = (good.as_map(), bad.as_map())
    letter = Letter(
        7, "ada", "ada@example.org", "digest", "2026-03-10", NOON, rows, 0, (running,), 1234.0, "", 1
    )
    mail = composed(letter, {1: fit}, SETTINGS, "store")
    plain, html = (part.get_content() for part in mail.iter_parts())
    assert mail["Subject"] == "PARK 2026-03-10: 2 jobs ended, 1 failed"
    for text in (
        "job 1 peak",
        "complete after 1 h 30 min",
        "chisq 1.023",
        "width = 2.31(4)",
        "25% done, about 1 h 30 min left",
    ):
        assert text in plain
        assert text in html
    assert "1,234 credits are left" in plain
    assert "<script>" not in html
    assert "<b>" not in html
    assert 'href="https://park.example.org/x/job?n=2"' in html
    other = composed(
        Letter(8, "ada", "ada@example.org", "urgent", "2026-03-10", NOON, rows), {}, SETTINGS, "store"
    )
    assert other["References"] == mail["References"]
    assert other["Message-ID"] != mail["Message-ID"]
    damaged = composed(letter, {1: b"{"}, SETTINGS, "store")
    assert "chisq" not in damaged.as_string()


@pytest.mark.parametrize(
    "words",
    ["ada", "ada@", "a@b\nBcc: c@d", "a@b\r\n daily", "a@b,c@d", "Ada <a@b.org>", "a@b often", f"{'a' * 65}@b.org", 3,
     "-oQ/tmp@b", "a@b now now"],
)  # fmt: skip
def test_what_is_no_address_is_refused(words: Any) -> None:
    with pytest.raises(InvalidRequest, match="notify"):
        park.Request(abs, notify=words)


def test_the_words_of_a_request() -> None:
    assert notify_words("") == ""
    assert notify_words("a@b.org") == "a@b.org daily"
    assert notify_words(("a@b.org", "never")) == "never"
    assert own_notify({"PARKMAIL": "a@b.org fail"}) == "a@b.org fail"
    assert own_notify({"PARKMAIL": "ada"}) == ""


def test_the_settings_of_a_file(tmp_path: Any) -> None:
    (tmp_path / "park").mkdir()
    file = tmp_path / "park" / "park.toml"
    env = {"XDG_CONFIG_HOME": str(tmp_path), "XDG_CONFIG_DIRS": str(tmp_path / "none")}
    assert mail_settings(env) is None
    file.write_text(
        '[mail]\nhost = "h"\nsender = "park@h"\ndigest = "18:30"\nzone = "Europe/Berlin"\nlimit = 3\n'
    )
    found = mail_settings(env)
    assert found == MailSettings("h", "park@h", policy=MailPolicy(18, 30, "Europe/Berlin", 3))
    for wrong in (
        'security = "ssl"',
        'digest = "7"',
        'sender = "x"',
        'zone = "Here"',
        "port = 0",
        "limit = 0",
        'page = "x"',
    ):
        file.write_text(f"[mail]\n{wrong}\n")
        with pytest.raises(InvalidRequest, match=rf"mail\.{wrong.split()[0]}"):
            mail_settings(env)
