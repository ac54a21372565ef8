"""What a kernel holds, and what the drivers among it wait for: maps, fetches, checkpoints on their way to the disk.

A driver goes on when all results of its map are there. Each is passed on once, though it may come again after contact
was lost; what is waited for is asked for again then.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from park.kernel.actions import Action, ToBroker, ToSlot
from park.kernel.codes import Codes
from park.kernel.controls import Controls
from park.kernel.kept import Answers
from park.kernel.pool import Pool
from park.kernel.process import Held, Process
from park.kernel.term import Leave
from park.kernel.timers import Timers
from park.kernel.unheard import Unheard
from park.wire import messages
from park.wire.calls import Call
from park.wire.pack import Buffer, Pack


class Holding:
    """See the module. *spare*: one process that nobody has used is there for the next owner who comes.

    *shelve* takes the bytes of answers that memory is not for, and returns the same elsewhere, or None: they are not kept.
    """

    def __init__(
        self, slots: int, spare: bool = False, shelve: Callable[[Buffer], Buffer | None] = lambda data: None
    ) -> None:
        self.slots = slots
        self.pool = Pool(slots, spare, self._do)
        self.codes = Codes()
        self.attempts: dict[int, Process] = {}
        #: attempts that wait for a slot, with their units
        self.ahead: dict[int, tuple[messages.Run, Buffer]] = {}
        #: answers that the broker has not confirmed, or not had for long
        self.answers = Answers(shelve)
        #: those that came while the broker was called: they are given behind what their bodies have said
        self._held_up: list[int] = []
        #: what its jobs' bodies are told
        self.controls = Controls()
        #: what bodies have published, and the broker has not said to have heard
        self.unheard = Unheard()
        #: it drains, or None
        self.leave: Leave | None = None
        self.store = ""
        self.epoch = 0
        self._now = 0.0
        #: code that this life of the broker was told
        self._told: set[bytes] = set()
        #: code that the broker has asked for and that is not here
        self._missing: set[bytes] = set()
        self._actions: list[Action] = []
        self._timers = Timers()

    @property
    def processes(self) -> dict[int, Process]:
        return self.pool.processes

    @property
    def holds(self) -> list[int]:
        """The attempts that it was given, and has not answered for good."""
        return sorted({*self.attempts, *self.ahead, *self.answers})

    @property
    def unanswered(self) -> list[int]:
        """The attempts that it was given and has not answered."""
        return sorted([*self.attempts, *self.ahead])

    def held(self) -> list[list[Any]]:
        """What a broker has to know of each of `holds`, in their order: for a hello. What it names is kept until then."""
        self.answers.name()
        return [self._held(number) for number in self.holds]

    def _held(self, number: int) -> list[Any]:
        kept = self.answers.get(number)
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
        told = run.served
        if run.stored and number in self.attempts:
            told = max(told, self.attempts[number].told.get(run.job, 0))
        return [run.map, run.start, run.count, run.cpus, run.memory, how, seconds, told]

    # -- what drivers wait for -------------------------------------------------------------------

    def _call(self, call: Call) -> None:
        code = call.map.function
        if code not in self._told and code in self.codes:
            self._told.add(code)
            self._do(ToBroker(messages.Blob(code), self.codes[code]))
        for message, units in call.again(call.map.job, self.epoch):
            self._do(ToBroker(message, units))

    def _ask_again(self, code: bytes = b"") -> None:
        """The connection is a new one, or the broker lacks *code*: ask again for what processes wait for."""
        for process in self.pool:
            for held in process.stack:
                if held.call is not None and code in (b"", held.call.map.function):
                    self._call(held.call)
                if held.fetch is not None and not code:
                    self._do(ToBroker(*held.fetch))
                if held.lent and not code:
                    self._do(ToBroker(messages.Lent(held.run.attempt, self.epoch)))
                if not code:
                    self._save(held)

    def _save(self, held: Held) -> None:
        """Hand in its newest checkpoint. One of each attempt is on its way to the disk at a time."""
        held.saving = self._now if held.checkpoint is not None else None
        if held.checkpoint is not None:
            self._do(ToBroker(*held.checkpoint))

    def _hand_in(self, held: Held) -> None:
        """It ends before its time: its newest checkpoint goes first, perhaps while an older one is on its way."""
        if held.checkpoint is not None:
            self._do(ToBroker(*held.checkpoint))

    def _checkpointed(self, message: messages.Checkpointed) -> None:
        process = self.attempts.get(message.attempt)
        if process is None:
            return
        held = process.held(message.attempt)
        if held.checkpoint is not None and held.checkpoint[0].number <= message.number:
            held.checkpoint = None
        self._save(held)
        self.controls.drop(held.run.job, message.served)
        self._do(ToSlot(process.number, message))

    # -- what bodies are told ----------------------------------------------------------------------

    def _controlled(self, message: messages.Control, payload: Buffer) -> None:
        """A control has come: for those who run the job's own units, and for those who will."""
        self.controls.keep(message.job, message.seq, payload)
        for process in self.pool:
            if any(held.run.stored and held.run.job == message.job for held in process.stack):
                self._tell(process, message.job)

    def _tell(self, process: Process, job: int) -> None:
        """The process gets all that it has not got."""
        for seq, data in self.controls.after(job, process.told.get(job, 0)):
            process.told[job] = seq
            self._do(ToSlot(process.number, messages.Control(job, seq=seq), data))

    def _results(self, message: messages.Results, payload: Buffer) -> None:
        """Results for a driver: those that it has not got yet."""
        process = self.attempts.get(message.attempt)
        call = process.held(message.attempt).call if process is not None else None
        if process is None or call is None or call.map.map != message.map:
            return
        start, stop = message.start, message.start + message.count
        news = call.news(start, stop)
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
        self._timers.go_on(attempt)
        self.pool.trim()

    def _give_up(self, held: Held) -> None:
        """It is not here any more."""
        del self.attempts[held.run.attempt]
        self.unheard.end(held.run.attempt)
        self._timers.end(held.run.attempt)

    # -- what it says ------------------------------------------------------------------------------

    def _innermost(self, process: Process, attempt: int) -> bool:
        return bool(process.stack) and process.stack[-1].run.attempt == attempt

    def _to_attempt(self, message: Any, payload: Buffer) -> None:
        process = self.attempts.get(message.attempt)
        if process is not None:
            self._do(ToSlot(process.number, message, payload))

    def _ended(self, run: messages.Run, how: str) -> messages.Finished:
        return messages.Finished(run.attempt, run.map, run.start, 0, 0.0, ended=how, epoch=self.epoch)

    def _do(self, action: Action) -> None:
        self._actions.append(action)

    def _take(self) -> list[Action]:
        actions, self._actions = self._actions, []
        return actions
