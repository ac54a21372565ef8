"""The jobs that the dispatcher knows: their records, and the changes that it publishes.

Changes of state are published at once, counters (units done, slots used) some ten times a second.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from park.broker.accounts.ledger import MICRO
from park.broker.accounts.quotas import Tallies
from park.broker.effects import Effects, Write
from park.broker.entities.controls import Controls
from park.broker.entities.maps import Attempt, JobMap
from park.broker.entities.requirements import Needs, WorkClass, needs_of
from park.broker.entities.roster import Kernel, Member
from park.model import ENDED, Delta, JobRecord, JobState, OwnerRecord
from park.wire import codec
from park.wire.messages import Submit

#: Seconds between two deltas of one counter.
COUNTER_SECONDS = 0.1
#: Job numbers are reserved on disk in blocks of this size. So a session, which is not stored, never shares its number
#: with a later job.
RESERVED_NUMBERS = 16


class Waiter(Struct):
    """A Fetch that waits for the end of the job. Its client or kernel may have come back as another peer since."""

    member: Member
    id: int
    attempt: int
    request: bool
    results: bool

    @property
    def key(self) -> tuple[int, int, int]:
        """The key of this wait, which no other one has."""
        return id(self.member), self.attempt, self.id


class LongAnswer(Struct, eq=False):
    """The rest of an answer to a Fetch: messages, each with the `Ref` of its payload."""

    job: BrokerJob
    waiter: Waiter
    parts: Iterator[tuple[Any, ...]]


@dataclass(slots=True, eq=False)
class BrokerJob:
    """A job as the dispatcher sees it.

    It has more than 20 attributes: its counters change with every chunk, and lie here instead of in a frozen record.
    """

    #: the record without its counters; those follow below, because they change with every chunk
    facts: JobRecord
    submit: Submit
    client: bytes
    done: int = 0
    failed: int = 0
    total: int | None = None
    running: int = 0
    #: slot-seconds used, and micro-credits paid
    seconds: float = 0.0
    paid: int = 0
    progress: tuple[float, float] | None = None
    units: str = ""
    note: str = ""
    root: JobMap | None = None
    #: all maps that have not ended, by key
    maps: dict[bytes, JobMap] = field(default_factory=dict)
    #: maps with units that wait, the deepest first
    ready: list[tuple[int, int, JobMap]] = field(default_factory=list)
    #: drivers that want to go on, by kernel
    resumable: dict[int, list[Attempt]] = field(default_factory=dict)
    #: kernels that ran units of it and may have processes with the job prepared
    kernels: dict[int, Kernel] = field(default_factory=dict)
    #: the kernel that keeps slots free for its next unit, which is a wide one
    reserved: Kernel | None = None
    attempts: set[int] = field(default_factory=set)
    waiters: list[Waiter] = field(default_factory=list)
    #: [start, count] of the results in the store
    results: list[tuple[int, int]] = field(default_factory=list)
    #: "", "stop", "abort" or "fail": how it is to end
    ending: str = ""
    #: the first thing that went wrong
    error: str = ""
    #: code of this job that has killed a process, and code that has made maps
    killers: set[bytes] = field(default_factory=set)
    callers: set[bytes] = field(default_factory=set)
    #: bytes of the units of a session's maps that are in memory
    spooled: int = 0
    #: the client of the session takes results more slowly than they come
    client_slow: bool = False
    #: kernels of the broker's last life may hold work of it
    recovering: bool = False
    #: [start, count] of units that must not run twice and were dealt in an earlier life
    risky: list[tuple[int, int]] = field(default_factory=list)
    #: if its time is limited: seconds that it has run, when it began to run again, and when it passed its limit
    ran: float = 0.0
    runs_since: float | None = None
    overtime: float | None = None
    #: its files: bytes by name
    files: dict[str, int] = field(default_factory=dict)
    #: units with a checkpoint: attempt and number of the newest
    checkpoints: dict[int, tuple[int, int]] = field(default_factory=dict)
    #: messages for its body, if there were any
    controls: Controls | None = None
    #: bytes in the store, with the code, and of the code alone
    bytes: int = 0
    code: int = 0
    #: when it ended, by the clock of `park.broker.handlers.retention`
    clock: float = 0.0
    #: it has left the table
    archived: bool = False
    needs: Needs = field(init=False)
    #: the work classes of its units, by `Kind`, once it may want slots
    work_classes: tuple[WorkClass, ...] = ()
    number: int = field(init=False)
    owner: str = field(init=False)
    session: bool = field(init=False)

    def __post_init__(self) -> None:
        self.number, self.owner, self.session = self.facts.job, self.facts.owner, self.submit.session
        self.done, self.failed, self.total = self.facts.done, self.facts.failed, self.facts.total
        self.seconds, self.paid = self.facts.seconds, round(self.facts.credits * MICRO)
        self.needs = needs_of(self.submit, self.number)

    @property
    def counters(self) -> dict[str, Any]:
        return {
            "done": self.done,
            "failed": self.failed,
            "total": self.total,
            "running": self.running,
            "seconds": self.used_seconds,
            "credits": self.paid_credits,
            "progress": self.progress,
            "units": self.units,
            "note": self.note,
        }

    @property
    def used_seconds(self) -> float:
        return round(self.seconds, 6)

    @property
    def paid_credits(self) -> float:
        return self.paid / MICRO

    @property
    def record(self) -> JobRecord:
        """The record as clients see it, with the present counters."""
        return replace(self.facts, **self.counters)

    @property
    def state(self) -> JobState:
        return self.facts.state

    @property
    def ended(self) -> bool:
        return self.facts.state in ENDED

    @property
    def released(self) -> bool:
        """Whether its turn has come: the jobs of `after` have ended and the time of `when` has passed."""
        return self.facts.state is not JobState.WAITING and (
            self.facts.state is not JobState.PAUSED or self.facts.started is not None or bool(self.attempts)
        )

    @property
    def dealt(self) -> bool:
        """Whether its units are dealt, if there are any."""
        return self.facts.state in (JobState.QUEUED, JobState.RUNNING) and not (
            self.recovering or self.client_slow
        )

    @property
    def stops_at_failure(self) -> bool:
        """Whether a unit has failed and the rest shall not run."""
        return bool(self.error) and self.submit.on_error == "stop"

    def wants(self, map_: JobMap) -> bool:
        """Whether the waiting units of the map are to run. A driver that was asked to stop may need its maps for a last
        result.
        """
        if map_.cancelled or self.ending in ("abort", "fail"):
            return False
        return not ((map_.root or self.session) and (self.ending or self.stops_at_failure))

    def stop_root(self) -> None:
        """Begin no further unit of the job's own if it is to end."""
        if self.root is not None and (self.ending or self.stops_at_failure):
            self.root.stop()

    def list_ready(self, map_: JobMap) -> None:
        """The map has units that wait."""
        if map_.waiting and not map_.listed:
            map_.listed = True
            heapq.heappush(self.ready, (-map_.depth, map_.number, map_))

    def next_ready(self) -> JobMap | None:
        """The deepest, then oldest, map with units that wait."""
        while self.ready:
            map_ = self.ready[0][2]
            if map_.waiting:
                return map_
            map_.listed = False
            heapq.heappop(self.ready)
        return None

    @property
    def has_work(self) -> bool:
        return bool(self.resumable) or self.next_ready() is not None

    def driver_class(self, kernel: int) -> int:
        """The work class of its drivers that go on at the kernel of this number; drivers with GPUs have their own."""
        return -kernel if self.needs.gpus else kernel

    def add_resumable(self, attempt: Attempt) -> None:
        """A driver wants a slot to go on."""
        self.resumable.setdefault(attempt.kernel.number, []).append(attempt)

    def drop_resumable(self, attempt: Attempt) -> None:
        """The driver wants no slot any more."""
        drivers = self.resumable[attempt.kernel.number]
        drivers.remove(attempt)
        if not drivers:
            del self.resumable[attempt.kernel.number]


