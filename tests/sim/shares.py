"""A judge: what share each always-busy job should get by the formula of the design, and what it got.

The formula, written anew. A job's rate is weight x age. Serving a slot-second of job j moves the clock of its owner o
by 1 / (rate_j x usage_o) and the job's own clock by 1 / rate_j. Where all clocks go at one speed, the jobs of an owner
share by their rates: f_j = rate_j / sum of rates; a slot-second of the owner then moves its clock by the sum of
f_j / (rate_j x usage_o), and its share is as the inverse. usage_o changes while they run, so the shares are added up
over short times, as a fluid would flow.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from park.wire import codec, pack
from tests.sim.client import Client, Request
from tests.sim.functions import exact
from tests.sim.wire import brisk
from tests.sim.world import World

#: How the design counts use: the excess over the mean that halves an owner's rate, and the least it is divided to.
EXCESS = 100_000.0
LEAST = 0.25


@dataclass
class Busy:
    """An always-busy job: who pays, with what priority, and how long a unit takes, seconds."""

    owner: str
    priority: int
    seconds: float = 0.02

    @property
    def rate(self) -> float:
        """Its weight; all are of one age, and that of a new job is 1."""
        return 2.0**self.priority


def shares(jobs: Sequence[Busy], use: dict[str, float]) -> list[float]:
    """The share of all slots that each job gets at this moment; *use*: weight x slot-seconds of each owner so far."""
    owners = {job.owner for job in jobs}
    mean = sum(use.get(o, 0.0) for o in owners) / len(owners)
    speed = {}
    for owner in owners:
        rates = [job.rate for job in jobs if job.owner == owner]
        usage = max(LEAST, 1 / (1 + max(0.0, use.get(owner, 0.0) - mean) / EXCESS))
        advance = sum(rate / sum(rates) / (rate * usage) for rate in rates)
        speed[owner] = (1 / advance, sum(rates))
    total = sum(s for s, _ in speed.values())
    return [speed[j.owner][0] / total * j.rate / speed[j.owner][1] for j in jobs]


def fluid(jobs: Sequence[Busy], slot_seconds: float, steps: int = 100) -> list[float]:
    """The slot-seconds of each job when all have had *slot_seconds* together."""
    use: dict[str, float] = {}
    had = [0.0] * len(jobs)
    for _ in range(steps):
        for i, share in enumerate(shares(jobs, use)):
            had[i] += share * slot_seconds / steps
            use[jobs[i].owner] = use.get(jobs[i].owner, 0.0) + jobs[i].rate * share * slot_seconds / steps
    return had


@dataclass
class Race:
    """The jobs run beside one another in a world, from the start until whoever asked has seen enough."""

    jobs: Sequence[Busy]
    slots: int = 1
    seed: int = 0
    #: the slot-seconds for which there are units
    supply: float = 100.0
    world: World = field(init=False)
    numbers: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self.world = World(self.seed, pace=exact, latency=brisk, checked=False, watched=False)
        clients = {owner: self.world.client(owner) for owner in dict.fromkeys(j.owner for j in self.jobs)}
        had = fluid(self.jobs, self.supply)
        asked = [
            keep_busy(clients[job.owner], f"nap {i}", job, had[i] * 1.5 + 5.0)
            for i, job in enumerate(self.jobs)
        ]
        self.world.until(lambda: all(request.done for request in asked))
        self.numbers = [request.job for request in asked]
        self.world.kernel(self.slots)  # last, so that all begin together

    def run(self, slot_seconds: float) -> None:
        """Until all together had so much. Each job has had a chunk more or less then, wherever its turn is."""
        self.world.run_for(slot_seconds / self.slots)
        assert not any(self.world.dispatcher.state.jobs[n].ended for n in self.numbers), "out of units"

    @property
    def served(self) -> list[float]:
        """The slot-seconds that each job had."""
        return [self.world.served[n] for n in self.numbers]

    def errors(self) -> list[float]:
        """The relative error of each job's share."""
        served = self.served
        right = fluid(self.jobs, sum(served))
        return [abs(had / wanted - 1) for had, wanted in zip(served, right, strict=True)]


def keep_busy(client: Client, name: str, job: Busy, seconds: float) -> Request:
    """A job with units enough for this number of slot-seconds."""
    count = int(seconds / job.seconds) + 1
    entry = codec.pack(job.seconds)
    return client.submit_packed(name, count, pack.pack_entries([entry] * count), priority=job.priority)


def mix(seed: int) -> Sequence[Busy]:
    """A random mix: priorities within 1:64, each job with its own owner, or all with one, or in between."""
    chance = random.Random(f"mix {seed}")
    count = chance.randint(2, 8)
    low = chance.randint(-3, 0)
    owners = chance.choice([1, count, chance.randint(1, count)])
    return [
        Busy(
            owner=f"owner {i if owners == count else chance.randrange(owners)}",
            priority=chance.randint(low, low + 6),
            seconds=round(10 ** chance.uniform(-2.3, -1.3), 4),
        )
        for i in range(count)
    ]
