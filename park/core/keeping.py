"""What is kept of jobs that have ended, for how long, and how much of it.

A session leaves the table soon after its end: the newest few stay, so that one can see what became of it. The newest
stored jobs stay in memory and in the table; older ones are *archived*: they lie in the store alone, and are *recalled*
when somebody names them. A job that was deleted, by its owner or because its time is over, can be found no more; what it
leaves in the store is swept out bit by bit (`park.core.sweep`). A job is never deleted while one that has not ended
comes after it.

Age is told by a clock that only runs while the broker does: time is monotonic in each life, and the pause between two
lives counts as the wall clock says, but from nothing to a day. So no wrong clock makes young jobs old: a broker that
starts with one, or whose clock is set while it runs, is wrong by a day a start at most.
"""

from __future__ import annotations

import math
import struct
from array import array
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from heapq import merge
from itertools import islice
from operator import itemgetter
from typing import Any

from park.core.catalogue import Catalogue
from park.core.jobs import Job
from park.core.outcome import Outcome, Ref, Write
from park.core.recovery import Recovery
from park.core.work import Map
from park.errors import Refused
from park.model import JobRecord
from park.wire import codec
from park.wire.messages import Submit

#: Ended sessions that stay in the table, and archived jobs that stay in memory after they were recalled.
SESSIONS, RECALLED = 100, 100
#: What is read of an archived job at the begin of a life.
LISTED = ("job", "owner", "state", "tags", "name", "submitted", "clock", "bytes", "body", "code")
#: Jobs that are deleted in one turn, seconds until the next ones, and until the next look where nothing could go.
SLICE, PAUSE_BETWEEN, AGAIN = 50, 0.01, 60.0
#: Seconds by which an old job may be deleted late.
LATE = 1.0
#: The most that a pause between two lives counts, and how often the clock is written, seconds.
PAUSE, CLOCK_INTERVAL = 86400.0, 600.0


@dataclass(frozen=True, slots=True)
class Keep:
    """How long ended jobs are kept: *age* in seconds, *size* in bytes of all of them together; None: for ever.

    *jobs*: so many stay in memory; older ones are archived.
    """

    age: float | None = None
    size: int | None = None
    jobs: int = 10_000


class Archive:
    """The archived jobs, the one that ended first at first: their numbers, when they ended, and their bytes."""

    def __init__(self) -> None:
        self._numbers, self._clocks, self._sizes = array("q"), array("d"), array("q")
        self._start = 0
        #: those that were deleted out of turn
        self._gone: set[int] = set()

    def __len__(self) -> int:
        return len(self._numbers) - self._start - len(self._gone)

    def __iter__(self) -> Iterator[tuple[int, float, int]]:
        """Number, clock and size of each in turn; meanwhile nothing may change."""
        while self._start < len(self._numbers) and self._numbers[self._start] in self._gone:
            self._gone.discard(self._numbers[self._start])
            self._step()
        for i in range(self._start, len(self._numbers)):
            if self._numbers[i] not in self._gone:
                yield self._numbers[i], self._clocks[i], self._sizes[i]

    def add(self, number: int, clock: float, size: int) -> None:
        # nearly always at the end: a job that was needed is archived after younger ones
        at = bisect_right(self._clocks, clock, self._start)
        self._numbers.insert(at, number)
        self._clocks.insert(at, clock)
        self._sizes.insert(at, size)

    def remove(self, number: int) -> None:
        """It was deleted, wherever it stands."""
        self._gone.add(number)
        if len(self._gone) > 1024 and 2 * len(self._gone) > len(self._numbers) - self._start:
            left = list(self)
            self._numbers, self._clocks, self._sizes = array("q"), array("d"), array("q")
            self._start = 0
            self._gone.clear()
            for one in left:
                self.add(*one)

    def last(self) -> list[tuple[int, float, int]]:
        """The last one, if there is one."""
        return [(self._numbers[-1], self._clocks[-1], self._sizes[-1])] if self._numbers else []

    def _step(self) -> None:
        self._start += 1
        if self._start > 1024 and 2 * self._start > len(self._numbers):
            for column in (self._numbers, self._clocks, self._sizes):
                del column[: self._start]
            self._start = 0


