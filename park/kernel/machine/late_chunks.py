"""Units that wait behind a unit that is late: they go back to the broker, and run elsewhere.

Units of one chunk run one after the other. A unit may take much longer than its chunk was sized for, or wait for
something that a later unit of the chunk does, which would never come. So a late chunk keeps the units that have begun,
and gives back the others. A kernel whose slots are all late gives back the chunks that wait for a slot, too.
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec.structs import replace

from park.kernel.machine.actions import ToBroker, Withdraw
from park.kernel.machine.held_attempt import HeldAttempt, SlotUse
from park.kernel.machine.process import Process
from park.kernel.machine.state import KernelState
from park.wire import messages
from park.wire.pack import Buffer

#: Seconds after which a chunk is late. A chunk that waits for a slot is late if no slot became free in this time.
#: Chunks are sized to take much less (`park.broker.entities.maps`).
LATE_SECONDS = 0.15


def give_back(state: KernelState, process: Process, held: HeldAttempt) -> None:
    """Take the units that the process has not begun: they run elsewhere."""
    if held.late_at is not None:
        held.late_at = None
        state.do(Withdraw(process.number, held.run.attempt))


def on_withdrawn(state: KernelState, process: Process, attempt: int, count: int) -> None:
    """Give back the last *count* units of the attempt: the process will not begin them."""
    if not count:
        return
    held = process.held(attempt)
    held.run, held.is_shortened = replace(held.run, count=held.run.count - count), True
    if state.shutdown is not None:
        state.shutdown.units[held.run.job] += count
    state.do(ToBroker(hand_back(state, held)))


def hand_back(state: KernelState, held: HeldAttempt) -> messages.HandBack:
    """The message that names the units which the attempt keeps."""
    return messages.HandBack(held.run.attempt, held.run.start + held.run.count, state.epoch)


def on_early(state: KernelState, process: Process, message: messages.Early, payload: Buffer) -> None:
    """Take results of the units before a late one. A broker of another life only learns which units remain."""
    for held in process.stack:
        run = held.run
        if (run.attempt, run.start) == (message.attempt, message.start) and 0 < message.count < run.count:
            start, count = run.start + message.count, run.count - message.count
            held.run = replace(run, start=start, count=count)
            state.do(ToBroker(message, payload))


def on_aside(state: KernelState, message: messages.Aside, payload: Buffer) -> None:
    """The unit that is late goes on without its slot."""
    process = state.attempts.get(message.attempt)
    held = process.innermost(message.attempt) if process is not None else None
    if held is not None and held.slot_use is SlotUse.RUNNING:
        held.lend_slot()


def tick(state: KernelState) -> None:
    """Give back the units behind late ones, because a unit may wait for something that a later unit does."""
    for process in state.pool:
        for held in process.stack:
            if held.late_at is not None and state.now >= held.late_at:
                give_back(state, process, held)
    if (due := _queue_deadline(state)) is not None and state.now >= due:
        for number in _waiting_for_slots(state):
            run, _ = state.queued.pop(number)
            state.do(ToBroker(state.ended(run, "lost")))


def deadlines(state: KernelState) -> Iterator[float]:
    """The times at which `tick` has something to do."""
    for process in state.pool:
        yield from (held.late_at for held in process.stack if held.late_at is not None)
    if (due := _queue_deadline(state)) is not None:
        yield due


def _queue_deadline(state: KernelState) -> float | None:
    """The time at which chunks that wait for a slot are given back, if none becomes free; None: no chunk waits for one."""
    return state.moved_at + LATE_SECONDS if state.queued and _waiting_for_slots(state) else None


def _waiting_for_slots(state: KernelState) -> list[int]:
    """The attempts that wait for a slot, and not for their code."""
    awaited = state.codes_awaited
    return [n for n, (run, _) in state.queued.items() if run.ahead and run.function not in awaited]
