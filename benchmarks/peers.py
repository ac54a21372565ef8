"""The peers for comparison: the pools of the standard library, and bare pipes to two forked children."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import pickle
import selectors
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.pool import Pool
from typing import Any

from benchmarks.scale import SLOTS

FORK = multiprocessing.get_context("fork")
#: Units in flight to each child, so that it need not wait for its next.
IN_FLIGHT = 2


@contextmanager
def pool() -> Iterator[Pool]:
    with FORK.Pool(SLOTS) as running:
        yield running


@contextmanager
def process_pool() -> Iterator[concurrent.futures.ProcessPoolExecutor]:
    with concurrent.futures.ProcessPoolExecutor(SLOTS, mp_context=FORK) as running:
        yield running


class Pipes:
    """The least that deals units out: a function forked into two children, a pipe to and from each."""

    def __init__(self, function: Callable[[Any], Any], pinned: bool = False) -> None:
        self._selector = selectors.DefaultSelector()
        self._writers: list[Connection] = []
        self._children = []
        cpus = sorted(os.sched_getaffinity(0))
        for number in range(SLOTS):
            theirs, write = FORK.Pipe(duplex=False)
            read, answers = FORK.Pipe(duplex=False)
            cpu = cpus[number % len(cpus)] if pinned else None
            child = FORK.Process(target=_serve, args=(theirs, answers, function, cpu), daemon=True)
            child.start()
            self._children.append(child)
            self._writers.append(write)
            self._selector.register(read, selectors.EVENT_READ, write)

    def map(self, points: Sequence[Any]) -> list[Any]:
        """The values at *points*, in order."""
        values: list[Any] = [None] * len(points)
        todo = iter(enumerate(points))
        missing = len(points)
        for write in self._writers * IN_FLIGHT:
            _send_next(write, todo)
        while missing:
            for key, _ in self._selector.select():
                index, values_there = pickle.loads(key.fileobj.recv_bytes())  # type: ignore[union-attr]
                values[index] = values_there
                missing -= 1
                _send_next(key.data, todo)
        return values

    def close(self) -> None:
        for write, child in zip(self._writers, self._children, strict=True):
            write.send_bytes(b"")
            child.join()
        self._selector.close()


@contextmanager
def pipes(function: Callable[[Any], Any], pinned: bool = False) -> Iterator[Pipes]:
    running = Pipes(function, pinned)
    try:
        yield running
    finally:
        running.close()


def _send_next(write: Connection, todo: Iterator[tuple[int, Any]]) -> None:
    unit = next(todo, None)
    if unit is not None:
        write.send_bytes(pickle.dumps(unit, 5))


def _serve(read: Connection, write: Connection, function: Callable[[Any], Any], cpu: int | None) -> None:
    if cpu is not None:
        os.sched_setaffinity(0, [cpu])
    while data := read.recv_bytes():
        index, point = pickle.loads(data)
        write.send_bytes(pickle.dumps((index, function(point)), 5))
