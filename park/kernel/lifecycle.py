"""The kernel's own machine: which slot process runs what, and what becomes of it.

Pure: `Lifecycle.broker(message)` and `Lifecycle.slot(process, message)` take what came, `exited` that a process
is gone, `tick` that time has passed; each returns actions, which the supervisor's loop carries out.

A process is *starting* or *idle* (it waits for work), *busy*, or *ending*. A busy one holds a stack of
attempts: the outermost first, each later one a chunk that it runs inside the map that the one before it
waits for. A process whose innermost attempt waits holds no slot, and may only be given chunks of that map.

A process never runs code of two owners, nor with other thread limits than it was started with: others are
started for them. Idle processes beyond the number of slots, or some more while several owners take turns, are let
go. A driver that has lent its slot at a safe point waits there, and may be given nothing.

A connection that is cut swallows what was on its way, and a broker that dies forgets what it has not stored. So the
kernel keeps each answer: one that goes to the disk until the broker says that it is there, any other for a while. When
contact is made again it says what it holds, answers again, and asks again for what its processes wait for: their
maps, with all units and which of them are answered, and their fetches. Each answer is passed on once. What the broker
does not want any more it aborts. Code that was lost, or dropped because there was too much of it, is asked for with
NeedBlob.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

from park.wire import messages
from park.wire.messages import Message
from park.wire.pack import Buffer, Pack

#: Seconds that an aborted body has before its process is killed.
GRACE = 2.0
#: Where jobs of several owners take turns, idle processes of them are kept: so many for each slot.
IDLE_PER_SLOT = 4
#: A map that is sent again names so many ranges of answered units, times two, at most.
MOST_RANGES = 2000
#: Answers that are not stored are kept for so many seconds, and no more than so many of them.
KEEP = 10.0
MOST_KEPT = 1024
#: Bytes of code that is kept; what living processes have stays in any case.
CODE_BYTES = 256 << 20


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
    #: the job whose result it waits for
    fetch: messages.Fetch | None = None
    #: it waits at its safe point and has lent its slot
    lent: bool = False
    #: when it last got its slot
    since: float = 0.0
    aborted: bool = False


@dataclass(frozen=True, slots=True)
class Kept:
    """An answer that may have to be given again."""

    run: messages.Run
    answer: messages.Finished
    payload: Buffer
    at: float


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
    """See the module. *spare*: one process that nobody has used is there for the next owner who comes."""

    def __init__(self, slots: int, spare: bool = False) -> None:
        self.slots = slots
        self._spare = spare
        self.processes: dict[int, Process] = {}
        self.codes: dict[bytes, Buffer] = {}
        self.attempts: dict[int, Process] = {}
        #: attempts that wait for a slot, with their units
        self.ahead: dict[int, tuple[messages.Run, Buffer]] = {}
        #: answers that the broker has not confirmed; those that go to the disk, and the others, the oldest first
        self.kept: dict[int, Kept] = {}
        self._passing: dict[int, Kept] = {}
        #: those of the others that a hello has named, for which no Welcome has come
        self._named: set[int] = set()
        self.store = ""
        self.epoch = 0
        self._now = 0.0
        self._code_bytes = 0
        self._next = 1
        self._runs = 0
        self._told: set[bytes] = set()
        self._actions: list[Action] = []

    @property
    def holds(self) -> list[int]:
        """The attempts that it was given, and has not answered for good."""
        return sorted({*self.attempts, *self.ahead, *self.kept, *self._passing})

    @property
    def unanswered(self) -> list[int]:
        """The attempts that it was given and has not answered."""
        return sorted([*self.attempts, *self.ahead])

    def held(self) -> list[list[Any]]:
        """What a broker has to know of each of `holds`, in their order: for a hello. What it names is kept until then."""
        self._named = set(self._passing)
        return [self._held(number) for number in self.holds]

    def _held(self, number: int) -> list[Any]:
        kept = self.kept.get(number) or self._passing.get(number)
        seconds = 0.0
        if kept is not None:
            run, how, seconds = kept.run, "done", kept.answer.seconds
        elif number in self.ahead:
            run, how = self.ahead[number][0], "ahead"
        else:
            held = self.attempts[number].held(number)
            run, how = held.run, "waits" if held.call is not None or held.lent else "runs"
            if how == "runs":
                seconds = self._now - held.since
        return [run.map, run.start, run.count, run.cpus, run.memory, how, seconds]

    # -- what comes in -------------------------------------------------------------------------

    def begin(self) -> list[Action]:
        """Start a process a slot, so that the first work does not wait for Python's start."""
        for _ in range(self.slots):
            self._start(1)
        return self._take()

    def broker(self, message: Message, payload: Buffer, now: float) -> list[Action]:
        """A message of the broker."""
        self._now = now
        match message:
            case messages.Blob():
                self._keep_code(message.hash, payload)
            case messages.NeedBlob():
                self._told.discard(message.hash)
                self._ask_again(message.hash)
            case messages.Run() if message.ahead:
                self.ahead[message.attempt] = (message, payload)
                self._begin_next()
            case messages.Run():
                self._run(message, payload)
            case messages.Results() if not message.reply:
                self._results(message, payload)
            case messages.Results():
                self._to_attempt(message, payload)
            case messages.Fetched() | messages.Failure():
                if message.attempt in self.attempts:
                    self.attempts[message.attempt].held(message.attempt).fetch = None
                self._to_attempt(message, payload)
            case messages.Resume():
                self._resumed(message)
            case messages.Stop() | messages.Abort() if message.attempt in self.ahead:
                if not (isinstance(message, messages.Stop) and message.soft):
                    run, _ = self.ahead.pop(message.attempt)
                    self._do(
                        ToBroker(self._ended(run, "stop" if isinstance(message, messages.Stop) else "abort"))
                    )
            case messages.Committed():
                for number in message.attempts:
                    self.kept.pop(number, None)
            case messages.Abort() if message.attempt in self.kept or message.attempt in self._passing:
                self.kept.pop(message.attempt, None)
                self._passing.pop(message.attempt, None)
            case messages.Stop() | messages.Lend():
                self._to_attempt(message, b"")
            case messages.Abort():
                self._abort(message, now)
            case messages.Release():
                self._release(message)
            case messages.Welcome() if message.lost or message.epoch != self.epoch:
                self._welcomed(message)
        return self._take()

    def slot(self, number: int, message: Message, payload: Buffer) -> list[Action]:
        """A message of a slot process."""
        process = self.processes[number]
        match message:
            case messages.Finished():
                self._finished(process, message, payload)
            case messages.Blob():
                process.known.add(message.hash)
                self._keep_code(message.hash, payload)
            case messages.Map() if self._innermost(process, message.attempt):
                call = process.stack[-1].call = Call(message, payload, bytearray(message.count))
                self._call(call)
                self._begin_next()
            case messages.Fetch() if self._innermost(process, message.attempt):
                process.stack[-1].fetch = message
                self._do(ToBroker(message))
            case messages.Lent() if self._innermost(process, message.attempt):
                process.stack[-1].lent = True
                self._do(ToBroker(message))
                self._begin_next()
            case messages.Publish():
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
        self._begin_next()
        return self._take()

    def tick(self, now: float) -> list[Action]:
        self._now = now
        while self._passing:
            number, kept = next(iter(self._passing.items()))
            if number in self._named or (now - kept.at <= KEEP and len(self._passing) <= MOST_KEPT):
                break
            del self._passing[number]
        for process in self.processes.values():
            if process.kill_at is not None and now >= process.kill_at:
                process.kill_at = None
                self._do(Kill(process.number))
        return self._take()

    def deadline(self) -> float | None:
        return min((p.kill_at for p in self.processes.values() if p.kill_at is not None), default=None)

    # -- work ----------------------------------------------------------------------------------

    def _innermost(self, process: Process, attempt: int) -> bool:
        return bool(process.stack) and process.stack[-1].run.attempt == attempt

    def _begin_next(self) -> None:
        """Begin with what was dealt ahead, while a slot is free."""
        while self.ahead and sum(p.width for p in self.processes.values()) < self.slots:
            self._run(*self.ahead.pop(next(iter(self.ahead))))

    def _run(self, run: messages.Run, payload: Buffer) -> None:
        if run.function not in self.codes:
            self._do(ToBroker(messages.NeedBlob(run.function)))
            self._do(ToBroker(self._ended(run, "lost")))
            return
        process = self._place(run)
        fresh = not process.owner
        held = Held(run, since=self._now)
        process.stack.append(held)
        process.state = ProcessState.BUSY
        process.owner = run.owner
        process.jobs.add(run.job)
        self._runs += 1
        process.used = self._runs
        self.attempts[run.attempt] = process
        if run.function not in process.known:
            process.known.add(run.function)
            self._do(ToSlot(process.number, messages.Blob(run.function), self.codes[run.function]))
        self._do(ToSlot(process.number, run, payload))
        if fresh and self._spare and not any(p.blank for p in self.processes.values()):
            self._start(1)

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
        if len(idle) >= IDLE_PER_SLOT * self.slots:
            self._let(min(idle, key=lambda p: (bool(p.owner), p.used)))
        return self._start(run.cpus)

    def _call(self, call: Call) -> None:
        code = call.map.function
        if code not in self._told and code in self.codes:
            self._told.add(code)
            self._do(ToBroker(messages.Blob(code), self.codes[code]))
        self._do(ToBroker(replace(call.map, answered=call.answered()), call.units))

    def _ask_again(self, code: bytes = b"") -> None:
        """The connection is a new one, or the broker lacks *code*: ask again for what processes wait for."""
        for process in self.processes.values():
            for held in process.stack:
                if held.call is not None and code in (b"", held.call.map.function):
                    self._call(held.call)
                if held.fetch is not None and not code:
                    self._do(ToBroker(held.fetch))
                if held.lent and not code:
                    self._do(ToBroker(messages.Lent(held.run.attempt, self.epoch)))

    def _results(self, message: messages.Results, payload: Buffer) -> None:
        """Results for a driver: those that it has not got yet."""
        process = self.attempts.get(message.attempt)
        call = process.held(message.attempt).call if process is not None else None
        if process is None or call is None or call.map.map != message.map:
            return
        start, stop = message.start, message.start + message.count
        news = list(call.news(start, stop))
        resume = message.resume and call.complete
        if news == [(start, stop)]:
            if resume is not message.resume:
                message = replace(message, resume=resume)
            self._do(ToSlot(process.number, message, payload))
        else:
            pack = Pack(payload)
            for lo, hi in news:
                part = replace(message, start=lo, count=hi - lo, resume=False)
                self._do(ToSlot(process.number, part, pack.slice(lo - start, hi - start)))
            if resume:
                self._do(ToSlot(process.number, messages.Resume(message.attempt)))
        if resume:
            self._goes_on(process, message.attempt)

    def _resumed(self, message: messages.Resume) -> None:
        """The driver may go on; not while results are missing, which it has asked for again."""
        process = self.attempts.get(message.attempt)
        if process is None:
            return
        held = process.held(message.attempt)
        if held.lent or (held.call is not None and held.call.complete):
            held.lent = False
            self._do(ToSlot(process.number, message))
            self._goes_on(process, message.attempt)

    def _goes_on(self, process: Process, attempt: int) -> None:
        held = process.held(attempt)
        held.call, held.since = None, self._now
        self._trim()

    def _finished(self, process: Process, message: messages.Finished, payload: Buffer) -> None:
        if not process.stack or process.stack[-1].run.attempt != message.attempt:
            return  # it was given up, and its process killed
        run = process.stack.pop().run
        del self.attempts[message.attempt]
        (self.kept if run.stored else self._passing)[run.attempt] = Kept(run, message, payload, self._now)
        self._do(ToBroker(message, payload))
        if not any(h.aborted for h in process.stack):
            process.kill_at = None
        if not process.stack:
            if message.ended == "abort" or process.old:
                self._let(process)  # its state may be anything, or of jobs that have ended: it is replaced
            else:
                process.state = ProcessState.IDLE
        self._begin_next()
        self._trim()

    def _to_attempt(self, message: Any, payload: Buffer) -> None:
        process = self.attempts.get(message.attempt)
        if process is not None:
            self._do(ToSlot(process.number, message, payload))

    def _abort(self, message: messages.Abort, now: float) -> None:
        process = self.attempts.get(message.attempt)
        if process is None:
            return
        process.held(message.attempt).aborted = True
        if process.kill_at is None:
            process.kill_at = now + GRACE
        self._do(ToSlot(process.number, message))
        self._do(Interrupt(process.number))

    def _release(self, message: messages.Release) -> None:
        for process in self.processes.values():
            if message.job in process.jobs and process.state is not ProcessState.ENDING:
                process.jobs.discard(message.job)
                self._do(ToSlot(process.number, message))

    def _welcomed(self, message: messages.Welcome) -> None:
        """Contact is made, perhaps again. A broker with another store never knew anything of what is here."""
        strange = self.store not in ("", message.store)
        if message.fresh or message.epoch != self.epoch:
            self._told.clear()
            for process in list(self.processes.values()):
                if process.state is ProcessState.IDLE and process.jobs:
                    self._let(process)  # nobody would tell it to clean up
                process.old = process.state is ProcessState.BUSY
        self.store, self.epoch = message.store, message.epoch
        if strange:
            self._forget_all()
            return
        for kept in [*self.kept.values(), *self._passing.values()]:
            self._do(ToBroker(kept.answer, kept.payload))
        self._named.clear()
        self._ask_again()

    def _forget_all(self) -> None:
        """What it holds is nobody's any more."""
        self.ahead.clear()
        self.kept.clear()
        self._passing.clear()
        for process in list(self.processes.values()):
            if process.stack:
                for held in process.stack:
                    self.attempts.pop(held.run.attempt, None)
                process.stack.clear()
                process.state = ProcessState.ENDING
                self._do(Kill(process.number))

    def _keep_code(self, code: bytes, data: Buffer) -> None:
        """Keep it as the newest; the oldest that no process has goes when there is too much."""
        self._code_bytes += len(data) - len(self.codes.pop(code, b""))
        self.codes[code] = data
        if self._code_bytes <= CODE_BYTES:
            return
        processes = self.processes.values()
        needed = {
            code,
            *(c for p in processes for c in p.known),
            *(h.run.function for p in processes for h in p.stack),
        }
        for old in [c for c in self.codes if c not in needed]:
            if self._code_bytes <= CODE_BYTES:
                break
            self._code_bytes -= len(self.codes.pop(old))
            self._told.discard(old)

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
        """Let idle processes go that are too many; fewer would have to be started again for the next chunks."""
        idle = [p for p in self.processes.values() if p.state is ProcessState.IDLE]
        if self._spare:
            idle = [p for p in idle if not p.blank] + [p for p in idle if p.blank][1:]
        most = self.slots * (IDLE_PER_SLOT if len({p.owner for p in idle}) > 1 else 1)
        if len(idle) > most:
            for process in sorted(idle, key=lambda p: (len(p.jobs), p.used))[: len(idle) - most]:
                self._let(process)

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
            for outer, inner in pairwise(process.stack):
                assert outer.call is not None or inner.aborted, "what runs inside a driver that waits no more"
            for held in process.stack:
                assert self.attempts[held.run.attempt] is process
        assert self._code_bytes == sum(map(len, self.codes.values()))
        assert len(self.attempts) == sum(len(p.stack) for p in self.processes.values())
