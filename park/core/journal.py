"""What jobs have said, on its way to the disk and to those who follow: no message is lost, doubled or out of order.

A body's messages are numbered by attempt, and its kernel keeps each until the broker says that it is on disk. So a broker
that dies loses none: the kernel gives them again, and which of them are there already the records tell. Here each message
gets a *place* among those of its job, is written, and goes to the followers when it is on disk. Therefore a place means the
same in every life of the broker: who comes back says which was the last that he has had, and gets those after it, as far
as they are kept, and how many are missing where they are not.

Messages that are not numbered, such as progress, are not kept; they pass in order with the others.

A log, and the other messages of a job, are tails of bounded size (`park.core.tail`). Logs stay with their job; the
others are for those who follow, and go some time after its end. Jobs that nobody follows are written about once a second,
others at once, so far as the disk takes it; all that an ended job has said is on disk with its end. Sessions are not
written.
"""

from __future__ import annotations

import math
import sys
from collections import deque
from collections.abc import Container
from dataclasses import dataclass, field

from park.core.outcome import Heard, Key, Publication, Write
from park.core.store import Store
from park.core.tail import Entry, Tail
from park.errors import ParkError
from park.util.outlet import tell
from park.wire.pack import Buffer

#: Bytes of one job that are kept: of its log, and of its other messages.
LOG_BYTES, SAID_BYTES = 256 << 10, 1 << 20
#: Seconds between two writings of all jobs, and of those that are followed or have said much.
PACE, SOON = 1.0, 0.02
#: The same where the first writing was not all.
PACE_MORE = 0.1
#: Bytes of a job that are much.
MUCH = 64 << 10
#: Bytes after which no more jobs are written at one time.
AT_ONCE = 1 << 20
#: Ended jobs whose last messages wait for a disk that is full; those of older ones are lost.
MOST_ENDED = 64
#: Seconds for which the messages of an ended job are kept, but for its log: more than a client waits for its broker.
AFTER = 900.0
#: Attempts of a job whose numbers are remembered, and records that are forgotten at one time.
MOST_MARKS, MOST_FORGOTTEN = 4096, 500
_TAILS = (("log", LOG_BYTES), ("said", SAID_BYTES))


@dataclass(slots=True)
class Batch:
    """Messages of a job that go to its followers when the turn is on disk, and what their kernels are told then."""

    job: int
    entries: list[Entry]
    heard: list[Heard]


@dataclass(slots=True)
class _Talk:
    """What one job has said."""

    stored: bool
    tails: dict[str, Tail] = field(default_factory=lambda: {room: Tail(room, most) for room, most in _TAILS})
    #: the last place that was given, and the last that was passed on
    last: int = 0
    passed: int = 0
    #: the number of the last message of each attempt, and of those of which the disk does not know it
    marks: dict[int, int] = field(default_factory=dict)
    new_marks: dict[int, int] = field(default_factory=dict)
    #: attempts whose kernels wait for word of their messages
    waits: dict[int, Heard] = field(default_factory=dict)
    #: messages that are in no batch yet, and their bytes
    queue: list[Entry] = field(default_factory=list)
    size: int = 0
    #: batches that are not on disk
    under_way: int = 0
    ended: bool = False

    def add(self, p: Publication) -> None:
        """A new message."""
        self.marks.pop(p.attempt, None)
        self.marks[p.attempt] = self.new_marks[p.attempt] = p.number
        if len(self.marks) > MOST_MARKS:
            del self.marks[next(iter(self.marks))]
        if not p.kind:
            return
        self.last += 1
        entry = Entry(self.last, p.kind, bytes(p.payload))
        self.tails["log" if p.kind == "log" else "said"].add(entry)
        self.queue.append(entry)
        self.size += len(entry.data)

    def kept(self, since: int) -> list[Entry]:
        """The messages after that place which were passed on, as far as they are kept."""
        entries = (e for tail in self.tails.values() for e in tail.entries)
        return sorted((e for e in entries if since < e.at <= self.passed), key=lambda e: e.at)


