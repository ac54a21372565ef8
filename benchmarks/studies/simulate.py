"""The fabric at the size of a national facility: ``python -m benchmarks simulate --kernels 10000 --slots 64 ...``.

The simulator of the tests joins the real dispatcher, lifecycles and messages by a heap of what will happen, at
any size; only processes, network and time are made up. All jobs are always busy, with priorities from free to urgent
and units of 10 s to a minute. Reported are the shares beside the design's formula, how long jobs waited for
their next unit, what a decision cost, and the memory of it all.
"""

from __future__ import annotations

import argparse
import gc
import random
import resource
import time
from array import array
from dataclasses import dataclass
from typing import Any

from tests.sim.functions import exact
from tests.sim.shares import Busy, fluid, keep_busy, shares
from tests.sim.wire import brisk
from tests.sim.world import World

#: Seconds of a unit: the shortest and the longest job's.
UNIT = (10.0, 60.0)
#: One of this number of turns of the broker is timed: asking for the time costs as much as a decision.
SAMPLE = 16
#: So often what jobs should have had is added up.
STEPS = 50
#: Jobs whose share is looked at alone should have had this number of units.
ENOUGH = 100


@dataclass(frozen=True, slots=True)
class Size:
    """The size of a world, and the seconds of its life that are simulated."""

    kernels: int
    slots: int
    jobs: int
    owners: int
    seconds: float
    seed: int = 0


QUICK = Size(kernels=20, slots=4, jobs=60, owners=6, seconds=2000.0)


class Facility(World):
    """A world that notes the waits of each job, and what the broker costs."""

    def __init__(self, seed: int) -> None:
        #: when a unit of each job began last
        self.last: dict[int, float] = {}
        self.waits = array("d")
        #: of its CPU, estimated from some of its turns
        self.broker_seconds = 0.0
        self.turns = 0
        super().__init__(seed, pace=exact, latency=brisk, checked=False, watched=False)

    def began(self, job: int) -> None:
        super().began(job)
        self.waits.append(self.now - self.last.get(job, self.now))
        self.last[job] = self.now

    def broker_turn(self, events: list[Any]) -> None:
        self.turns += 1
        if self.turns % SAMPLE:
            super().broker_turn(events)
            return
        began = time.thread_time()
        super().broker_turn(events)
        self.broker_seconds += SAMPLE * (time.thread_time() - began)


