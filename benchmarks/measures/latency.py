"""One no-op there and back, in turn; also beside a Python thread of the client that never rests."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks import peers, services
from benchmarks.scale import Mark, Rows, Scale
from benchmarks.work import nothing
from park.core.server import ServerProxy

UNITS = {"p50": "us", "p99": "us", "p50 busy": "us", "p99 busy": "us"}
SYSTEMS = ("pipes", "Pool", "ProcessPoolExecutor", *services.NAMES)


def measure(system: str, scale: Scale) -> Rows:
    with calls(system) as ways:
        return {name: _columns(call, scale) for name, call in ways.items()}


def derive(rows: Rows) -> None:
    """There is nothing to compare: the marks are times."""


def marks() -> list[Mark]:
    return [
        *(Mark(f"local {way}", "p50", 300) for way in ("mapper", "executor")),
        *(Mark(f"ipc {way}", "p50", 450) for way in ("mapper", "executor")),
        *(Mark(f"local {way}", "p50 busy", 10_000) for way in ("mapper", "executor")),
    ]


@contextmanager
def calls(system: str) -> Iterator[dict[str, Callable[[], Any]]]:
    """The ways in which *system* runs one unit, by row."""
    if system == "pipes":
        with peers.pipes(nothing) as pipes:
            yield {"pipes": lambda: pipes.map([1])}
    elif system == "Pool":
        with peers.pool() as pool:
            yield {"Pool.apply": lambda: pool.apply(nothing, (1,))}
    elif system == "ProcessPoolExecutor":
        with peers.process_pool() as executor:
            yield {"ProcessPoolExecutor.submit": lambda: executor.submit(nothing, 1).result()}
    else:
        with services.service(system) as service, service.executor() as executor:
            mapper = service.mapper(nothing)
            yield {
                f"{system} mapper": lambda: mapper([1]),
                f"{system} executor": lambda: executor.submit(nothing, 1).result(),
                f"{system} job": lambda: service.wait(service.start(nothing)),
            }


def exercise(service: ServerProxy, scale: Scale) -> None:
    """The part that is profiled."""
    mapper = service.mapper(nothing)
    for _ in range(10 * scale.calls):
        mapper([1])


def _columns(call: Callable[[], Any], scale: Scale) -> dict[str, float]:
    columns = dict(zip(("p50", "p99"), _times(call, scale.calls), strict=True))
    with busy_thread():
        return columns | dict(zip(("p50 busy", "p99 busy"), _times(call, scale.busy_calls), strict=True))


def _times(call: Callable[[], Any], count: int) -> tuple[float, float]:
    """Median and 99th percentile in microseconds."""
    for _ in range(max(2, count // 10)):
        call()
    took = []
    for _ in range(count):
        began = time.perf_counter_ns()
        call()
        took.append(time.perf_counter_ns() - began)
    took.sort()
    return took[count // 2] / 1e3, took[min(count - 1, count * 99 // 100)] / 1e3


@contextmanager
def busy_thread() -> Iterator[None]:
    """A thread that runs Python as fast as it may."""
    stop = threading.Event()

    def spin() -> None:
        n = 0
        while not stop.is_set():
            for _ in range(1000):
                n += 1

    thread = threading.Thread(target=spin)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
