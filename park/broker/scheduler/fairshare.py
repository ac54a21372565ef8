"""The service clock: it picks the job that is served next.

The problem. Many owners have jobs, and a job has thousands of units. A free slot must go to one of them at once. Over
time every owner must get an equal share, and priority must buy a larger one. No owner may gain by idling, by splitting
a job into a hundred, or by being first.

The rule is start-time fair queueing (Goyal, Vin and Cheng 1996) on two levels. Each owner carries a start tag,
each of its jobs one of its own. A free slot goes to the runnable owner with the least tag, and there to the
runnable job with the least tag. Serving c slot-seconds of a job moves the job's tag on by c / (weight x age) and
its owner's by c / (weight x age x usage), where

- weight is 2**priority;
- age is 1 for a new job and 2 for one that was submitted a day ago: a job that waits long is served a little more;
- usage is 1 for an owner whose recent use is at most the mean, and falls to 1/4 as the use exceeds the mean. Use is
  weight x slot-seconds, halved each day.

So an owner's clock runs slowly while its urgent jobs are served: priority counts between owners. A hundred jobs of one
owner share one clock, and an urgent job does not lift the free jobs of its owner, because serving those moves the clock
fast.

Cost. The time of a unit is not known before it has run. So it is charged at dispatch by an estimate, and corrected when
it has run. The correction uses the rates of the dispatch, so that a refund is exact.

Sleep. An owner or job that becomes runnable starts at max(v, own tag), v being the tag that was served last: idle time
earns nothing, and work done is not forgotten. Fits come in generations with short pauses between them, and must not
lose the service that is due to them in a pause. So after a sleep of at most one quantum a job keeps its tag, but at
most one quantum of work behind v.

Work classes. Not every kernel takes every unit: a work class is one set of needs with one kind of code, or the drivers
that want to go on at one kernel. A job is runnable in the classes in which it has work; a kernel serves some
classes. Each set of needs has its own v, because service of one says little about the queue of another.

Preference. A process that has a job prepared should go on with it. So a slot may stay with its job while that job is at
most one quantum ahead of the job that is due, unless the job that is due was never served.

Processes. No process serves two owners, and a new one takes some tenths of a second to start. Where more owners take
turns than a kernel has processes, it would do little else. So at a kernel without a ready process of the owner that is
due, an owner that has one may be served first, while it is ahead by at most `STARTS_AHEAD` times the start of a process:
so long a process works for its owner on the average. The owner that is due waits for the same time at most, and then
gets a new process. An owner that comes from a rest (`REST_SECONDS`) does not wait, and none waits for a job of lower
priority.

Why nothing starves: every divisor is bounded (weight by 1/8 and 64, age by 1 and 2, usage by 1/4 and 1), so between
two services of one job all others can be served only until their tags have passed its own, or are ahead of it as far
as owners with processes may be. `longest_wait` states how long that is.

Each queue is a heap whose entries are corrected when they reach the top, so a decision costs the logarithm of the
number of owners and jobs, and a constant for each work class.
"""

from __future__ import annotations

import heapq
import math
import operator
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Generic, TypeVar

from msgspec import Struct, field

from park.broker.entities.maps import Rates
from park.broker.scheduler.forecast import Forecast

#: The quantum: slot-seconds by which a job may be served ahead of the job that is due, and seconds of sleep for which a
#: job keeps its tag.
QUANTUM_SLOT_SECONDS = 0.1
#: An owner with a ready process at a kernel may be served there before the owner that is due, while it is ahead by at most
#: this many times the start of a process, and for as long at most.
STARTS_AHEAD = 4
#: An owner that had no runnable job for this long gets a new process at once for the first.
REST_SECONDS = 1.0
#: Seconds that the start of a process counts at most.
MAX_START_SECONDS = 5.0
#: Owners with a ready process at the kernel that are compared with the owner that is due, those served last first.
MAX_COMPARED_OWNERS = 16
#: Seconds in which recorded use is halved.
USAGE_HALF_LIFE_SECONDS = 24 * 3600.0
#: Slot-seconds of use above the mean that halve an owner's rate.
USAGE_SCALE_SLOT_SECONDS = 100_000.0
#: An owner's rate is never divided by more than this for its use.
MIN_USAGE_FACTOR = 0.25
#: Seconds after which a job's age counts double.
FULL_AGE_SECONDS = 24 * 3600.0

