"""The same five things done by each engine (`benchmarks.engines`): the measure behind ``python -m benchmarks --peers``.

*map*: no-op tasks of one map. *submit*: no-op tasks, each a call of ``submit``. *latency*: one no-op, submitted and waited
for. *generation*: 50 points of 1 ms, again and again. *1 MB*: a megabyte there and back, one call after the other.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from benchmarks import engines
from benchmarks.scale import Mark, Rows, Scale
from benchmarks.work import Curve, nothing, run_generations

UNITS = {"map": "1/s", "submit": "1/s", "latency": "us", "generation": "ms", "1 MB": "MB/s"}
SYSTEMS = engines.NAMES
#: Where less is better.
LESS = ("latency", "generation")
#: Slow engines do fewer tasks: as many as take this many seconds.
SECONDS = 1.0
GENERATIONS = 20


def measure(system: str, scale: Scale) -> Rows:
    with engines.opened(system) as engine:
        submit = engine.submit

        def calls(count: int) -> None:
            assert [f.result() for f in [submit(nothing, x) for x in range(count)]] == list(range(count))

        def one_by_one(data: bytes | None, count: int) -> list[float]:
            took = []
            for _ in range(count):
                began = time.perf_counter()
                assert submit(nothing, data).result() == data
                took.append(time.perf_counter() - began)
            return took

        calls(10)
        row = {
            "map": _rate(lambda count: engine.map(nothing, range(count)), scale.units),
            "submit": _rate(calls, scale.units // 10),
            "latency": 1e6 * statistics.median(one_by_one(None, scale.calls)),
        }
        curve = Curve(scale.repeats)
        run = engine.mapper(curve) if engine.mapper is not None else partial(engine.map, curve)
        generations = min(GENERATIONS, scale.generations)
        row["generation"] = 1e3 * run_generations(run, generations, scale.points) / generations
        data = os.urandom(1_000_000)
        row["1 MB"] = 2 * _rate(lambda count: one_by_one(data, count), scale.calls)
    return {system: row}


def derive(rows: Rows) -> None:
    """Nothing is derived."""


def marks() -> list[Mark]:
    return []


def _rate(work: Callable[[int], Any], most: int) -> float:
    """Tasks a second, of as many as take `SECONDS`, at *most* this many."""
    count, seconds = 10, 0.0
    while True:
        began = time.perf_counter()
        work(count)
        seconds = time.perf_counter() - began
        if seconds >= SECONDS or count >= most:
            return count / seconds
        count = min(most, max(2 * count, int(1.2 * count * SECONDS / max(seconds, 1e-6) / 2)))
