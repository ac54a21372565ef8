"""Clients that wait for a job that does not run are told why, soon, once, and again when it changes."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from park.client.stall_notice import CLIENT_REASONS, StallNotice
from tests.support.fabric import ENVIRONMENT, Fabric, until

# -- when ----------------------------------------------------------------------------------------


def told(*answers: tuple[str, int], came: int = 0) -> list[tuple[float, str]]:
    """Times and sentences that are told of a job that is waited for from 0 s on, at each *answer* of the service."""
    notice, said, now = StallNotice(), [], 0.0
    notice.begin(now)
    for reason, running in answers:
        now = notice.due
        if notice.look(7, came, now):
            text = notice.heard({"job": 7, "reason": reason, "running": running}, now)
            if text:
                said.append((now, text))
    return said


def test_a_job_that_runs_is_no_news() -> None:
    assert told(*[("", 2)] * 20) == []
    assert told(*[("runs on 2 slots, with more to do", 2)] * 20) == []
    assert told(*[("", 0)] * 20) == []


@pytest.mark.parametrize("reason", ["no kernel is connected", "all slots are busy", "waits for job 3"])
def test_a_reason_is_told_within_three_seconds_and_once(reason: str) -> None:
    [(when, text)] = told(*[(reason, 0)] * 30)
    assert when <= 3
    assert text in (f"job 7 waits: {reason}", f"job 7 {reason}")


def test_a_reason_that_changes_is_told_again_and_one_whose_numbers_change_is_not() -> None:
    busy = [(f"all slots are busy: its share is {n} %", 0) for n in range(5)]
    texts = [text for _, text in told(*busy, *[("no kernel is connected", 0)] * 3, *[("", 1)] * 2, *busy)]
    assert [text.removeprefix("job 7 ").removeprefix("waits: ") for text in texts] == [
        "all slots are busy: its share is 2 %",
        "no kernel is connected",
        "runs",
    ]


@pytest.mark.parametrize("reason", CLIENT_REASONS)
def test_what_the_client_itself_is_the_cause_of_is_not_told(reason: str) -> None:
    assert told(*[(f"{reason} to go on", 0)] * 10) == []


@given(st.lists(st.tuples(st.sampled_from(["", "a", "b"]), st.integers(0, 1)), max_size=30))
def test_nothing_is_told_twice_in_a_row(answers: list[tuple[str, int]]) -> None:
    texts = [text for _, text in told(*answers)]
    assert all(a != b for a, b in itertools.pairwise(texts))
    assert texts.count("job 7 runs") <= len(texts) / 2


def test_results_that_come_put_the_question_off() -> None:
    notice = StallNotice()
    notice.begin(0.0)
    assert not any(notice.look(7, came, notice.due) for came in range(1, 30))


def test_nobody_waits_nobody_asks() -> None:
    notice = StallNotice()
    notice.begin(0.0)
    assert not notice.look(0, 0, 1.0)
    assert notice.due == float("inf")


# -- really --------------------------------------------------------------------------------------

WAYS = {
    "map": "list(service.map(abs, [-1, 2]))",
    "mapper": "service.mapper(abs)([-1, 2])",
    "submit": "[service.executor().submit(abs, n).result() for n in (-1, 2)]",
    "executor map": "list(service.executor().map(abs, [-1, 2]))",
    "wait": "service.wait(service.start(abs, [-1, 2]))",
    "job": "service.job(service.start(abs, [-1, 2])).wait()",
    "completed": "next(park.as_completed([service.job(service.start(abs, [-1, 2]))])).wait()",
}


def client(address: str, way: str) -> subprocess.Popen[str]:
    script = f"import park\nservice = park.connect({address!r})\nprint({WAYS[way]})"
    return subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )


def test_whoever_waits_without_a_kernel_is_told_on_stderr(tmp_path: Path) -> None:
    with Fabric(tmp_path) as fabric:
        clients = {way: client(fabric.address, way) for way in WAYS}
        try:
            for way, process in clients.items():
                assert process.stderr is not None
                line = process.stderr.readline()
                assert line.startswith("park: job "), (way, line)
                assert line.endswith(" waits: no kernel is connected\n"), (way, line)
            fabric.start_kernels(1)
            for way, process in clients.items():
                out, _ = process.communicate(timeout=60)
                assert out == "[1, 2]\n", way
        finally:
            for process in clients.values():
                process.kill()
                process.communicate()


@pytest.mark.heavy
def test_a_kernel_for_others_is_another_reason(tmp_path: Path) -> None:
    with Fabric(tmp_path) as fabric:
        process = client(fabric.address, "map")
        try:
            assert process.stderr is not None
            assert "no kernel is connected" in process.stderr.readline()
            fabric.start_kernel("--only-own", "--owner", "ada")
            until(lambda: len(fabric.connect().kernels()) == 1)
            assert "no kernel runs" in process.stderr.readline()
        finally:
            process.kill()
            process.communicate()
