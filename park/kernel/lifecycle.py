"""The kernel's own machine: which slot process runs what, and what becomes of it.

Pure: `Lifecycle.broker(message)` and `Lifecycle.slot(process, message)` take what came, `exited` that a process
is gone, `tick` that time has passed; each returns actions, which the supervisor's loop carries out.

A process is *starting* or *idle* (it waits for work), *busy*, or *ending*. A busy one holds a stack of
attempts: the outermost first, each later one a chunk that it runs inside the map that the one before it
waits for. A process whose innermost attempt waits holds no slot, and may only be given chunks of that map.

A process never runs code of two owners, nor with other thread limits than it was started with: it is
replaced. Idle processes beyond the number of slots are let go.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any

from park.wire import messages
from park.wire.messages import Message
from park.wire.pack import Buffer

#: Seconds that an aborted body has before its process is killed.
GRACE = 2.0


class ProcessState(enum.StrEnum):
    """Where a slot process stands."""

    IDLE = "idle"
    BUSY = "busy"
    ENDING = "ending"


@dataclass(slots=True)
class Held:
    """An attempt that a process holds."""

    run: messages.Run
    #: the map that it waits for, if it is a driver that waits
    waits: bytes = b""
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
    #: when it is killed, if it is to be
    kill_at: float | None = None

    @property
    def waits(self) -> bytes:
        """The map that its innermost attempt waits for."""
        return self.stack[-1].waits if self.stack else b""

    @property
    def takes_slot(self) -> bool:
        return bool(self.stack) and not self.waits


@dataclass(frozen=True, slots=True)
class ToBroker:
    """Send a message to the broker."""

    message: Message
    payload: Buffer = b""


@dataclass(frozen=True, slots=True)
class ToSlot:
    """Send a message to a slot process."""

    process: int
    message: Message
    payload: Buffer = b""


@dataclass(frozen=True, slots=True)
class Start:
    """Start process *process* with this many CPU threads."""

    process: int
    cpus: int


@dataclass(frozen=True, slots=True)
class Interrupt:
    """Raise park.Abort in what the process runs."""

    process: int


@dataclass(frozen=True, slots=True)
class Let:
    """Let the process end: close its channel; it cleans up and exits."""

    process: int


@dataclass(frozen=True, slots=True)
class Kill:
    """End the process, and what it started, now."""

    process: int


Action = ToBroker | ToSlot | Start | Interrupt | Let | Kill


class Lifecycle:
    """See the module."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.processes: dict[int, Process] = {}
        self.codes: dict[bytes, Buffer] = {}
        self.attempts: dict[int, Process] = {}
        self.epoch = 0
        self.draining = False
        self._next = 1
        self._told: set[bytes] = set()
        self._actions: list[Action] = []

    # -- what comes in -------------------------------------------------------------------------

    def begin(self) -> list[Action]:
        """Start a process a slot, so that the first work does not wait for Python's start."""
        for _ in range(self.slots):
            self._start(1)
        return self._take()

    def broker(self, message: Message, payload: Buffer, now: float) -> list[Action]:
        """A message of the broker."""
        match message:
            case messages.Blob():
                self.codes[message.hash] = payload
            case messages.Run():
                self._run(message, payload)
            case messages.Results() | messages.Fetched() | messages.Failure():
                self._to_attempt(message, payload)
                if isinstance(message, messages.Results) and message.resume:
                    self._resumed(message.attempt)
            case messages.Resume():
                self._resumed(message.attempt)
                self._to_attempt(message, b"")
            case messages.Stop():
                self._to_attempt(message, b"")
            case messages.Abort():
                self._abort(message, now)
            case messages.Release():
                self._release(message)
            case messages.Welcome() if message.fresh or message.epoch != self.epoch:
                self._forget_all(message.epoch)
        return self._take()

    def slot(self, number: int, message: Message, payload: Buffer) -> list[Action]:
        """A message of a slot process."""
        process = self.processes[number]
        match message:
            case messages.Finished():
                self._finished(process, message, payload)
            case messages.Map() if process.stack:
                process.stack[-1].waits = message.map
                self._do(ToBroker(message, payload))
            case messages.Blob():
                process.known.add(message.hash)
                self.codes[message.hash] = payload
                if message.hash not in self._told:
                    self._told.add(message.hash)
                    self._do(ToBroker(message, payload))
            case messages.Publish() | messages.Fetch():
                self._do(ToBroker(message, payload))
        return self._take()

    def exited(self, number: int, cause: str, stderr: str) -> list[Action]:
        """A process is gone."""
        process = self.processes.pop(number)
        held = process.stack
        for h in held:
            self.attempts.pop(h.run.attempt, None)
        if held and all(h.aborted for h in held):
            for h in reversed(held):
                self._do(ToBroker(self._ended(h.run, "abort")))
        elif held:
            numbers = [h.run.attempt for h in held]
            self._do(ToBroker(messages.Crashed(numbers, cause, stderr, self.epoch)))
        return self._take()

    def tick(self, now: float) -> list[Action]:
        for process in self.processes.values():
            if process.kill_at is not None and now >= process.kill_at:
                process.kill_at = None
                self._do(Kill(process.number))
        return self._take()

    def deadline(self) -> float | None:
        return min((p.kill_at for p in self.processes.values() if p.kill_at is not None), default=None)

    # -- work ----------------------------------------------------------------------------------

    def _run(self, run: messages.Run, payload: Buffer) -> None:
        process = self._place(run)
        held = Held(run)
        process.stack.append(held)
        process.state = ProcessState.BUSY
        process.owner = run.owner
        process.jobs.add(run.job)
        self.attempts[run.attempt] = process
        if run.function not in process.known:
            process.known.add(run.function)
            self._do(ToSlot(process.number, messages.Blob(run.function), self.codes[run.function]))
        self._do(ToSlot(process.number, run, payload))

    def _place(self, run: messages.Run) -> Process:
        """The process for a chunk: a driver that waits for it, one that has the job prepared, any idle one, a new one."""
        idle: list[Process] = []
        for process in self.processes.values():
            if process.state is ProcessState.BUSY:
                if process.waits == run.map and not run.apart and process.kill_at is None:
                    return process
            elif process.state is ProcessState.IDLE:
                idle.append(process)
        fitting = [p for p in idle if p.owner in ("", run.owner) and p.cpus == run.cpus]
        if fitting:
            return max(fitting, key=lambda p: (run.job in p.jobs, p.owner == run.owner))
        if idle and sum(1 for p in self.processes.values() if not p.waits) >= self.slots:
            self._let(idle[0])
        return self._start(run.cpus)

    def _resumed(self, attempt: int) -> None:
        process = self.attempts.get(attempt)
        if process is not None:
            next(h for h in process.stack if h.run.attempt == attempt).waits = b""
            self._trim()

    def _finished(self, process: Process, message: messages.Finished, payload: Buffer) -> None:
        if not process.stack or process.stack[-1].run.attempt != message.attempt:
            return  # it was given up, and its process killed
        process.stack.pop()
        del self.attempts[message.attempt]
        self._do(ToBroker(message, payload))
        if not any(h.aborted for h in process.stack):
            process.kill_at = None
        if not process.stack:
            if message.ended == "abort":
                self._let(process)  # its state may be anything: it is replaced
            else:
                process.state = ProcessState.IDLE
        self._trim()

    def _to_attempt(self, message: Any, payload: Buffer) -> None:
        process = self.attempts.get(message.attempt)
        if process is not None:
            self._do(ToSlot(process.number, message, payload))

    def _abort(self, message: messages.Abort, now: float) -> None:
        process = self.attempts.get(message.attempt)
        if process is None:
            return
        next(h for h in process.stack if h.run.attempt == message.attempt).aborted = True
        if process.kill_at is None:
            process.kill_at = now + GRACE
        self._do(ToSlot(process.number, message))
        self._do(Interrupt(process.number))

    def _release(self, message: messages.Release) -> None:
        for process in self.processes.values():
            if message.job in process.jobs and process.state is not ProcessState.ENDING:
                process.jobs.discard(message.job)
                self._do(ToSlot(process.number, message))

    def _forget_all(self, epoch: int) -> None:
        """A broker that does not know this kernel: what it holds is nobody's any more."""
        self.epoch = epoch
        self._told.clear()
        for process in list(self.processes.values()):
            if process.stack:
                for held in process.stack:
                    self.attempts.pop(held.run.attempt, None)
                process.stack.clear()
                process.state = ProcessState.ENDING
                self._do(Kill(process.number))

    # -- processes -----------------------------------------------------------------------------

    def _start(self, cpus: int) -> Process:
        process = Process(self._next, cpus)
        self._next += 1
        self.processes[process.number] = process
        self._do(Start(process.number, cpus))
        return process

    def _let(self, process: Process) -> None:
        process.state = ProcessState.ENDING
        self._do(Let(process.number))

    def _trim(self) -> None:
        """Let idle processes go that exceed the slots."""
        live = [p for p in self.processes.values() if p.state is not ProcessState.ENDING and not p.waits]
        surplus = len(live) - self.slots
        for process in sorted((p for p in live if p.state is ProcessState.IDLE), key=lambda p: len(p.jobs)):
            if surplus <= 0:
                break
            self._let(process)
            surplus -= 1

    def _ended(self, run: messages.Run, how: str) -> messages.Finished:
        return messages.Finished(run.attempt, run.map, run.start, 0, 0.0, ended=how, epoch=self.epoch)

    def _do(self, action: Action) -> None:
        self._actions.append(action)

    def _take(self) -> list[Action]:
        actions, self._actions = self._actions, []
        return actions

    def check(self) -> None:
        """Assert every invariant; the tests call it after each step."""
        for number, process in self.processes.items():
            assert number == process.number
            assert (process.state is ProcessState.BUSY) == bool(
                process.stack
            ) or process.state is ProcessState.ENDING
            for outer in process.stack[:-1]:
                assert outer.waits, "only the innermost attempt may run"
            for held in process.stack:
                assert self.attempts[held.run.attempt] is process
        assert len(self.attempts) == sum(len(p.stack) for p in self.processes.values())
