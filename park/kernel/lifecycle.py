"""The kernel's own machine: which slot process runs what, and what becomes of it.

Pure: `Lifecycle.broker(message)` and `Lifecycle.slot(process, message)` take what came, `exited` that a process
is gone, `tick` that time has passed; each returns actions, which the supervisor's loop carries out.

A process is *starting* or *idle* (it waits for work), *busy*, or *ending*. A busy one holds a stack of
attempts: the outermost first, each later one a chunk that it runs inside the map that the one before it
waits for. A process whose innermost attempt waits holds no slot, and may only be given chunks of that map.

A driver that has lent its slot at a safe point waits there, and may be given nothing. Which process a chunk goes to is in
`park.kernel.pool`.

A connection that is cut swallows what was on its way, and a broker that dies forgets what it has not stored. So the
kernel keeps each answer: one that goes to the disk until the broker says that it is there, any other for a while; and what
bodies have published until it was heard. When
contact is made again it says what it holds, answers again, and asks again for what its processes wait for: their
maps, with all units and which of them are answered, and their fetches. Each answer is passed on once. What the broker
does not want any more it aborts. Code that was lost, or dropped because there was too much of it, is asked for with
NeedBlob.
"""

from __future__ import annotations

from itertools import pairwise

from msgspec.structs import replace

from park.kernel.actions import Action, Interrupt, Kill, ToBroker, ToSlot
from park.kernel.holding import Holding
from park.kernel.kept import Kept
from park.kernel.process import Held, Process, ProcessState
from park.kernel.term import GRACE, Leave
from park.wire import messages
from park.wire.calls import Call
from park.wire.messages import Message
from park.wire.pack import Buffer

#: Seconds after which a checkpoint that was not acknowledged, on a full disk perhaps, is followed by the next.
AGAIN = 10.0


