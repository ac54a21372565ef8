"""A batch system ends a job with a signal to each of its processes; kernels decide what becomes of their slots' units."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

import park
from tests.support.fabric import Fabric, Process, until

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # kernels need not have this folder


@pytest.fixture
def fabric(tmp_path: Path) -> Iterator[Fabric]:
    with Fabric(tmp_path) as fabric:
        yield fabric


def tree(pid: int) -> list[int]:
    """The process and all that descend from it."""
    found = [pid]
    for listed in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for child in listed.read_text().split():
                found += tree(int(child))
    return found


def cancel(kernel: Process) -> None:
    """Signal every process of the job, as Slurm and Torque do."""
    for pid in tree(kernel.pid):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)


def sleepy(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def test_units_end_within_the_grace(fabric: Fabric) -> None:
    kernel = fabric.start_kernel("--grace", "30s")
    service = fabric.connect()
    job = service.start(sleepy, [1.5])
    until(lambda: service.status(job).running)
    time.sleep(0.3)
    cancel(kernel)
    assert service.wait(job, 60) == [1.5]
    assert kernel.wait() == 0
    assert "nothing had to be handed back" in kernel.text


def test_a_cancelled_allocation_is_not_held_against_a_unit(fabric: Fabric) -> None:
    service = fabric.connect()
    job = service.start(sleepy, [30.0])
    for _ in range(4):  # a unit that has ended its process three times fails
        kernel = fabric.start_kernel("--grace", "0")
        until(lambda: [k.busy for k in service.kernels()] == [1])
        cancel(kernel)
        assert kernel.wait() == 0
        assert service.status(job).state == "running"
    service.abort(job)


class Counter:
    """A driver that makes checkpoints only when it is asked; its steps are maps."""

    def run(self) -> tuple[int, int]:
        env = park.environment()
        first = step = env.restored or 0
        while step < first + 20:
            assert list(env.map(abs, [-step])) == [step]
            time.sleep(0.02)
            step += 1
            if env.should_checkpoint:
                env.checkpoint(step)
        return first, step


def test_a_driver_makes_a_checkpoint_before_its_only_kernel_leaves(fabric: Fabric) -> None:
    kernel = fabric.start_kernel("--grace", "2m")
    service = fabric.connect()
    job = service.start(Counter())
    until(lambda: service.status(job).running)
    time.sleep(0.2)
    cancel(kernel)
    assert kernel.wait(60) == 0, "its state is on disk: it need not stay for all of its grace"
    fabric.start_kernel()
    first, step = service.wait(job, 60)
    assert 0 < first < step


def children_of_a_unit(_: Any) -> tuple[int, int]:
    """The end by SIGTERM of a program that the unit starts, and of a process that it forks."""
    program = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(20)"])
    time.sleep(0.5)
    program.terminate()
    pid = os.fork()
    if not pid:
        time.sleep(20)
        os._exit(0)
    time.sleep(0.5)
    os.kill(pid, signal.SIGTERM)
    return program.wait(), os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_what_a_unit_starts_may_be_ended_by_the_signal(fabric: Fabric) -> None:
    fabric.start_kernel()
    service = fabric.connect()
    assert service.wait(service.start(children_of_a_unit, [0]), 60) == [(-15, -15)]