class Journal:
    """See the module."""

    def __init__(self, store: Store) -> None:
        self._store = store
        #: of jobs that have not ended, or of which something is not on disk
        self._talks: dict[int, _Talk] = {}
        #: those that wait, the one that waits longest first; those of them that shall not, and that must not
        self._waiting: dict[int, None] = {}
        self._urgent: dict[int, None] = {}
        self._ended: dict[int, None] = {}
        self._due = self._soon = 0.0
        #: what kernels need not keep, though it was not written
        self._released: list[Heard] = []
        #: when the messages of ended jobs are forgotten
        self._over: deque[tuple[float, int]] = deque()

    def begin(self, active: Container[int], now: float) -> None:
        """A new life: what jobs that are not *active* have said is for those who come back from the last one."""
        jobs = dict.fromkeys(number(key) for key in self._store.keys("said", (), sys.maxsize))
        self._over.extend((now + AFTER, job) for job in jobs if job not in active)

    # -- what comes ------------------------------------------------------------------------------

    def take(self, p: Publication, stored: bool, followed: bool) -> bool:
        """A message of a job that has not ended. Whether it waits here; else it may be passed on at once."""
        talk = self._talks.get(p.job)
        if p.number:
            if talk is None:
                talk = self._talks[p.job] = self._stored(p.job) if stored else _Talk(stored)
            mark = talk.marks.get(p.attempt, 0)
            talk.waits[p.attempt] = (p.peer, p.attempt, max(mark, p.number))
            if p.number > mark:
                talk.add(p)
        elif talk is not None and (talk.queue or talk.under_way):
            talk.queue.append(Entry(0, p.kind, bytes(p.payload)))
        else:
            return False
        self._waiting.setdefault(p.job)
        if followed or talk.size >= MUCH or not stored:
            self._urgent[p.job] = None
        return True

    def hurry(self, job: int) -> None:
        """Somebody follows the job now."""
        if job in self._waiting:
            self._urgent[job] = None

    def end(self, job: int) -> None:
        """*job* has ended: all that it has said goes to the disk with its end."""
        talk = self._talks.get(job)
        if talk is not None:
            talk.ended = True
            self._waiting.setdefault(job)
            self._ended[job] = None

    def forget(self, job: int) -> None:
        """*job* is gone: nothing of it is written any more."""
        talk = self._talks.pop(job, None)
        for jobs in (self._waiting, self._urgent, self._ended):
            jobs.pop(job, None)
        if talk is not None:
            self._released += talk.waits.values()

    # -- what goes to the disk -------------------------------------------------------------------

    @property
    def has_ends(self) -> bool:
        """Whether a job has ended in this turn."""
        return bool(self._ended)

    @property
    def deadline(self) -> float:
        """When `batches` has something; infinity: it has nothing."""
        if not (self._waiting or self._over or self._urgent or self._ended or self._released):
            return math.inf
        times = [self._over[0][0]] if self._over else []
        if self._urgent or self._ended or self._released:
            times.append(self._soon)
        if self._waiting:
            times.append(self._due)
        return min(times)

    def batches(self, now: float, quiet: bool) -> tuple[list[Write], list[Batch]]:
        """What is to be written now, and told when that is on disk. *quiet*: the disk has time for what can wait."""
        jobs = list(self._ended)
        writes: list[Write] = []
        found: list[Batch] = []
        if now >= self._soon and (self._urgent or self._released):
            self._soon = now + SOON
            jobs += self._urgent
            if self._released:
                found.append(Batch(0, [], self._released))
                self._released = []
        if now >= self._due and self._waiting:
            self._due = now + PACE
            jobs += self._waiting if quiet else ()
        size = 0
        for job in dict.fromkeys(jobs):
            if size < AT_ONCE or job in self._ended:
                size += self._talks[job].size
                writes += self._batch(job, found)
            else:
                self._due = min(self._due, now + PACE_MORE)
        return writes + self._forgotten(now), found

    def _batch(self, job: int, found: list[Batch]) -> list[Write]:
        talk = self._talks[job]
        writes: list[Write] = []
        if talk.stored and talk.new_marks:
            tails = [t for t in talk.tails.values() if t.unwritten] or [talk.tails["said"]]
            for tail in tails:
                writes += tail.writes(job, talk.new_marks, talk.last)
        found.append(Batch(job, talk.queue, list(talk.waits.values())))
        talk.queue, talk.size, talk.new_marks, talk.waits = [], 0, {}, {}
        talk.under_way += 1
        for jobs in (self._waiting, self._urgent, self._ended):
            jobs.pop(job, None)
        return writes

    def put_off(self, now: float) -> None:
        """The disk has no room for what is to be written now."""
        self._due, self._soon = max(self._due, now + PACE), max(self._soon, now + PACE)
        if self._over:
            self._over[0] = (max(self._over[0][0], now + PACE), self._over[0][1])
        self._urgent |= self._ended
        self._ended.clear()
        for job in [job for job in self._waiting if self._talks[job].ended][:-MOST_ENDED]:
            self.forget(job)

    def _forgotten(self, now: float) -> list[Write]:
        """Messages of jobs that have ended long ago go, some at a time."""
        found: list[Write] = []
        while self._over and now >= self._over[0][0] and len(found) < MOST_FORGOTTEN:
            keys = self._store.keys("said", (self._over[0][1],), MOST_FORGOTTEN - len(found))
            found += [Write("said", key, None) for key in keys]
            if len(found) < MOST_FORGOTTEN:
                self._over.popleft()
        return found

    # -- what may be shown -----------------------------------------------------------------------

    def on_disk(self, batch: Batch, now: float) -> list[Entry]:
        """The batch is on disk: its messages may be passed on."""
        talk = self._talks.get(batch.job)
        if talk is None:  # the job is gone
            return []
        talk.under_way -= 1
        self._pass(talk, batch.entries)
        if talk.ended and batch.job not in self._waiting and not talk.under_way:
            del self._talks[batch.job]
            if talk.tails["said"].records:
                self._over.append((now + AFTER, batch.job))
        return batch.entries

    def last_words(self, job: int) -> list[Entry]:
        """*job* has ended, and is told to have: what waits for a disk that is full is passed on all the same."""
        talk = self._talks.get(job)
        if talk is None:
            return []
        entries, talk.queue = talk.queue, []
        self._pass(talk, entries)
        return entries

    @staticmethod
    def _pass(talk: _Talk, entries: list[Entry]) -> None:
        talk.passed = max([talk.passed, *(e.at for e in entries)])

    def lines(self, job: int) -> list[Buffer]:
        """The lines of the log of *job* that are kept."""
        talk = self._talks.get(job) or self._stored(job)
        return [e.data for e in talk.tails["log"].entries]

    def since(self, job: int, place: int | None) -> tuple[int, list[Entry]]:
        """The last place that was passed on, and what is kept of the messages after *place*; None: all."""
        talk = self._talks.get(job) or self._stored(job)
        return talk.passed, talk.kept(-1 if place is None else place)

    def _stored(self, job: int) -> _Talk:
        """As an earlier life has left it. A record that cannot be read is left out, and named."""
        talk = _Talk(stored=True)
        for room, tail in talk.tails.items():
            for key in self._store.keys(room, (job,), sys.maxsize):
                try:
                    marks, last = tail.load(key, self._store.get(room, key) or b"")
                except (ParkError, TypeError, ValueError, LookupError) as error:
                    text = f"messages of job {job} are left out: the record {key} in room {room!r} cannot be read"
                    tell(f"park: {text}: {error}", "error")
                    continue
                for attempt, count in marks.items():
                    talk.marks[attempt] = max(count, talk.marks.get(attempt, 0))
                talk.last = max(talk.last, last)
        talk.passed = talk.last
        return talk


def number(key: Key) -> int:
    """The job of the record with this *key*."""
    (job, *_) = key
    assert isinstance(job, int)
    return job
