"""The pattern of a fit: generations of points of 1 ms each; a generation starts after the last has ended.

The efficiency is the CPU time of one process that does it all, divided by two, over the time that it took.
"""

from __future__ import annotations

import time

from benchmarks import peers, services
from benchmarks.scale import SLOTS, Mark, Rows, Scale
from benchmarks.work import Curve, Driver, population, run_generations
from park.core.server import ServerProxy

UNITS = {"seconds": "s", "efficiency": "x", "of pipes": "x"}
SYSTEMS = ("serial", "pipes", "pipes, pinned", "Pool", "ProcessPoolExecutor", *services.NAMES)


def measure(system: str, scale: Scale) -> Rows:
    curve = Curve(scale.repeats)
    size = scale.generations, scale.points
    if system == "serial":
        return {"serial": {"seconds": _serial(curve, scale)}}
    if system.startswith("pipes"):
        with peers.pipes(curve, pinned="pinned" in system) as pipes:
            return {system: {"seconds": run_generations(pipes.map, *size)}}
    if system == "Pool":
        with peers.pool() as pool:
            return {"Pool.map": {"seconds": run_generations(lambda p: pool.map(curve, p), *size)}}
    if system == "ProcessPoolExecutor":
        with peers.process_pool() as executor:
            seconds = run_generations(lambda p: executor.map(curve, p), *size)
            return {"ProcessPoolExecutor.map": {"seconds": seconds}}
    with services.service(system) as service:
        client = run_generations(service.mapper(curve), *size)
        driver = service.wait(service.start(Driver(curve, *size)))
        return {f"{system} mapper": {"seconds": client}, f"{system} driver": {"seconds": driver}}


def derive(rows: Rows) -> None:
    serial = rows.get("serial", {}).get("seconds")
    bare = [rows[name]["seconds"] for name in ("pipes", "pipes, pinned") if name in rows]
    for name, columns in rows.items():
        if serial is not None and name != "serial":
            columns["efficiency"] = serial / SLOTS / columns["seconds"]
        if bare and name != "serial":
            columns["of pipes"] = min(bare) / columns["seconds"]


def marks() -> list[Mark]:
    return [
        Mark(f"{name} {way}", "of pipes", 0.9, at_least=True)
        for name in services.NAMES
        for way in ("mapper", "driver")
    ]


def exercise(service: ServerProxy, scale: Scale) -> None:
    """The part that is profiled."""
    run_generations(service.mapper(Curve(scale.repeats)), scale.generations, scale.points)


def _serial(curve: Curve, scale: Scale) -> float:
    """CPU seconds of all generations, from a fifth of them."""
    points = population(scale.points)
    some = max(1, scale.generations // 5)
    began = time.process_time()
    for _ in range(some):
        for point in points:
            curve(point)
    return (time.process_time() - began) * scale.generations / some
