"""Everything that a dispatcher knows, and how it speaks.

The dispatcher is one machine in several floors, each a class that stands on the one below: `State`, `Charging` (what it
costs), `Controlling` (what owners say to bodies), `Course` (how a job goes on and ends), `Attempts` (what becomes of what
was dealt), then `Dealing` (who is dealt what), `Checkpoints` (from what it goes on when it runs again), `Files` and
`Intake` (what clients ask for), and on top `park.core.dispatcher.Dispatcher`. Each calls only its own methods and those of
lower floors.
"""

from __future__ import annotations

from collections import deque

from park.core.codes import Codes
from park.core.fairshare import QUANTUM, ServiceClock
from park.core.jobs import Job, JobList
from park.core.ledger import Ledger, Policy
from park.core.lending import Lending
from park.core.limits import LimitPolicy
from park.core.line import Line
from park.core.needs import Door, Kind
from park.core.outcome import Event, Outcome, Peer, Ref, Send, Write
from park.core.room import Room
from park.core.roster import Kernel, Roster
from park.core.speculation import Stragglers
from park.core.timing import RunTimes
from park.core.vacancies import Vacancies
from park.core.work import Attempt, Estimates, Map, Orphan, Trial, chunk_seconds
from park.errors import UnknownJob
from park.wire.messages import Message

#: Characters of a cause or a reason that others gave.
WORDS = 500


class State:
    """What all floors of the dispatcher share; see the module."""

    def __init__(
        self,
        store: str = "",
        epoch: int = 1,
        heartbeat: float = 2.0,
        lease: float = 20.0,
        next_job: int = 1,
        policy: Policy | None = None,
        limits: LimitPolicy | None = None,
    ) -> None:
        self.store = store
        self.epoch = epoch
        #: the turn of the loop whose events are handled, and the last one that is on disk
        self._turn = self._saved = 0
        self.roster = Roster(heartbeat, lease)
        self.list = JobList(next_job)
        self.clock = ServiceClock()
        self.ledger = Ledger(policy, epoch)
        self.vacancies = Vacancies()
        self.lending = Lending()
        self.stragglers = Stragglers()
        #: late attempts whose units another one has answered, and until when they may go on; the first come first
        self.outrun: dict[int, float] = {}
        #: kernels that are to be told which messages were heard, and when
        self.hears: dict[Peer, float] = {}
        self.estimates = Estimates()
        self.room = Room()
        self.times = RunTimes()
        #: units that may have killed their kernels, by the kernels that were lost, and those of them that run one by one
        self.vanished: dict[bytes, list[tuple[bytes, int]]] = {}
        self.trials: list[Trial] = []
        self.attempts: dict[int, Attempt] = {}
        self.maps: dict[bytes, Map] = {}
        self.codes = Codes()
        self.limits = limits
        #: answers that came too late or twice
        self.duplicates = 0
        self._next_attempt = epoch << 32
        self._next_map = 0
        #: when jobs that wait for their time may go on, wall clock, the first first
        self._held: list[tuple[float, int]] = []
        #: kernels whose slots or drivers this turn has changed
        self._touched: dict[int, Kernel] = {}
        #: maps of one unit that sessions have just sent: they may be dealt at once
        self._single: list[tuple[Job, Map]] = []
        #: jobs that this turn has changed, for `check`
        self.touched_jobs: set[int] = set()
        self._wall = 0.0
        #: when this life began, wall clock
        self._since = 0.0
        #: ended jobs whose dependents have not been looked at
        self._ended: deque[int] = deque()
        #: ended sessions, and ended stored jobs, that are in memory, the first that ended first
        self.sessions_over: dict[int, None] = {}
        self.over: dict[int, None] = {}
        #: bytes in the store of all jobs that have ended
        self.over_bytes = 0
        #: jobs on their way to the archive, and those that were recalled from it
        self.archiving: set[int] = set()
        self.recalled: dict[int, None] = {}
        #: jobs that were deleted, while that is not on disk
        self.deleting: set[int] = set()
        #: what `keep_clock` is ahead of the time
        self._aged = 0.0
        self._last_results: dict[int, tuple[list[Send], int]] = {}
        #: kernels of the broker's last life that have not come back, and until when they are waited for
        self.expected: set[bytes] = set()
        self.recover_until = 0.0
        #: jobs of earlier lives of which nothing is dealt until then
        self.recovering: set[int] = set()
        #: attempts that kernels hold at maps that are not known yet, by number and by map
        self.orphans: dict[int, Orphan] = {}
        self.orphans_of: dict[bytes, dict[int, Orphan]] = {}
        #: what was said of orphans that are attempts now
        self.replay: deque[Event] = deque()
        self._out = Outcome()
        self._now = 0.0
        #: the shares of all jobs, and who is before whom, if they were worked out after the last event
        self._shares: dict[int, float] | None = None
        self._line: Line | None = None

    def door(self, job: Job, map_: Map) -> Door:
        """Through which the next units of the map are dealt."""
        if map_.once or map_.function in job.callers:
            return job.doors[Kind.DRIVER]
        known = self.estimates.get(map_.owner, map_.function) is not None
        return job.doors[Kind.PLAIN if known else Kind.UNKNOWN]

    @property
    def now(self) -> float:
        """The time of the last event, monotonic seconds."""
        return self._now

    def saved(self, number: int) -> None:
        """What was handled until the end of this turn is on disk."""
        self._saved = number

    def has_room(self, left: int, where: str) -> None:
        """The disk, which is at *where*, has room for so many bytes of jobs, inputs and results."""
        self.room.tell(left, where)

    @property
    def keep_clock(self) -> float:
        """Seconds of this store's life, as `park.core.keeping` counts them."""
        return self._now + self._aged

    @property
    def _wall_now(self) -> float:
        return self._now + self._wall

    def _count_slots(self) -> None:
        """The number of slots has changed."""
        self.clock.quantum = max(QUANTUM, 2 * chunk_seconds(self.roster.slots))

    def _send(self, peer: Peer, message: Message, payload: bytes | memoryview | Ref = b"") -> None:
        self.roster.said(peer, self._now)
        self._out.sends.append(Send(peer, message, payload))

    def _answer(self, peer: Peer, message: Message, payload: bytes | memoryview | Ref = b"") -> None:
        """An acknowledgement: only when the turn's records are on disk."""
        self.roster.said(peer, self._now)
        self._out.sends_after_commit.append(Send(peer, message, payload))

    def _job(self, number: int) -> Job:
        job = self.list.jobs.get(number)
        if job is None:
            raise UnknownJob(self.unknown(number))
        return job

    def unknown(self, number: int) -> str:
        """What to say of a number that is no job's."""
        gone = ": it was deleted, or it was a session that is over" if self.list.given(number) else ""
        return f"job {number} is unknown{gone}"

    def _count_running(self, attempt: Attempt, step: int) -> None:
        job = self._job(attempt.map.job)
        job.running += step
        self.list.counted(job)
        self.list.counted_kernel(attempt.kernel)

    def _drop_code(self, codes: list[bytes]) -> None:
        self._out.spool += [Write("blob", (code,), None) for code in codes]
