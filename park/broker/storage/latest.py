"""The first messages for a new follower of a job, kept over the broker's lives.

They are the latest message of each kind that describes a state, such as progress (see `park.util.msgstream`). They
change often, so they are written about once a second: after a crash the broker tells the state of at most a second
before, until the body publishes more. They are deleted when the job ends.
"""

from __future__ import annotations

import math

from park.broker.effects import Write
from park.broker.storage.store import Store
from park.util.msgstream import MAX_HEADER_MESSAGES
from park.wire.pack import Buffer

#: Seconds between two writings.
WRITE_SECONDS = 1.0


class LatestMessages:
    """The latest messages of jobs that have not ended, by job and kind."""

    def __init__(self, store: Store) -> None:
        self._store = store
        #: kinds that are on disk, or on their way to it, by job
        self._written: dict[int, set[str]] = {}
        #: the kinds of each job, in the order in which they were published: as many as the hub keeps
        self._kinds: dict[int, dict[str, None]] = {}
        #: changes that are not on disk yet; None: the message is deleted
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
        while len(kinds) > MAX_HEADER_MESSAGES:
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
        """Try again later: the disk is busy, or has no free bytes for the writes that are due."""
        self._due = max(self._due, now + WRITE_SECONDS)

    @property
    def deadline(self) -> float:
        """The time of the next write; infinity: nothing waits."""
        return self._due if self._news else math.inf

    def writes(self, now: float) -> list[Write]:
        """The writes that are due."""
        if not self._news or now < self._due:
            return []
        self._due = now + WRITE_SECONDS
        for (job, kind), value in self._news.items():
            if value is not None:
                self._written.setdefault(job, set()).add(kind)
            elif job in self._written:
                self._written[job].discard(kind)
        found = [Write("stream", key, value) for key, value in self._news.items()]
        self._news.clear()
        return found
