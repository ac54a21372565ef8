"""State: all that the dispatcher knows between two events.

Handlers (`park.broker.handlers`) read and change it; it decides nothing itself. Its methods look something up, or keep
two numbers in step that always change together.
"""

from __future__ import annotations

from collections import deque

from msgspec import Struct, field

from park.broker.accounts.disk_space import DiskSpace
from park.broker.accounts.ledger import CreditPolicy, Ledger
from park.broker.accounts.quotas import LimitPolicy
from park.broker.effects import Effects, Event, Peer
from park.broker.entities.archive import Archive, Catalogue, RetentionPolicy
from park.broker.entities.code_cache import CodeCache
from park.broker.entities.jobs import BrokerJob, JobList, LongAnswer
from park.broker.entities.maps import Attempt, JobMap, Orphan, Trial, chunk_seconds
from park.broker.entities.requirements import KernelProfile, Kind, WorkClass
from park.broker.entities.roster import MAX_DRIVERS_PER_SLOT, Kernel, Roster
from park.broker.entities.spread import CodeSharing
from park.broker.scheduler.estimates import Estimates
from park.broker.scheduler.fairshare import QUANTUM_SLOT_SECONDS, ServiceClock
from park.broker.scheduler.forecast import Forecast
from park.broker.scheduler.free_slots import FreeSlots
from park.broker.scheduler.preemption import Preemption
from park.broker.scheduler.run_times import RunTimes
from park.broker.scheduler.stragglers import Stragglers
from park.errors import UnknownJob
from park.mail.notices import MailPolicy, Notices

#: Characters that are kept of a cause or a reason that a peer gave.
MAX_REASON_CHARS = 500


class ChangedEntities(Struct):
    """The things that the events since the last deal have changed."""

    #: kernels whose slots or drivers have changed
    kernels: dict[int, Kernel] = field(default_factory=dict)
    #: jobs that have changed, for `park.broker.invariants`
    jobs: set[int] = field(default_factory=set)
    #: maps of one unit that sessions have just sent: they may be dealt at once
    single_units: list[tuple[BrokerJob, JobMap]] = field(default_factory=list)


class DeferredWork(Struct):
    """Jobs that may go on later (at their time, or because another job has ended), and answers that do."""

    #: (wall clock, job), a heap: when jobs that wait for their time may go on
    delayed: list[tuple[float, int]] = field(default_factory=list)
    #: ended jobs whose dependents have not been looked at
    dependents_due: deque[int] = field(default_factory=deque)
    #: answers to fetches of which the end has not been sent, in the order in which they go on
    long_answers: dict[tuple[int, int, int], LongAnswer] = field(default_factory=dict)


class CachedShares(Struct):
    """The shares of all jobs, and their order, if they were worked out after the last event."""

    shares: dict[int, float] | None = None
    forecast: Forecast | None = None


class Suspects(Struct):
    """Units that may have killed their kernels (`park.broker.handlers.suspects`)."""

    #: the suspect units of each lost kernel, by its incarnation
    lost_units: dict[bytes, list[tuple[bytes, int]]] = field(default_factory=dict)
    #: suspect units that run one by one
    trials: list[Trial] = field(default_factory=list)


class Recovery(Struct):
    """The work of earlier lives of the broker that kernels may bring back (`park.broker.handlers.recovery`)."""

    #: incarnations of the kernels of the last life that have not come back, and until when they are waited for
    expected: set[bytes] = field(default_factory=set)
    until: float = 0.0
    #: jobs of earlier lives of which nothing is dealt until then
    jobs: set[int] = field(default_factory=set)
    #: attempts that kernels hold of maps that are not known yet, by number and by map
    orphans: dict[tuple[int, int], Orphan] = field(default_factory=dict)
    orphans_of: dict[bytes, dict[tuple[int, int], Orphan]] = field(default_factory=dict)
    #: events that were held back, about orphans that are attempts now and answers that have room now
    replay: deque[Event] = field(default_factory=deque)


class Ended(Struct):
    """Ended jobs, and the rules by which they are kept (`park.broker.handlers.retention`)."""

    keep: RetentionPolicy
    #: ended sessions, and ended stored jobs, in memory; the job that ended first comes first
    sessions: dict[int, None] = field(default_factory=dict)
    jobs: dict[int, None] = field(default_factory=dict)
    #: bytes in the store of all ended jobs
    bytes: int = 0
    archive: Archive = field(default_factory=Archive)
    catalogue: Catalogue = field(default_factory=Catalogue)
    #: jobs on their way to the archive, and those that were recalled from it
    archiving: set[int] = field(default_factory=set)
    recalled: dict[int, None] = field(default_factory=dict)
    #: deleted jobs whose deletion is not on disk
    deleting: set[int] = field(default_factory=set)
    #: when `retention.due` may next find something
    expiry_due: float = 0.0


class RetentionClock(Struct):
    """Seconds of this store's life: a clock that goes on over lives of the broker."""

    #: how far it is ahead of the monotonic clock
    ahead: float = 0.0
    #: its time in the last life when it was written, and the wall clock then
    saved: tuple[float, float] = (0.0, 0.0)
    #: when it is written next
    write_due: float = 0.0

    def read(self, now: float) -> float:
        """The time of this clock at *now*, monotonic seconds."""
        return now + self.ahead


