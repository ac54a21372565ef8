"""Attempts on slot processes: how they begin, and how they end."""

from __future__ import annotations

from msgspec.structs import replace

from park.kernel.machine import body_controls, checkpoints, code_transfer, drain, job_log, late_chunks, pause
from park.kernel.machine.actions import InterruptProcess, ToBroker, ToSlot
from park.kernel.machine.answer_log import KeptAnswer
from park.kernel.machine.held_attempt import EarlyEnd, HeldAttempt
from park.kernel.machine.process import Process, ProcessState
from park.kernel.machine.shutdown import ABORT_GRACE_SECONDS
from park.kernel.machine.state import KernelState
from park.wire import messages
from park.wire.pack import Buffer

#: The most jobs of one process whose bodies clean up at the same time; claims of further ones are ignored.
MAX_CLEANING_JOBS = 1000

# -- beginning -----------------------------------------------------------------------------------


def on_run(state: KernelState, message: messages.Run, payload: Buffer) -> None:
    """The broker gives the kernel an attempt, for a free slot or for the next one that becomes free."""
    if state.shutdown is not None:
        drain.give_back(state, message)
    elif not pause.admits(state, message):  # it was dealt before the broker heard of the pause
        state.do(ToBroker(state.ended(message, "lost")))
    elif message.ahead or message.function in state.codes_awaited or not state.pool.makes_way(message):
        if not state.queued:
            state.moved_at = state.now
        state.queued[message.attempt] = (message, payload)
        start_queued(state)
    else:
        start(state, message, payload)


def start_queued(state: KernelState) -> None:
    """Start attempts that wait for a slot, while one is free, for code, or for a GPU that another process still holds."""
    for number, (run, payload) in list(state.queued.items()):
        if state.pool.free <= 0:
            return
        if run.function not in state.codes_awaited and state.pool.makes_way(run):
            del state.queued[number]
            start(state, run, payload)


def start(state: KernelState, run: messages.Run, payload: Buffer) -> None:
    """Give the attempt to a process. If its code is missing, ask for the code and give the attempt back."""
    if run.function not in state.codes:
        state.do(ToBroker(messages.NeedBlob(run.function)))
        state.do(ToBroker(state.ended(run, "lost")))
        return
    process = state.pool.take(run)
    late_at = state.now + late_chunks.LATE_SECONDS if run.count > 1 else None
    process.stack.append(HeldAttempt(run, running_since=state.now, late_at=late_at))
    state.moved_at = state.now
    process.printed.begin(run.job)
    state.attempts[run.attempt] = process
    code_transfer.give(state, process, run.function)
    if run.stored:
        state.controls.drop(run.job, run.served)
        body_controls.give_new(state, process, run.job)
    state.do(ToSlot(process.number, run, payload))


# -- ending --------------------------------------------------------------------------------------


def on_finished(
    state: KernelState, process: Process, message: messages.Finished, payload: Buffer, live: bool
) -> None:
    """An attempt has ended; *live*: the broker has welcomed the kernel."""
    held = process.innermost(message.attempt)
    if held is None:
        return  # it was given up, and its process killed
    process.stack.pop()
    if message.ended == "lost":  # it did not begin, and the lines are another job's
        process.printed.begin(0)
    state.moved_at = state.now
    if held.early_end is EarlyEnd.HANDED_BACK and message.ended == "abort":
        message = replace(message, ended="broken")
        checkpoints.hand_in(state, held)
    if state.shutdown is not None and message.ended in ("lost", "broken"):
        state.shutdown.hand_back(held.run, message.count)
    state.release(held)
    _answer(state, held.run, message, payload, live)
    if process.kill_at is not None and all(h.early_end is EarlyEnd.NONE for h in process.stack):
        process.kill_at = None
    if not process.stack:
        # an aborted body leaves its process in an unknown state
        if process.state is ProcessState.RETIRING or message.ended in ("abort", "broken"):
            state.pool.close(process)
        else:
            process.move(ProcessState.IDLE)
    if state.queued:
        start_queued(state)
    state.pool.trim()