#: A class of work in which a job may be served: any hashable value. Classes with the same `needs` share one virtual time.
AnyWorkClass = Any


class _Entry(Struct, eq=False):
    """A job or an owner on one level."""

    #: order of arrival, which breaks ties
    order: int
    #: start tag, in slot-seconds divided by rate; it falls only by a correction
    tag: float = 0.0
    #: when it ceased to be runnable
    slept: float = float("-inf")


T = TypeVar("T", bound=_Entry)


class _Queue(Generic[T]):
    """A queue of entries, the one with the least tag first. Tags may rise without notice; if a tag falls, call `put`
    again.
    """

    __slots__ = ("_heap", "_stands")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, T]] = []
        #: the tag under which an entry stands in the heap
        self._stands: dict[int, float] = {}

    def __len__(self) -> int:
        return len(self._stands)

    def __iter__(self) -> Iterator[T]:
        """All entries, in no order."""
        return (entry for tag, order, entry in self._heap if self._stands.get(order) == tag)

    def put(self, entry: T) -> None:
        stands = self._stands.get(entry.order)
        if stands is None or entry.tag < stands:
            self._stands[entry.order] = entry.tag
            heapq.heappush(self._heap, (entry.tag, entry.order, entry))

    def discard(self, entry: T) -> None:
        self._stands.pop(entry.order, None)
        if len(self._heap) > 2 * len(self._stands) + 64:
            stands = self._stands
            self._heap = [e for e in set(self._heap) if stands.get(e[1]) == e[0]]
            heapq.heapify(self._heap)

    def first(self) -> T | None:
        heap, stands = self._heap, self._stands
        while heap:
            tag, order, entry = heap[0]
            if stands.get(order) != tag:
                heapq.heappop(heap)
            elif entry.tag > tag:
                stands[order] = entry.tag
                heapq.heapreplace(heap, (entry.tag, order, entry))
            else:
                return entry
        return None


class _Job(_Entry, eq=False, kw_only=True):
    number: int
    owner: _Owner
    weight: float
    born: float
    #: it has had a unit dealt
    served: bool = False
    #: slot-seconds that it was charged, by the estimates that stand
    charged: float = 0.0
    work_classes: set[AnyWorkClass] = field(default_factory=set)


class _Owner(_Entry, eq=False, kw_only=True):
    name: str
    #: tag of the job served last within this owner, by work class
    virtual: dict[AnyWorkClass, float] = field(default_factory=dict)
    latest: float = 0.0
    jobs: dict[int, _Job] = field(default_factory=dict)
    #: how many of its jobs have each weight
    weights: Counter[float] = field(default_factory=Counter)
    #: its runnable jobs by work class; a class without any is not there
    queues: dict[AnyWorkClass, _Queue[_Job]] = field(default_factory=dict)
    #: weight x slot-seconds, scaled as if all were used now, to undo the decay
    use: float = 0.0
    #: when it was due and another owner was served in its place, for the first time since its last service
    passed: float | None = None
    #: it has not been served since it came from a rest
    rested: bool = True