class JobList:
    """All jobs by number, and the rows of the public table that follow from them."""

    def __init__(self, next_job: int = 1) -> None:
        self.jobs: dict[int, BrokerJob] = {}
        #: how many jobs that have not ended come after a job
        self.needed: Counter[int] = Counter()
        self.tallies = Tallies()
        self.by_key: dict[bytes, int] = {}
        #: jobs that wait for another, by that other
        self.dependents: dict[int, set[int]] = {}
        self._owners: dict[str, list[int]] = {}
        self._next = next_job
        self._reserved = next_job
        self._stale_jobs: set[int] = set()
        self._stale_kernels: dict[int, Kernel] = {}
        self._counted = -1e9

    def new_number(self, effects: Effects) -> int:
        number = self._next
        self._next += 1
        if number >= self._reserved:
            self._reserved = number + RESERVED_NUMBERS
            effects.writes.append(Write("meta", ("next_job",), codec.pack(self._reserved)))
        return number

    def add(self, job: BrokerJob, effects: Effects) -> None:
        """A new job; stored unless it is a session."""
        record = job.facts
        self.jobs[record.job] = job
        self.by_key[job.submit.key] = record.job
        for other in record.after:
            self.needed[other] += 1
            if other in self.jobs and not self.jobs[other].ended:
                self.dependents.setdefault(other, set()).add(record.job)
        effects.deltas.append(Delta("job", record.job, record.as_map()))
        self._count_owner(record.owner, +1, effects)
        self.store(job, effects)

    def change(self, job: BrokerJob, effects: Effects, **fields: Any) -> None:
        """New values of fields of the record: stored, and told with all counters."""
        old = job.facts
        change = {k: v for k, v in fields.items() if getattr(old, k) != v}
        if change:
            self._stale_jobs.discard(old.job)
            job.facts = replace(old, **change)
            effects.deltas.append(Delta("job", old.job, change | job.counters))
            self.store(job, effects)
        if job.ended and not old.state.ended:
            self._needs_no_more(job)
            self._count_owner(old.owner, -1, effects)

    def counted(self, job: BrokerJob) -> None:
        """Counters of the job have changed: told at the next flush."""
        self._stale_jobs.add(job.number)

    def counted_kernel(self, kernel: Kernel) -> None:
        """The same for a kernel."""
        self._stale_kernels[kernel.number] = kernel

    def forget_kernel(self, number: int, effects: Effects) -> None:
        self._stale_kernels.pop(number, None)
        effects.deltas.append(Delta("kernel", number, None))

    def flush(self, now: float, effects: Effects) -> None:
        """Tell the counters, if the last time is long enough ago."""
        if now < self._counted + COUNTER_SECONDS or not (self._stale_jobs or self._stale_kernels):
            return
        self._counted = now
        for number in self._stale_jobs:
            effects.deltas.append(Delta("job", number, self.jobs[number].counters))
        for kernel in self._stale_kernels.values():
            busy: dict[str, float] = {"busy": kernel.busy, "drivers": len(kernel.parked)}
            if kernel.profile.gpus:
                busy["gpus_busy"] = kernel.devices.busy
            effects.deltas.append(Delta("kernel", kernel.number, busy))
        self._stale_jobs.clear()
        self._stale_kernels.clear()

    def next_deadline(self) -> float:
        return self._counted + COUNTER_SECONDS if self._stale_jobs or self._stale_kernels else math.inf

    def restore(self, job: BrokerJob) -> None:
        """Add a stored job of an earlier life of the broker, without publishing anything."""
        effects = Effects()
        self.add(job, effects)
        if job.ended:
            self._needs_no_more(job)
            self._count_owner(job.owner, -1, effects)
        self._next = self._reserved = max(self._next, job.number + 1)

    def _needs_no_more(self, job: BrokerJob) -> None:
        """Count an ended job off the jobs that it came after: they may be forgotten."""
        for other in job.facts.after:
            self.needed[other] -= 1
            if not self.needed[other]:
                del self.needed[other]
            if other in self.dependents:
                self.dependents[other].discard(job.number)
                if not self.dependents[other]:
                    del self.dependents[other]

    def leave_table(self, job: BrokerJob, effects: Effects) -> None:
        """Remove the job from the public table."""
        self._stale_jobs.discard(job.number)
        if not job.archived:
            job.archived = True
            effects.deltas.append(Delta("job", job.number, None))

    def forget(self, job: BrokerJob) -> None:
        """Remove an ended job that has left the table from memory."""
        del self.jobs[job.number]
        self.by_key.pop(job.submit.key, None)

    def given(self, number: int) -> bool:
        """Whether there has been a job of this number."""
        return 0 < number < self._next

    def grow(self, job: BrokerJob, size: int) -> None:
        """Count *size* more bytes of the job in the store."""
        job.bytes += size
        self.tallies.of(job.owner).bytes += size

    def _count_owner(self, owner: str, step: int, effects: Effects) -> None:
        self.tallies.of(owner).jobs += step
        count = self._owners.setdefault(owner, [0])
        count[0] += step
        if count[0] == 0:
            del self._owners[owner]
            effects.deltas.append(Delta("owner", owner, None))
        elif count[0] == step:
            effects.deltas.append(Delta("owner", owner, OwnerRecord(owner, count[0]).as_map()))
        else:
            effects.deltas.append(Delta("owner", owner, {"jobs": count[0]}))

    def owners(self) -> dict[str, int]:
        """The jobs of each owner that have not ended."""
        return {owner: count[0] for owner, count in self._owners.items()}

    def store(self, job: BrokerJob, effects: Effects) -> None:
        """Write the job's record for later lives of the broker; a session has none."""
        if not job.session:
            effects.writes.append(
                Write("job", (job.number,), codec.pack(job.record.as_map() | self.more(job)))
            )

    def more(self, job: BrokerJob) -> dict[str, Any]:
        """The fields that the store keeps of a job beside its record."""
        return {
            "ending": job.ending,
            "error": job.error,
            "closed": job.root.closed if job.root is not None else job.submit.closed,
            "bytes": job.bytes,
            "code": job.code,
            "clock": job.clock,
            "checkpoints": [[unit, attempt] for unit, (attempt, _) in job.checkpoints.items()],
            "ran": job.ran,
            "overtime": job.overtime,
            "files": job.files,
            "served": job.controls.served if job.controls is not None else 0,
        }

    def check(self) -> None:
        for number, job in self.jobs.items():
            assert number == job.number
            if job.ended:
                assert not job.attempts, number
                assert not job.maps, number
                assert not job.checkpoints, number
                assert job.controls is None, number
        needed = Counter(other for job in self.jobs.values() if not job.ended for other in job.facts.after)
        assert needed == self.needed
        for owner, tally in self.tallies:
            mine = [j for j in self.jobs.values() if j.owner == owner]
            assert tally.jobs == sum(not j.ended for j in mine), owner
            assert tally.controls == sum(len(j.controls.kept) for j in mine if j.controls is not None), owner
            assert tally.bytes >= sum(j.bytes for j in mine), owner
