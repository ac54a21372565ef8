"""Contact with the broker: what a hello tells of the kernel's attempts, and what is repeated when contact is made again."""

from __future__ import annotations

from typing import Any

from park.kernel.machine import code_sharing, driver_waits, job_log, late_chunks
from park.kernel.machine.actions import ToBroker
from park.kernel.machine.held_attempt import SlotUse
from park.kernel.machine.process import Process, ProcessState
from park.kernel.machine.state import KernelState
from park.wire import messages
from park.wire.pack import Buffer


def describe_attempts(state: KernelState) -> list[list[Any]]:
    """The attempts that a hello names: a row for each attempt of `KernelState.holds`, in that order.

    Answers that a row names are kept until contact is made.
    """
    state.answers.name()
    return [_describe(state, number) for number in state.holds]


def _describe(state: KernelState, number: int) -> list[Any]:
    """Map, first unit, count, CPUs, memory, how it stands, seconds that it has run, last control that it was given,
    GPUs, devices.
    """
    kept = state.answers.get(number)
    seconds = 0.0
    if kept is not None:
        run, how, seconds = kept.run, "done", kept.answer.seconds
    elif number in state.queued:
        run = state.queued[number][0]
        how = "ahead" if run.ahead else "runs"  # it waits for its GPU only
    else:
        held = state.attempts[number].held(number)
        run, how = held.run, "runs" if held.slot_use is SlotUse.RUNNING else "waits"
        if how == "runs":
            seconds = state.now - held.running_since
    served = run.served
    if run.stored and number in state.attempts:
        served = max(served, state.attempts[number].controls_given.get(run.job, 0))
    needs = [run.cpus, run.memory]
    return [run.map, run.start, run.count, *needs, how, seconds, served, run.gpus, run.devices]


def on_welcome(state: KernelState, message: messages.Welcome, payload: Buffer) -> None:
    """Contact is made, perhaps again."""
    if message.lost or message.epoch != state.epoch:
        _repeat_all(state, message)
        return
    _repeat_published(state)
    for number in state.delayed_answers:
        if (kept := state.answers.get(number)) is not None:
            state.do(ToBroker(kept.answer, kept.payload))
    state.delayed_answers.clear()


def _repeat_all(state: KernelState, message: messages.Welcome) -> None:
    """Repeat messages, because they may have been lost. A broker with another store knows nothing of the kernel's work."""
    other_store = state.store not in ("", message.store)
    state.controls.clear()
    for code in list(state.codes_awaited):
        code_sharing.give_up(state, code)
    if message.fresh or message.epoch != state.epoch:
        _distrust_jobs(state)
    state.store, state.epoch = message.store, message.epoch
    state.delayed_answers.clear()  # all answers are repeated
    if other_store:
        _forget_all(state)
        return
    _repeat_published(state)  # before the answers that came after it
    for process in state.pool:
        for held in process.stack:
            if held.is_shortened:
                state.do(ToBroker(late_chunks.hand_back(state, held)))
    for kept in state.answers.all():
        state.do(ToBroker(kept.answer, kept.payload))
    state.answers.given(state.now)
    driver_waits.ask_again(state)


def _distrust_jobs(state: KernelState) -> None:
    """Release jobs that this life of the broker does not know, because it would not say when they end."""
    state.codes_given.clear()
    for process in list(state.pool):
        if process.state is ProcessState.IDLE and process.jobs:
            state.pool.close(process)
        process.retire()


def _repeat_published(state: KernelState) -> None:
    for published in state.published.all():
        state.do(ToBroker(*published))


def _forget_all(state: KernelState) -> None:
    """Forget all that the kernel holds, because no broker wants it."""
    state.queued.clear()
    state.answers.clear()
    state.published.clear()
    for process in list(state.pool):
        if process.stack:
            for held in process.stack:
                state.release(held)
            process.stack.clear()
            state.pool.kill(process)


def on_committed(state: KernelState, message: messages.Committed, payload: Buffer) -> None:
    """The broker has these answers on its disk, and has heard these messages."""
    state.answers.drop(message.attempts)
    state.published.drop(message.heard)


def on_again(state: KernelState, message: messages.Again, payload: Buffer) -> None:
    """The broker asks for an answer again."""
    kept = state.answers.get(message.attempt)
    if kept is None:
        lost = messages.Finished(message.attempt, b"", 0, 0, 0.0, ended="broken", epoch=state.epoch)
        state.do(ToBroker(lost))
    else:
        state.do(ToBroker(kept.answer, kept.payload))


def on_publish(
    state: KernelState, process: Process, message: messages.Publish, payload: Buffer, live: bool
) -> None:
    """A body has published a message, and has printed lines before it.

    A body can write to the socket of its process, so its messages count only for attempts of that process.
    """
    for held in process.stack:
        if (held.run.attempt, held.run.job) == (message.attempt, message.job):
            if message.number:
                job_log.send(state, process, live, until=message.number)
            job_log.publish(state, process, held, message, payload, live)
