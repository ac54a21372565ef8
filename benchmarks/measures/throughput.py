"""No-op units, each with an input and a result that comes back, and no-op calls of executors."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from typing import Any

from benchmarks import peers, services
from benchmarks.scale import Mark, Rows, Scale
from benchmarks.work import nothing
from park.core.server import ServerProxy

UNITS = {"units/s": "1/s", "of Pool": "x", "of PPE": "x"}
SYSTEMS = ("Pool", "ProcessPoolExecutor", *services.NAMES)
PEER = "ProcessPoolExecutor.submit"


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
            found = {
                f"ProcessPoolExecutor.map, chunks of {n}": _rate(
                    lambda n=n, many=many: executor.map(nothing, range(many), chunksize=n),  # type: ignore[misc]
                    many,
                )
                for n, many in ((1, count // 10), (64, count))
            }
            return found | {PEER: _rate_of_calls(executor, count // 10)}
    with services.service(system) as service, service.executor() as executor:
        list(service.map(nothing, range(1000)))
        found = {f"{system} map": _rate(lambda: service.map(nothing, range(count)), count)}
        return found | {f"{system} submit": _rate_of_calls(executor, count // 10)}


def derive(rows: Rows) -> None:
    reference = rows.get("Pool.imap, chunks of 1")
    if reference is not None:
        for columns in rows.values():
            columns["of Pool"] = columns["units/s"] / reference["units/s"]
    executor = rows.get(PEER)
    if executor is not None:
        for name in services.NAMES:
            if (columns := rows.get(f"{name} submit")) is not None:
                columns["of PPE"] = columns["units/s"] / executor["units/s"]


def marks() -> list[Mark]:
    return [
        Mark("local map", "of Pool", 1.5, at_least=True),
        *(Mark(f"{name} map", "of Pool", 0.9, at_least=True) for name in ("ipc", "tcp")),
        Mark("local submit", "of PPE", 2.0, at_least=True),
        *(Mark(f"{name} submit", "of PPE", 1.5, at_least=True) for name in ("ipc", "tcp")),
    ]


def exercise(service: ServerProxy, scale: Scale) -> None:
    """The part that is profiled."""
    for _ in service.map(nothing, range(scale.units)):
        pass


def _rate(start: Callable[[], Iterable[Any]], count: int) -> dict[str, float]:
    began = time.perf_counter()
    total = sum(start())
    seconds = time.perf_counter() - began
    assert total == count * (count - 1) // 2
    return {"units/s": count / seconds}


def _rate_of_calls(executor: Executor, count: int) -> dict[str, float]:
    def calls() -> Iterable[int]:
        return [future.result() for future in [executor.submit(nothing, x) for x in range(count)]]

    sum(calls())  # its function is known, and its processes are there
    return _rate(calls, count)
