"""Units that hold more memory than their request allows: they fail alone, and nothing else is held against them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import cloudpickle
import pytest

import park
from park.kernel.machine.actions import KillProcess
from park.kernel.memory_watch import MemoryWatch, bytes_of_tree
from park.wire import messages
from tests.sim.desk import Desk, accepted, of
from tests.support.bench import B, Bench, told
from tests.support.fabric import Fabric

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # kernels need not have this folder

MB = 1_000_000


@pytest.fixture
def fabric(tmp_path: Path) -> Iterator[Fabric]:
    with Fabric(tmp_path) as fabric:
        fabric.start_kernel()
        yield fabric


def holds(megabytes: int) -> int:
    """A unit that uses so much memory, and then takes its time."""
    hoard = bytearray(megabytes * MB)
    hoard[::4096] = b"x" * len(hoard[::4096])
    if megabytes > 150:
        time.sleep(30)
    return megabytes


def leaves(megabytes: int) -> int:
    """A unit that leaves so much memory in its process."""
    sys.hoard = bytearray(megabytes * MB)  # type: ignore[attr-defined]
    sys.hoard[::4096] = b"x" * len(sys.hoard[::4096])  # type: ignore[attr-defined]
    return megabytes


def test_a_unit_that_holds_too_much_fails_alone(fabric: Fabric) -> None:
    service = fabric.connect()
    # memory that another job has left in the process does not count
    assert service.wait(service.start(leaves, [160]), 60) == [160]
    with pytest.raises(
        park.JobFailed, match=r"unit 1: it held \d+ MB of memory, more than the 150 MB"
    ) as failed:
        service.wait(service.start(holds, [1, 300, 2], memory="150 MB"), 60)
    results = failed.value.results or []
    assert [results[0], type(results[1]), results[2]] == [1, park.UnitError, 2]


def test_a_process_is_ended_when_it_holds_more_than_its_attempts_may_together() -> None:
    bench = Bench()
    bench.run(1, memory=100 * MB, once=True)
    assert bench.machine.memory_limits() == {1: 100 * MB}
    bench.call(1, 1)
    bench.run(2, map=B, memory=100 * MB)
    assert bench.machine.memory_limits() == {1: 200 * MB}
    assert bench.machine.exceeded(1, 250 * MB) == [KillProcess(1)]
    assert bench.machine.memory_limits() == {}
    (crashed,) = told(bench.exited(1), messages.Crashed)
    assert (
        crashed.cause == "it held 250 MB of memory, more than the 200 MB that memory= of its request allows"
    )
    assert not crashed.proven


@pytest.mark.parametrize("before", [0, 1])
def test_a_unit_is_convicted_only_where_nothing_else_ran(before: int) -> None:
    bench = Bench()
    for number in range(before):
        bench.run(number + 1)
        bench.done(1, number + 1)
    bench.run(9, memory=100 * MB)
    bench.machine.exceeded(1, 250 * MB)
    (crashed,) = told(bench.exited(1), messages.Crashed)
    assert crashed.proven is (not before)


def test_without_a_limit_nothing_is_looked_at() -> None:
    bench = Bench()
    bench.run(1)
    assert bench.machine.memory_limits() == {}
    watch = MemoryWatch(lambda process: os.getpid())
    assert watch.due == float("inf")
    watch.begin(1, 1, now=5.0)
    assert watch.due < 6.0
    assert list(watch.look({}, now=6.0)) == []
    assert watch.due == float("inf")


@pytest.mark.parametrize("proven", [False, True])
def test_a_convicted_unit_fails_at_once(proven: bool) -> None:
    desk = Desk()
    client, kernel = desk.client(), desk.kernel()
    out = desk.submit(client, "square", [1])
    (run,) = of(out, messages.Run)
    desk.give(kernel, messages.Crashed([run.attempt], "it held too much", proven=proven))
    assert (desk.job(accepted(out)).failed == 1) is proven


def test_what_a_process_and_those_below_it_hold_is_counted_once() -> None:
    script = """
import os, sys
hoard = bytearray(120_000_000)
hoard[::4096] = b"x" * len(hoard[::4096])
os.fork()
os.fork()
print("ready", flush=True)
sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for _ in range(4):
            process.stdout.readline()
        assert bytes_of_tree(process.pid) > 440 * MB
        assert 120 * MB < bytes_of_tree(process.pid, 100 * MB) < 250 * MB
        watch = MemoryWatch(lambda number: process.pid)
        assert list(watch.look({1: 40 * MB}, now=0.0))
        watch.begin(1, 1, now=0.0)  # the memory that it holds now was left by others
        assert not list(watch.look({1: 40 * MB}, now=0.0))
        process.stdin.close()
