"""The life of an attempt: its moves from state to state, and the orders that it gets."""

from __future__ import annotations

from collections.abc import Iterable

from park.broker.effects import Effects
from park.broker.entities.maps import Attempt, AttemptState
from park.broker.entities.roster import Kernel
from park.broker.state import State
from park.wire import messages


def move(state: State, attempt: Attempt, to: AttemptState) -> None:
    """Move the attempt on in its life. The sets of its kernel and its job, and the free slots, follow."""
    kernel, number = attempt.kernel, attempt.number
    had_slots, was_ahead, was_parked = attempt.has_slots, attempt.ahead, attempt.parked
    if attempt.resumable:
        state.jobs[attempt.map.job].drop_resumable(attempt)
    attempt.move(to)
    if attempt.ahead:
        kernel.ahead[number] = None
    elif was_ahead:
        del kernel.ahead[number]
    if attempt.parked:
        kernel.parked.add(number)
    elif was_parked:
        kernel.parked.discard(number)
    if attempt.has_slots:
        if not had_slots:
            kernel.running.add(number)
            kernel.occupy(attempt.needs, attempt.devices)
            attempt.new_process = kernel.processes.begin(attempt.map.owner, goes_on=was_parked)
            state.preemption.begin(attempt)
    elif had_slots:
        kernel.running.discard(number)
        kernel.stalled = False
        kernel.vacate(attempt.needs, attempt.devices)
        kernel.processes.end(attempt.map.owner, waits=attempt.parked)
        state.preemption.end(attempt)
        state.job_list.counted_kernel(kernel)
    elif was_parked and to is AttemptState.OVER:
        kernel.processes.waits_no_more(attempt.map.owner)
    elif attempt.parked and not was_parked:
        kernel.processes.found_waiting(attempt.map.owner)
    if attempt.resumable:
        state.jobs[attempt.map.job].add_resumable(attempt)
    state.free_slots.changed(kernel)


def begin_next(state: State, effects: Effects, kernel: Kernel) -> None:
    """Start the attempt that was dealt ahead for this free slot. The kernel's `KernelMachine` does the same by itself."""
    while kernel.ahead and kernel.free > 0:
        attempt = state.attempts[next(iter(kernel.ahead))]
        attempt.since = effects.now
        if attempt.void:
            move(state, attempt, AttemptState.VOID)
        else:
            move(state, attempt, AttemptState.RUNNING)
            state.count_running(attempt, +1)


def ask_to_lend(effects: Effects, attempt: Attempt) -> None:
    """Ask the driver, once, to lend its slot at its next safe point."""
    if attempt.asked is None:
        attempt.asked = effects.now
        effects.answer(attempt.kernel.peer, messages.Lend(attempt.number))  # after its Run


def end_attempt(effects: Effects, attempt: Attempt, how: str, soft: bool = False) -> None:
    """Tell the attempt to "stop" or to "abort", once."""
    if attempt.order in (how, "abort"):
        return
    attempt.order = how
    number = attempt.number
    message = messages.Abort(attempt=number) if how == "abort" else messages.Stop(attempt=number, soft=soft)
    # after the Run, which may wait for the disk
    effects.answer(attempt.kernel.peer, message)


def end_superseded(state: State, effects: Effects, numbers: Iterable[int]) -> None:
    """Abort these attempts: other attempts have answered their units."""
    for number in list(numbers):
        del state.superseded[number]
        end_attempt(effects, state.attempts[number], "abort")
