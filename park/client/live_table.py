"""The live table: a service's mirror as scripts see it, and how its changes reach them.

The mirror is fed in the loop, where no code of a user's may run. So each follower has a list of changes of its own
(`Changes`), which the loop fills and the follower empties: in the thread of the service's callbacks, in the loop of a
GUI (``call_soon=``), or in the thread that iterates. For a follower that falls far behind, the waiting changes of each
row are merged into one, from the first record to the last. So it gets fewer changes instead of ever later ones.
"""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from park.model import JobRecord, JobState, KernelRecord, OwnerRecord
from park.table.mirror import Callback, Change, Mirror
from park.table.table import Rows
from park.util import html
from park.util.pace import counted, ratio

#: Changes that wait for one follower before those of one row become one.
MAX_WAITING_CHANGES = 10_000
#: Jobs that a notebook shows.
MAX_JOBS_SHOWN = 50

_log = logging.getLogger("park")


class Changes:
    """The changes that one follower has not seen yet. Filled in one thread, emptied in another."""

    def __init__(self, most: int = MAX_WAITING_CHANGES) -> None:
        self._waiting: list[Change] = []
        self._most = most
        #: the number of changes that leads to a merge
        self._limit = most
        #: the follower was told that changes wait, and has not taken them since
        self._told = False
        self._lock = threading.Lock()

    def put(self, change: Change) -> bool:
        """Add *change*; whether the follower must be told that something waits."""
        with self._lock:
            self._waiting.append(change)
            if len(self._waiting) >= self._limit:
                self._waiting = merged(self._waiting)
                self._limit = max(self._most, 2 * len(self._waiting))
            told, self._told = self._told, True
            return not told

    def take(self) -> list[Change]:
        """All that waits, in order."""
        with self._lock:
            waiting, self._waiting = self._waiting, []
            self._limit = self._most
            self._told = False
            return waiting


def merged(changes: list[Change]) -> list[Change]:
    """One change for each row, from its first record to its last. Rows that are as before are left out.

    >>> merged([(None, OwnerRecord("ada")), (OwnerRecord("ada"), OwnerRecord("ada", 2))])
    [(None, OwnerRecord(owner='ada', jobs=2, credits=None))]
    """
    rows: dict[tuple[type, int | str], Change] = {}
    for old, new in changes:
        row = _row(old if new is None else new)
        rows[row] = (rows[row][0] if row in rows else old, new)
    return [(old, new) for old, new in rows.values() if old != new]


def _row(record: Any) -> tuple[type, int | str]:
    match record:
        case JobRecord():
            return (JobRecord, record.job)
        case KernelRecord():
            return (KernelRecord, record.kernel)
        case _:
            return (OwnerRecord, record.owner)


class CallSoon(Protocol):
    """Has a function called, with these arguments, in the loop of a GUI or of asyncio; from any thread."""

    def __call__(self, function: Callable[..., Any], *arguments: Any) -> Any: ...


