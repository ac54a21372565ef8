"""What whoever joins a job's stream is told first, kept over the broker's life.

That is the latest message of each kind that stays true, such as progress (see `park.util.msgstream`). They change often, so
they are written about once a second: a broker that comes back tells what was true at most that second before it died, until
the body says more. They go when the job ends.
"""

from __future__ import annotations

from park.core.outcome import Write
from park.core.store import Store
from park.wire.pack import Buffer

#: Seconds between two writings.
PACE = 1.0


class Snapshots:
    """The latest messages of jobs that have not ended, by job and kind."""

    def __init__(self, store: Store) -> None:
        self._store = store
        #: kinds that are on disk, or on their way to it, by job
        self._written: dict[int, set[str]] = {}
        #: what the disk does not know yet; None: it goes
        self._news: dict[tuple[int, str], bytes | None] = {}
        self._due = 0.0

    def restore(self) -> list[tuple[int, str, bytes]]:
        """Job, kind and message of all that an earlier life has left."""
        found = []
        for (job, kind), value in self._store.scan("stream"):
            assert isinstance(job, int)
            self._written.setdefault(job, set()).add(str(kind))
            found.append((job, str(kind), value))
        return found

    def put(self, job: int, kind: str, payload: Buffer) -> None:
        """The latest message of *kind* of a stored *job*."""
        self._news[job, kind] = bytes(payload)

    def end(self, job: int) -> None:
        """The job has ended, or is gone."""
        for key in [key for key in self._news if key[0] == job]:
            del self._news[key]
        for kind in self._written.pop(job, ()):
            self._news[job, kind] = None

    @property
    def deadline(self) -> float | None:
        """When something is to be written; None: nothing is."""
        return self._due if self._news else None

    def writes(self, now: float) -> list[Write]:
        """What is to be written now."""
        if not self._news or now < self._due:
            return []
        self._due = now + PACE
        for (job, kind), value in self._news.items():
            if value is not None:
                self._written.setdefault(job, set()).add(kind)
        found = [Write("stream", key, value) for key, value in self._news.items()]
        self._news.clear()
        return found
