"""The kernel's record of one slot process: its state, and the attempts that it holds.

A busy process holds a stack of attempts, the outermost first. Each attempt runs a chunk of the map for which the
attempt before it waits. A process whose innermost attempt waits takes no slot.
"""

from __future__ import annotations

import enum

from msgspec import Struct, field

from park.kernel.machine.held_attempt import HeldAttempt, SlotUse
from park.kernel.machine.printed_lines import PrintedLines


class ProcessState(enum.StrEnum):
    """The state of a slot process."""

    #: it holds nothing
    IDLE = "idle"
    #: it holds attempts, and may be given other jobs when they have ended
    BUSY = "busy"
    #: it holds attempts, and ends when they have ended
    RETIRING = "retiring"
    #: it was told to end, or killed
    ENDING = "ending"


MOVES: dict[ProcessState, frozenset[ProcessState]] = {
    ProcessState.IDLE: frozenset((ProcessState.BUSY, ProcessState.ENDING)),
    ProcessState.BUSY: frozenset((ProcessState.IDLE, ProcessState.RETIRING, ProcessState.ENDING)),
    ProcessState.RETIRING: frozenset((ProcessState.ENDING,)),
    ProcessState.ENDING: frozenset(),
}

#: Bytes of code that a process keeps besides the code that it needs now.
MAX_CODE_BYTES = 64 << 20
#: Codes that a process is told to drop in one message.
MAX_DROPPED_CODES = 1000


class Process(Struct, eq=False):
    """One slot process."""

    number: int
    cpus: int
    #: the GPUs that it sees, from its start on
    devices: tuple[int, ...] = ()
    #: the named environment whose Python it runs; "": the kernel's own
    environment: str = ""
    #: the GPUs, or the part of one, of its last chunk
    gpus: float = 0.0
    owner: str = ""
    state: ProcessState = ProcessState.IDLE
    stack: list[HeldAttempt] = field(default_factory=list)
    #: the sizes of the codes that it has, by hash; the code that was used last is last
    known: dict[bytes, int] = field(default_factory=dict)
    known_bytes: int = 0
    #: jobs that ran in it and have not been released
    jobs: set[int] = field(default_factory=set)
    #: the number of the last control that it was given, by job
    controls_given: dict[int, int] = field(default_factory=dict)
    #: its jobs whose bodies have to clean up when the job is released
    cleanup_jobs: set[int] = field(default_factory=set)
    #: released jobs whose bodies clean up now; the process gets no other work meanwhile
    cleaning: set[int] = field(default_factory=set)
    #: the number of its last chunk, in the kernel's count of chunks
    last_chunk: int = 0
    #: when the process is killed; None: never
    kill_at: float | None = None
    #: the process was killed because a unit ran longer than its limit
    late: bool = False
    #: a text with the figures, if the process was killed because it held too much memory
    too_large: str = ""
    #: chunks that it was given
    chunks: int = 0
    #: lines that it has printed
    printed: PrintedLines = field(default_factory=PrintedLines)

    def move(self, to: ProcessState) -> None:
        """Change the state. Raises AssertionError where `MOVES` has no such change."""
        if to not in MOVES[self.state]:
            raise AssertionError(f"process {self.number} cannot change from {self.state!r} to {to!r}")
        self.state = to

    def retire(self) -> None:
        """A busy process is given no other job from now on."""
        if self.state is ProcessState.BUSY:
            self.move(ProcessState.RETIRING)

    @property
    def map_waited_for(self) -> bytes:
        """The map that its innermost attempt waits for; b"": none."""
        call = self.stack[-1].call if self.stack else None
        return call.map.map if call is not None else b""

    @property
    def memory(self) -> int:
        """The bytes that its attempts may hold together; 0: there is no limit."""
        each = [held.run.memory for held in self.stack]
        return sum(each) if all(each) else 0

    @property
    def needs(self) -> set[bytes]:
        """The code that runs, or that its maps run."""
        functions = {held.run.function for held in self.stack}
        return functions | {held.call.map.function for held in self.stack if held.call is not None}

    def use_code(self, code: bytes, size: int) -> list[bytes]:
        """Note that the process has this code and uses it. Returns the codes that it has to drop in return."""
        self.known_bytes += size - self.known.pop(code, 0)
        self.known[code] = size
        dropped: list[bytes] = []
        if self.known_bytes > MAX_CODE_BYTES:
            needs = self.needs | {code}
            for old in [c for c in self.known if c not in needs][:MAX_DROPPED_CODES]:
                if self.known_bytes <= MAX_CODE_BYTES:
                    break
                self.known_bytes -= self.known.pop(old)
                dropped.append(old)
        return dropped

    def held(self, attempt: int) -> HeldAttempt:
        """The attempt of this number, which the process holds."""
        return next(held for held in self.stack if held.run.attempt == attempt)

    def innermost(self, attempt: int) -> HeldAttempt | None:
        """The attempt of this number, where it is the innermost one."""
        if self.stack and self.stack[-1].run.attempt == attempt:
            return self.stack[-1]
        return None

    @property
    def is_free(self) -> bool:
        """Whether the process waits for work."""
        return self.state is ProcessState.IDLE and not self.cleaning

    @property
    def is_blank(self) -> bool:
        """Whether the process may run the code of any owner that needs no GPU."""
        return self.state is ProcessState.IDLE and not (self.owner or self.devices or self.environment)

    @property
    def width(self) -> int:
        """The slots that the process takes."""
        if not self.stack or self.stack[-1].slot_use is not SlotUse.RUNNING:
            return 0
        return self.stack[-1].run.cpus