class Lifecycle(Holding):
    """See the module, and `Holding` for what it is made with."""

    # -- what comes in -------------------------------------------------------------------------

    def begin(self) -> list[Action]:
        """Start a process a slot, so that the first work does not wait for Python's start."""
        for _ in range(self.slots):
            self.pool.start(1)
        return self._take()

    def broker(self, message: Message, payload: Buffer, now: float) -> list[Action]:
        """A message of the broker."""
        self._now = now
        if not isinstance(message, messages.Unwelcome | messages.Welcome):
            self.answers.heard(now)
        match message:
            case messages.Run() if self.leave is not None:
                self._give_back(message)
            case messages.Run() if message.ahead:
                self.ahead[message.attempt] = (message, payload)
                self._begin_next()
            case messages.Run():
                self._run(message, payload)
            case messages.Results() if not message.reply:
                self._results(message, payload)
            case messages.Results():
                self._to_attempt(message, payload)
            case messages.Blob():
                self._keep_code(message.hash, payload)
            case messages.NeedBlob():
                self._told.discard(message.hash)
                if message.hash in self.codes:
                    self._ask_again(message.hash)
                else:  # its process was just told to drop it, and sends it again
                    self._missing.add(message.hash)
            case messages.Drain():
                self._drain("it was asked to leave", message.grace)
            case messages.Checkpointed():
                self._checkpointed(message)
            case messages.Fetched() | messages.Failure() | messages.Checkpoint() | messages.Filed():
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
                self.answers.drop(message.attempts)
                self.unheard.drop(message.heard)
            case messages.Again(attempt=number):
                kept = self.answers.get(number)
                answer = (
                    messages.Finished(number, b"", 0, 0, 0.0, ended="broken", epoch=self.epoch)
                    if kept is None
                    else kept.answer
                )
                self._do(ToBroker(answer, b"" if kept is None else kept.payload))
            case messages.Abort() if (kept := self.answers.get(message.attempt)) is not None:
                self.answers.drop([message.attempt])
                # it may have been sent before the broker took the attempt in again, which a hello had named since
                self._do(ToBroker(self._ended(kept.run, "broken")))
            case messages.Stop() | messages.Lend():
                self._to_attempt(message, b"")
            case messages.Abort():
                self._abort(message, now)
            case messages.Control():
                self._controlled(message, payload)
            case messages.Release():
                self._release(message)
            case messages.Welcome() if message.lost or message.epoch != self.epoch:
                self._welcomed(message)
            case messages.Welcome():
                self._say_again()
                for number in self._held_up:
                    if (kept := self.answers.get(number)) is not None:
                        self._do(ToBroker(kept.answer, kept.payload))
                self._held_up.clear()
        return self._take()

    def slot(self, number: int, message: Message, payload: Buffer, live: bool = True) -> list[Action]:
        """A message of a slot process; *live*: the broker has welcomed the kernel.

        What is published, or answered, while it has not would overtake what is to be given again.
        """
        process = self.processes[number]
        match message:
            case messages.Finished():
                self._finished(process, message, payload, live)
            case messages.Blob():
                self._has(process, message.hash, len(payload))
                self._keep_code(message.hash, payload)
                if message.hash in self._missing:
                    self._missing.discard(message.hash)
                    self._ask_again(message.hash)
            case messages.Map() if self._innermost(process, message.attempt):
                self._timers.wait(message.attempt, self._now)
                call = process.stack[-1].call = Call(message, payload)
                self._call(call)
                self._begin_next()
            case messages.Checkpoint() if self._innermost(process, message.attempt):
                held = process.stack[-1]
                held.checkpoint = (message, payload)
                if held.saving is None or self._now >= held.saving + AGAIN:
                    self._save(held)
            case messages.Fetch() | messages.Restore() | messages.File() if self._innermost(
                process, message.attempt
            ):
                process.stack[-1].fetch = (message, payload)
                self._do(ToBroker(message, payload))
            case messages.Lent() if self._innermost(process, message.attempt):
                self._timers.wait(message.attempt, self._now)
                process.stack[-1].lent = True
                self._do(ToBroker(message))
                self._begin_next()
            case messages.Began() if self._innermost(process, message.attempt):
                self._timers.begin(process.stack[-1].run)
            case messages.Publish():
                if live:
                    self._do(ToBroker(message, payload))
                if message.number or message.attempt in self.attempts:
                    self.unheard.add(number, message, payload)
            case messages.Cleans() if message.done or message.spent:
                process.cleaning.discard(message.job)
                process.spent |= message.spent
                if process.spent and process.state is ProcessState.IDLE:
                    self.pool.let(process)
                self.pool.trim()
            case messages.Cleans():  # of a job that has ended meanwhile it does so at once
                (process.cleanups if message.job in process.jobs else process.cleaning).add(message.job)
        return self._take()

    def exited(self, number: int, cause: str, stderr: str) -> list[Action]:
        """A process is gone."""
        process = self.processes.pop(number)
        held = process.stack
        for h in held:
            self._give_up(h)
            if h.back or not h.aborted:
                self._hand_in(h)
        if held and all(h.aborted for h in held):
            for h in reversed(held):
                self._do(ToBroker(self._ended(h.run, "broken" if h.back else "abort")))
                if h.back and self.leave is not None:
                    self.leave.back(h.run)
        elif held:
            numbers = [h.run.attempt for h in held]
            self._do(ToBroker(messages.Crashed(numbers, cause, stderr, self.epoch, process.late)))
        self._begin_next()
        return self._take()

    def tick(self, now: float) -> list[Action]:
        self._now = now
        self.answers.tick(now)
        for attempt in self._timers.tick(now) if self._timers else ():
            self._timers.end(attempt)
            process = self.attempts[attempt]
            process.late = True
            self._do(Kill(process.number))
        for process in self.pool.processes.values():
            if process.kill_at is not None and now >= process.kill_at:
                process.kill_at = None
                self._do(Kill(process.number))
        if self.leave is not None and not self.leave.forced and now >= self.leave.until:
            self._hand_back()
        return self._take()

    def deadline(self) -> float | None:
        times = [p.kill_at for p in self.pool.processes.values() if p.kill_at is not None]
        if self.leave is not None:
            times.append(self.leave.gives_up if self.leave.forced else self.leave.until)
        if self._timers and (timer := self._timers.deadline()) is not None:
            times.append(timer)
        return min(times, default=None)

    # -- leaving -------------------------------------------------------------------------------

    def drain(self, reason: str, grace: float, now: float) -> list[Action]:
        """Take no new work; what runs may go on for *grace* seconds. Told again, it may only be shorter."""
        self._now = now
        self._drain(reason, grace)
        return self._take()

    def left(self, now: float) -> bool:
        """Whether nothing holds the kernel any more: what it ran has ended, and its answers are on disk."""
        if self.leave is None or now >= self.leave.gives_up:
            return self.leave is not None
        return not (self.attempts or self.ahead or self.processes or self.answers.stored or self.unheard)

    def _drain(self, reason: str, grace: float) -> None:
        until = self._now + grace
        if self.leave is not None:
            self.leave.until = min(self.leave.until, until)
            return
        self.leave = Leave(reason, until)
        self._do(ToBroker(messages.Draining(self.epoch)))
        for run, _ in self.ahead.values():
            self._give_back(run)
        self.ahead.clear()
        for process in list(self.pool):
            if process.state is ProcessState.IDLE:
                self.pool.let(process)
            for held in process.stack:
                if held.run.count > 1:  # others can begin with the rest at once
                    self._do(ToSlot(process.number, messages.HandBack(held.run.attempt)))

    def _give_back(self, run: messages.Run) -> None:
        """None of it has begun here."""
        assert self.leave is not None
        self.leave.back(run)
        self._do(ToBroker(self._ended(run, "lost")))

    def _hand_back(self) -> None:
        """What still runs, or waits, ends now."""
        assert self.leave is not None
        self.leave.forced = True
        for process in self.pool:
            for held in reversed(process.stack):
                if not held.aborted:
                    held.aborted = held.back = True
                    self._do(ToSlot(process.number, messages.Abort(attempt=held.run.attempt)))
            if process.stack:
                if process.kill_at is None:
                    process.kill_at = self._now + GRACE
                self._do(Interrupt(process.number))

    def abandon(self) -> None:
        """It goes at once: what it still holds is lost to it."""
        if self.leave is not None:
            for number in self.unanswered:
                process = self.attempts.get(number)
                self.leave.back(self.ahead[number][0] if process is None else process.held(number).run)

    # -- work ----------------------------------------------------------------------------------

    def _begin_next(self) -> None:
        """Begin with what was dealt ahead, while a slot is free."""
        while self.ahead and self.pool.free > 0:
            self._run(*self.ahead.pop(next(iter(self.ahead))))

    def _run(self, run: messages.Run, payload: Buffer) -> None:
        if run.function not in self.codes:
            self._do(ToBroker(messages.NeedBlob(run.function)))
            self._do(ToBroker(self._ended(run, "lost")))
            return
        process = self.pool.take(run)
        process.stack.append(Held(run, since=self._now))
        self.attempts[run.attempt] = process
        code, known = self.codes.use(run.function), run.function in process.known
        self._has(process, run.function, len(code))
        if not known:
            self._do(ToSlot(process.number, messages.Blob(run.function), code))
        if run.stored:
            self.controls.drop(run.job, run.served)
            self._tell(process, run.job)
        self._do(ToSlot(process.number, run, payload))

    def _has(self, process: Process, code: bytes, size: int) -> None:
        """The process has this code; others it may have to drop."""
        dropped = process.use(code, size)
        if dropped:
            self._do(ToSlot(process.number, messages.Drop(dropped)))

    def _finished(self, process: Process, message: messages.Finished, payload: Buffer, live: bool) -> None:
        if not process.stack or process.stack[-1].run.attempt != message.attempt:
            return  # it was given up, and its process killed
        held = process.stack.pop()
        run = held.run
        if held.back and message.ended == "abort":
            message = replace(message, ended="broken")
            self._hand_in(held)
        if self.leave is not None and message.ended in ("lost", "broken"):
            self.leave.back(run, message.count)
        self._give_up(held)
        self.answers.keep(Kept(run, message, payload, self._now), live)
        if live or run.attempt not in self.answers:
            self._do(ToBroker(message, payload))
        else:
            self._held_up.append(run.attempt)
        if process.kill_at is not None and not any(h.aborted for h in process.stack):
            process.kill_at = None
        if not process.stack:
            replaced = process.old or process.late or process.spent or self.leave is not None
            if message.ended in ("abort", "broken") or replaced:
                self.pool.let(
                    process
                )  # its state may be anything, or of jobs that have ended: it is replaced
            else:
                process.state = ProcessState.IDLE
        if self.ahead:
            self._begin_next()
        self.pool.trim()

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
        self.controls.forget(message.job)
        for process in self.pool:
            process.told.pop(message.job, None)
            if message.job in process.jobs and process.state is not ProcessState.ENDING:
                process.jobs.discard(message.job)
                if message.job in process.cleanups:
                    process.cleanups.discard(message.job)
                    process.cleaning.add(message.job)
                self._do(ToSlot(process.number, message))
        self.pool.trim()

    def _welcomed(self, message: messages.Welcome) -> None:
        """Contact is made, perhaps again. A broker with another store never knew anything of what is here."""
        strange = self.store not in ("", message.store)
        self.controls.clear()
        if message.fresh or message.epoch != self.epoch:
            self._told.clear()
            for process in list(self.pool):
                if process.state is ProcessState.IDLE and process.jobs:
                    self.pool.let(process)  # nobody would tell it to clean up
                process.old = process.state is ProcessState.BUSY
        self.store, self.epoch = message.store, message.epoch
        self._held_up.clear()  # all answers are given again
        if strange:
            self._forget_all()
            return
        self._say_again()  # before the answers that came after it
        for kept in self.answers.all():
            self._do(ToBroker(kept.answer, kept.payload))
        self.answers.given(self._now)
        self._ask_again()

    def _say_again(self) -> None:
        for said in self.unheard.all():
            self._do(ToBroker(*said))

    def _forget_all(self) -> None:
        """What it holds is nobody's any more."""
        self.ahead.clear()
        self.answers.clear()
        self.unheard.clear()
        for process in list(self.pool):
            if process.stack:
                for held in process.stack:
                    self._give_up(held)
                process.stack.clear()
                process.state = ProcessState.ENDING
                self._do(Kill(process.number))

    def _keep_code(self, code: bytes, data: Buffer) -> None:
        def needed() -> set[bytes]:
            ahead = (run.function for run, _ in self.ahead.values())
            return set(ahead).union(*(p.needs for p in self.pool))

        self._told.difference_update(self.codes.keep(code, data, needed))

    def check(self) -> None:
        """Assert every invariant; the tests call it after each step."""
        self.answers.check()
        self.unheard.check()
        for number, process in self.processes.items():
            assert number == process.number
            assert (process.state is ProcessState.BUSY) == bool(
                process.stack
            ) or process.state is ProcessState.ENDING
            for outer, inner in pairwise(process.stack):
                assert outer.call is not None or inner.aborted, "what runs inside a driver that waits no more"
            for held in process.stack:
                assert self.attempts[held.run.attempt] is process
        self.codes.check()
        assert len(self.attempts) == sum(len(p.stack) for p in self.pool)
        if self.leave is not None:
            assert not self.ahead
            assert not any(p.state is ProcessState.IDLE for p in self.pool), "nothing will come for it"
