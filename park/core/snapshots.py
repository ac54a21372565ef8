"""What whoever joins a job's stream is told first, kept over the broker's life.

That is the latest message of each kind that stays true, such as progress (see `park.util.msgstream`). They change often, so
they are written about once a second: a broker that comes back tells what was true at most that second before it died, until
the body says more. They go when the job ends.
"""

from __future__ import annotations

import math

from park.core.outcome import Write
from park.core.store import Store
from park.util.msgstream import MAX_HEADER
from park.wire.pack import Buffer

#: Seconds between two writings.
PACE = 1.0


class Snapshots:
    """The latest messages of jobs that have not ended, by job and kind."""

    def __init__(self, store: Store) -> None:
        self._store = store
        #: kinds that are on disk, or on their way to it, by job
        self._written: dict[int, set[str]] = {}
        #: the kinds of each job, in the order in which they were published: as many as the hub keeps
        self._kinds: dict[int, dict[str, None]] = {}
        #: what the disk does not know yet; None: it goes
        self._news: dict[tuple[int, str], bytes | None] = {}
        self._due = 0.0

    def restore(self) -> list[tuple[int, str, bytes]]:
        """Job, kind and message of all that an earlier life has left."""
        found = []
        for (job, kind), value in self._store.scan("stream"):
            assert isinstance(job, int)
            self._written.setdefault(job, set()).add(str(kind))
            self._kinds.setdefault(job, {})[str(kind)] = None
            found.append((job, str(kind), value))
        return found

    def put(self, job: int, kind: str, payload: Buffer) -> None:
        """The latest message of *kind* of a stored *job*."""
        kinds = self._kinds.setdefault(job, {})
        kinds.pop(kind, None)
        kinds[kind] = None
        self._news[job, kind] = bytes(payload)
        while len(kinds) > MAX_HEADER:
            oldest = next(iter(kinds))
            del kinds[oldest]
            self._news[job, oldest] = None

    def end(self, job: int) -> None:
        """The job has ended, or is gone."""
        self._kinds.pop(job, None)
        for key in [key for key in self._news if key[0] == job]:
            del self._news[key]
        for kind in self._written.pop(job, ()):
            self._news[job, kind] = None

    def put_off(self, now: float) -> None:
        """The disk has no time or no room for what is to be written now."""
        self._due = max(self._due, now + PACE)

    @property
    def deadline(self) -> float:
        """When something is to be written; infinity: nothing is."""
        return self._due if self._news else math.inf

    def writes(self, now: float) -> list[Write]:
        """What is to be written now."""
        if not self._news or now < self._due:
            return []
        self._due = now + PACE
        for (job, kind), value in self._news.items():
            if value is not None:
                self._written.setdefault(job, set()).add(kind)
            elif job in self._written:
                self._written[job].discard(kind)
        found = [Write("stream", key, value) for key, value in self._news.items()]
        self._news.clear()
        return found
