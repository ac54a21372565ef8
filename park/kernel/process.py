"""What the kernel's machine knows of one slot process: where it stands, and the attempts that it holds.

A busy process holds a stack of attempts: the outermost first, each later one a chunk that it runs inside the map that
the one before it waits for. A process whose innermost attempt waits holds no slot.
"""

from __future__ import annotations

import enum

from msgspec import Struct, field

from park.wire import messages
from park.wire.calls import Call
from park.wire.pack import Buffer


class ProcessState(enum.StrEnum):
    """Where a slot process stands."""

    IDLE = "idle"
    BUSY = "busy"
    ENDING = "ending"


#: Bytes of code that a process keeps beside what it needs now, and of how many codes it is told to drop at once.
CODE_BYTES = 64 << 20
MOST_DROPPED = 1000


class Held(Struct):
    """An attempt that a process holds."""

    run: messages.Run
    #: the map that it waits for, if it is a driver that waits
    call: Call | None = None
    #: the job whose result it waits for, or the checkpoint, or the file
    fetch: tuple[messages.Fetch | messages.Restore | messages.File, Buffer] | None = None
    #: its newest checkpoint that is not known to be on disk, and since when one is on its way there
    checkpoint: tuple[messages.Checkpoint, Buffer] | None = None
    saving: float | None = None
    #: it waits at its safe point and has lent its slot
    lent: bool = False
    #: when it last got its slot
    since: float = 0.0
    aborted: bool = False
    #: it was ended because the kernel leaves: it is handed back
    back: bool = False


class Process(Struct, eq=False):
    """One slot process."""

    number: int
    cpus: int
    owner: str = ""
    state: ProcessState = ProcessState.IDLE
    stack: list[Held] = field(default_factory=list)
    #: code that it has, with its bytes: what was used last is last
    known: dict[bytes, int] = field(default_factory=dict)
    known_bytes: int = 0
    #: jobs that ran in it and have not been released
    jobs: set[int] = field(default_factory=set)
    #: the last control that it was given of each of them
    told: dict[int, int] = field(default_factory=dict)
    #: those of them whose bodies have to clean up, and those that do so now: meanwhile it is given nothing else
    cleanups: set[int] = field(default_factory=set)
    cleaning: set[int] = field(default_factory=set)
    #: counts the chunks of the kernel: which of them was its last
    used: int = 0
    #: when it is killed, if it is to be
    kill_at: float | None = None
    #: it was killed because a unit ran longer than its limit
    late: bool = False
    #: a job has left something in it that others should not find
    spent: bool = False
    #: it was there before the broker's present life: jobs of it may have ended since, and nobody would say so
    old: bool = False

    @property
    def waits(self) -> bytes:
        """The map that its innermost attempt waits for."""
        call = self.stack[-1].call if self.stack else None
        return call.map.map if call is not None else b""

    @property
    def needs(self) -> set[bytes]:
        """The code that runs, or that its maps run."""
        functions = {h.run.function for h in self.stack}
        return functions | {h.call.map.function for h in self.stack if h.call is not None}

    def use(self, code: bytes, size: int) -> list[bytes]:
        """It has this code from now on, and uses it; the code that it has to drop for it."""
        self.known_bytes += size - self.known.pop(code, 0)
        self.known[code] = size
        dropped: list[bytes] = []
        if self.known_bytes > CODE_BYTES:
            needs = self.needs | {code}
            for old in [c for c in self.known if c not in needs][:MOST_DROPPED]:
                if self.known_bytes <= CODE_BYTES:
                    break
                self.known_bytes -= self.known.pop(old)
                dropped.append(old)
        return dropped

    def held(self, attempt: int) -> Held:
        return next(h for h in self.stack if h.run.attempt == attempt)

    @property
    def free(self) -> bool:
        """Whether it waits for work."""
        return self.state is ProcessState.IDLE and not self.cleaning

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
