"""Functions that run on the kernels: units that note their runs in the ledger, and drivers that map them."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import park
from tests.campaign.plan import Task, deadly, value

#: Bytes of a line of the ledger: all are alike, so that its size tells how many there are.
LINE = 96


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a unit: the job, its number, the processes, its seed, and when it began (monotonic, seconds)."""

    job: int
    unit: int
    slot: int
    kernel: int
    seed: int
    at: float


@cache
def _ledger(file: str) -> int:
    return os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def note(file: str, unit: int) -> None:
    """A line in the ledger, written at once and whole."""
    env = park.environment()
    line = f"{env.job_id} {unit} {os.getpid()} {os.getppid()} {env.seed} {time.monotonic():.6f}"
    os.write(_ledger(file), line.ljust(LINE - 1).encode() + b"\n")


def runs(file: Path) -> list[Run]:
    """The runs in the ledger. Raises AssertionError if a line is torn."""
    if not file.exists():
        return []
    data = file.read_bytes()
    assert len(data) % LINE == 0, f"{file} ends in the middle of a line"
    found = []
    for line in data.decode().splitlines():
        job, unit, slot, kernel, seed, at = line.split()
        found.append(Run(int(job), int(unit), int(slot), int(kernel), int(seed), float(at)))
    return found


def count(file: Path) -> int:
    """The number of runs in the ledger."""
    return file.stat().st_size // LINE if file.exists() else 0


class Work:
    """The body of a *task*."""

    def __init__(self, task: Task, ledger: str) -> None:
        self.task = task
        self.ledger = ledger

    def leaf(self, unit: int) -> int:
        note(self.ledger, unit)
        if self.task.kind == "crash" and deadly(unit):
            os.kill(os.getpid(), signal.SIGSEGV)
        time.sleep(self.task.seconds)
        return value(unit)


class Units(Work):
    """Runs over inputs."""

    def run(self, unit: int) -> int:
        if self.task.kind == "nest":
            return sum(park.environment().map(self.leaf, self.task.inner(unit)))
        return self.leaf(unit)


class Driver(Work):
    """Runs once, and makes a map for each generation."""

    def run(self) -> int:
        run = park.environment().mapper(self.leaf)
        return sum(sum(run(generation)) for generation in self.task.generations())
