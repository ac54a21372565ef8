"""Answers to attempts, and the deaths of the processes that ran them."""

from __future__ import annotations

from msgspec.structs import replace

from park.broker.effects import Effects, Event, Write
from park.broker.entities.jobs import BrokerJob
from park.broker.entities.maps import MAX_KILLS, Attempt, JobMap, Span
from park.broker.entities.roster import Kernel
from park.broker.handlers import attempts, job_lifecycle
from park.broker.scheduler.run_times import length
from park.broker.state import MAX_REASON_CHARS, State
from park.errors import ProtocolError
from park.model import remark_of
from park.wire import messages, pack

#: The broker confirms results to a kernel in groups: of this many, of this many bytes, or after half a heartbeat.
CONFIRM_ANSWERS = 32
CONFIRM_BYTES = 1 << 20

#: The error of a unit that its kernel handed back.
KERNEL_LEFT = "its kernel has left while it ran"


def on_finished(state: State, effects: Effects, event: Event, message: messages.Finished) -> None:
    """A kernel answers units of an attempt."""
    attempt = attempts.held_by(state, event, message.attempt)
    if attempt is not None:
        state.disk.asked.discard(message.attempt)
    if attempt is not None and attempt.map.root and not state.disk.use(len(event.payload)):
        state.disk.wait(message.attempt, event, effects.now)
        return
    kernel = state.roster.kernels.get(event.peer)
    if kernel is not None and (attempt is None or attempt.map.root):
        _note_answer(state, effects, kernel, message.attempt, len(event.payload))
    if attempt is None:
        return
    if attempt.void:
        state.duplicates += 1
        attempts.discard(state, effects, attempt)
    elif message.ended == "broken" and not message.count:
        attempts.take_back(state, effects, attempt, KERNEL_LEFT)
    else:
        _judge(state, effects, attempt, *_without_early(attempt, message, event.payload))


def on_early(state: State, effects: Effects, event: Event, message: messages.Early) -> None:
    """Answers to the first units of an attempt, because a later unit is late. The answer at its end repeats them."""
    attempt = attempts.held_by(state, event, message.attempt)
    if attempt is None or attempt.void or attempt.twin is not None or attempt.map.root:
        return
    map_, span, job = attempt.map, attempt.span, state.job(attempt.map.job)
    if not (message.start == span.start and 0 < message.count < len(span)):
        return
    if pack.count(event.payload) != message.count:
        raise ProtocolError("early results that are not those of their units")
    failed = min(message.failed, message.count)
    attempt.span = Span(span.start + message.count, span.stop, span.segment)
    attempt.early += message.count
    attempt.early_failed += failed
    map_.answered(message.count)
    if not map_.cancelled:
        deliver(state, effects, job, map_, message.start, message.count, event.payload)
        job_lifecycle.count_done(state, job, map_, message.count, failed)
    job_lifecycle.refresh(state, effects, job)


def _without_early(
    attempt: Attempt, message: messages.Finished, payload: bytes | memoryview
) -> tuple[messages.Finished, bytes | memoryview]:
    """The answer without the units that were answered early."""
    early = attempt.span.start - message.start
    if early <= 0 or not _is_pack_of(message.count, payload):
        return message, payload
    count, failed = max(0, message.count - early), max(0, message.failed - attempt.early_failed)
    message = replace(message, start=attempt.span.start, count=count, failed=min(failed, count))
    return message, pack.Pack(payload).slice(early, early + count) if count else pack.pack_entries([])


def _judge(
    state: State,
    effects: Effects,
    attempt: Attempt,
    message: messages.Finished,
    payload: bytes | memoryview,
) -> None:
    """Take the answer, unless the answer of another attempt counts or this one breaks the rules."""
    map_, span, job = attempt.map, attempt.span, state.job(attempt.map.job)
    if attempt.twin is not None and message.count < len(span):
        attempts.retire(state, effects, job, attempt, lost=True)  # the other attempt at these units counts
        job_lifecycle.refresh(state, effects, job)
    elif not _answers(message, span, payload):
        cause = "its kernel answered other units than it was given"
        if job.wants(map_):
            _blame(state, effects, job, attempt, cause, "")
        else:  # the map was cancelled: its units run no more
            attempts.take_back(state, effects, attempt, cause)
    elif message.ended == "abort" and attempt.order != "abort" and job.wants(map_):
        _blame(state, effects, job, attempt, "it raised park.Abort, though no request had aborted it", "")
    else:
        _take(state, effects, job, attempt, payload, message)


