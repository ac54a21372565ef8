"""The promises that the simulator checks, as functions that raise AssertionError for a broken one.

Tests call them with the real machines, and with machines in which a bug is planted, which they must notice.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Sequence

from park.broker.accounts.ledger import MICRO, CreditPolicy
from park.broker.scheduler.fairshare import QUANTUM_SLOT_SECONDS, longest_wait
from park.broker.turns import Turn
from park.wire import messages
from tests.sim.audit import Audit
from tests.sim.disk import lame
from tests.sim.functions import exact
from tests.sim.life import Life
from tests.sim.paying import PayingLife
from tests.sim.private import PrivateLife
from tests.sim.shares import Busy, Race, fluid, keep_busy, mix
from tests.sim.steered import SteeredLife
from tests.sim.storm import StormyLife
from tests.sim.waits import Waits
from tests.sim.wire import brisk
from tests.sim.world import World

#: Seconds within which everything has ended once accidents stop: leases of 20 s, messages held up for 30 s, and work.
FINISH_SECONDS = 300.0
#: Seconds of a chunk of short units.
CHUNK = 0.02


def live(seeds: Iterable[int]) -> float:
    """All jobs end with the right results once accidents stop, whatever happened before, and nothing is left.

    Returns the seconds that were simulated.
    """
    seconds = 0.0
    for seed in seeds:
        life = Life(seed, World(seed, disk=lame if seed % 2 else None))
        kernels = len(life.world.kernels)
        world = life.run()
        assert kernels >= 3
        assert world.events >= 300
        assert world.broker_deaths >= 1
        assert any(request.message.name == "broad" for _, request, _ in life.asked)
        assert life.took <= FINISH_SECONDS, life.took
        seconds += world.seconds
    return seconds


def storm(seeds: Iterable[int]) -> float:
    """All that comes about is right while accidents never stop, and nothing is lost that was acknowledged.

    Returns the seconds that were simulated.
    """
    seconds = 0.0
    for seed in seeds:
        life = StormyLife(seed, lame if seed % 2 else None)
        world = life.run()
        assert world.broker_deaths >= 1
        seconds += world.seconds
    return seconds


def pay(seeds: range) -> None:
    """The charges on disk are those of the results on disk, whatever happens."""
    entries = 0
    for seed in seeds:
        life = PayingLife(seed, lame if seed % 2 else None)
        audit = Audit(life.world, life.prices)
        life.run()
        audit.close()
        entries += audit.entries
    assert entries > 5 * len(seeds)


def steer(seeds: Sequence[int]) -> None:
    """Jobs hear their controls in order and once, whatever happens."""
    heard = 0
    for seed in seeds:
        life = SteeredLife(seed, lame if seed % 2 else None)
        life.run(60)
        heard += sum(request.done for _, _, _, request in life.said)
    assert heard > 20 * len(seeds)


def serve_alone(seeds: range) -> None:
    """Private jobs end on kernels of their own, which leave then, whatever happens."""
    private = 0
    for seed in seeds:
        life = PrivateLife(seed, World(seed, disk=lame if seed % 2 else None))
        life.run()
        private += len(life.wanted)
    assert private > len(seeds)


# -- time --------------------------------------------------------------------------------------------


class Deeds:
    """A judge that writes down what the broker does, and when; not what it says of the time of day."""

    def __init__(self, world: World) -> None:
        self.done: list[tuple[float, str]] = []
        self._world = world
        world.judges.append(self)

    def decided(self, turn: Turn) -> None:
        said = [s for s in (*turn.sends, *turn.sends_after_commit) if not isinstance(s.message, TIMED)]
        store = self._world.manager.store.id
        texts = [
            re.sub(r", since [-0-9 :]+", "", f"{s.peer!r} {s.message}".replace(store, "here")) for s in said
        ]
        self.done += [(self._world.now, text) for text in texts]

    def turned(self, turn: Turn) -> None:
        """Nothing to note."""

    def died(self) -> None:
        """Nothing to note, either."""


#: Messages with the times at which a job was submitted, started and ended.
TIMED = (messages.Fetched, messages.Records, messages.Header)


def clock_is_set(seed: int, often: bool = True) -> list[tuple[float, str]]:
    """The deeds of a broker that does not die, and whose wall clock is set now and then, or not."""
    life = Life(seed, World(seed))
    deeds, when = Deeds(life.world), random.Random(f"clock {seed}")
    chances = [(n, c) for n, c in life.chances() if c not in (life.doom, life.set_clock, life.submit)]
    chances += [
        (8, lambda: life.submit_some("square", list(range(20)))),
        (4, lambda: life.submit_some("broad", None)),
    ]
    for _ in range(25):
        life.random.choices(chances, [chance for chance, _ in chances])[0][1]()
        for _ in range(30):
            life.world.step()
        life.see_accepted()
        if often:
            life.world.set_clock(when.choice([-86400.0, -3600.0, 3600.0, 86400.0]))
    life.end(0)
    return deeds.done


# -- shares ------------------------------------------------------------------------------------------


def race(jobs: Sequence[Busy], chunks: int, slots: int = 1, seed: int = 0) -> Race:
    """The jobs have run until each should have had so many chunks."""
    right = fluid(jobs, 1.0)
    supply = max(chunks * max(j.seconds, CHUNK) / had for j, had in zip(jobs, right, strict=True))
    made = Race(jobs, slots=slots, seed=seed, supply=supply)
    made.run(supply)
    return made


def share_at_once(seed: int) -> None:
    """Few chunks: within 2 % and what a job may be ahead of its turn, which all others share, and its siblings most."""
    made = race(mix(seed), chunks=30, slots=1 + seed % 3, seed=seed)
    right = fluid(made.jobs, sum(made.served))
    ahead = QUANTUM_SLOT_SECONDS + 1.5 * max(max(job.seconds, CHUNK) for job in made.jobs)
    for job, had, wanted in zip(made.jobs, made.served, right, strict=True):
        least = min(other.rate for other in made.jobs if other.owner == job.owner)
        part = max(1.0, len(made.jobs) * wanted / sum(right), job.rate / least)
        assert abs(had - wanted) <= 0.02 * wanted + part * ahead, (job, had, wanted)


def share_in_the_long_run(seed: int) -> None:
    """300 chunks of each: within 2 %."""
    made = race(mix(seed), chunks=300, slots=1 + seed % 3, seed=seed)
    assert max(made.errors()) < 0.02, (seed, made.jobs, made.errors())


def waits_within_the_bound(seed: int) -> float:
    """Beside drivers with nested maps (seven, which all find room) no job waits longer than the service clock states.

    What the longest wait was of its bound.
    """
    jobs, slots = mix(seed), 2 + seed % 3
    supply = max(15 * max(j.seconds, CHUNK) / had for j, had in zip(jobs, fluid(jobs, 1.0), strict=True))
    made = Race(jobs, slots=slots, seed=seed, supply=4 * supply)
    world = made.world
    waits = Waits(world)
    client = world.client(jobs[0].owner)
    for name, priority in (("generations", 0), ("generations", 3), ("fit of fits", -2)):
        client.submit(name, priority=priority)
    made.run(supply)
    rates: dict[str, list[float]] = {}
    records = {n: world.dispatcher.state.jobs[n].record for n in waits.longest}
    for record in records.values():
        rates.setdefault(record.owner, []).append(2.0**record.priority)
    longest = (
        max(0.05, *(job.seconds for job in jobs)) + 0.001
    )  # the unit of the drivers, and what messages take
    parts = []
    for number, record in records.items():
        bound = longest_wait(record.owner, 2.0**record.priority, rates, longest, slots)
        assert waits.longest[number] <= bound, (record, waits.longest[number], bound)
        parts.append(waits.longest[number] / bound)
    return max(parts)


def quiet(slots: int) -> tuple[World, Callable[[str], None]]:
    """A world without chance, and who makes an always-busy job in it."""
    world = World(pace=exact, latency=brisk, checked=False, watched=False)

    def busy(owner: str) -> None:
        keep_busy(world.client(owner), f"nap of {owner}", Busy(owner, 0, 0.01), 400.0)

    return world, busy


def short_generations(slots: int, seconds: float = 60.0) -> None:
    """50 units of 1 ms, then 2 ms of the driver alone, over and over, beside an always-busy job: 95 % of its share."""
    world, busy = quiet(slots)
    busy("ann")
    request = world.client("bob").submit("generations", [[10_000, 50, 0.001, 0.002]])
    world.until(lambda: request.done)
    world.kernel(slots)
    world.run_for(seconds)
    assert world.served[request.job] >= 0.95 * sum(world.served.values()) / 2


def many_owners(
    owners: int, kernels: int, slots: int, seconds: float = 60.0, drivers: bool = False
) -> tuple[float, float, int]:
    """Always-busy owners, more than there are slots, where each process takes a quarter of a second to start. They have
    one long map each, or *drivers* with one short map after the other.

    The part of the slots' time in which they computed, by how much an owner's share differs from the mean at most, and
    how many processes were started.
    """
    world = World(pace=exact, latency=brisk, checked=False, watched=False, process_start=0.25)
    for number in range(owners):
        owner = f"owner {number}"
        if drivers:
            world.client(owner).submit("generations", [[1_000_000, 20, 0.002, 0.002]])
        else:
            keep_busy(world.client(owner), f"nap of {owner}", Busy(owner, 0, 0.002), 2.0 * seconds)
    for _ in range(kernels):
        world.kernel(slots)
    world.run_for(seconds / 2)  # in the first half each owner gets its processes
    before, started = dict(world.served), sum(kernel.starts for kernel in world.kernels)
    world.run_for(seconds / 2)
    got = [served - before.get(job, 0.0) for job, served in world.served.items()]
    got += [0.0] * (owners - len(got))  # owners of whom nothing has run
    mean = sum(got) / owners
    error = max(abs(had / mean - 1.0) for had in got)
    started = sum(kernel.starts for kernel in world.kernels) - started
    return 2 * sum(got) / (kernels * slots * seconds), error, started


def small_jobs(owners: int, kernels: int, slots: int, each: int = 40, seconds: float = 0.02) -> float:
    """Owners with many jobs of one unit, where each process takes a quarter of a second to start.

    The part of the slots' time in which they computed, until all jobs have ended.
    """
    world = World(pace=exact, latency=brisk, checked=False, watched=False, process_start=0.25)
    for _ in range(kernels):
        world.kernel(slots)
    world.run_for(1.0)
    began = world.now
    for number in range(owners):
        client = world.client(f"owner {number}")
        for _ in range(each):
            client.submit("nap", [seconds])
    jobs = world.dispatcher.state.jobs
    world.until(lambda: len(jobs) == owners * each and all(job.ended for job in jobs.values()))
    return owners * each * seconds / ((world.now - began) * kernels * slots)


def sometimes_idle(units: int, idle: float) -> None:
    """An owner that is idle at times gets at most 2 % more than owners that are always busy."""
    world, busy = quiet(1)
    busy("ann")
    busy("bob")
    client = world.client("cat")
    session = client.session()
    world.until(lambda: session.done)
    world.kernel(1)
    for _ in range(100):
        call = client.map(session, "nap", [0.01] * units)
        world.until(lambda call=call: call.done)  # type: ignore[misc]
        world.run_for(idle)
    mine = world.served.pop(session.job)
    assert mine <= 1.02 * min(world.served.values())


def back_again() -> None:
    """An owner who was away is served no more than others from when it is back."""
    world, busy = quiet(1)
    busy("ann")
    busy("bob")
    client = world.client("cat")
    session = client.session()
    world.until(lambda: session.done)
    world.kernel(1)
    world.run_for(1.0)
    (twin,) = [n for n, j in world.dispatcher.state.jobs.items() if j.owner == "ann"]
    mine = twins = 0.0
    for _ in range(20):
        before = world.served[session.job], world.served[twin]
        call = client.map(session, "nap", [0.01] * 600)
        world.until(lambda call=call: call.done)  # type: ignore[misc]
        mine += world.served[session.job] - before[0]
        twins += world.served[twin] - before[1]
        world.run_for(2.0)
    assert mine <= 1.02 * twins


# -- credits -----------------------------------------------------------------------------------------


def lost_work(accident: Callable[[World], None]) -> None:
    """Drivers that have paid before they lent their slots are lost: in the end they have paid once."""
    world = World(pace=exact, latency=brisk, policy=CreditPolicy(), watched=False)
    for _ in range(2):
        world.kernel(1)
    ann, bob = world.client("ann"), world.client("bob")
    world.settle()
    drivers = [ann.submit("serial", priority=1) for _ in range(3)]
    bob.submit("nap", [0.02] * 1000, priority=1)
    world.until(lambda: all(request.done for request in drivers))
    for _ in range(3):
        world.run_for(1.5)
        accident(world)
    jobs = world.dispatcher.state.jobs
    world.until(lambda: all(j.ended for j in world.dispatcher.state.jobs.values()))
    for request in drivers:
        cost, alone = world.dispatcher.state.ledger.costs[request.job] / MICRO, 100 * 0.03
        assert alone <= cost <= 1.02 * alone, jobs[request.job].record


def a_kernel_is_lost(world: World) -> None:
    world.lose(world.kernels[0])
    world.kernel(1)


def the_broker_dies(world: World) -> None:
    world.restart_broker()
