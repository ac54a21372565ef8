"""The slot processes of a kernel, by owner, as far as the broker can know them.

No process serves two owners. A kernel keeps some idle processes, and ends the one that was used longest ago first
(`park.kernel.machine.process_pool`). The broker counts in the same way what it deals and what is answered. A process
whose driver waits is idle, too: it runs units of the driver's map. The count may be wrong by a process that has died;
then one start is not foreseen.
"""

from __future__ import annotations

from park.model import IDLE_PROCESSES_PER_SLOT

#: Seconds that the start of a process takes, as long as none was seen at the kernel; the weight of a new one in the mean.
FIRST_START_SECONDS, NEW_WEIGHT = 0.25, 0.25


class Processes:
    """The processes of a kernel with this many *slots*."""

    __slots__ = ("_count", "_limit", "idle", "start_seconds", "working")

    def __init__(self, slots: int) -> None:
        #: how many processes of each owner run something
        self.working: dict[str, int] = {}
        #: how many of each owner are idle; the owner whose process was used longest ago is first
        self.idle: dict[str, int] = {}
        self._count = 0
        self._limit = IDLE_PROCESSES_PER_SLOT * slots
        #: seconds from the dispatch of a chunk until a new process runs it, a running mean
        self.start_seconds = FIRST_START_SECONDS

    def begin(self, owner: str) -> bool:
        """A process of the owner runs something from now on. Returns whether the kernel has to start it."""
        self.working[owner] = self.working.get(owner, 0) + 1
        return not self._take(owner)

    def end(self, owner: str) -> None:
        """A process of the owner is idle from now on."""
        _take_one(self.working, owner)
        self.idle[owner] = self.idle.pop(owner, 0) + 1
        self._count += 1
        if self._count > self._limit:
            self._take(next(iter(self.idle)))

    def has_next(self, owner: str) -> bool:
        """Whether the owner has a process for the next free slot, whichever that is."""
        return owner in self.idle or (len(self.working) == 1 and owner in self.working)

    def note_start(self, seconds: float) -> None:
        """A new process has taken this long until it ran its first chunk."""
        self.start_seconds += NEW_WEIGHT * (seconds - self.start_seconds)

    def _take(self, owner: str) -> bool:
        if owner not in self.idle:
            return False
        _take_one(self.idle, owner)
        self._count -= 1
        return True


def _take_one(counts: dict[str, int], owner: str) -> None:
    if counts[owner] > 1:
        counts[owner] -= 1
    else:
        del counts[owner]
