"""The slot processes of a kernel, by owner, as far as the broker can know them.

No process serves two owners. A kernel keeps some idle processes, and ends the one that was used longest ago first
(`park.kernel.machine.process_pool`). The broker counts in the same way what it deals and what is answered. A process
whose driver waits is ready for the driver's owner, too: it runs units of the driver's map. The count may be wrong by a
process that has died; then one start is not foreseen.
"""

from __future__ import annotations

from park.model import IDLE_PROCESSES_PER_SLOT

#: Seconds that the start of a process takes, as long as none was seen at the kernel; the weight of a new one in the mean.
FIRST_START_SECONDS, NEW_WEIGHT = 0.25, 0.25
#: No process starts in less time. A chunk that begins earlier has found a process that the broker did not know of.
MIN_START_SECONDS = 0.05


class Processes:
    """The processes of a kernel with this many *slots*."""

    __slots__ = ("_idle", "_idle_count", "_limit", "_waiting", "ready", "start_seconds", "working")

    def __init__(self, slots: int) -> None:
        #: how many processes of each owner run something, are idle, or wait for a map of their driver
        self.working: dict[str, int] = {}
        self._idle: dict[str, int] = {}
        self._waiting: dict[str, int] = {}
        #: the owners with a process that is idle or waits; the one whose process was used longest ago is first
        self.ready: dict[str, None] = {}
        self._idle_count = 0
        self._limit = IDLE_PROCESSES_PER_SLOT * slots
        #: seconds from the dispatch of a chunk until a new process runs it, a running mean
        self.start_seconds = FIRST_START_SECONDS

    def begin(self, owner: str, goes_on: bool = False) -> bool:
        """A process of the owner runs something, or its driver *goes on*. Returns whether the kernel has to start it."""
        self.working[owner] = self.working.get(owner, 0) + 1
        first, second = (self._waiting, self._idle) if goes_on else (self._idle, self._waiting)
        return not (self._take(first, owner) or self._take(second, owner))

    def end(self, owner: str, waits: bool = False) -> None:
        """A process of the owner is idle from now on, or its driver *waits*."""
        _count_down(self.working, owner)
        self._give_back(self._waiting if waits else self._idle, owner)
        if self._idle_count > self._limit:
            self._take(self._idle, next(o for o in self.ready if o in self._idle))

    def found_waiting(self, owner: str) -> None:
        """A driver of the owner waits here that was not known to run."""
        self._give_back(self._waiting, owner)

    def waits_no_more(self, owner: str) -> None:
        """A driver of the owner that waited here has ended."""
        self._take(self._waiting, owner)

    def has_next(self, owner: str) -> bool:
        """Whether the owner has a process for the next free slot, whichever that is."""
        return owner in self.ready or (len(self.working) == 1 and owner in self.working)

    def note_start(self, seconds: float) -> None:
        """A new process has taken this long until it ran its first chunk."""
        if seconds >= MIN_START_SECONDS:
            self.start_seconds += NEW_WEIGHT * (seconds - self.start_seconds)

    def _give_back(self, counts: dict[str, int], owner: str) -> None:
        counts[owner] = counts.get(owner, 0) + 1
        self._idle_count += counts is self._idle
        self.ready.pop(owner, None)
        self.ready[owner] = None

    def _take(self, counts: dict[str, int], owner: str) -> bool:
        if owner not in counts:
            return False
        _count_down(counts, owner)
        self._idle_count -= counts is self._idle
        if owner not in self._idle and owner not in self._waiting:
            del self.ready[owner]
        return True


def _count_down(counts: dict[str, int], owner: str) -> None:
    if counts[owner] > 1:
        counts[owner] -= 1
    else:
        del counts[owner]