class State:
    """The knowledge of one life of the broker. It has more than 20 attributes because all handlers share it.

    *epoch* counts the lives of the broker; *heartbeat* and *lease* are in seconds. *policy*: the terms of credit;
    None: nothing is charged. *limits*: the quotas of owners; None: there are none. *keep*: the retention of ended jobs.
    *mail*: when owners get mail; None: never.
    """

    def __init__(
        self,
        store_id: str = "",
        epoch: int = 1,
        heartbeat: float = 2.0,
        lease: float = 20.0,
        next_job: int = 1,
        policy: CreditPolicy | None = None,
        limits: LimitPolicy | None = None,
        keep: RetentionPolicy | None = None,
        mail: MailPolicy | None = None,
    ) -> None:
        self.store_id, self.epoch = store_id, epoch
        #: the time of the last event, monotonic seconds, and how far the wall clock is ahead of it
        self.now, self.wall_offset = 0.0, 0.0
        #: when this life began, wall clock
        self.began = 0.0
        #: the turn of the loop whose events are handled, and the last turn that is on disk
        self.turn = self.saved = 0

        # -- peers, jobs and their work
        self.roster = Roster(heartbeat, lease)
        self.job_list = JobList(next_job)
        #: the dict of `job_list`: every job in memory, by number
        self.jobs = self.job_list.jobs
        self.maps: dict[bytes, JobMap] = {}
        self.attempts: dict[int, Attempt] = {}
        self.next_attempt, self.next_map = epoch << 32, 0
        self.code_cache = CodeCache()
        self.sharing = CodeSharing()
        #: superseded attempts, and until when each may go on: the other attempt at its units has answered; in order of time
        self.superseded: dict[int, float] = {}
        #: attempts whose units are late and that gave back others, and when to look at each
        self.late: dict[int, float] = {}
        #: answers that came too late or twice
        self.duplicates = 0
        #: bytes of units of all sessions that are in memory
        self.spooled = 0
        #: kernels that are owed acknowledgements of stream messages, and when they get them
        self.stream_acks_due: dict[Peer, float] = {}
        self.touched, self.deferred, self.suspects = ChangedEntities(), DeferredWork(), Suspects()
        self.recovery = Recovery()
        self.ended = Ended(keep if keep is not None else RetentionPolicy())
        self.retention_clock = RetentionClock()

        # -- accounts
        self.ledger = Ledger(policy, epoch)
        self.limits = limits
        self.disk = DiskSpace()
        #: news of ended jobs that waits for a mail
        self.notices = Notices(mail, epoch)

        # -- scheduling
        self.clock = ServiceClock()
        self.free_slots = FreeSlots()
        self.preemption, self.stragglers = Preemption(), Stragglers()
        self.estimates, self.run_times = Estimates(), RunTimes()
        self.standing = CachedShares()
        #: the resources of kernels that allocators have started, by the label of the allocator
        self.allocated: dict[str, KernelProfile] = {}

    @property
    def wall(self) -> float:
        """The wall clock of the last event."""
        return self.now + self.wall_offset

    def begin(self, now: float) -> Effects:
        """The empty effects of an event at *now*."""
        self.now = now
        return Effects(now, self.wall, self.turn, self.saved)

    def job(self, number: int) -> BrokerJob:
        """The job. Raises UnknownJob."""
        job = self.jobs.get(number)
        if job is None:
            raise UnknownJob(self.unknown(number))
        return job

    def active_job(self, number: int) -> BrokerJob:
        """The job, if it has not ended. Raises UnknownJob."""
        job = self.job(number)
        if job.ended:
            raise UnknownJob(f"job {number} has ended: it is {job.state}")
        return job

    def unknown(self, number: int) -> str:
        """The error text for a number that is no job's."""
        gone = ": it was deleted, or it was a session that is over" if self.job_list.given(number) else ""
        return f"job {number} is unknown{gone}"

    def work_class(self, job: BrokerJob, map_: JobMap) -> WorkClass:
        """The work class of the next units of the map."""
        if map_.once or map_.function in job.callers:
            return job.work_classes[Kind.DRIVER]
        known = self.estimates.get(map_.owner, map_.function) is not None
        return job.work_classes[Kind.PLAIN if known else Kind.UNKNOWN]

    def weights_of_drivers(self, kernel: Kernel) -> dict[str, float] | None:
        """The largest weight of a job with a driver at this kernel, by owner; None: it may hold no further driver.

        A driver stays for as long as its job takes. So a kernel that is full of drivers takes one more of an owner who
        has none there, or of a job that weighs more than the owner's others there: nobody waits for the end of a long
        fit.
        """
        if len(kernel.parked) >= MAX_DRIVERS_PER_SLOT * kernel.slots:
            return None
        weights: dict[str, float] = {}
        for number in (*kernel.parked, *kernel.running):
            attempt = self.attempts[number]
            if attempt.parked or attempt.driver:
                owner = attempt.map.owner
                weights[owner] = max(weights.get(owner, 0.0), attempt.weight)
        return weights

    def count_slots(self) -> None:
        """The number of slots has changed: the quantum of the service clock follows it."""
        self.clock.quantum = max(QUANTUM_SLOT_SECONDS, 2 * chunk_seconds(self.roster.slots))

    def count_spooled(self, job: BrokerJob, size: int) -> None:
        """*size* more bytes of units of a session are in memory."""
        job.spooled += size
        self.job_list.tallies.of(job.owner).spooled += size
        self.spooled += size

    def count_running(self, attempt: Attempt, step: int) -> None:
        """The job of the attempt occupies *step* more slots."""
        job = self.job(attempt.map.job)
        job.running += step
        self.job_list.counted(job)
        self.job_list.counted_kernel(attempt.kernel)
