"""Late units: the units behind them come back from the kernel, and earlier units get their slots.

A unit may wait for something that a later unit does. A pool that begins units in order gets through this as long as
fewer units wait than there are slots. Chunks do not begin in order: while the first unit of one chunk waits, the next
chunk has begun. So if no slot comes free, a late unit that began before earlier units gives its slot to those, and goes
on beside them.
"""

from __future__ import annotations

from park.broker.effects import Effects, Event, Write
from park.broker.entities.jobs import BrokerJob
from park.broker.entities.maps import Attempt, AttemptState, Span
from park.broker.handlers import attempts, job_lifecycle
from park.broker.state import State
from park.wire import codec, messages

#: Seconds after which a late unit gives its slot to earlier units.
LATE_UNIT_SECONDS = 1.0


def on_hand_back(state: State, effects: Effects, event: Event, message: messages.HandBack) -> None:
    """The attempt keeps its first units. The others have not begun, and wait again."""
    attempt = attempts.held_by(state, event, message.attempt)
    if attempt is None or attempt.void or attempt.twin is not None:
        return  # if another attempt runs these units too, the answer says which of them are still missing
    span, map_, job = attempt.span, attempt.map, state.job(attempt.map.job)
    if not span.start < message.stop < span.stop:
        return  # it was said before
    rest = Span(message.stop, span.stop, span.segment)
    attempt.span = Span(span.start, message.stop, span.segment)
    attempt.expected *= len(attempt.span) / len(span)
    attempt.kernel.stalled = True
    if job.wants(map_):
        map_.give_back(rest)
        job.list_ready(map_)
        if map_.root and not job.submit.idempotent:
            effects.writes.append(Write("attempt", (job.number, span.start), codec.pack(len(attempt.span))))
    else:
        map_.answered(len(rest))
    state.late[attempt.number] = effects.now + LATE_UNIT_SECONDS
    job_lifecycle.refresh(state, effects, job)
    job_lifecycle.check_map(state, effects, map_)


def look(state: State, effects: Effects) -> None:
    """Let late units give their slots to earlier ones that still wait."""
    for number in [number for number, due in state.late.items() if due <= effects.now]:
        attempt = state.attempts.get(number)
        del state.late[number]
        if attempt is None or not attempt.has_slots or attempt.void:
            continue
        job = state.job(attempt.map.job)
        if _holds_up(job, attempt):
            effects.send(attempt.kernel.peer, messages.Aside(number))
            attempts.give_up_slots(state, effects, job, attempt, AttemptState.ASIDE)
            job_lifecycle.refresh(state, effects, job)
        else:
            state.late[number] = effects.now + LATE_UNIT_SECONDS


def deadline(state: State) -> float:
    """The time at which `look` may find something."""
    return min(state.late.values())


def _holds_up(job: BrokerJob, attempt: Attempt) -> bool:
    """Whether earlier units of the job wait, and this attempt may give its slot to them."""
    kernel, map_ = attempt.kernel, job.next_ready()
    if map_ is None or not job.dealt or kernel.free > 0 or kernel.closed or kernel.full_of_drivers:
        return False
    first = (map_.number, map_.pending[0].start)
    return job.needs.plain and first < (attempt.map.number, attempt.span.start)
