"""The orderly leave of a kernel: it takes no new work, lets its units run for a while, and hands back the rest.

First it asks drivers for checkpoints. It still takes new work until these are on disk, for a part of the grace at most:
otherwise the maps of the drivers might find no slot.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from park.kernel.machine import late_chunks
from park.kernel.machine.actions import InterruptProcess, ToBroker, ToSlot
from park.kernel.machine.held_attempt import EarlyEnd, HeldAttempt
from park.kernel.machine.process import Process, ProcessState
from park.kernel.machine.shutdown import ABORT_GRACE_SECONDS, Shutdown, ShutdownNotice, notice_of
from park.kernel.machine.state import KernelState
from park.wire import messages
from park.wire.pack import Buffer

# -- beginning -----------------------------------------------------------------------------------


def on_drain(state: KernelState, message: messages.Drain, payload: Buffer) -> None:
    """The broker asks the kernel to leave: it takes no new work from now on."""
    _begin_or_shorten(state, notice_of(message.reason or "it was asked to leave", state.now, message.grace))


def announce(state: KernelState, reason: str, grace: float, left: float = math.inf) -> None:
    """Leave, with *grace* seconds for work that runs; a second call can only make that time shorter.

    The kernel may be killed in *left* seconds.
    """
    notice = notice_of(reason, state.now, grace, left)
    if state.shutdown is None and state.notice is None and _ask_for_checkpoints(state):
        state.notice = notice
    else:
        _begin_or_shorten(state, notice)


def _begin_or_shorten(state: KernelState, notice: ShutdownNotice) -> None:
    """Take no new work from now on, at the earliest times that are known."""
    for known in (state.notice, state.shutdown):
        if known is not None:
            known.until, known.ends = min(known.until, notice.until), min(known.ends, notice.ends)
    if state.shutdown is None:
        _begin(state, state.notice or notice)


def _begin(state: KernelState, notice: ShutdownNotice) -> None:
    """Take no new work from now on, and hand back the work that has not begun."""
    _ask_for_checkpoints(state)
    state.notice, state.shutdown = None, Shutdown(notice.reason, notice.until, notice.ends)
    state.do(ToBroker(messages.Draining(state.epoch)))
    for run, _ in state.queued.values():
        give_back(state, run)
    state.queued.clear()
    for process in list(state.pool):
        if process.state is ProcessState.IDLE:
            state.pool.close(process)
        process.retire()
        for held in process.stack:
            late_chunks.give_back(state, process, held)
        if process.stack and state.driver_checkpoints.has(process.stack[0].run.attempt):
            _hand_back(state, process)  # it loses nothing


def give_back(state: KernelState, run: messages.Run) -> None:
    """Hand back an attempt of which nothing has begun here."""
    assert state.shutdown is not None
    state.shutdown.hand_back(run)
    state.do(ToBroker(state.ended(run, "lost")))


# -- checkpoints of drivers ------------------------------------------------------------------------


def _ask_for_checkpoints(state: KernelState) -> bool:
    """Ask the units of jobs for a checkpoint. Returns whether a driver is among them."""
    found_driver = False
    for process in state.pool:
        for held in process.stack:
            asked = held.run.attempt in state.driver_checkpoints.asked
            if held.run.stored and held.early_end is EarlyEnd.NONE and not asked:
                state.driver_checkpoints.ask(held.run.attempt)
                state.do(ToSlot(process.number, messages.Save(held.run.attempt)))
                found_driver |= held.is_worth_checkpoint
    return found_driver


def _misses_checkpoints(state: KernelState) -> bool:
    """Whether a driver that was asked for a checkpoint has none on disk yet."""
    missing: Iterator[HeldAttempt] = (
        state.attempts[number].held(number)
        for number in state.driver_checkpoints.missing
        if number in state.attempts
    )
    return any(held.is_worth_checkpoint and held.early_end is EarlyEnd.NONE for held in missing)


def on_checkpoint_saved(state: KernelState, attempt: int, number: int) -> None:
    """A checkpoint is on disk: while the kernel leaves, a driver that was asked for it is handed back."""
    saved = state.driver_checkpoints.durable(attempt, number)
    if saved and state.shutdown is not None and attempt in state.attempts:
        _hand_back(state, state.attempts[attempt])


# -- the end ---------------------------------------------------------------------------------------


def tick(state: KernelState) -> None:
    """Begin to drain, or hand back everything that still runs, if it is time."""
    notice, now = state.notice, state.now
    if notice is not None and (now >= notice.at or not _misses_checkpoints(state)):
        _begin(state, notice)
    shutdown = state.shutdown
    if shutdown is not None and not shutdown.forced and now >= shutdown.until:
        shutdown.forced = True
        for process in state.pool:
            _hand_back(state, process)


def deadlines(state: KernelState) -> Iterator[float]:
    """The time at which `tick` or `is_over` has something to do."""
    if state.notice is not None:
        yield state.notice.at if _misses_checkpoints(state) else state.now
    if state.shutdown is not None:
        yield state.shutdown.gives_up if state.shutdown.forced else state.shutdown.until


def _hand_back(state: KernelState, process: Process) -> None:
    """End the attempts that the process holds, and hand them back."""
    assert state.shutdown is not None
    for held in reversed(process.stack):
        if held.early_end is EarlyEnd.NONE:
            held.move(EarlyEnd.HANDED_BACK)
            state.do(ToSlot(process.number, messages.Abort(attempt=held.run.attempt)))
    if process.stack:
        if process.kill_at is None:
            time_left = max(0.0, state.shutdown.ends - state.now)
            process.kill_at = state.now + min(ABORT_GRACE_SECONDS, time_left / 2)
        state.do(InterruptProcess(process.number))


def is_over(state: KernelState, now: float) -> bool:
    """Whether the kernel can leave: its work has ended, and the answers are on disk."""
    if state.shutdown is None or now >= state.shutdown.gives_up:
        return state.shutdown is not None
    holds = state.attempts or state.queued or state.processes or state.answers.stored or state.published
    return not holds


def abandon(state: KernelState) -> None:
    """Count the remaining work as handed back, because the kernel leaves at once."""
    if state.shutdown is not None:
        for number in state.unanswered:
            process = state.attempts.get(number)
            run = state.queued[number][0] if process is None else process.held(number).run
            state.shutdown.hand_back(run)
