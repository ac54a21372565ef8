"""Texts and numbers of other people's jobs: whatever they are, no command lets them steer a terminal, or fails at them."""

from __future__ import annotations

import doctest
import json
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

import park
from park.cli.commands.jobs import _story
from park.cli.commands.kernels import HEADS, row
from park.cli.commands.waiting import bar
from park.cli.park import main
from park.cli.show import columns
from park.cli.show.tables import flat, layout, plain
from park.client.live_table import jobs_in_html
from park.core.server import ServerProxy
from park.errors import InvalidRequest, JobAborted, JobFailed, Refused, UnitError, UnknownJob
from park.model import JobRecord, JobState, KernelRecord
from park.text import visible
from park.util import html, pace
from tests.support.fabric import Fabric, until

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # kernels need not have this folder

#: Colours, a title, C1 bytes, a line that looks like one of ours, bidi and zero-width marks, accents, wide letters.
EVIL = "\x1b[31m\x1b]0;gone\x07\x9b2J\npark: all is well\r\b\u202egnp.exe\u2066\u200b\ufeff\ufe0fe\u0301\u0301\u0301中\t"
texts = st.one_of(st.just(EVIL), st.text(max_size=20))
numbers = st.one_of(
    st.floats(allow_nan=True),
    st.integers(-(2**70), 2**70),
    st.sampled_from([1e300, -1e300, 5e-324, float("inf"), float(2**62), -62_135_596_801.0]),
)


def harmless(text: str) -> bool:
    """Whether nothing in it but the ends of lines steers a terminal."""
    return all(line == visible(line) for line in text.split("\n"))


def records() -> st.SearchStrategy[JobRecord]:
    return st.builds(
        JobRecord,
        job=st.integers(1, 2**53),
        owner=texts,
        name=texts,
        kind=texts,
        state=st.sampled_from(JobState),
        done=st.integers(0, 2**53),
        total=st.none() | st.integers(0, 2**53),
        failed=st.integers(0, 2**53),
        running=st.integers(0, 2**53),
        priority=st.integers(-(2**53), 2**53),
        tags=st.lists(texts, max_size=3),
        hosts=st.lists(texts, max_size=3),
        seconds=numbers,
        credits=numbers,
        after=st.lists(st.integers(0, 2**53), max_size=3),
        when=st.none() | numbers,
        submitted=numbers,
        started=st.none() | numbers,
        ended=st.none() | numbers,
        python=texts,
        reason=texts,
        remark=texts,
        argv=st.lists(texts, max_size=3),
        progress=st.none() | st.tuples(numbers, numbers),
        units=texts,
        note=texts,
    )


@settings(max_examples=150, deadline=None)
@given(records())
def test_a_record_of_any_texts_and_numbers_is_shown(record: JobRecord) -> None:
    names = tuple(columns.COLUMNS)
    for short in (True, False):
        lines = columns.lines_of([record], names, short)
        for width in (None, 80):
            shown = [flat(line) for line in layout(*columns.shown(names, lines, True), width)]
            assert len(shown) == 2
            assert all(map(harmless, shown))
            assert all("\n" not in line for line in shown)
    for _, value in _story(record):
        assert plain(value) == visible(plain(value))
    assert set(bar(record)) <= set("━─")
    assert harmless(jobs_in_html([record], 2))


@settings(max_examples=50, deadline=None)
@given(
    st.builds(
        KernelRecord, host=texts, node=texts, python=texts, batch=texts, owner=texts, memory=st.integers(0)
    )
)
def test_a_kernel_of_any_texts_is_shown(record: KernelRecord) -> None:
    assert all(harmless(flat(line)) for line in layout(HEADS, [row(record)], None))


@settings(max_examples=300, deadline=None)
@given(numbers, numbers)
def test_numbers_of_any_size_are_short_texts(one: float, other: float) -> None:
    progress = park.Progress(one, other)
    found = [
        columns.clock(one),
        columns.clock(one, short=True),
        columns.span(one),
        columns.elapsed(one, other, 0.0),
        columns.left("running", 0, None, (one, other), other, one),
        pace.bounded(one, 2),
        pace.counted(progress),
        pace.span(one) if one == one else "",
        f"{progress.fraction:.0%}",
    ]
    assert all(len(text) < 60 for text in found)
    assert 0.0 <= progress.fraction <= 1.0


@given(texts)
def test_an_error_s_text_steers_no_terminal(text: str) -> None:
    errors = (
        InvalidRequest(text),
        Refused(text),
        UnknownJob(text),
        JobFailed(1, text, text),
        JobAborted(1, text),
        UnitError(text, text, 3),
    )
    for error in errors:
        assert harmless(str(error).replace("\t", ""))
    assert "\n" not in str(JobFailed(1, text)) + str(JobAborted(1, text)) + str(UnitError(text))
    assert harmless(repr(errors[-1]))


