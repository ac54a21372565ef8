"""The kernel's state machine: it decides which slot process runs which attempt, and what follows from each event.

The machine is pure. `KernelMachine.broker` and `KernelMachine.slot` take messages, `exited` is told of a dead process, and
`tick` of the time; each returns the actions that the supervisor's loop carries out. `KernelState` is what the machine
knows. `BROKER_HANDLERS`, `SLOT_HANDLERS` and `ATTEMPT_HANDLERS` name the function for each kind of message.

A driver that waits for its map may get chunks of that map, and no other work. A driver that has lent its slot at a safe
point gets no work.

A connection that is cut loses messages that were on their way, and a broker that dies forgets everything that it has not
stored. So the kernel keeps each answer: that of a job until the broker has it on disk, that of a map of a
session or a driver for a while. It keeps the messages that bodies have published until the broker has heard them. When
contact is made again, the kernel says what it holds, repeats answers and messages, and asks again for everything that
its processes wait for. It passes each answer on once, and aborts the attempts that the broker does not want any more.
It asks with NeedBlob for code that was lost, or that it has dropped because there was too much.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any

from park.kernel.machine import (
    attempts,
    body_controls,
    checkpoints,
    code_sharing,
    contact,
    drain,
    driver_waits,
    job_log,
    late_chunks,
    pause,
)
from park.kernel.machine.actions import Action, KillProcess
from park.kernel.machine.exit_cause import in_words
from park.kernel.machine.held_attempt import EarlyEnd, SlotUse
from park.kernel.machine.process import ProcessState
from park.kernel.machine.state import KernelState
from park.model import Serves
from park.wire import messages
from park.wire.messages import Message
from park.wire.pack import Buffer
from park.wire.print_marks import Printed


def _pass_on(state: KernelState, message: Any, payload: Buffer) -> None:
    state.send_to_attempt(message)


#: The function for each kind of message of the broker: (state, message, payload).
BROKER_HANDLERS: dict[type[Message], Callable[[KernelState, Any, Buffer], None]] = {
    messages.Run: attempts.on_run,
    messages.Stop: attempts.on_stop,
    messages.Abort: attempts.on_abort,
    messages.Release: attempts.on_release,
    messages.Lend: _pass_on,
    messages.Results: driver_waits.on_results,
    messages.Resume: driver_waits.on_resume,
    messages.MapFailed: driver_waits.on_map_failed,
    messages.Fetched: driver_waits.on_fetched,
    messages.Failure: driver_waits.on_fetched,
    messages.Checkpoint: driver_waits.on_fetched,
    messages.Filed: driver_waits.on_fetched,
    messages.NeedBlob: driver_waits.on_need_blob,
    messages.Blob: code_sharing.on_blob,
    messages.Offer: code_sharing.on_offer,
    messages.Share: code_sharing.on_share,
    messages.Serve: code_sharing.on_serve,
    messages.Checkpointed: checkpoints.on_checkpointed,
    messages.Control: body_controls.on_control,
    messages.Welcome: contact.on_welcome,
    messages.Committed: contact.on_committed,
    messages.Again: contact.on_again,
    messages.Drain: drain.on_drain,
    messages.Aside: late_chunks.on_aside,
}

#: The function for each kind of message of a process about itself: (state, process, message, payload, live).
SLOT_HANDLERS: dict[type[Message], Callable[..., None]] = {
    messages.Finished: attempts.on_finished,
    messages.Cleans: lambda state, process, message, payload, live: attempts.on_cleans(
        state, process, message
    ),
    messages.Blob: lambda state, process, message, payload, live: driver_waits.on_slot_blob(
        state, process, message, payload
    ),
    messages.Early: lambda state, process, message, payload, live: late_chunks.on_early(
        state, process, message, payload
    ),
    messages.Publish: lambda state, process, message, payload, live: contact.on_publish(
        state, process, message, payload, live
    ),
}

#: The function for each kind of message of a process's innermost attempt: (state, held attempt, message, payload).
ATTEMPT_HANDLERS: dict[type[Message], Callable[..., None]] = {
    messages.Map: driver_waits.on_map,
    messages.Lent: driver_waits.on_lent,
    messages.Fetch: driver_waits.on_fetch,
    messages.Restore: driver_waits.on_fetch,
    messages.File: driver_waits.on_fetch,
    messages.Checkpoint: checkpoints.on_checkpoint,
    messages.Began: lambda state, held, message, payload: state.timers.begin(held.run),
}


class KernelMachine:
    """The kernel's decisions, as the module explains. *spare* and *spill* as in `KernelState`."""

    def __init__(
        self, slots: int, spare: bool = False, spill: Callable[[Buffer], Buffer | None] = lambda data: None
    ) -> None:
        self.state = KernelState(slots, spare, spill)

    def begin(self) -> list[Action]:
        """Start a process for each slot, so that the first work does not wait for Python's start."""
        for _ in range(self.state.slots):
            self.state.pool.start(1)
        return self.state.take_actions()

    def broker(self, message: Message, payload: Buffer, now: float) -> list[Action]:
        """A message of the broker."""
        state = self.state
        state.now = now
        if not isinstance(message, messages.Unwelcome | messages.Welcome):
            state.answers.heard(now)
        handler = BROKER_HANDLERS.get(type(message))
        if handler is not None:
            handler(state, message, payload)
        return state.take_actions()

    def slot(self, number: int, message: Message, payload: Buffer, live: bool = True) -> list[Action]:
        """A message of a slot process; *live*: the broker has welcomed the kernel.

        No new message goes before the welcome: it would overtake the messages that must be repeated first.
        """
        state, kind = self.state, type(message)
        process = state.processes[number]
        everything = job_log.AFTER_PRINTED.get(kind)
        if everything is not None and getattr(message, "ended", "") != "lost":
            job_log.send(state, process, live, everything)
        if (handler := SLOT_HANDLERS.get(kind)) is not None:
            handler(state, process, message, payload, live)
        elif (of_attempt := ATTEMPT_HANDLERS.get(kind)) is not None:
            held = process.innermost(message.attempt)  # type: ignore[attr-defined]
            if held is not None:
                of_attempt(state, held, message, payload)
        return state.take_actions()

    def withdrawn(self, number: int, attempt: int, count: int) -> list[Action]:
        """A process will not begin the last *count* units of an attempt, see `park.kernel.machine.actions.Withdraw`."""
        late_chunks.on_withdrawn(self.state, self.state.processes[number], attempt, count)
        return self.state.take_actions()

    def printed(self, number: int, stream: str, pieces: Iterable[Printed], now: float, time: float) -> None:
        """A process has printed, see `job_log.on_printed`; *now* is the kernel's clock."""
        self.state.now = now
        job_log.on_printed(self.state, self.state.processes[number], stream, pieces, time)

    def exited(
        self, number: int, cause: str, stderr: str, foreign: bool = False, live: bool = True
    ) -> list[Action]:
        """A process has ended, see `attempts.on_exit`; *stderr*: its last lines."""
        attempts.on_exit(self.state, number, cause, stderr, foreign, live)
        return self.state.take_actions()

    def tick(self, now: float, live: bool = True) -> list[Action]:
        """Time has passed: send printed lines, end units and processes whose time is over. *live* as in `slot`."""
        state = self.state
        state.now = now
        state.answers.tick(now)
        for attempt in state.timers.tick(now) if state.timers else ():
            state.timers.end(attempt)
            process = state.attempts[attempt]
            process.late = True
            process.retire()
            state.do(KillProcess(process.number))
        for process in state.pool:
            if process.kill_at is not None and now >= process.kill_at:
                process.kill_at = None
                state.do(KillProcess(process.number))
        job_log.tick(state, live)
        late_chunks.tick(state)
        code_sharing.tick(state)
        drain.tick(state)
        return state.take_actions()

    def memory_limits(self) -> dict[int, int]:
        """The bytes that processes may hold, where that is limited."""
        return {p.number: p.memory for p in self.state.pool if p.memory and not p.too_large}

    def exceeded(self, number: int, size: int) -> list[Action]:
        """A process holds *size* bytes, more than it may."""
        process = self.state.processes[number]
        limit = in_words(process.memory)
        process.too_large = (
            f"it held {in_words(size)} of memory, more than the {limit} that memory= of its request allows"
        )
        process.retire()
        self.state.do(KillProcess(number))
        return self.state.take_actions()

    def deadline(self) -> float | None:
        """The time at which `tick` has something to do; None: at no known time."""
        state = self.state
        times = [process.kill_at for process in state.pool if process.kill_at is not None]
        times += [p.printed.due for p in state.pool if p.printed.due is not None]
        times += late_chunks.deadlines(state)
        times += drain.deadlines(state)
        times += state.codes_awaited.values()
        if state.timers and (timer := state.timers.deadline()) is not None:
            times.append(timer)
        return min(times, default=None)

    def shared(self, code: bytes, data: Buffer, where: messages.Shared | None) -> list[Action]:
        """Other kernels find the code there, see `code_sharing.shared`."""
        code_sharing.shared(self.state, code, data, where)
        return self.state.take_actions()

    def taken(self, code: bytes, data: Buffer | None, now: float) -> list[Action]:
        """Code has come from another kernel, or has not, see `code_sharing.taken`."""
        self.state.now = now
        code_sharing.taken(self.state, code, data)
        return self.state.take_actions()

    def describe_attempts(self) -> list[list[Any]]:
        """The credentials of a hello, see `contact.describe_attempts`."""
        return contact.describe_attempts(self.state)

    def drain(self, reason: str, grace: float, now: float, left: float = math.inf) -> list[Action]:
        """Leave in good order, see `drain.announce`."""
        self.state.now = now
        drain.announce(self.state, reason, grace, left)
        return self.state.take_actions()

    def serve(self, serves: Serves, why: str, own: str, now: float) -> list[Action]:
        """Take new work of these owners only, see `pause.serve`."""
        self.state.now = now
        pause.serve(self.state, serves, why, own)
        return self.state.take_actions()

    def left(self, now: float) -> bool:
        """Whether the kernel may go, see `drain.is_over`."""
        return drain.is_over(self.state, now)

    def abandon(self) -> None:
        """The kernel goes at once, see `drain.abandon`."""
        drain.abandon(self.state)

    def check(self) -> None:
        """Assert every invariant; tests call it after each step."""
        state = self.state
        state.answers.check()
        state.published.check()
        state.codes.check()
        assert state.codes_shared <= set(state.codes)
        assert state.codes_awaited.keys().isdisjoint(state.codes)
        for number, process in state.processes.items():
            assert number == process.number
            busy = process.state in (ProcessState.BUSY, ProcessState.RETIRING)
            assert busy == bool(process.stack)
            for outer, inner in pairwise(process.stack):
                in_map = outer.slot_use is SlotUse.IN_MAP
                assert in_map or inner.early_end is not EarlyEnd.NONE, (
                    "a chunk in a driver that waits no more"
                )
            for held in process.stack:
                assert state.attempts[held.run.attempt] is process
                assert tuple(held.run.devices) == process.devices, "it sees another GPU than it was given"
                assert held.late_at is None or held is process.stack[-1], "permits of two chunks would mix"
                assert (held.call is not None) == (held.slot_use is SlotUse.IN_MAP)
        assert len(state.attempts) == sum(len(process.stack) for process in state.pool)
        if state.shutdown is not None:
            assert not state.queued
            assert not any(p.state is ProcessState.IDLE for p in state.pool), "no work will come for it"
            assert not any(p.state is ProcessState.BUSY for p in state.pool), "it would be idle later"