def _take(
    state: State,
    effects: Effects,
    job: BrokerJob,
    attempt: Attempt,
    payload: bytes | memoryview,
    message: messages.Finished,
) -> None:
    """Take answers to the first units of the attempt; the units behind them wait again."""
    map_, span = attempt.map, attempt.span
    if attempt.twin is not None:
        attempts.settle_twin(state, effects, attempt)
    if attempt.ahead and message.ended == "lost":
        attempt.kernel.stalled = True
    longest, units = effects.now - attempt.since + attempt.slack, attempt.early + message.count
    attempts.retire(state, effects, job, attempt, min(max(message.seconds, 0.0), longest), units)
    if message.count:
        state.estimates.weigh(job.owner, map_.function, message.count, len(payload))
    map_.answered(message.count)
    if message.count and not map_.cancelled:
        deliver(state, effects, job, map_, message.start, message.count, payload)
        job_lifecycle.count_done(state, job, map_, message.count, message.failed)
        if message.remark:  # on disk with the result, and before the job ends
            state.job_list.change(job, effects, remark=remark_of(message.remark))
    if message.failed and map_.root:
        job_lifecycle.note_failure(state, effects, job, map_, message.unit, message.cause)
    if message.count < len(span):
        rest = Span(span.start + message.count, span.stop, span.segment)
        if job.wants(map_) and (job.submit.idempotent or message.ended != "broken"):
            map_.give_back(rest)
            job.list_ready(map_)
        else:
            map_.answered(len(rest))
            if job.wants(map_):
                job_lifecycle.fail_unrepeatable(state, effects, job, KERNEL_LEFT)
    attempts.drop_spent(state, effects, map_, span.segment)
    job_lifecycle.refresh(state, effects, job)
    job_lifecycle.check_map(state, effects, map_)


def _note_answer(state: State, effects: Effects, kernel: Kernel, attempt: int, size: int) -> None:
    """Acknowledge the answer to its kernel, together with others. It is on disk with this turn, or came too late to
    count.
    """
    kernel.confirm.append(attempt)
    kernel.confirm_bytes += size
    full = len(kernel.confirm) >= CONFIRM_ANSWERS or kernel.confirm_bytes >= CONFIRM_BYTES
    if full or kernel.draining or effects.now >= kernel.confirmed + state.roster.heartbeat / 2:
        confirm(effects, kernel)


def confirm(effects: Effects, kernel: Kernel) -> None:
    """Acknowledge answers to the kernel, once this turn is on disk."""
    if kernel.confirm:
        effects.answer(kernel.peer, messages.Committed(kernel.confirm))
        kernel.confirm, kernel.confirm_bytes, kernel.confirmed = [], 0, effects.now


def deliver(
    state: State,
    effects: Effects,
    job: BrokerJob,
    map_: JobMap,
    start: int,
    count: int,
    payload: bytes | memoryview,
) -> None:
    """Results of a map go to the store, to the driver or to the session's client."""
    if map_.root:
        job.results.append((start, count))
        state.job_list.grow(job, len(payload))
        effects.writes.append(Write("results", (job.number, start), payload))
        if not job.submit.idempotent:
            effects.writes.append(Write("attempt", (job.number, start), None))
        if job.checkpoints:
            job_lifecycle.forget_checkpoints(effects, job, range(start, start + count))
        return
    results = messages.Results(start, count, map=map_.key, job=job.number, attempt=map_.driver)
    driver = state.attempts.get(map_.driver)
    if driver is not None:
        effects.send(driver.kernel.peer, results, payload)
        effects.last_results[driver.number] = len(effects.sends) - 1
    elif not map_.driver:
        client = state.roster.client_of(job.client)
        if client is not None:
            effects.send(client.peer, results, payload)