class LiveTable:
    """The consistent copy of a service's public table: ``service.table``.

    It is the table as the service had it at change `seq`, or `stale`. *call_back* runs a function in the thread of the
    service's callbacks.
    """

    def __init__(self, mirror: Mirror, call_back: Callable[[Callable[[], None]], None]) -> None:
        self._mirror = mirror
        self._call_back = call_back
        self._iterators: weakref.WeakSet[TableChanges] = weakref.WeakSet()
        #: the connection has ended: nothing changes any more
        self.closed = False

    def __repr__(self) -> str:
        stale = " (stale)" if self.stale else ""
        return f"<Table{stale} at {self.seq}: {len(self.jobs)} jobs, {len(self.kernels)} kernels>"

    @property
    def jobs(self) -> Rows[int, JobRecord]:
        """The records of jobs by number."""
        return self._mirror.jobs

    @property
    def kernels(self) -> Rows[int, KernelRecord]:
        """The records of kernels by number."""
        return self._mirror.kernels

    @property
    def owners(self) -> Rows[str, OwnerRecord]:
        """The records of owners by name."""
        return self._mirror.owners

    @property
    def seq(self) -> int:
        """The number of the last change that is in it."""
        return self._mirror.seq

    @property
    def stale(self) -> bool:
        """Whether the service's own table may have moved on."""
        self._mirror.tick(time.monotonic())  # this process may have been stopped since its loop last looked
        return self.closed or self._mirror.stale

    def subscribe(self, callback: Callback, call_soon: CallSoon | None = None) -> Callable[[], None]:
        """Call ``callback(old, new)`` with the records of each row that changes, from now on; None: there is no such row.

        The calls come one after the other, in a thread of the service. With *call_soon* they come in a loop of your own:
        ``call_soon(function, *arguments)`` must call the function there, as asyncio's ``loop.call_soon_threadsafe`` and
        ``wx.CallAfter`` do. An error of a callback is logged. The returned function ends the subscription::

            end = service.table.subscribe(lambda old, new: print(new), call_soon=loop.call_soon_threadsafe)
        """
        waiting = Changes()
        over = False

        def deliver() -> None:
            for change in waiting.take():
                if over:
                    return
                try:
                    callback(*change)
                except Exception:
                    _log.exception("a subscriber to the table failed")

        def arrived(old: Any, new: Any) -> None:
            if not waiting.put((old, new)):
                return
            if call_soon is None:
                self._call_back(deliver)
                return
            try:
                call_soon(deliver)
            except Exception as error:  # that loop was closed
                _log.warning("a subscriber to the table has gone: %s", error)
                end()

        unsubscribe = self._mirror.subscribe(arrived)

        def end() -> None:
            nonlocal over
            over = True
            unsubscribe()

        return end

    def changes(self, timeout: float | None = None) -> TableChanges:
        """An iterator over (old, new) of each row that changes from now on; it ends with the connection.

        It ends if nothing changes for *timeout* seconds, and goes on when it is iterated again::

            for old, new in service.table.changes():
                print(old, "->", new)
        """
        return TableChanges(self, timeout)

    def close(self) -> None:
        """The connection has ended."""
        self.closed = True
        for iterator in list(self._iterators):
            iterator.wake()

    def _repr_html_(self) -> str:
        """The table that a notebook shows: the jobs that have not ended, the newest first."""
        active = sorted((r for r in self.jobs.values() if not r.state.ended), key=lambda r: -r.job)
        slots = sum(k.slots for k in self.kernels.values())
        said = f"{len(active)} jobs that have not ended, {len(self.kernels)} kernels with {slots} slots"
        if self.stale:
            said += "; stale: the broker may have moved on"
        return html.paragraph(said) + jobs_in_html(active[:MAX_JOBS_SHOWN], len(active))


class TableChanges(Iterator[Change]):
    """The changes of a table, as they come; see `LiveTable.changes`. One that is dropped follows no longer."""

    def __init__(self, table: LiveTable, timeout: float | None) -> None:
        self._table = table
        self._timeout = timeout
        self._ready: list[Change] = []
        self._waiting = waiting = Changes()
        self._arrived = arrived = threading.Event()

        def put(old: Any, new: Any) -> None:
            waiting.put((old, new))
            arrived.set()

        self._finalizer = weakref.finalize(self, table._mirror.subscribe(put))
        self._finalizer.atexit = False
        table._iterators.add(self)

    def wake(self) -> None:
        """Look again whether there is more to come."""
        self._arrived.set()

    def __next__(self) -> Change:
        if not self._ready:
            self._ready = self.take(self._timeout)[::-1]
        if not self._ready:
            raise StopIteration
        return self._ready.pop()

    def take(self, timeout: float | None = 0.0) -> list[Change]:
        """All that have come; if there are none, those that come first within *timeout* seconds (None: no limit).

        None come any more when the connection has ended.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        found, self._ready = self._ready[::-1], []
        while True:
            self._arrived.clear()
            found += self._waiting.take()
            if found or self._table.closed or not self._finalizer.alive:
                return found
            if not self._arrived.wait(None if deadline is None else max(0.0, deadline - time.monotonic())):
                return found

    def close(self) -> None:
        """Follow the table no longer."""
        self._finalizer()
        self.wake()


def jobs_in_html(records: Sequence[JobRecord], count: int) -> str:
    """The *records* of *count* jobs, or of the first of them, as a notebook shows them."""
    rows: list[tuple[object, ...]] = []
    for r in records:
        far = r.how_far
        number = counted(far) if r.total is not None or not r.state.ended else ""
        done = ", ".join(filter(None, (number, far.note)))
        said = "; ".join(filter(None, (r.reason, r.remark)))
        rows.append((r.job, r.owner, r.name, r.state.value, done, r.running or "", said))
    if count > len(rows):
        rows.append((f"and {count - len(rows)} more", *[""] * 6))
    return html.table(("job", "owner", "name", "state", "done", "running", "reason"), rows)


def how_far(record: JobRecord) -> str:
    """The progress of a job, for people: units done of all, or the part that its body reported.

    >>> how_far(JobRecord(1, "ada", done=3, total=8))
    '3/8'
    """
    return how_far_of(record.done, record.total, record.progress, record.state)


def how_far_of(done: int, total: int | None, progress: Sequence[float] | None, state: str) -> str:
    """`how_far`, from the fields of a record."""
    if total is not None:
        return f"{done}/{total}"
    if progress is not None and progress[1] and not JobState(state).ended:
        return f"{min(1.0, max(0.0, ratio(*progress))):.0%}"
    return ""