class Keeping(Recovery):
    """The floor above `Recovery`."""

    def __init__(self, *given: Any, keep: Keep | None = None, **named: Any) -> None:
        super().__init__(*given, **named)
        self.keep = keep if keep is not None else Keep()
        self.archive = Archive()
        self.catalogue = Catalogue()
        #: the clock of the last life when it was written, and the wall clock then
        self._saved_clock = (0.0, 0.0)
        self._clock_due = 0.0
        #: when `due` may next find something
        self._keep_due = 0.0

    def restore_clock(self, clock: float, wall: float) -> None:
        """What the clock was in the last life when it was written, and the wall clock then."""
        self._saved_clock = (clock, wall)

    def _begin_keeping(self, wall: float) -> None:
        """A new life: the clock goes on, and what was there counts."""
        clock, saved = self._saved_clock
        passed = min(max(0.0, wall - saved), PAUSE) if saved else 0.0
        ended = [j for j in self.list.jobs.values() if j.ended]
        clock = max([clock + passed, *(j.clock for j in ended), *(c for _, c, _ in self.archive.last())])
        self._aged = clock - self._now
        for job in sorted(ended, key=lambda j: (j.clock, j.number)):
            self.over[job.number] = None
        self._write_clock()

    def _write_clock(self) -> None:
        self._clock_due = self._now + CLOCK_INTERVAL
        value = codec.pack([self.keep_clock, self._wall_now])
        self._out.writes.append(Write("meta", ("clock",), value))

    def begin_turn(self, number: int) -> None:
        """What is handled from now on is of this turn of the loop. Those that were recalled first leave the memory again;
        not within a turn, which may have named many.
        """
        self._turn = number
        while len(self.recalled) > RECALLED:
            job = next(iter(self.recalled))
            del self.recalled[job]
            self.list.forget(self.list.jobs[job])

    # -- after each event ----------------------------------------------------------------------

    def _keep_ended(self) -> None:
        """Some jobs have ended: of those that ended before, the oldest leave the memory."""
        for number in self._out.ended:
            job = self.list.jobs[number]
            if job.session:
                self.sessions_over[number] = None
            else:
                self.over[number] = None
                self.over_bytes += job.bytes
                wait = math.inf if self.keep.age is None else self.keep.age + LATE
                if self.keep.size is not None and self.over_bytes > self.keep.size:
                    wait = 0.0
                self._keep_due = min(self._keep_due, self._now + wait)
        while len(self.sessions_over) > SESSIONS:
            number = next(iter(self.sessions_over))
            del self.sessions_over[number]
            self.list.leave_table(self.list.jobs[number], self._out)
            self.list.forget(self.list.jobs[number])
        spare = len(self.over) - self.keep.jobs
        if spare > 0:
            # those that are needed keep their places, so that all stand by age
            old = (number for number in self.over if not self.list.needed[number])
            for number in list(islice(old, spare)):
                del self.over[number]
                self._archive(self.list.jobs[number])

    # -- the archive ---------------------------------------------------------------------------

    def _archive(self, job: Job) -> None:
        """It goes to the archive; it stays here until that is on disk."""
        self.archiving.add(job.number)
        self.list.leave_table(job, self._out)
        self.ledger.forget(job.number)
        number, record = job.number, job.record.as_map() | self.list.more(job)
        record |= {"key": job.submit.key, "body": job.submit.body}
        root = job.root
        spans = [*root.segments.items()] if root is not None else []
        self._out.writes += [
            Write("archive", (number,), codec.pack(record)),
            Write("spans", (number, "units"), _pairs(spans)),
            Write("spans", (number, "results"), _pairs(job.results)),
            Write("key", (job.submit.key,), codec.pack(number)),
            Write("job", (number,), None),
        ]
        self._out.archived.append(number)

    def committed(self, archived: list[int], deleted: list[int]) -> None:
        """The first are on disk in the archive, and the others gone from it."""
        self.deleting.difference_update(deleted)
        for number in archived:
            if number in self.archiving:
                self.archiving.discard(number)
                job = self.list.jobs[number]
                self.archive.add(number, job.clock, job.bytes)
                self.catalogue.add(job.record.as_map())
                self.list.forget(job)

    def restore_archived(self, stored: list[dict[str, Any]]) -> None:
        """The jobs in the archive at the begin of a life."""
        found: list[tuple[float, int, int]] = []
        for job in stored:
            self.catalogue.add(job)
            found.append((job["clock"], job["job"], job["bytes"]))
            self.over_bytes += job["bytes"]
            self.list.tallies.of(job["owner"]).bytes += job["bytes"]
            self.codes.keep(job["body"], job["code"])
        for clock, number, size in sorted(found):
            self.archive.add(number, clock, size)

    def recall(self, stored: dict[str, Any], submit: Submit, units: bytes, results: bytes) -> None:
        """An archived job that somebody names: as it was, until others are named."""
        if stored["job"] in self.deleting:
            return
        record = JobRecord.from_map(stored)
        job = Job(record, submit, b"", results=list(_spans(results)), clock=stored["clock"])
        job.ending, job.error = stored["ending"], stored["error"]
        job.bytes, job.code, job.archived = stored["bytes"], stored["code"], True
        job.files = stored.get("files", {})
        job.root = ended_root(job, dict(_spans(units)))
        self.list.jobs[job.number] = job
        self.list.by_key[submit.key] = job.number
        self.recalled[job.number] = None

    # -- deletion ------------------------------------------------------------------------------

    def _check_deletable(self, job: Job) -> None:
        """Raises Refused while the job, or one that comes after it, has not ended."""
        number = job.number
        if not job.ended:
            raise Refused(
                f"job {number} is {job.state}: abort it first (`park abort {number}`, in Python job.abort()), "
                "then delete it"
            )
        if self.list.needed[number]:
            others = (j for j in self.list.jobs.values() if not j.ended and number in j.facts.after)
            other = next(others)
            raise Refused(
                f"job {other.number}, which comes after job {number}, is {other.state}: wait until it has ended, or "
                "abort it first"
            )

    def _remove(self, job: Job) -> None:
        """Nobody finds it any more. What it leaves in the store is swept out later."""
        number, body = job.number, job.submit.body
        self.list.leave_table(job, self._out)
        self.list.forget(job)
        for kept in (self.over, self.sessions_over):
            kept.pop(number, None)
        if job.session:
            return
        self.deleting.add(number)
        self._out.deleted.append(number)
        if number in self.archiving:
            self.archiving.discard(number)
        elif number in self.recalled:
            del self.recalled[number]
            self.archive.remove(number)
            self.catalogue.remove(number)
        self.over_bytes -= job.bytes
        self.list.tallies.of(job.owner).bytes -= job.bytes
        self.ledger.forget(number)
        writes = self._out.writes
        if self.codes.forget(body):
            if self.codes.spool(body):
                self._out.spool.append(Write("blob", (body,), Ref("blob", (body,))))
            writes.append(Write("blob", (body,), None))
        writes += [
            Write("job", (number,), None),
            Write("archive", (number,), None),
            Write("key", (job.submit.key,), None),
            Write("trash", (number,), b""),
        ]

    def due(self, now: float) -> list[int]:
        """Ended jobs that are kept no longer, some of them: whoever asks recalls them, and then calls `expire`."""
        self._now = now
        if now < self._keep_due:
            return []
        remembered = ((n, self.list.jobs[n].clock, self.list.jobs[n].bytes) for n in self.over)
        found: list[int] = []
        size = self.over_bytes
        self._keep_due = now + AGAIN
        for number, clock, its in merge(self.archive, remembered, key=itemgetter(1)):
            age = self.keep_clock - clock
            old = self.keep.age is not None and age >= self.keep.age
            if not old and (self.keep.size is None or size <= self.keep.size):
                if self.keep.age is not None:
                    self._keep_due = now + min(AGAIN, self.keep.age - age + LATE)
                break
            if self.list.needed[number]:
                continue
            found.append(number)
            size -= its
            if len(found) == SLICE:  # there may be more
                self._keep_due = now + PAUSE_BETWEEN
                break
        return found

    def expire(self, numbers: list[int], now: float) -> Outcome:
        """Delete these, as `due` said."""
        self._out, self._now = Outcome(), now
        for number in numbers:
            job = self.list.jobs.get(number)
            if job is not None and not self.list.needed[number]:
                self._remove(job)
        return self._out

    def _keep_deadline(self) -> float:
        """When something may have to be deleted."""
        over_size = self.keep.size is not None and self.over_bytes > self.keep.size
        if self.keep.age is None and not over_size:
            return math.inf
        return min(self._clock_due, self._keep_due) if self.keep.age is not None else self._keep_due

    def _check_keeping(self) -> None:
        """Assert what must always hold."""
        ended = {n for n, j in self.list.jobs.items() if j.ended}
        stored = {n for n in ended if not self.list.jobs[n].session}
        assert self.sessions_over.keys() == ended - stored
        assert stored == self.over.keys() | self.archiving | self.recalled.keys()
        assert len(self.sessions_over) <= SESSIONS
        for clocks in ([self.list.jobs[n].clock for n in self.over], [clock for _, clock, _ in self.archive]):
            assert clocks == sorted(clocks)
        assert self.over_bytes >= sum(self.list.jobs[n].bytes for n in stored)


def ended_root(job: Job, segments: dict[int, int]) -> Map:
    """What is left of the map of a job that has ended."""
    m = job.submit
    root = Map(m.key, job.number, job.owner, m.body, m.seed, 0, root=True)
    root.segments, root.total = segments, sum(segments.values())
    return root


_PAIR = struct.Struct("<QQ")


def _pairs(pairs: list[tuple[int, int]]) -> bytes:
    return b"".join(_PAIR.pack(*pair) for pair in pairs)


def _spans(data: bytes) -> Iterator[tuple[int, int]]:
    return _PAIR.iter_unpack(data)