class Formula:
    """The share that each job should have had by the formula of the design, with the owners' use at each time."""

    def __init__(self, world: World, jobs: list[Busy], numbers: list[int]) -> None:
        self._world = world
        self._jobs = jobs
        self._numbers = numbers
        self._due = [0.0] * len(jobs)
        self._total = 0.0

    def follow(self) -> None:
        """Some time has passed."""
        use: dict[str, float] = {}
        for job, number in zip(self._jobs, self._numbers, strict=True):
            use[job.owner] = use.get(job.owner, 0.0) + job.rate * self._world.served[number]
        total = sum(self._had())
        for n, share in enumerate(shares(self._jobs, use)):
            self._due[n] += share * (total - self._total)
        self._total = total

    def _had(self) -> list[float]:
        """The slot-seconds of each job, what runs included."""
        world = self._world
        had = dict(world.served)
        for kernel in world.kernels:
            for process in kernel.processes.values():
                for frame in process.stack:
                    had[frame.run.job] = had.get(frame.run.job, 0.0) + world.now - process.since
        return [had.get(number, 0.0) for number in self._numbers]

    def errors(self) -> dict[str, str]:
        """The relative error of the shares of owners and jobs."""
        found = []
        by_owner: dict[str, list[float]] = {}
        for job, had, due in zip(self._jobs, self._had(), self._due, strict=True):
            if due >= ENOUGH * job.seconds:
                found.append(abs(had / due - 1))
            both = by_owner.setdefault(job.owner, [0.0, 0.0])
            both[0] += had
            both[1] += due
        owners = [abs(had / due - 1) for had, due in by_owner.values()]
        return {
            "share error of owners, median, p99, max": _spread(owners, "{:.2%}"),
            f"share error of jobs ({len(found):,} with {ENOUGH} units)": _spread(found, "{:.2%}"),
        }


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser("python -m benchmarks simulate", description=__doc__.split("\n")[0])
    parser.add_argument("--kernels", type=int, default=1000)
    parser.add_argument("--slots", type=int, default=16, help="of each kernel (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=5000)
    parser.add_argument("--owners", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=600.0, help="simulated (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="very small, to see that it runs")
    options = vars(parser.parse_args(arguments))
    quick = options.pop("quick")
    size = QUICK if quick else Size(**options)
    for name, value in simulate(size).items():
        print(f"{name:<44} {value}", flush=True)
    return 0


def simulate(size: Size) -> dict[str, str]:
    """The outcome in words."""
    began = time.perf_counter()
    chance = random.Random(f"facility {size.seed}")
    jobs = [
        Busy(f"owner {n % size.owners}", chance.randint(0, 6), round(_between(chance, *UNIT), 1))
        for n in range(size.jobs)
    ]
    world = Facility(size.seed)
    gc.freeze()
    gc.disable()  # nothing of it is garbage that only the collector finds
    numbers = _submit(world, jobs, size.kernels * size.slots * size.seconds)
    submitted = time.perf_counter() - began
    for _ in range(size.kernels):
        world.kernel(size.slots)
    world.run_for(1.0)
    filled = time.perf_counter() - began - submitted
    first = sum(world.runs.values())
    world.broker_seconds = 0.0
    formula = Formula(world, jobs, numbers)
    start = time.perf_counter()
    for _ in range(STEPS):
        world.run_for(size.seconds / STEPS)
        formula.follow()
    took = time.perf_counter() - start
    decisions = sum(world.runs.values()) - first
    return {
        "size": f"{size.kernels:,} kernels x {size.slots} slots, {size.jobs:,} jobs of {size.owners:,} owners",
        "simulated": f"{size.seconds:,.0f} s in {took:,.0f} s (jobs submitted in {submitted:,.0f} s, slots "
        f"filled in {filled:,.0f} s)",
        "chunks begun": f"{first:,} at first, {decisions:,} then",
        **formula.errors(),
        **_waits(world),
        "decisions per second of the broker's CPU": f"{decisions / max(world.broker_seconds, 1e-9):,.0f}",
        "decisions per second of the simulation": f"{decisions / took:,.0f}",
        "peak memory": f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:,.2f} GiB",
    }


def _between(chance: random.Random, low: float, high: float) -> float:
    """Uniform in the logarithm."""
    return float(low * (high / low) ** chance.random())


def _submit(world: World, jobs: list[Busy], slot_seconds: float) -> list[int]:
    """Every owner's client submits its jobs, with units enough; their numbers."""
    supply = fluid(jobs, slot_seconds, steps=10)
    clients = {owner: world.client(owner) for owner in dict.fromkeys(job.owner for job in jobs)}
    asked = [
        keep_busy(clients[job.owner], f"nap {job.seconds}", job, 2.0 * supply[n] + 20 * job.seconds)
        for n, job in enumerate(jobs)
    ]
    while not asked[-1].done or not all(request.done for request in asked):
        world.run_for(0.01)
    return [request.job for request in asked]


def _waits(world: Facility) -> dict[str, str]:
    """From one unit of a job to its next, those that still wait included."""
    waits = [*world.waits, *(world.now - last for last in world.last.values())]
    return {"seconds between two units of a job": _spread(waits, "{:.2f}")}


def _spread(values: list[float], form: str) -> str:
    if not values:
        return "-"
    values = sorted(values)
    picks = (values[len(values) // 2], values[len(values) * 99 // 100], values[-1])
    return ", ".join(form.format(value) for value in picks)
