"""The messages of jobs on their way to the disk and to followers: none is lost, doubled or out of order.

A body's messages are numbered by attempt, and its kernel keeps each until the broker says that it is on disk. So no
message is lost when a broker dies: the kernel sends its messages again, and the records tell which of them are on disk.
Each message gets a *place* among those of its job, is written, and goes to the followers when it is on disk. So a place
means the same in every life of the broker. A follower that comes back names its last place. It gets the later messages
that are kept, and the number of those that are not.

Messages that are not numbered, such as progress, are not kept; they pass in order with the others.

A log, and the other messages of a job, are tails of bounded size (`park.broker.storage.log_tail`). Logs stay with
their job; other messages are for followers, and are deleted some time after its end. A job without followers is written
about once a second, a followed job at once, as far as the disk keeps up. All messages of an ended job are on disk with
its end. Messages of sessions are not written.
"""

from __future__ import annotations

import math
import sys
from collections import deque
from collections.abc import Container

from msgspec import Struct, field

from park.broker.effects import Heard, Key, Publication, Write
from park.broker.storage.log_tail import LogEntry, LogTail
from park.broker.storage.store import Store
from park.errors import ParkError
from park.util.stdio import tell
from park.wire.pack import Buffer

#: Bytes of one job that are kept: of its log, and of its other messages.
MAX_LOG_BYTES, MAX_SAID_BYTES = 256 << 10, 1 << 20
#: Seconds between two writings of a job, and of a job that is followed or has published much.
WRITE_SECONDS, URGENT_WRITE_SECONDS = 1.0, 0.02
#: Seconds until the rest is written, where one writing did not take all.
BUSY_WRITE_SECONDS = 0.1
#: Bytes of a job that are much.
URGENT_BYTES = 64 << 10
#: Bytes after which no more jobs are written at one time.
MAX_WRITE_BYTES = 1 << 20
#: Ended jobs whose last messages wait while the disk is full; the messages of older ones are lost.
MAX_WAITING_ENDED = 64
#: Seconds for which the messages of an ended job are kept, but for its log: more than a client waits for its broker.
KEEP_ENDED_SECONDS = 900.0
#: Attempts of a job whose last numbers are kept, and records that are deleted at one time.
MAX_MARKS, MAX_FORGOTTEN_RECORDS = 4096, 500
_TAILS = (("log", MAX_LOG_BYTES), ("said", MAX_SAID_BYTES))


class Batch(Struct):
    """Messages of a job that go to its followers when the turn is on disk, with the receipts for their kernels."""

    job: int
    entries: list[LogEntry]
    heard: list[Heard]


class _JobStream(Struct):
    """The messages of one job, kept or on their way."""

    stored: bool
    tails: dict[str, LogTail] = field(
        default_factory=lambda: {namespace: LogTail(namespace, most) for namespace, most in _TAILS}
    )
    #: the last place that was given, and the last that was passed on
    last: int = 0
    passed: int = 0
    #: the last message number of each attempt, and of the attempts whose number on disk is older
    marks: dict[int, int] = field(default_factory=dict)
    new_marks: dict[int, int] = field(default_factory=dict)
    #: receipts for the kernels whose messages are not on disk yet, by attempt
    waits: dict[int, Heard] = field(default_factory=dict)
    #: messages that are in no batch yet, and their bytes
    queue: list[LogEntry] = field(default_factory=list)
    size: int = 0
    #: batches that are not on disk
    under_way: int = 0
    ended: bool = False

    def add(self, p: Publication) -> None:
        """A new message."""
        self.marks.pop(p.attempt, None)
        self.marks[p.attempt] = self.new_marks[p.attempt] = p.number
        if len(self.marks) > MAX_MARKS:
            del self.marks[next(iter(self.marks))]
        if not p.kind:
            return
        self.last += 1
        entry = LogEntry(self.last, p.kind, bytes(p.payload))
        self.tails["log" if p.kind == "log" else "said"].add(entry)
        self.queue.append(entry)
        self.size += len(entry.data)

    def kept(self, since: int) -> list[LogEntry]:
        """The messages after that place which were passed on, as far as they are kept."""
        entries = (e for tail in self.tails.values() for e in tail.entries)
        return sorted((e for e in entries if since < e.at <= self.passed), key=lambda e: e.at)


