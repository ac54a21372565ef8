"""What running jobs have printed and logged: the last lines of each, kept with the job.

Lines come often and matter little to others, so they do not wait for the disk: they are written about once a second, and
when their job ends. A broker that dies loses at most the lines of that second.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from park.core.outcome import Write
from park.core.store import Store
from park.wire import codec
from park.wire.pack import Buffer

#: Bytes and messages of one job that are kept; the oldest go.
MOST_BYTES, MOST_LINES = 256 << 10, 5000
#: Seconds between two writings.
PACE = 1.0


@dataclass(slots=True)
class _Tail:
    lines: deque[bytes] = field(default_factory=deque)
    size: int = 0


class LogBook:
    """The last lines by job. A line is a packed list of text, level and time."""

    def __init__(self, store: Store) -> None:
        self._store = store
        #: of jobs that have not ended
        self._tails: dict[int, _Tail] = {}
        #: those of which the disk does not know the last lines, and whether a job has ended
        self._unwritten: dict[int, bool] = {}
        self._due = 0.0

    def add(self, job: int, line: Buffer, stored: bool) -> None:
        """*job*, which has not ended, has one more *line*; where the job is not *stored* nothing is written."""
        tail = self._tails.get(job)
        if tail is None:
            tail = self._tails[job] = _Tail()
            for old in self._stored(job):  # of an earlier life
                tail.lines.append(old)
                tail.size += len(old)
        tail.lines.append(bytes(line))
        tail.size += len(line)
        while tail.size > MOST_BYTES or len(tail.lines) > MOST_LINES:
            tail.size -= len(tail.lines.popleft())
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
        """*job* is gone."""
        self._tails.pop(job, None)
        self._unwritten.pop(job, None)

    def lines(self, job: int) -> list[bytes]:
        """The lines of *job* that are kept."""
        tail = self._tails.get(job)
        return list(tail.lines) if tail is not None else self._stored(job)

    @property
    def deadline(self) -> float | None:
        """When something is to be written; None: nothing is."""
        return self._due if self._unwritten else None

    def writes(self, now: float) -> list[Write]:
        """What is to be written now."""
        if not self._unwritten or now < self._due:
            return []
        self._due = now + PACE
        found = [Write("log", (job,), codec.pack(list(self._tails[job].lines))) for job in self._unwritten]
        for job, ended in self._unwritten.items():
            if ended:
                del self._tails[job]
        self._unwritten.clear()
        return found

    def _stored(self, job: int) -> list[bytes]:
        value = self._store.get("log", (job,))
        return [] if value is None else list(codec.unpack(value))
