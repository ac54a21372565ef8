"""Calls that wait for what a later call does, as calls of any pool may, though short ones travel together."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from park.kernel.machine import late_chunks
from park.local import LocalService
from park.slot.early_results import EarlyResults
from tests.support.fabric import until


@pytest.fixture(scope="module")
def service() -> Iterator[LocalService]:
    service = LocalService()
    service.configure(slots=2)
    with service:
        yield service
    service.close()


def meet(folder: Path, waits: dict[int, int], number: int) -> int:
    """Leave a file. The calls of *waits* wait for the file of a later one."""
    (folder / str(number)).touch()
    until = time.monotonic() + 60.0
    while number in waits and not (folder / str(waits[number])).exists():
        if time.monotonic() > until:
            return -1
        time.sleep(0.002)
    return number


def submitted(service: Any, call: Callable[[int], int], numbers: range) -> list[int]:
    with service.executor() as executor:
        return [future.result() for future in [executor.submit(call, number) for number in numbers]]


WAYS: dict[str, Callable[[Any, Callable[[int], int], range], list[int]]] = {
    "executor": submitted,
    "mapper": lambda service, call, numbers: service.mapper(call)(numbers),
    "map": lambda service, call, numbers: list(service.map(call, numbers)),
}


@pytest.mark.parametrize("way", WAYS)
def test_calls_wait_for_later_ones_that_travel_with_them(
    service: LocalService, tmp_path: Path, way: str
) -> None:
    call = partial(meet, tmp_path, {40: 41})
    WAYS[way](service, call, range(200, 240))  # from now on the calls are known to be short
    assert WAYS[way](service, call, range(150)) == list(range(150))


def test_a_call_waits_for_what_its_caller_does_with_the_results_before_it(
    service: LocalService, tmp_path: Path
) -> None:
    call = partial(meet, tmp_path, {50: -1})
    service.mapper(call)(range(200, 240))
    results = service.map(call, range(100))
    assert [next(results) for _ in range(50)] == list(range(50))
    (tmp_path / "-1").touch()
    assert list(results) == list(range(50, 100))


def after_a_fork(folder: Path, number: int) -> int:
    """A call as of `meet` that forks before it waits."""
    if number == 50 and (pid := os.fork()) == 0:
        os._exit(0)
    elif number == 50:
        os.waitpid(pid, 0)
    return meet(folder, {50: -1}, number)


def after_slow_ones(folder: Path, number: int) -> int:
    """A call as of `meet` after others that are slow together."""
    if number < 10:
        time.sleep(0.04)
    return meet(folder, {10: -1}, number)


@pytest.mark.parametrize(("call", "waits"), [(after_a_fork, 50), (after_slow_ones, 10)])
def test_results_come_while_a_later_call_of_their_chunk_waits_whatever_was_before_it(
    service: LocalService,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    call: Callable[[Path, int], int],
    waits: int,
) -> None:
    monkeypatch.setattr(late_chunks, "LATE_SECONDS", 0.7)  # the kernel is busy for a while
    service.mapper(partial(call, tmp_path))(range(200, 240))
    results = service.map(partial(call, tmp_path), range(100))
    assert [next(results) for _ in range(waits)] == list(range(waits))
    (tmp_path / "-1").touch()
    assert list(results) == list(range(waits, 100))


class BrokenChunk:
    """A chunk whose results cannot be sent."""

    looks = 0

    def send_early(self) -> None:
        self.looks += 1
        raise MemoryError("of the test")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_results_that_cannot_be_sent_early_hold_up_neither_a_fork_nor_later_chunks() -> None:
    early = EarlyResults()
    for _ in range(2):
        early.begin(chunk := BrokenChunk())
        until(lambda chunk=chunk: chunk.looks)
        early.end()
    if (pid := os.fork()) == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    assert chunk.looks == 1


@pytest.mark.heavy
def test_more_calls_wait_than_there_are_slots(service: LocalService, tmp_path: Path) -> None:
    call = partial(meet, tmp_path, {40: 41, 90: 93, 130: 131})
    service.mapper(call)(range(200, 240))
    assert service.mapper(call)(range(150)) == list(range(150))
