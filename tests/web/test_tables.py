"""The tables behind the page, their events and what the page says is next: pure decisions."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from msgspec import json

from park.errors import InvalidRequest
from park.model import AccountRecord, JobRecord, JobState, KernelRecord
from park.wait_reason import Cause, WaitReason
from park.web import next_turn, rows, steering
from park.web.app import run_again
from park.web.board import KEPT_EVENTS, Board
from park.web.fit_file import read
from park.web.job_feed import _step
from park.web.listing import PAGE_ROWS, View, choices, page_of
from park.web.usage import Usage

ADA = JobRecord(
    1, "ada", name="Peak fit", tags=("thesis", "run=1"), state=JobState.RUNNING, running=2, submitted=10.0
)
BOB = JobRecord(2, "bob", name="scan", tags=("thesis",), priority=4, state=JobState.QUEUED, submitted=20.0)
CY = JobRecord(3, "cy", name="scan 13", state=JobState.FAILED, submitted=30.0, ended=31.0, started=30.5)
JOBS = [ADA, BOB, CY]


def numbers(**query: str) -> list[int]:
    return [record.job for record in page_of(View.of(query), JOBS).records]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({}, [3, 2, 1]),
        ({"text": "SCAN"}, [3, 2]),
        ({"text": "3"}, [3]),
        ({"text": "thesis"}, [2, 1]),
        ({"tag": "run=1"}, [1]),
        ({"owner": "bob"}, [2]),
        ({"state": "failed,running"}, [3, 1]),
        ({"sort": "job"}, [1, 2, 3]),
        ({"sort": "-priority"}, [2, 3, 1]),
        ({"sort": "state"}, [1, 2, 3]),
        ({"sort": "age"}, [3, 2, 1]),
        ({"text": "nothing"}, []),
    ],
)
def test_filters_and_sorts(query: dict[str, str], found: list[int]) -> None:
    assert numbers(**query) == found


@pytest.mark.parametrize(
    "query", [{"state": "gone"}, {"sort": "colour"}, {"page": "0"}, {"page": "x"}, {"page": "²"}]
)
def test_a_query_that_means_nothing_is_refused(query: dict[str, str]) -> None:
    with pytest.raises(InvalidRequest):
        View.of(query)


def test_pages_of_ten_thousand_jobs() -> None:
    jobs = [JobRecord(n, f"owner{n % 7}", name=f"scan {n}", priority=n % 5) for n in range(10_000)]
    page = page_of(View.of({"text": "scan", "sort": "-priority", "page": "3"}), jobs)
    assert (page.total, page.pages, len(page.records)) == (10_000, 10_000 // PAGE_ROWS, PAGE_ROWS)
    assert page_of(View.of({"page": "99999"}), jobs).page == page.pages


def test_counts_of_states_do_not_depend_on_the_filter_of_states() -> None:
    page = page_of(View.of({"state": "failed"}), JOBS)
    assert page.total == 1
    assert page.states["running"] == page.states["queued"] == page.states["failed"] == 1


def test_choices_are_those_of_the_table() -> None:
    assert choices(JOBS) == {"owners": ["ada", "bob", "cy"], "tags": ["run=1", "thesis"]}


def test_a_row_is_plain_and_visible() -> None:
    record = JobRecord(
        1, "ada\u202e", name="x", progress=(5.0, 20.0), units="steps", note="chisq 1.02", reason="\x1b[31m"
    )
    row = json.decode(json.encode(rows.job_row(record)))
    assert (row["owner"], row["reason"], row["far"], row["fraction"]) == (
        "ada\\u202e",
        "\\x1b[31m",
        "5/20 steps",
        0.25,
    )
    endless = JobRecord(1, "ada", progress=(float("inf"), float("nan")))
    json.decode(json.encode(rows.job_row(endless)))


def test_owners_with_shares() -> None:
    accounts = [AccountRecord("ada", 5.0, share=0.25), AccountRecord("bob", share=0.75), AccountRecord("cy")]
    found = rows.owner_rows(accounts, JOBS, {"ada": 0.5}, 4)
    assert [(row["owner"], row["now"], row["used"]) for row in found] == [
        ("bob", 0.0, 0.0),
        ("ada", 0.5, 0.5),
    ]


def test_a_kernel_that_drains_says_so() -> None:
    assert (
        rows.kernel_row(KernelRecord(1, "node", 1, 4, draining=True, owner="ada", only=True))["state"]
        == "draining"
    )


def test_a_kernel_that_pauses_says_why_and_how_many_gpus_are_busy() -> None:
    row = rows.kernel_row(KernelRecord(1, "node", 1, 4, 2, serves="none", pause="<b>", gpus=2, gpus_busy=0.5))
    assert (row["state"], row["pause"], row["gpus"], row["gpus_busy"]) == ("paused", "<b>", 2, 0.5)


def test_usage_counts_the_last_hour() -> None:
    usage = Usage()
    usage.note({"ada": 1}, 4, 0.0)
    usage.note({"ada": 1}, 4, 10.0)
    usage.note({"ada": 3}, 4, 20.0)
    assert usage.shares(20.0) == {"ada": 0.5}
    assert usage.shares(20.0 + 2 * 3600) == {}
    usage.note({"ada": 3}, 4, 9000.0)  # this process was stopped: the use meanwhile is unknown
    assert usage.shares(9000.0) == {}


def test_the_soonest_unit_is_next() -> None:
    reasons = {
        1: WaitReason(Cause.TURN, "all slots", seconds=180.0),
        2: WaitReason(Cause.TURN, "all slots", seconds=0.5),
        3: WaitReason(Cause.NO_KERNEL),
    }
    assert next_turn.served_next(JOBS, reasons) is BOB
    assert next_turn.served_next(JOBS, {}) is None
    assert next_turn.candidates(JOBS) == [BOB]


@pytest.mark.parametrize(
    ("record", "user", "admin", "may"),
    [
        (ADA, "ada", False, ["stop", "pause", "abort", "priority", "tags", "control", "retry"]),
        (ADA, "bob", False, []),
        (CY, "bob", True, ["retry", "delete"]),
        (JobRecord(4, "ada", kind="session", state=JobState.RUNNING), "ada", False, ["abort"]),
        (
            JobRecord(5, "ada", state=JobState.PAUSED),
            "ada",
            False,
            ["stop", "resume", "abort", "priority", "tags", "control", "retry"],
        ),
    ],
)
def test_what_a_user_may_do(record: JobRecord, user: str, admin: bool, may: list[str]) -> None:
    assert steering.actions(record, user, admin) == may


# -- events ------------------------------------------------------------------------------------


def parts(data: bytes) -> list[tuple[str, str, Any]]:
    found = []
    for event in data.decode().split("\n\n")[:-1]:
        fields = dict(line.split(": ", 1) for line in event.split("\n"))
        found.append((fields["event"], fields["id"], json.decode(fields["data"])))
    return found


def test_a_stream_begins_with_a_snapshot_and_goes_on_by_number() -> None:
    async def story() -> None:
        board = Board(lambda: {"state": "whole"})
        events = board.events("")
        assert parts(await anext(events)) == [("snapshot", f"{board.boot}.0", {"state": "whole"})]
        board.publish({"n": 1})
        board.publish({"n": 2})
        found = parts(await anext(events))
        assert [(kind, data) for kind, _, data in found] == [("delta", {"n": 1}), ("delta", {"n": 2})]
        again = board.events(found[0][1])
        assert [data for _, _, data in parts(await anext(again))] == [{"n": 2}]
        for wrong in ("x.1", f"{board.boot}.99", f"{board.boot}.x", "9"):
            stream = board.events(wrong)
            assert parts(await anext(stream))[0][0] == "snapshot"
            await stream.aclose()
        board.close()
        with pytest.raises(StopAsyncIteration):
            await anext(events)
        await again.aclose()
        assert board.streams == 0

    asyncio.run(story())


def test_a_slow_browser_gets_a_snapshot_and_costs_no_memory() -> None:
    async def story() -> None:
        board = Board(lambda: {"state": "whole"})
        slow = board.events("")
        await anext(slow)
        for n in range(KEPT_EVENTS + 5):
            board.publish({"n": n})
        (kind, number, _), *others = parts(await anext(slow))
        assert (kind, number, others) == ("snapshot", f"{board.boot}.{KEPT_EVENTS + 5}", [])
        await slow.aclose()
        board.publish({"n": "for nobody"})
        stream = board.events(f"{board.boot}.{KEPT_EVENTS + 5}")
        assert parts(await anext(stream))[0][0] == "snapshot"
        await stream.aclose()

    asyncio.run(story())


def test_numbers_that_json_has_not_are_left_out() -> None:
    from park.model import Improvement

    step = _step(Improvement(float("nan"), {"a\x1b": 1.0, "b": "text"}, 3))  # type: ignore[dict-item]
    assert step == [3, None, {"a\\x1b": 1.0, "b": None}]


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b"\xff", b'{"format": 2}', b"[" * 5000])
def test_a_file_that_is_no_fit_is_none(data: bytes) -> None:
    assert read(data) is None


def test_texts_of_a_fit_are_visible() -> None:
    assert read(b'{"format": 1, "names": ["a\\u202e", 1.5, null]}') == {
        "format": 1,
        "names": ["a\\u202e", 1.5, None],
    }


def test_code_that_runs_a_job_again_works_where_its_label_says() -> None:
    assert run_again(3, "") == {
        "In the script, while it runs": "park.local_service.wait(park.local_service.retry(3))"
    }
    shell, script = run_again(3, "tcp://head:7275").values()
    assert shell == "park retry 3"
    assert "with park.connect('tcp://head:7275') as service:" in script
