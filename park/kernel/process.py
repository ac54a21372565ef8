"""What the kernel's machine knows of one slot process: where it stands, and the attempts that it holds.

A busy process holds a stack of attempts: the outermost first, each later one a chunk that it runs inside the map that
the one before it waits for. A process whose innermost attempt waits holds no slot.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass, field

from park.wire import messages
from park.wire.pack import Buffer

#: A map that is sent again names so many ranges of answered units, times two, at most.
MOST_RANGES = 2000


class ProcessState(enum.StrEnum):
    """Where a slot process stands."""

    IDLE = "idle"
    BUSY = "busy"
    ENDING = "ending"


@dataclass(slots=True)
class Call:
    """A map that a driver waits for."""

    map: messages.Map
    units: Buffer
    #: a byte a unit: whether its result was passed on
    seen: bytearray

    def news(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """The units from *start* to *stop* that were not seen before, in ranges; now they are."""
        seen = self.seen
        stop = min(stop, len(seen))
        while (lo := seen.find(0, start, stop)) >= 0:
            found = seen.find(1, lo, stop)
            start = hi = found if found >= 0 else stop
            seen[lo:hi] = b"\1" * (hi - lo)
            yield lo, hi

    def answered(self) -> list[int]:
        """The units that were seen, in ranges [first, behind the last, ...]; where these are too many, the first ones."""
        found: list[int] = []
        at = self.seen.find(1)
        while at >= 0 and len(found) < MOST_RANGES:
            stop = self.seen.find(0, at)
            stop = stop if stop >= 0 else len(self.seen)
            found += [at, stop]
            at = self.seen.find(1, stop)
        return found

    @property
    def complete(self) -> bool:
        return 0 not in self.seen


@dataclass(slots=True)
class Held:
    """An attempt that a process holds."""

    run: messages.Run
    #: the map that it waits for, if it is a driver that waits
    call: Call | None = None
    #: the job whose result it waits for, or the checkpoint
    fetch: messages.Fetch | messages.Restore | None = None
    #: its newest checkpoint that is not known to be on disk, and whether one is on its way there
    checkpoint: tuple[messages.Checkpoint, Buffer] | None = None
    saving: bool = False
    #: it waits at its safe point and has lent its slot
    lent: bool = False
    #: when it last got its slot
    since: float = 0.0
    aborted: bool = False


@dataclass(slots=True, eq=False)
class Process:
    """One slot process."""

    number: int
    cpus: int
    owner: str = ""
    state: ProcessState = ProcessState.IDLE
    stack: list[Held] = field(default_factory=list)
    #: code that it has
    known: set[bytes] = field(default_factory=set)
    #: jobs that ran in it and have not been released
    jobs: set[int] = field(default_factory=set)
    #: counts the chunks of the kernel: which of them was its last
    used: int = 0
    #: when it is killed, if it is to be
    kill_at: float | None = None
    #: it was there before the broker's present life: jobs of it may have ended since, and nobody would say so
    old: bool = False

    @property
    def waits(self) -> bytes:
        """The map that its innermost attempt waits for."""
        call = self.stack[-1].call if self.stack else None
        return call.map.map if call is not None else b""

    def held(self, attempt: int) -> Held:
        return next(h for h in self.stack if h.run.attempt == attempt)

    @property
    def blank(self) -> bool:
        """Whether it could run anybody's code."""
        return self.state is ProcessState.IDLE and not self.owner

    @property
    def width(self) -> int:
        """The slots that it takes."""
        if not self.stack or self.waits or self.stack[-1].lent:
            return 0
        return self.stack[-1].run.cpus