class JobMessages:
    """The stored streams of jobs, as the module explains them."""

    def __init__(self, store: Store) -> None:
        self._store = store
        #: by job: jobs that have not ended, and jobs with messages that are not on disk
        self._streams: dict[int, _JobStream] = {}
        #: jobs with messages to write, the longest wait first; the urgent ones of them; the ended ones of them
        self._waiting: dict[int, None] = {}
        self._urgent: dict[int, None] = {}
        self._ended: dict[int, None] = {}
        self._due = self._soon = 0.0
        #: receipts for messages that were dropped before they were written
        self._released: list[Heard] = []
        #: when the messages of ended jobs are forgotten
        self._over: deque[tuple[float, int]] = deque()

    def begin(self, active: Container[int], now: float) -> None:
        """Begin a life. Messages of jobs that are not *active* stay for followers that come back from the last life."""
        jobs = dict.fromkeys(number(key) for key in self._store.keys("said", (), sys.maxsize))
        self._over.extend((now + KEEP_ENDED_SECONDS, job) for job in jobs if job not in active)

    # -- what comes ------------------------------------------------------------------------------

    def take(self, p: Publication, stored: bool, followed: bool) -> bool:
        """Take a message of a job that has not ended. True: it goes to followers when it is on disk; False: it may go
        at once.
        """
        stream = self._streams.get(p.job)
        if p.number:
            if stream is None:
                stream = self._streams[p.job] = self._stored(p.job) if stored else _JobStream(stored)
            mark = stream.marks.get(p.attempt, 0)
            stream.waits[p.attempt] = (p.peer, p.attempt, max(mark, p.number))
            if p.number > mark:
                stream.add(p)
        elif stream is not None and (stream.queue or stream.under_way):
            stream.queue.append(LogEntry(0, p.kind, bytes(p.payload)))
        else:
            return False
        self._waiting.setdefault(p.job)
        if followed or stream.size >= URGENT_BYTES or not stored:
            self._urgent[p.job] = None
        return True

    def hurry(self, job: int) -> None:
        """Write the job soon: it has a follower now."""
        if job in self._waiting:
            self._urgent[job] = None

    def end(self, job: int) -> None:
        """*job* has ended: all that it has said goes to the disk with its end."""
        stream = self._streams.get(job)
        if stream is not None:
            stream.ended = True
            self._waiting.setdefault(job)
            self._ended[job] = None

    def forget(self, job: int) -> None:
        """*job* is gone: nothing of it is written any more."""
        stream = self._streams.pop(job, None)
        for jobs in (self._waiting, self._urgent, self._ended):
            jobs.pop(job, None)
        if stream is not None:
            self._released += stream.waits.values()

    # -- what goes to the disk -------------------------------------------------------------------

    @property
    def has_ends(self) -> bool:
        """Whether a job has ended in this turn."""
        return bool(self._ended)

    @property
    def deadline(self) -> float:
        """The time at which `batches` is due; infinity: no message waits."""
        if not (self._waiting or self._over or self._urgent or self._ended or self._released):
            return math.inf
        times = [self._over[0][0]] if self._over else []
        if self._urgent or self._ended or self._released:
            times.append(self._soon)
        if self._waiting:
            times.append(self._due)
        return min(times)

    def batches(self, now: float, quiet: bool) -> tuple[list[Write], list[Batch]]:
        """The writes that are due, and the messages to pass on after the commit. *quiet*: the disk has time for all."""
        jobs = list(self._ended)
        writes: list[Write] = []
        found: list[Batch] = []
        if now >= self._soon and (self._urgent or self._released):
            self._soon = now + URGENT_WRITE_SECONDS
            jobs += self._urgent
            if self._released:
                found.append(Batch(0, [], self._released))
                self._released = []
        if now >= self._due and self._waiting:
            self._due = now + WRITE_SECONDS
            jobs += self._waiting if quiet else ()
        size = 0
        for job in dict.fromkeys(jobs):
            if size < MAX_WRITE_BYTES or job in self._ended:
                size += self._streams[job].size
                writes += self._batch(job, found)
            else:
                self._due = min(self._due, now + BUSY_WRITE_SECONDS)
        return writes + self._forgotten(now), found

    def _batch(self, job: int, found: list[Batch]) -> list[Write]:
        stream = self._streams[job]
        writes: list[Write] = []
        if stream.stored and stream.new_marks:
            tails = [t for t in stream.tails.values() if t.unwritten] or [stream.tails["said"]]
            for tail in tails:
                writes += tail.writes(job, stream.new_marks, stream.last)
        found.append(Batch(job, stream.queue, list(stream.waits.values())))
        stream.queue, stream.size, stream.new_marks, stream.waits = [], 0, {}, {}
        stream.under_way += 1
        for jobs in (self._waiting, self._urgent, self._ended):
            jobs.pop(job, None)
        return writes

    def put_off(self, now: float) -> None:
        """Try again later: the disk has no free bytes for the writes that are due."""
        self._due, self._soon = max(self._due, now + WRITE_SECONDS), max(self._soon, now + WRITE_SECONDS)
        if self._over:
            self._over[0] = (max(self._over[0][0], now + WRITE_SECONDS), self._over[0][1])
        self._urgent |= self._ended
        self._ended.clear()
        for job in [job for job in self._waiting if self._streams[job].ended][:-MAX_WAITING_ENDED]:
            self.forget(job)

    def _forgotten(self, now: float) -> list[Write]:
        """Messages of jobs that have ended long ago go, some at a time."""
        found: list[Write] = []
        while self._over and now >= self._over[0][0] and len(found) < MAX_FORGOTTEN_RECORDS:
            keys = self._store.keys("said", (self._over[0][1],), MAX_FORGOTTEN_RECORDS - len(found))
            found += [Write("said", key, None) for key in keys]
            if len(found) < MAX_FORGOTTEN_RECORDS:
                self._over.popleft()
        return found

    # -- what may be shown -----------------------------------------------------------------------

    def on_disk(self, batch: Batch, now: float) -> list[LogEntry]:
        """The batch is on disk: its messages may be passed on."""
        stream = self._streams.get(batch.job)
        if stream is None:  # the job is gone
            return []
        stream.under_way -= 1
        self._pass(stream, batch.entries)
        if stream.ended and batch.job not in self._waiting and not stream.under_way:
            del self._streams[batch.job]
            if stream.tails["said"].records:
                self._over.append((now + KEEP_ENDED_SECONDS, batch.job))
        return batch.entries

    def last_words(self, job: int) -> list[LogEntry]:
        """The messages of an ended job that still wait because the disk is full. They go to followers before the
        message of its end.
        """
        stream = self._streams.get(job)
        if stream is None:
            return []
        entries, stream.queue = stream.queue, []
        self._pass(stream, entries)
        return entries

    @staticmethod
    def _pass(stream: _JobStream, entries: list[LogEntry]) -> None:
        stream.passed = max([stream.passed, *(e.at for e in entries)])

    def lines(self, job: int) -> list[Buffer]:
        """The lines of the log of *job* that are kept."""
        stream = self._streams.get(job) or self._stored(job)
        return [e.data for e in stream.tails["log"].entries]

    def since(self, job: int, place: int | None) -> tuple[int, list[LogEntry]]:
        """The last place that was passed on, and the kept messages after *place* (None: all kept messages)."""
        stream = self._streams.get(job) or self._stored(job)
        return stream.passed, stream.kept(-1 if place is None else place)

    def _stored(self, job: int) -> _JobStream:
        """The stream of a job of an earlier life, from the store. A record that cannot be read is left out, and named."""
        stream = _JobStream(stored=True)
        for namespace, tail in stream.tails.items():
            for key in self._store.keys(namespace, (job,), sys.maxsize):
                try:
                    marks, last = tail.load(key, self._store.get(namespace, key) or b"")
                except (ParkError, TypeError, ValueError, LookupError) as error:
                    text = f"messages of job {job} are left out: the record {key} in namespace {namespace!r} cannot be read"
                    tell(f"park: {text}: {error}", "error")
                    continue
                for attempt, count in marks.items():
                    stream.marks[attempt] = max(count, stream.marks.get(attempt, 0))
                stream.last = max(stream.last, last)
        stream.passed = stream.last
        return stream


def number(key: Key) -> int:
    """The job of the record with this *key*."""
    (job, *_) = key
    assert isinstance(job, int)
    return job
