"""What running jobs have printed and logged: the last lines of each, kept with the job.

Lines come often and matter little to others, so they do not wait for the disk: they are written about once a second, and
when their job ends. A broker that dies loses at most the lines of that second. Each writing adds a record with the lines
since the last one, under the job's number and one that grows; records of which no line is kept any more go. So what is
written is what was printed, and of that a bounded amount at a time; while the disk has no time or no room nothing is.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from itertools import islice

from park.core.outcome import Key, Write
from park.core.store import Store
from park.wire import codec
from park.wire.pack import Buffer

#: Bytes and messages of one job that are kept; the oldest go.
MOST_BYTES, MOST_LINES = 256 << 10, 5000
#: Seconds between two writings, and where the first did not write all.
PACE, PACE_MORE = 1.0, 0.1
#: Bytes after which no more jobs are written at one time.
AT_ONCE = 1 << 20
#: Ended jobs whose last lines wait for a disk that is full; those of older ones are lost.
MOST_ENDED = 64


@dataclass(slots=True)
class _Tail:
    """The last lines of a job. The first of them are in *records*, in order; the others are not written."""

    lines: deque[bytes] = field(default_factory=deque)
    size: int = 0
    #: keys, and how many of the kept lines each record has, 0 in none
    records: deque[tuple[Key, int]] = field(default_factory=deque)
    written: int = 0
    #: the number of the next record
    next: int = 1
    #: records that have none of the lines
    spent: list[Key] = field(default_factory=list)

    def add(self, line: bytes) -> None:
        self.lines.append(line)
        self.size += len(line)
        while self.size > MOST_BYTES or len(self.lines) > MOST_LINES:
            self.size -= len(self.lines.popleft())
            if self.records:
                self.written -= 1
                key, count = self.records.popleft()
                if count > 1:
                    self.records.appendleft((key, count - 1))
                else:
                    self.spent.append(key)

    def load(self, key: Key, lines: list[bytes]) -> None:
        """The next record of an earlier life."""
        if lines:
            self.records.append((key, len(lines)))
            self.written += len(lines)
        for line in lines:
            self.add(line)
        number = key[1] if len(key) > 1 else 0
        assert isinstance(number, int)
        self.next = number + 1

    def writes(self, job: int) -> list[Write]:
        """What the disk does not know."""
        found = [Write("log", key, None) for key in self.spent]
        self.spent.clear()
        lines = list(islice(self.lines, self.written, None))
        if lines:
            key = (job, self.next)
            found.append(Write("log", key, codec.pack(lines)))
            self.records.append((key, len(lines)))
            self.written += len(lines)
            self.next += 1
        return found


class LogBook:
    """The last lines by job. A line is a packed list of text, level and time."""

    def __init__(self, store: Store) -> None:
        self._store = store
        #: of jobs that have not ended, or of which something was not written since
        self._tails: dict[int, _Tail] = {}
        #: those of which the disk does not know the last lines, and whether a job has ended
        self._unwritten: dict[int, bool] = {}
        #: of jobs that have ended, while their last record is on its way to the disk
        self._leaving: dict[int, _Tail] = {}
        self._due = 0.0

    def add(self, job: int, line: Buffer, stored: bool) -> None:
        """*job*, which has not ended, has one more *line*; where the job is not *stored* nothing is written."""
        tail = self._tails.get(job)
        if tail is None:
            tail = self._tails[job] = self._stored(job)
        tail.add(bytes(line))
        if stored:
            self._unwritten.setdefault(job, False)

    def end(self, job: int) -> None:
        """*job* has ended: what is not written yet is written now."""
        if job in self._unwritten:
            self._unwritten[job] = True
            self._due = 0.0
        else:
            self._tails.pop(job, None)

    def forget(self, job: int) -> None:
        """*job* is gone: nothing of it is written any more."""
        self._tails.pop(job, None)
        self._unwritten.pop(job, None)
        self._leaving.pop(job, None)

    def on_disk(self, key: Key) -> None:
        """The record *key* is on disk."""
        (job, *_) = key
        assert isinstance(job, int)
        tail = self._leaving.get(job)
        if tail is not None and tail.records[-1][0] == key:
            del self._leaving[job]

    def lines(self, job: int) -> list[bytes]:
        """The lines of *job* that are kept."""
        tail = self._tails.get(job) or self._leaving.get(job)
        return list((tail if tail is not None else self._stored(job)).lines)

    @property
    def deadline(self) -> float | None:
        """When something is to be written; None: nothing is."""
        return self._due if self._unwritten else None

    def writes(self, now: float) -> list[Write]:
        """What is to be written now, the job that waits longest first."""
        if not self._unwritten or now < self._due:
            return []
        found: list[Write] = []
        size = 0
        for job, ended in list(self._unwritten.items()):
            if size >= AT_ONCE:
                break
            tail = self._tails[job] if not ended else self._tails.pop(job)
            new = tail.writes(job)
            if ended and new and new[-1].value is not None:
                self._leaving[job] = tail
            size += sum(len(w.value) for w in new if isinstance(w.value, bytes))
            found += new
            del self._unwritten[job]
        self._due = now + (PACE_MORE if self._unwritten else PACE)
        return found

    def put_off(self, now: float) -> None:
        """The disk has no time or no room for what is to be written now."""
        self._due = max(self._due, now + PACE)
        ended = [job for job, ended in self._unwritten.items() if ended]
        for job in ended[:-MOST_ENDED]:
            self.forget(job)

    def _stored(self, job: int) -> _Tail:
        tail = _Tail()
        for key, value in self._store.scan("log", (job,)):
            tail.load(key, list(codec.unpack(value)))
        return tail