def _answer(
    state: KernelState, run: messages.Run, message: messages.Finished, payload: Buffer, live: bool
) -> None:
    """Keep the answer, and send it unless it would overtake messages that are to be repeated first."""
    state.answers.keep(KeptAnswer(run, message, payload, state.now), live)
    if live or run.attempt not in state.answers:
        state.do(ToBroker(message, payload))
    else:
        state.delayed_answers.append(run.attempt)


def on_stop(state: KernelState, message: messages.Stop, payload: Buffer) -> None:
    """The broker asks a body to return its best result so far; with *soft* all its units still run."""
    if message.attempt not in state.queued:
        state.send_to_attempt(message)
    elif not message.soft:
        _end_queued(state, message.attempt, "stop")


def on_abort(state: KernelState, message: messages.Abort, payload: Buffer) -> None:
    """The broker wants no result of this attempt."""
    if message.attempt in state.queued:
        _end_queued(state, message.attempt, "abort")
    elif (kept := state.answers.get(message.attempt)) is not None:
        state.answers.drop([message.attempt])
        # a broker that has got a hello since, but not the answer, may count the attempt as running
        state.do(ToBroker(state.ended(kept.run, "broken")))
    elif (process := state.attempts.get(message.attempt)) is not None:
        held = process.held(message.attempt)
        if held.early_end is EarlyEnd.NONE:
            held.move(EarlyEnd.ABORTED)
        if process.kill_at is None:
            process.kill_at = state.now + ABORT_GRACE_SECONDS
        state.do(ToSlot(process.number, message))
        state.do(InterruptProcess(process.number))


def _end_queued(state: KernelState, attempt: int, how: str) -> None:
    run, _ = state.queued.pop(attempt)
    state.do(ToBroker(state.ended(run, how)))


def on_exit(
    state: KernelState, number: int, cause: str, stderr: str, foreign: bool = False, live: bool = True
) -> None:
    """A process has ended, with the attempts that it held.

    *foreign*: the signal that ends this kernel has ended the process too, through no fault of its units. *live*: the
    broker has welcomed the kernel.
    """
    process = state.processes.pop(number)
    job_log.send(state, process, live, everything=True)
    stack = process.stack
    for held in stack:
        if foreign and held.early_end is EarlyEnd.NONE:
            held.move(EarlyEnd.HANDED_BACK)
        state.release(held)
        if held.early_end is not EarlyEnd.ABORTED:
            checkpoints.hand_in(state, held)
    if stack and all(held.early_end is not EarlyEnd.NONE for held in stack):
        for held in reversed(stack):
            handed_back = held.early_end is EarlyEnd.HANDED_BACK
            state.do(ToBroker(state.ended(held.run, "broken" if handed_back else "abort")))
            if handed_back and state.shutdown is not None:
                state.shutdown.hand_back(held.run)
    elif stack:
        numbers = [held.run.attempt for held in stack]
        proven = bool(process.too_large) and process.chunks == 1
        cause = process.too_large or cause
        state.do(ToBroker(messages.Crashed(numbers, cause, stderr, state.epoch, process.late, proven)))
    start_queued(state)


# -- the ends of jobs ----------------------------------------------------------------------------


def on_release(state: KernelState, message: messages.Release, payload: Buffer) -> None:
    """A job has ended: processes drop what they hold of it."""
    state.controls.forget(message.job)
    for process in state.pool:
        process.controls_given.pop(message.job, None)
        if message.job in process.jobs and process.state is not ProcessState.ENDING:
            process.jobs.discard(message.job)
            if message.job in process.cleanup_jobs:
                process.cleanup_jobs.discard(message.job)
                process.cleaning.add(message.job)
            state.do(ToSlot(process.number, message))
    state.pool.trim()


def on_cleans(state: KernelState, process: Process, message: messages.Cleans) -> None:
    """A process says that a job's body has to clean up, has done so, or has left the process in a state that no other
    job may meet.
    """
    if not message.done and not message.spent:
        if len(process.cleaning) >= MAX_CLEANING_JOBS:
            return
        # the body of a job that has ended meanwhile cleans up at once
        (process.cleanup_jobs if message.job in process.jobs else process.cleaning).add(message.job)
        return
    process.cleaning.discard(message.job)
    if message.spent:
        if process.state is ProcessState.IDLE:
            state.pool.close(process)
        process.retire()
    state.pool.trim()