@given(texts)
def test_what_is_visible_stays_as_it_is(text: str) -> None:
    assert visible(visible(text)) == visible(text)
    assert harmless(html.table([text], [[text]]))
    assert harmless(html.paragraph(text))


def test_the_examples_of_the_modules() -> None:
    for name in (
        "park.text",
        "park.util.pace",
        "park.util.html",
        "park.cli.show.columns",
        "park.cli.show.tables",
    ):
        assert doctest.testmod(sys.modules[name]).failed == 0


# -- all commands ------------------------------------------------------------------------------------


def evil(text: str) -> None:
    env = park.environment()
    env.publish(park.Progress(1, 1e15, text, text))
    env.remark(text)
    print(text)
    raise ValueError(text)


@pytest.fixture(scope="module")
def fabric(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fabric]:
    with Fabric(tmp_path_factory.mktemp("evil")) as fabric:
        fabric.start_kernels(1)
        yield fabric


@pytest.fixture(scope="module")
def job(fabric: Fabric) -> int:
    """A job that has failed, with hostile texts wherever its body can put one."""
    service: ServerProxy = fabric.connect()
    number = service.start(evil, [EVIL], kind="job", tags=["demo"])
    with pytest.raises(JobFailed) as caught:
        service.wait(number, timeout=60)
    assert harmless(str(caught.value).replace("\t", ""))
    until(lambda: service.logs(number))
    return number


@pytest.mark.parametrize(
    "command",
    [
        ["jobs", "-a"],
        ["jobs", "-a", "-o", ",".join(columns.COLUMNS)],
        *([word, "JOB"] for word in ("show", "why", "wait", "logs", "fetch", "abort")),
        ["logs", "-f", "JOB"],
        *([word] for word in ("top", "kernels", "credits")),
        ["show", EVIL],
    ],
    ids=lambda command: " ".join(command[:2]).encode("unicode_escape").decode(),
)
def test_no_command_lets_a_job_steer_the_terminal(
    fabric: Fabric, job: int, command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARK_BROKER", fabric.address)
    monkeypatch.setenv("PARKTAG", "tester")
    found = CliRunner().invoke(main, [word.replace("JOB", str(job)) for word in command])
    assert found.exception is None or isinstance(found.exception, SystemExit), found.exc_info
    assert found.output
    assert harmless(found.output), json.dumps(found.output)
    lines, _, trace = found.output.partition("Remote traceback:")  # which has the lines of the exception
    assert "\npark: all is well" not in lines
    assert not trace or command[0] == "fetch"


class Trap:
    """An object that makes a file where it is unpickled."""

    def __init__(self, file: str) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return (open, (self.file, "w"))


def publish_traps(file: str) -> None:
    env = park.environment()
    while not env.should_stop:
        env.publish({"kind": "trap", "trap": Trap(file)})
        env.publish(park.Progress(1, 2))
        print("a line", flush=True)
        time.sleep(0.05)


def test_following_a_log_opens_no_pickle_unless_it_is_asked_to(fabric: Fabric, tmp_path: Path) -> None:
    """Given a body whose messages run code where they are unpickled, when its log is followed, then none runs."""
    service, file = fabric.connect(), tmp_path / "sprung"
    job = service.start(publish_traps, [str(file)])
    follower = fabric.park("logs", "-f", str(job))
    until(lambda: follower.text.count("a line") > 5)
    assert not file.exists()
    opener = fabric.park("logs", "-f", "--messages", str(job))
    until(file.exists)
    assert opener.text.startswith(f"park: messages of job {job} are unpickled here, with code of tester's")
    service.stop(job)
    assert follower.wait() == opener.wait() == 0
    assert "Traceback" not in follower.text + opener.text


def test_no_argument_of_a_kernel_s_processes_tells_its_mark(fabric: Fabric, job: int) -> None:
    (kernel,) = fabric.connect().kernels()
    children = Path(f"/proc/{kernel.pid}/task/{kernel.pid}/children").read_text().split()
    words = [Path(f"/proc/{pid}/cmdline").read_text().split("\0") for pid in children]
    assert any("orphan_killer.py" in word for line in words for word in line)
    assert not [word for line in words for word in line if re.fullmatch(r"[0-9a-f]{32}", word)]


def test_a_script_s_own_errors_are_harmless(fabric: Fabric, job: int) -> None:
    script = fabric.script(
        f"""
        import park
        with park.connect() as service:
            service.wait({job})
        """
    )
    assert script.wait() == 1
    assert "JobFailed" in script.text
    assert harmless(script.text.replace("\t", "")), json.dumps(script.text)
