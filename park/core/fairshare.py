"""Who is served next: the service clock.

The problem: many owners have jobs, a job has thousands of units, and a free slot must go to one of
them, at once, so that over time every owner gets an equal share, every job a share by its weight,
and nobody gains by idling, by splitting a job into a hundred, or by being first.

The rule is start-time fair queueing on two levels. Each owner carries a start tag S, each of its
jobs a start tag of its own. A free slot goes to the runnable owner with the least S, and there to the
runnable job with the least S. Serving a unit that costs c slot-seconds moves the tag on by c / weight
at each level; the virtual time v of the level becomes the tag that was served. Whoever becomes
runnable starts at max(v, own tag): idle time earns nothing, and work done is not forgotten.

The cost is an estimate at dispatch and corrected when the time is known.

Why nothing starves: a weight is at most 64 and at least 1/8, so between two services of one job every
other can be served only until its tag has passed that job's tag: a finite number of units, bounded by
cost_max * (sum of the other weights) / weight of the job.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

T = TypeVar("T")


@dataclass(slots=True)
class _Entry:
    """A job or an owner on one level."""

    #: start tag, in slot-seconds divided by weight; never decreases but by a correction
    tag: float = 0.0
    weight: float = 1.0


@dataclass(slots=True)
class _Owner(_Entry):
    #: tag of the last job served within this owner
    virtual: float = 0.0
    jobs: dict[int, _Entry] = field(default_factory=dict)
    runnable: set[int] = field(default_factory=set)


class ServiceClock:
    """Start-time fair queueing over owners, then over the jobs of each."""

    def __init__(self) -> None:
        self._virtual = 0.0
        self._owners: dict[str, _Owner] = {}
        self._owner_of: dict[int, str] = {}
        #: owners with runnable jobs
        self._ready: dict[str, _Owner] = {}

    @property
    def idle(self) -> bool:
        """Whether no job is runnable."""
        return not self._ready

    def add(self, job: int, owner: str, priority: int) -> None:
        """A job that may become runnable later. Its weight is 2**priority."""
        entry = self._owners.setdefault(owner, _Owner())
        entry.jobs[job] = _Entry(weight=2.0**priority)
        self._owner_of[job] = owner

    def remove(self, job: int) -> None:
        """The job has ended."""
        self.sleep(job)
        del self._owners[self._owner_of.pop(job)].jobs[job]

    def runnable(self, job: int) -> bool:
        """Whether the job is marked as having work to deal."""
        owner = self._owner_of.get(job)
        return owner is not None and job in self._owners[owner].runnable

    def wake(self, job: int) -> None:
        """The job has work that could be dealt now."""
        name = self._owner_of[job]
        owner = self._owners[name]
        if job in owner.runnable:
            return
        if not owner.runnable:
            owner.tag = max(self._virtual, owner.tag)
            self._ready[name] = owner
        entry = owner.jobs[job]
        entry.tag = max(owner.virtual, entry.tag)
        owner.runnable.add(job)

    def sleep(self, job: int) -> None:
        """The job has nothing to deal now."""
        name = self._owner_of[job]
        owner = self._owners[name]
        owner.runnable.discard(job)
        if not owner.runnable:
            self._ready.pop(name, None)

    def pick(self, offer: Callable[[int], T | None]) -> tuple[int, T] | None:
        """The runnable job that is due, with what it has to *offer*; None if no job offers anything."""
        owners = list(self._ready.values())
        if len(owners) > 1:
            owners.sort(key=lambda o: o.tag)
        for owner in owners:
            jobs, due = owner.jobs, list(owner.runnable)
            if len(due) > 1:
                due.sort(key=lambda j: (jobs[j].tag, j))
            for job in due:
                work = offer(job)
                if work is not None:
                    self._virtual = max(self._virtual, owner.tag)
                    owner.virtual = max(owner.virtual, jobs[job].tag)
                    return job, work
        return None

    def charge(self, job: int, cost: float) -> None:
        """The job was served *cost* slot-seconds (negative: a correction of an estimate)."""
        name = self._owner_of.get(job)
        if name is None:
            return
        owner = self._owners[name]
        entry = owner.jobs[job]
        owner.tag += cost / entry.weight
        entry.tag += cost / entry.weight

    def check(self) -> None:
        """Assert what must always hold."""
        for name, owner in self._owners.items():
            assert owner.runnable <= owner.jobs.keys(), name
            assert bool(owner.runnable) == (name in self._ready)
            for job in owner.jobs:
                assert self._owner_of[job] == name
