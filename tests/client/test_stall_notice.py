"""Clients that wait for a job that does not run are told why, soon, once, and again when it changes."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from park.client.stall_notice import StallNotice
from park.wait_reason import OF_CLIENT, Cause, WaitReason, words
from tests.support.fabric import ENVIRONMENT, Fabric, until

# -- when ----------------------------------------------------------------------------------------


NOTHING = WaitReason()
NO_KERNEL = WaitReason(Cause.NO_KERNEL)


def told(*answers: tuple[WaitReason, int], came: int = 0, fields: bool = True) -> list[tuple[float, str]]:
    """Times and sentences that are told of a job that is waited for from 0 s on, at each *answer* of the service.

    Without *fields* the service sends sentences alone, as another release does.
    """
    notice, said, now = StallNotice(), [], 0.0
    notice.begin(now)
    for reason, running in answers:
        now = notice.due
        if notice.look(7, came, now):
            record = {"job": 7, "reason": words(reason), "running": running}
            text = notice.heard(record | ({"wait": reason.as_map()} if fields else {}), now)
            if text:
                said.append((now, text))
    return said


def busy(share: float, **more: Any) -> WaitReason:
    return WaitReason(Cause.TURN, "all slots", share=share, slots=4, seconds=60 * share, **more)


def test_a_job_that_runs_is_no_news() -> None:
    assert told(*[(NOTHING, 2)] * 20) == []
    assert told(*[(WaitReason(Cause.MORE, running=2, slots=4), 2)] * 20) == []
    assert told(*[(NOTHING, 0)] * 20) == []


def test_results_that_wait_for_the_disk_are_told_while_units_count_as_running() -> None:
    full = WaitReason(Cause.DISK, "the broker's disk is full")
    said = told(*[(full, 2)] * 20, *[(NOTHING, 2)] * 20)
    assert [text for _, text in said] == [f"job 7 waits: {words(full)}", "job 7 runs"]
    assert said[0][0] <= 3


@pytest.mark.parametrize("fields", [True, False])
@pytest.mark.parametrize("reason", [NO_KERNEL, busy(0.5), WaitReason(Cause.OTHER_JOB, job=3, state="queued")])
def test_a_reason_is_told_within_three_seconds_and_once(reason: WaitReason, fields: bool) -> None:
    [(when, text)] = told(*[(reason, 0)] * 30, fields=fields)
    assert when <= 3
    assert text in (f"job 7 waits: {words(reason)}", f"job 7 {words(reason)}")


def test_a_reason_that_changes_is_told_again_and_one_whose_numbers_change_is_not() -> None:
    shares = [(busy(n / 5), 0) for n in range(5)]
    texts = [text for _, text in told(*shares, *[(NO_KERNEL, 0)] * 3, *[(NOTHING, 1)] * 2, *shares)]
    assert texts == [f"job 7 waits: {words(busy(0.4))}", "job 7 waits: no kernel is connected", "job 7 runs"]


def test_a_new_name_in_a_reason_is_told() -> None:
    reasons = [busy(0.5), busy(0.5, broke="ada"), busy(0.5, disk="the disk is full"), busy(0.5, holder=3)]
    assert [text for _, text in told(*[(reason, 0) for reason in reasons for _ in range(3)])] == [
        f"job 7 waits: {words(reason)}" for reason in reasons
    ]


@pytest.mark.parametrize("cause", sorted(OF_CLIENT))
def test_what_the_client_itself_is_the_cause_of_is_not_told(cause: Cause) -> None:
    assert told(*[(WaitReason(cause), 0)] * 10) == []


@given(st.lists(st.tuples(st.sampled_from([NOTHING, NO_KERNEL, busy(0.5)]), st.integers(0, 1)), max_size=30))
def test_nothing_is_told_twice_in_a_row(answers: list[tuple[WaitReason, int]]) -> None:
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
