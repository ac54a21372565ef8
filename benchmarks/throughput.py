"""No-op units, each with an input and a result that comes back."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

from benchmarks import peers, services
from benchmarks.scale import Mark, Rows, Scale
from benchmarks.work import nothing
from park.core.server import ServerProxy

UNITS = {"units/s": "1/s", "of Pool": "x"}
SYSTEMS = ("Pool", "ProcessPoolExecutor", *services.NAMES)


def measure(system: str, scale: Scale) -> Rows:
    count = scale.units
    if system == "Pool":
        with peers.pool() as pool:
            list(pool.imap(nothing, range(1000)))
            return {
                f"Pool.imap, chunks of {n}": _rate(lambda n=n: pool.imap(nothing, range(count), n), count)  # type: ignore[misc]
                for n in (1, 64)
            }
    if system == "ProcessPoolExecutor":
        with peers.process_pool() as executor:
            list(executor.map(nothing, range(1000)))
            # One by one it is slow, and its rate does not depend on the number.
            return {
                f"ProcessPoolExecutor.map, chunks of {n}": _rate(
                    lambda n=n, many=many: executor.map(nothing, range(many), chunksize=n),  # type: ignore[misc]
                    many,
                )
                for n, many in ((1, count // 10), (64, count))
            }
    with services.service(system) as service:
        list(service.map(nothing, range(1000)))
        return {f"{system} map": _rate(lambda: service.map(nothing, range(count)), count)}


def derive(rows: Rows) -> None:
    reference = rows.get("Pool.imap, chunks of 1")
    if reference is not None:
        for columns in rows.values():
            columns["of Pool"] = columns["units/s"] / reference["units/s"]


def marks() -> list[Mark]:
    return [
        Mark("local map", "of Pool", 1.5, at_least=True),
        *(Mark(f"{name} map", "of Pool", 0.9, at_least=True) for name in ("ipc", "tcp")),
    ]


def exercise(service: ServerProxy, scale: Scale) -> None:
    """What the profile looks at."""
    for _ in service.map(nothing, range(scale.units)):
        pass


def _rate(start: Callable[[], Iterable[Any]], count: int) -> dict[str, float]:
    began = time.perf_counter()
    total = sum(start())
    seconds = time.perf_counter() - began
    assert total == count * (count - 1) // 2
    return {"units/s": count / seconds}