class ServiceClock:
    """Start-time fair queueing over owners, then over the jobs of each. All times are monotonic seconds.

    It has more than 25 public methods: its heaps, tags and sums change together, in every one of them.
    """

    def __init__(self, quantum: float = QUANTUM_SLOT_SECONDS) -> None:
        self.quantum = quantum
        self._jobs: dict[int, _Job] = {}
        self._owners: dict[str, _Owner] = {}
        #: owners with runnable jobs, by work class
        self._queues: dict[AnyWorkClass, _Queue[_Owner]] = {}
        #: the classes with runnable jobs, by their needs
        self._work_classes: dict[Any, list[AnyWorkClass]] = {}
        #: tag of the owner served last, by needs and at all
        self._virtual: dict[AnyWorkClass, float] = {}
        self._latest = 0.0
        self._order = 0
        #: the time from which the decay of use is counted
        self._began: float | None = None
        #: the number of runnable jobs
        self.awake = 0
        #: when jobs ceased to be runnable, the last one last
        self._resting: dict[int, float] = {}
        #: use of owners with jobs, and their number
        self._all_use = 0.0
        self._working = 0

    # -- the owners --------------------------------------------------------------------------

    def add(self, job: int, owner: str, weight: float, born: float, charged: float = 0.0) -> None:
        """Add a job that may become runnable later. It was submitted at *born*, and *charged* slot-seconds in an
        earlier life.
        """
        o = self._owners.get(owner)
        if o is None:
            o = self._owners[owner] = _Owner(order=self._next_order(), name=owner)
        if not o.jobs:
            self._working += 1
            self._all_use += o.use
        self._jobs[job] = o.jobs[job] = _Job(
            order=self._next_order(), number=job, owner=o, weight=weight, born=born, charged=charged
        )
        o.weights[weight] += 1

    def jobs(self, owner: str) -> list[int]:
        """The jobs of an owner that have not ended."""
        o = self._owners.get(owner)
        return list(o.jobs) if o is not None else []

    @property
    def owners(self) -> Collection[str]:
        """All owners with jobs or with past use."""
        return self._owners.keys()

    @property
    def waiting(self) -> list[int]:
        """The jobs that are runnable."""
        return [n for n, j in self._jobs.items() if j.work_classes]

    def remove(self, job: int, now: float) -> None:
        """The job has ended."""
        j = self._jobs[job]
        for work_class in list(j.work_classes):
            self.sleep(job, work_class, now)
        self._resting.pop(job, None)
        del self._jobs[job], j.owner.jobs[job]
        o = j.owner
        _count_down(o, j.weight)
        if not o.jobs:
            self._working -= 1
            self._all_use -= o.use
            o.virtual.clear()
            if not o.use and o.tag <= self._latest:
                del self._owners[o.name]

    def reweigh(self, job: int, weight: float) -> None:
        """Set the weight of the job from now on."""
        j = self._jobs[job]
        _count_down(j.owner, j.weight)
        j.owner.weights[weight] += 1
        j.weight = weight

    def _next_order(self) -> int:
        self._order += 1
        return self._order

    # -- runnable jobs -----------------------------------------------------------------------

    def work_classes(self, job: int) -> Collection[AnyWorkClass]:
        """The work classes in which the job has work."""
        return self._jobs[job].work_classes

    def wake(self, job: int, work_class: AnyWorkClass, now: float) -> None:
        """The job has work of *work_class* that could be dealt now."""
        j = self._jobs[job]
        if work_class in j.work_classes:
            return
        o = j.owner
        if not j.work_classes:
            self.awake += 1
            self._rise(j, work_class, now)
        j.work_classes.add(work_class)
        queue = o.queues.get(work_class)
        if queue is None:
            queue = o.queues[work_class] = _Queue()
            owners = self._queues.get(work_class)
            if owners is None:
                owners = self._queues[work_class] = _Queue()
                self._work_classes.setdefault(_needs(work_class), []).append(work_class)
            owners.put(o)
        queue.put(j)

    def _rise(self, j: _Job, work_class: AnyWorkClass, now: float) -> None:
        """Set the tags of a job that becomes runnable, and of its owner."""
        o = j.owner
        self._resting.pop(j.number, None)
        key, rates = _needs(work_class), self._rates(j, now)
        if not o.queues:
            o.tag = self._start(o, self._virtual.get(key, self._latest), rates.owner, now)
            o.rested = o.rested or now - o.slept > REST_SECONDS
        j.tag = self._start(j, o.virtual.get(key, o.latest), rates.job, now)

    def visit(self, job: int, work_class: AnyWorkClass, now: float) -> None:
        """Do the same as `wake` and then `sleep`, for a job whose only work is dealt at once, if no other job is
        runnable.
        """
        assert not self.awake
        j = self._jobs[job]
        self._rise(j, work_class, now)
        j.slept = j.owner.slept = now
        self._resting[job] = now

    def _start(self, entry: _Entry, v: float, rate: float, now: float) -> float:
        if entry.tag >= v or now - entry.slept > self.quantum:
            return max(entry.tag, v)
        return max(entry.tag, v - self.quantum / rate)

    def sleep(self, job: int, work_class: AnyWorkClass, now: float) -> None:
        """The job has nothing of *work_class* to deal now."""
        j = self._jobs[job]
        if work_class not in j.work_classes:
            return
        j.work_classes.discard(work_class)
        if not j.work_classes:
            self.awake -= 1
            j.slept = now
            self._resting[job] = now
        o = j.owner
        queue = o.queues[work_class]
        queue.discard(j)
        if not queue:
            del o.queues[work_class]
            if not o.queues:
                o.slept = now
            owners = self._queues[work_class]
            owners.discard(o)
            if not owners:
                del self._queues[work_class]
                key = _needs(work_class)
                kin = self._work_classes[key]
                kin.remove(work_class)
                if not kin:
                    del self._work_classes[key]

    def rests(self, but: int, now: float) -> bool:
        """Whether a job other than *but* has slept for at most a quantum: it may go on at any moment."""
        for job, slept in reversed(self._resting.items()):
            if now - slept > self.quantum:
                return False
            if job != but:
                return True
        return False

    # -- the next job ---------------------------------------------------------------------------

    def pick(
        self,
        work_classes: Iterable[AnyWorkClass],
        now: float,
        prefer: int = 0,
        owner: str = "",
        only: bool = False,
        ready: dict[str, Any] | None = None,
        start: float = 0.0,
    ) -> int:
        """The job that is due in one of *work_classes*, or *prefer* where the rule allows it; 0: none is runnable there.

        With *owner*, that owner's jobs come first, or with *only* no others at all. *ready*: the owners that have a
        ready process there, the one served longest ago first; for others a process takes *start* seconds to start.
        """
        work_classes = [d for d in work_classes if d in self._queues]
        if not work_classes:
            return 0
        o: _Owner | None = None
        if owner:
            own = self._owners.get(owner)
            if own is not None and any(d in own.queues for d in work_classes):
                o = own
        if o is None:
            if only:
                return 0
            o = _due(self._queues, work_classes)
            assert o is not None
        j = _due(o.queues, work_classes)
        assert j is not None
        if prefer and prefer != j.number and j.served:
            p = self._jobs.get(prefer)
            if p is not None and (not owner or p.owner is o) and self._may_stay(p, o, work_classes, now):
                return prefer
        if ready and not owner and not o.rested and o.name not in ready:
            other = self._with_process(j, ready, work_classes, now, min(start, MAX_START_SECONDS))
            if other is not None:
                return other.number
        return j.number

    def _may_stay(self, p: _Job, due: _Owner, work_classes: Iterable[AnyWorkClass], now: float) -> bool:
        """Whether *p* is runnable in *work_classes* and at most one quantum ahead of the owner that is due."""
        if p.work_classes.isdisjoint(work_classes):
            return False
        o, rates = p.owner, self._rates(p, now)
        if (o.tag - due.tag) * rates.owner > self.quantum:
            return False
        first = _due(o.queues, work_classes)
        return first is not None and first.served and (p.tag - first.tag) * rates.job <= self.quantum

    def _with_process(
        self,
        due: _Job,
        ready: dict[str, Any],
        work_classes: Sequence[AnyWorkClass],
        now: float,
        start: float,
    ) -> _Job | None:
        """The job to serve in place of the one that is *due* and whose owner has no process there; None: it waits no
        longer.
        """
        most, waits = STARTS_AHEAD * start, due.owner
        if waits.passed is not None and now - waits.passed > most:
            return None
        # a job that may go first has at least the weight of the one that is due, and its owner at least this usage
        last = waits.tag + most / (due.weight * MIN_USAGE_FACTOR)
        latest, owners = islice(reversed(ready), MAX_COMPARED_OWNERS), self._owners
        near = [o for name in latest if (o := owners.get(name)) is not None and o.queues and o.tag <= last]
        near.sort(key=_tag)
        for o in near:
            ahead = (o.tag - waits.tag) * self._usage(o, now)
            if ahead * due.weight > most:
                continue
            job = _due(o.queues, work_classes)
            if job is None or job.weight < due.weight:
                continue
            if ahead * self._rate(job, now) <= most:
                if waits.passed is None:
                    waits.passed = now
                return job
            if job.weight == due.weight:
                return None  # the others are further ahead
        return None

    def pick_heavier(
        self, work_classes: Iterable[AnyWorkClass], weights: Mapping[str, float], only: str = ""
    ) -> int:
        """The job that is due in one of *work_classes* among those that weigh more than *weights* says of their owner;
        0: none is. *only*: of this owner alone.

        It looks at every owner, and at every job of those whose jobs do not all weigh the same.
        """
        found = [
            job
            for work_class in work_classes
            for o in self._queues.get(work_class, ())
            if not only or o.name == only
            for job in _heavier(o, work_class, weights.get(o.name, 0.0))
        ]
        return min(found, key=_before).number if found else 0

    def weight(self, job: int) -> float:
        """The weight of the job."""
        return self._jobs[job].weight

    def before(self, job: int) -> tuple[float, float, int]:
        """A key that sorts jobs in the order in which `pick` would choose them."""
        return _before(self._jobs[job])

    def serve(self, job: int, work_class: AnyWorkClass, cost: float, now: float) -> Rates:
        """Charge the job *cost* slot-seconds, by estimate. Returns the rates that a correction has to use."""
        j = self._jobs[job]
        o = j.owner
        # a job that is served before its turn must not move v beyond the job that is due, because others start at v
        key = _needs(work_class)
        due, own = o.tag, j.tag
        for other in self._work_classes.get(key, ()):
            first = self._queues[other].first()
            if first is not None and first.tag < due:
                due = first.tag
            if other in o.queues:
                sibling = o.queues[other].first()
                if sibling is not None and sibling.tag < own:
                    own = sibling.tag
        self._latest = max(self._latest, due)
        self._virtual[key] = max(self._virtual.get(key, 0.0), due)
        o.latest = max(o.latest, own)
        o.virtual[key] = max(o.virtual.get(key, 0.0), own)
        j.served, o.rested, o.passed = True, False, None
        rates = self._rates(j, now)
        self.charge(job, cost, rates)
        return rates

    def charge(self, job: int, cost: float, rates: Rates) -> None:
        """Correct the charge of a job that was served *cost* slot-seconds more than estimated (negative: less)."""
        j = self._jobs[job]
        j.charged += cost
        j.tag += cost / rates.job
        j.owner.tag += cost / rates.owner
        if cost < 0:
            self._fallen(j)

    def refund(self, job: int, cost: float, rates: Rates) -> None:
        """The fabric lost the work for which *cost* was charged.

        A refund puts the job behind. It makes up for at most one quantum, so that others do not wait for hours.
        """
        j = self._jobs[job]
        o = j.owner
        j.charged -= cost
        j.tag = max(j.tag - cost / rates.job, min(j.tag, o.latest - self.quantum / rates.job))
        o.tag = max(o.tag - cost / rates.owner, min(o.tag, self._latest - self.quantum / rates.owner))
        self._fallen(j)

    def charged(self, job: int) -> float:
        """The slot-seconds that the job was charged, estimates of running units included."""
        return self._jobs[job].charged

    def _fallen(self, j: _Job) -> None:
        """The tags of a job and its owner may be less now."""
        o = j.owner
        for work_class in j.work_classes:
            o.queues[work_class].put(j)
        for work_class in o.queues:
            self._queues[work_class].put(o)

    # -- rates ---------------------------------------------------------------------------------

    def rates(self, job: int, now: float) -> Rates:
        """weight x age, and weight x age x usage."""
        return self._rates(self._jobs[job], now)

    def _rates(self, j: _Job, now: float) -> Rates:
        rate = self._rate(j, now)
        return Rates(rate, rate * self._usage(j.owner, now))

    def _rate(self, j: _Job, now: float) -> float:
        """weight x age"""
        return j.weight * (1.0 + min(1.0, max(0.0, now - j.born) / FULL_AGE_SECONDS))

    def usage(self, owner: str, now: float) -> float:
        """The factor of an owner's past use: 1, or less if its use exceeds the mean."""
        o = self._owners.get(owner)
        return 1.0 if o is None else self._usage(o, now)

    def _usage(self, o: _Owner, now: float) -> float:
        above = o.use - self._all_use / self._working if self._working else 0.0
        if above <= 0.0:
            return 1.0
        return max(MIN_USAGE_FACTOR, 1.0 / (1.0 + above * self._decay(now) / USAGE_SCALE_SLOT_SECONDS))

    def used(self, owner: str, amount: float, now: float) -> None:
        """Add *amount* = weight x slot-seconds to an owner's use (negative: take it back)."""
        o = self._owners.get(owner)
        if o is None:
            o = self._owners[owner] = _Owner(order=self._next_order(), name=owner)
        amount /= self._decay(now)
        o.use += amount
        if o.jobs:
            self._all_use += amount

    def use(self, owner: str, now: float) -> float:
        """The past use of an owner, weight x slot-seconds, halved each day."""
        o = self._owners.get(owner)
        return 0.0 if o is None else max(0.0, o.use * self._decay(now))

    def _decay(self, now: float) -> float:
        if self._began is None:
            self._began = now
        return math.exp2((self._began - now) / USAGE_HALF_LIFE_SECONDS)

    # -- words about it ------------------------------------------------------------------------

    def shares(self, jobs: Iterable[int], now: float) -> dict[int, float]:
        """The share of all slots that is due to each of *jobs*, while all of them want more."""
        rates: dict[str, dict[int, Rates]] = {}
        for job in jobs:
            rates.setdefault(self._jobs[job].owner.name, {})[job] = self.rates(job, now)
        wholes = {owner: sum(r.job for r in own.values()) for owner, own in rates.items()}
        speeds = {
            owner: wholes[owner] / sum(r.job / r.owner for r in own.values()) for owner, own in rates.items()
        }
        whole = sum(speeds.values())
        return {
            job: speeds[owner] / whole * r.job / wholes[owner]
            for owner, own in rates.items()
            for job, r in own.items()
        }

    def forecast(self, shares: Mapping[int, float]) -> Forecast:
        """The jobs in *shares* as they stand now."""
        jobs = ((self._jobs[number], share) for number, share in shares.items())
        return Forecast((j.owner.name, j.owner.tag, j.tag, j.order, j.weight, share) for j, share in jobs)

    def ahead(self, job: int, forecast: Forecast, unit: float = 0.0) -> float:
        """About how many slot-seconds of other jobs, of those in *forecast*, are due before the job's next unit.

        *unit*: how many such a unit takes; 0: that is not known.
        """
        j = self._jobs[job]
        return forecast.ahead(j.owner.name, j.owner.tag, j.tag, j.order, unit)

    def check(self, jobs: Iterable[int] | None = None) -> None:
        """Assert the invariants of *jobs* (None: of all jobs)."""
        assert sum(1 for o in self._owners.values() if o.jobs) == self._working if jobs is None else True
        for number in self._jobs if jobs is None else jobs:
            j = self._jobs.get(number)
            if j is None:
                continue
            o = j.owner
            assert o.jobs[number] is j
            assert self._owners[o.name] is o
            assert j.work_classes <= o.queues.keys()
            assert o.queues.keys() <= self._queues.keys()
            for work_class in j.work_classes:
                assert o.queues[work_class]._stands[j.order] <= j.tag
                assert self._queues[work_class]._stands[o.order] <= o.tag
        if jobs is None:
            for o in self._owners.values():
                assert o.weights == Counter(j.weight for j in o.jobs.values())
            assert self._resting.keys() <= self._jobs.keys()
            for work_class, owners in self._queues.items():
                assert len(owners) == sum(work_class in o.queues for o in self._owners.values())


