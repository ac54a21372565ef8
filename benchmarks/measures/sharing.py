"""Shares of the slots on a real broker over ipc with one kernel of two slots.

*shares*: five jobs of three owners, with units of 1 to 50 ms, always have work; what each got, in slot-seconds, beside
what the formula says. *urgent*: two DREAM fits and an amoeba, all free, fill both slots; again and again another owner
submits an urgent job of one unit, and the unit says when it began. *owners*: a driver of each of eight owners, with one
generation of twenty units of 2 ms after the other; the part of the slots' time that the units took, in the second half.
"""

from __future__ import annotations

import itertools
import statistics
import time
from contextlib import ExitStack
from typing import Any

from benchmarks.scale import SLOTS, Mark, Rows, Scale
from benchmarks.services import fabric, remote, until
from park.broker.scheduler.fairshare import ServiceClock
from park.model import priority_number

UNITS = {
    "share": "%",
    "expected": "%",
    "off": "%",
    "first unit": "ms",
    "slowest": "ms",
    "computed": "%",
    "longest": "s",
}
SYSTEMS = ("shares", "urgent", "owners")

#: Owners that take turns, and the units of their generations.
OWNERS, GENERATION, UNIT_MILLISECONDS = 8, 20, 2

#: Owner, priority and milliseconds a unit of each job.
MIX = [("ann", "free", 1), ("ann", "normal", 5), ("bob", "free", 20), ("cid", "low", 50), ("cid", "free", 10)]


def measure(system: str, scale: Scale) -> Rows:
    with fabric("ipc") as address:
        return {"shares": _shares, "urgent": _urgent, "owners": _owners}[system](address, scale)


def derive(rows: Rows) -> None:
    off = [columns["off"] for columns in rows.values() if "off" in columns]
    if off:
        rows["worst share"] = {"off": max(off)}


def marks() -> list[Mark]:
    return [Mark("worst share", "off", 5.0), Mark("urgent job", "slowest", 200.0)]


def _spin(milliseconds: float) -> None:
    import time

    end = time.perf_counter() + milliseconds / 1e3
    while time.perf_counter() < end:
        pass


def _shares(address: str, scale: Scale) -> Rows:
    clock = ServiceClock()
    with ExitStack() as stack:
        owners = {owner: stack.enter_context(remote(address, owner)) for owner in ("ann", "bob", "cid")}
        jobs = {}
        for owner, priority, milliseconds in MIX:
            units = round(2 * SLOTS * (scale.sharing + 5) * 1000 / milliseconds)
            job = owners[owner].start(_spin, [milliseconds] * units, priority=priority)
            clock.add(job, owner, 2.0 ** priority_number(priority), 0.0)
            jobs[job] = (owner, priority, milliseconds)

        def used() -> dict[int, float]:
            return {job: owners[owner].status(job).seconds for job, (owner, _, _) in jobs.items()}

        until(lambda: all(used().values()))
        before = used()
        time.sleep(scale.sharing)
        got = {job: seconds - before[job] for job, seconds in used().items()}
        for job, (owner, _, _) in jobs.items():
            owners[owner].abort(job)
    expected = clock.shares(jobs, 0.0)
    whole = sum(got.values())
    return {
        f"{owner}, {priority}, {milliseconds} ms": {
            "share": 100 * got[job] / whole,
            "expected": 100 * expected[job],
            "off": 100 * abs(got[job] / whole / expected[job] - 1),
        }
        for job, (owner, priority, milliseconds) in jobs.items()
    }


def _generations(until: float) -> list[float]:
    """The times at which the generations of a driver ended."""
    import time

    import park

    ends = []
    while time.time() < until:
        park.environment().map(_spin, [UNIT_MILLISECONDS] * GENERATION)
        ends.append(time.time())
    return ends


def _owners(address: str, scale: Scale) -> Rows:
    with ExitStack() as stack:
        owners = [stack.enter_context(remote(address, f"owner {n}")) for n in range(OWNERS)]
        half = scale.sharing / 2
        end = time.time() + 2 * half
        jobs = [owner.start(_generations, [end]) for owner in owners]
        ends = [owner.wait(job, timeout=120 + 2 * half)[0] for owner, job in zip(owners, jobs, strict=True)]
    late = [[at for at in each if end - half <= at < end] for each in ends]
    seconds = sum(map(len, late)) * GENERATION * UNIT_MILLISECONDS / 1e3
    waits = [
        after - before for each in late for before, after in itertools.pairwise([end - half, *each, end])
    ]
    return {f"{OWNERS} owners": {"computed": 100 * seconds / (half * SLOTS), "longest": max(waits)}}


def _now(_: Any) -> float:
    import time

    return time.time()


def _urgent(address: str, scale: Scale) -> Rows:
    import numpy as np

    from park.fit import Assembly, Fit, Model

    def decay(x: Any, a: float, b: float, c: float) -> Any:
        return a * np.exp(-b * x) + c

    x = np.linspace(0.0, 5.0, 200)
    y = 3.0 * np.exp(-1.2 * x) + 0.5 + np.random.default_rng(1).normal(0.0, 0.05, 200)
    took = []
    with remote(address, "ann") as ann, remote(address, "bob") as bob:

        def fit(method: str, **options: Any) -> Fit:
            model = Model(decay, a=(0.0, 10.0), b=(0.0, 5.0), c=(0.0, 5.0))
            return Fit(Assembly((model, (x, y, np.full(200, 0.05)))), method=method, service=ann, **options)

        fits = [
            fit("dream", samples=10_000_000, seed=1),
            fit("dream", samples=10_000_000, seed=2),
            fit("amoeba", seed=3, steps=10**9, ftol=0, xtol=0),
        ]
        until(lambda: all(f.progress is not None and f.progress.done > 10 for f in fits))
        for _ in range(scale.urgent):
            began = time.time()
            (at,) = bob.wait(bob.start(_now, [None], priority="urgent"), timeout=60)
            took.append((at - began) * 1e3)
            time.sleep(0.2)
        for f in fits:
            f.abort()
    return {"urgent job": {"first unit": statistics.median(took), "slowest": max(took)}}
