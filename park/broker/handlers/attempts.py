"""Attempts at their kernels: they take slots, wait as drivers, go on, and end."""

from __future__ import annotations

from msgspec.structs import replace

from park.broker.effects import Effects, Event, Write
from park.broker.entities.jobs import BrokerJob
from park.broker.entities.maps import Attempt, AttemptState, JobMap
from park.broker.entities.requirements import Kind
from park.broker.handlers import attempt_state, charging, job_lifecycle
from park.broker.scheduler.estimates import FIRST_GUESS_SECONDS
from park.broker.scheduler.stragglers import SUPERSEDED_SECONDS
from park.broker.state import State
from park.wire import messages


def held_by(state: State, event: Event, number: int) -> Attempt | None:
    """The attempt of this number, if this kernel holds it; else None, and its answer is late and dropped."""
    attempt = state.attempts.get(number)
    if attempt is None or attempt.kernel.peer != event.peer:
        state.duplicates += 1
        return None
    return attempt


def ends_if_void(effects: Effects, attempt: Attempt) -> bool:
    """End the attempt if its results are of no use any more, because its question would wait for ever. True: it was
    ended.
    """
    if attempt.void:
        attempt_state.end_attempt(effects, attempt, "abort")
    return attempt.void


def drop_spent(state: State, effects: Effects, map_: JobMap, segment: int) -> None:
    """Delete a segment of a session's map without waiting or running units: such a map may be endless."""
    known = map_.session and state.maps.get(map_.key) is map_
    if known and map_.drop_spent(segment, (state.attempts[n] for n in map_.running)):
        state.count_spooled(state.job(map_.job), -map_.sizes.pop(segment))
        effects.spool.append(Write("units", map_.key_of(segment), None))


def give_up_slots(state: State, effects: Effects, job: BrokerJob, attempt: Attempt, to: AttemptState) -> None:
    """Take the attempt's slots back: a driver waits IN_MAP, or LENT at a safe point, and a late unit goes on ASIDE."""
    if attempt.parked:  # the answers of its last map were lost, or its kernel had not seen that they had come
        attempt_state.move(state, attempt, to)
        return
    had_slots, kernel = attempt.has_slots, attempt.kernel
    charging.charge_use(state, effects, job, attempt, effects.now - attempt.since if had_slots else 0.0)
    state.touched.kernels[kernel.number] = kernel
    attempt_state.move(state, attempt, to)
    attempt.driver = True
    state.estimates.begin_anew(job.owner, attempt.map.function)
    state.count_running(attempt, -1 if had_slots else 0)
    attempt_state.begin_next(state, effects, kernel)


def on_lent(state: State, effects: Effects, event: Event, message: messages.Lent) -> None:
    """A driver waits at its safe point without a slot, until its job is due again."""
    attempt = held_by(state, event, message.attempt)
    if attempt is None:
        effects.send(event.peer, messages.Abort(attempt=message.attempt))
        return
    if ends_if_void(effects, attempt) or attempt.state is AttemptState.LENT:
        return
    job = state.job(attempt.map.job)
    for key in list(attempt.maps):
        job_lifecycle.drop_map(state, effects, state.maps[key])  # it has gone on since it made them
    if state.attempts.get(attempt.number) is not attempt:
        return
    settle_twin(state, effects, attempt)
    give_up_slots(state, effects, job, attempt, AttemptState.LENT)
    attempt.asked = None
    job_lifecycle.refresh(state, effects, job)


def resume(state: State, effects: Effects, attempt: Attempt) -> None:
    """Let the driver go on: give it slots, and tell its kernel, if need be with the last results of its map."""
    job = state.job(attempt.map.job)
    attempt.since, attempt.asked = effects.now, None
    attempt_state.move(state, attempt, AttemptState.RUNNING)
    estimate = state.estimates.get(attempt.map.owner, attempt.map.function)
    attempt.charged = (
        min(state.clock.quantum, FIRST_GUESS_SECONDS if estimate is None else estimate) * attempt.cost
    )
    attempt.rates = state.clock.serve(job.number, job.work_classes[Kind.DRIVER], attempt.charged, effects.now)
    attempt.weight = charging.weight(state, effects, job)
    attempt.price = charging.price(state, attempt.weight)
    last = effects.last_results.get(attempt.number)
    if last is not None:
        send = effects.sends[last]
        assert isinstance(send.message, messages.Results)
        effects.sends[last] = replace(send, message=replace(send.message, resume=True))
    else:
        effects.send(attempt.kernel.peer, messages.Resume(attempt.number))
    state.count_running(attempt, +1)
    job_lifecycle.refresh(state, effects, job)