def on_crashed(state: State, effects: Effects, event: Event, message: messages.Crashed) -> None:
    """A slot process died with the attempts that it held."""
    held = [a for n in message.attempts if (a := attempts.held_by(state, event, n)) is not None]
    for attempt in reversed(held):  # the unit that ran first, while its map still needs it
        if state.attempts.get(attempt.number) is not attempt:
            continue
        culprit = attempt.number == message.attempts[-1] and not attempt.void
        if culprit and (job := state.job(attempt.map.job)).wants(attempt.map):
            if message.late:
                _too_late(state, effects, job, attempt)
            else:
                cause = message.cause[:MAX_REASON_CHARS]
                _blame(state, effects, job, attempt, cause, message.stderr, message.proven)
        else:
            attempts.take_back(state, effects, attempt, "its process died")


def _blame(
    state: State,
    effects: Effects,
    job: BrokerJob,
    attempt: Attempt,
    cause: str,
    stderr: str,
    proven: bool = False,
) -> None:
    """Run the units of an attempt whose process died again, one at a time. A unit that kills too often fails; with
    *proven*, the unit is known to be the killer and fails at once.
    """
    map_, span, twin = attempt.map, attempt.span, attempt.twin
    attempts.retire(state, effects, job, attempt)
    map_.apart = True
    job.killers.add(map_.function)
    if twin is not None:  # the twin is still at these units
        job_lifecycle.refresh(state, effects, job)
        return
    unit = span.start
    for suspect in range(span.start, span.stop):
        map_.kills[suspect] = map_.kills.get(suspect, 0) + 1
    convicted = proven or map_.kills[unit] >= MAX_KILLS or not job.submit.idempotent
    if len(span) == 1 and convicted:
        fail_unit(state, effects, job, map_, unit, cause, stderr)
    elif job.submit.idempotent:
        map_.give_back(span, singly=True)
        job.list_ready(map_)
    else:
        map_.answered(len(span))
        job_lifecycle.fail_unrepeatable(state, effects, job, cause)
    attempts.drop_spent(state, effects, map_, span.segment)
    job_lifecycle.refresh(state, effects, job)
    job_lifecycle.check_map(state, effects, map_)


def _too_late(state: State, effects: Effects, job: BrokerJob, attempt: Attempt) -> None:
    """Fail the unit of an attempt that ran longer than its limit. If the attempt had several, each runs again alone to
    find it.
    """
    map_, span, twin = attempt.map, attempt.span, attempt.twin
    attempts.retire(state, effects, job, attempt)
    if twin is not None:  # the twin is still at these units
        job_lifecycle.refresh(state, effects, job)
        return
    if len(span) == 1:
        limit = length(job.submit.max_unit_time)
        fail_unit(state, effects, job, map_, span.start, f"ran longer than its limit of {limit}", "")
    else:
        map_.give_back(span, singly=True)
        job.list_ready(map_)
    attempts.drop_spent(state, effects, map_, span.segment)
    job_lifecycle.refresh(state, effects, job)
    job_lifecycle.check_map(state, effects, map_)


def fail_unit(
    state: State, effects: Effects, job: BrokerJob, map_: JobMap, unit: int, cause: str, stderr: str
) -> None:
    """The unit is answered with an error."""
    entry = pack.error_entry(cause, stderr, None if map_.once else unit)
    map_.answered(1)
    deliver(state, effects, job, map_, unit, 1, pack.pack_entries([entry]))
    job_lifecycle.count_done(state, job, map_, 1, 1)
    if map_.root:
        job_lifecycle.note_failure(state, effects, job, map_, unit, cause)


def _answers(m: messages.Finished, span: Span, payload: bytes | memoryview) -> bool:
    """Whether the message answers the first units of *span*, and no others."""
    within = m.start == span.start and 0 <= m.failed <= m.count <= len(span)
    return within and _is_pack_of(m.count, payload)


def _is_pack_of(count: int, payload: bytes | memoryview) -> bool:
    try:
        return pack.count(payload) == count
    except ProtocolError:
        return False