_tag = operator.attrgetter("tag")


def _count_down(owner: _Owner, weight: float) -> None:
    owner.weights[weight] -= 1
    if not owner.weights[weight]:
        del owner.weights[weight]


def _before(job: _Job) -> tuple[float, float, int]:
    return job.owner.tag, job.tag, job.order


def _heavier(owner: _Owner, work_class: AnyWorkClass, weight: float) -> Iterable[_Job]:
    """Runnable jobs of the owner that weigh more than *weight*, the one that is due among them."""
    queue = owner.queues[work_class]
    due = queue.first()
    if due is not None and due.weight > weight:
        return (due,)
    if max(owner.weights) <= weight:
        return ()
    return (job for job in queue if job.weight > weight)


def _needs(work_class: AnyWorkClass) -> Any:
    """The needs of a work class, without the kind of the code."""
    return getattr(work_class, "needs", work_class)


def _due(queues: Mapping[AnyWorkClass, _Queue[T]], work_classes: Iterable[AnyWorkClass]) -> T | None:
    """The entry with the least tag in the *queues* of *work_classes*."""
    least: T | None = None
    for work_class in work_classes:
        entry = queues[work_class].first() if work_class in queues else None
        if entry is not None and (least is None or (entry.tag, entry.order) < (least.tag, least.order)):
            least = entry
    return least