def retire(
    state: State,
    effects: Effects,
    job: BrokerJob,
    attempt: Attempt,
    seconds: float | None = None,
    units: int = 0,
    lost: bool = False,
) -> None:
    """End an attempt: free its slot, and charge its time, unless the fabric has *lost* its work."""
    had_slots = attempt.has_slots
    held = effects.now - attempt.since if had_slots else 0.0
    if lost or attempt.map.lost:
        charging.refund(state, effects, job, attempt)
        _lose_below(state, attempt)
    else:
        charging.charge_use(
            state, effects, job, attempt, held if attempt.driver or seconds is None else seconds
        )
    if attempt.new_process and had_slots and seconds is not None and not attempt.driver:
        attempt.kernel.processes.note_start(max(0.0, held - seconds))
    if seconds is not None and units and not attempt.driver:
        state.estimates.learn(job.owner, attempt.map.function, units, seconds)
    else:
        state.estimates.begin_anew(job.owner, attempt.map.function)
    del state.attempts[attempt.number]
    job.attempts.discard(attempt.number)
    attempt.map.running.discard(attempt.number)
    if attempt.twin is not None:
        _part(attempt)
    kernel = attempt.kernel
    state.touched.kernels[kernel.number] = kernel
    attempt_state.move(state, attempt, AttemptState.OVER)
    kernel.last = job.number
    for key in list(attempt.maps):
        job_lifecycle.drop_map(state, effects, state.maps[key])
    state.count_running(attempt, -1 if had_slots else 0)
    if kernel.ahead:
        attempt_state.begin_next(state, effects, kernel)


def take_back(state: State, effects: Effects, attempt: Attempt, why_lost: str) -> None:
    """End an attempt that the fabric has lost. Its units wait again if their results are still of use."""
    if attempt.void:
        discard(state, effects, attempt)
        return
    job, map_, twin = state.job(attempt.map.job), attempt.map, attempt.twin
    retire(state, effects, job, attempt, lost=True)
    if twin is not None:
        pass  # the other attempt at these units counts
    elif not job.wants(map_):
        map_.answered(len(attempt.span))
    elif job.submit.idempotent:
        map_.give_back(attempt.span)
        job.list_ready(map_)
    else:
        map_.answered(len(attempt.span))
        job_lifecycle.fail_unrepeatable(state, effects, job, why_lost)
    job_lifecycle.refresh(state, effects, job)
    job_lifecycle.check_map(state, effects, map_)


def _lose_below(state: State, attempt: Attempt) -> None:
    """Write off the work of a lost attempt's maps: its charges are refunded, past and future ones."""
    for key in attempt.maps:
        map_ = state.maps[key]
        map_.lost = True
        for number in map_.running:
            inner = state.attempts[number]
            inner.used = inner.used_below = inner.use_below = 0.0
            inner.paid = inner.paid_below = 0
            _lose_below(state, inner)


def settle_twin(state: State, effects: Effects, attempt: Attempt) -> None:
    """Let the answer of this attempt count. The other attempt at its units may finish the unit that it computes now."""
    twin = _part(attempt)
    if twin is None:
        return
    job = state.job(attempt.map.job)
    had_slots = twin.has_slots
    attempt_state.move(state, twin, AttemptState.VOID if had_slots else AttemptState.VOID_AHEAD)
    state.superseded[twin.number] = effects.now + SUPERSEDED_SECONDS
    state.preemption.end(twin)
    attempt_state.end_attempt(effects, twin, "stop")
    charging.refund(state, effects, job, twin)
    state.count_running(twin, -1 if had_slots else 0)
    job.attempts.discard(twin.number)
    attempt.map.running.discard(twin.number)


def _part(attempt: Attempt) -> Attempt | None:
    """Separate the attempt from its twin. Returns the twin; None: the attempt has none."""
    twin, attempt.twin = attempt.twin, None
    if twin is not None:
        twin.twin = None
    return twin


def discard(state: State, effects: Effects, attempt: Attempt) -> None:
    """Free the slot of a superseded attempt that is over."""
    del state.attempts[attempt.number]
    state.superseded.pop(attempt.number, None)
    state.touched.kernels[attempt.kernel.number] = attempt.kernel
    attempt_state.move(state, attempt, AttemptState.OVER)
    attempt_state.begin_next(state, effects, attempt.kernel)