def longest_wait(
    owner: str,
    rate: float,
    owners: Mapping[str, Sequence[float]],
    longest: float,
    slots: int,
    quantum: float = QUANTUM_SLOT_SECONDS,
    start: float = 0.0,
) -> float:
    """The longest wait of a runnable job for its next unit (seconds), if all kernels suit all jobs.

    *owner* and *rate* (weight x age) are the job's; *owners* holds the rates of all jobs that may want slots meanwhile,
    by owner, the job's own among them; usage may be anything from 1/4 to 1. *longest*: the most slot-seconds that a
    chunk takes or was charged. *slots*: how many there are. *start*: the seconds that a process takes to start, where there
    are more owners than processes.

    After its last service the job's tag was at most (2 x slots x longest + quantum) / rate beyond the least of its
    siblings: this many chunks of unknown code may run, or wait for a slot, before the first is charged in full. Each
    sibling is served until it has passed that tag, and as much and a quantum more (the tag it kept, and the
    preference). Meanwhile the owner's clock moves, and each other owner is served until it has passed that, and then
    as far as owners with processes may be ahead.

    >>> longest_wait("ann", 1.0, {"ann": [1.0], "bob": [1.0]}, longest=0.02, slots=2)
    0.52
    """
    flight = 2 * slots * longest
    slack = flight + 2 * quantum
    behind = (flight + quantum) / rate
    siblings = list(owners[owner])
    siblings.remove(rate)
    served = [(behind * r + slack, r) for r in siblings]
    own = sum(amount for amount, _ in served)
    moved = (behind + sum(amount / r for amount, r in served)) / MIN_USAGE_FACTOR
    ahead = slack + STARTS_AHEAD * min(start, MAX_START_SECONDS)
    others = sum(moved * max(rates) + ahead for name, rates in owners.items() if name != owner and rates)
    return round((own + others) / slots + longest, 9)
