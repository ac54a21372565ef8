"""The life of a job: it waits, is queued, may be paused, and ends.

A map has ended when none of its units waits or runs. Then its driver may go on; if it was the root map, the job ends.
"""

from __future__ import annotations

import heapq
from typing import Any

from park.broker.effects import Effects, Write
from park.broker.entities.jobs import BrokerJob
from park.broker.entities.maps import AttemptState, JobMap
from park.broker.entities.roster import Kernel
from park.broker.handlers import attempt_state, controls, fetches, notify
from park.broker.handlers.explain import failed_dependency
from park.broker.state import MAX_REASON_CHARS, State
from park.errors import InvalidRequest
from park.model import JobState
from park.wire import messages

#: A job is due this long before its time (seconds), because sums of wall clock and monotonic time are not exact.
DUE_TOLERANCE_SECONDS = 1e-3


def release_dependents(state: State, effects: Effects) -> None:
    """Look at the jobs that come after jobs that have ended, or share their kernels. It is a loop, because chains may be
    long.
    """
    while state.deferred.dependents_due:
        ended = state.deferred.dependents_due.popleft()
        for number in sorted(state.job_list.dependents.pop(ended, ())):
            release(state, effects, state.jobs[number])
        if is_private(state, ended):
            _end_sharers(state, effects, ended)


def is_private(state: State, number: int) -> bool:
    """Whether the job has kernels of its own."""
    job = state.jobs.get(number)
    return job is not None and job.needs.job == number


def _end_sharers(state: State, effects: Effects, number: int) -> None:
    """Abort the jobs that share the kernels of a private job that has ended."""
    for job in list(state.jobs.values()):
        if job.needs.job == number and not job.ended:
            reason = f"job {number}, whose allocation it shares, has ended"
            begin_end(state, effects, job, "abort", reason)


def release(state: State, effects: Effects, job: BrokerJob) -> None:
    """Look at `after` and `when` of the job again: fail it, queue it, or let it wait with a reason."""
    record = job.facts
    if record.state is not JobState.WAITING or job.ending:
        return
    # a job that is not in memory was complete, or this job would have failed with it
    others = [state.jobs[n] for n in record.after if n in state.jobs]
    for other in others:
        if other.state in (JobState.FAILED, JobState.ABORTED):
            fail(state, effects, job, failed_dependency(other)[:MAX_REASON_CHARS])
            return
    if any(not other.ended for other in others):
        return
    if record.when is not None and record.when > effects.wall + DUE_TOLERANCE_SECONDS:
        heapq.heappush(state.deferred.delayed, (record.when, job.number))
        return
    state.job_list.change(job, effects, state=JobState.QUEUED, reason="")
    refresh(state, effects, job)
    if job.root is not None:
        check_map(state, effects, job.root)


def pause(state: State, effects: Effects, job: BrokerJob) -> None:
    """Deal no more units of the job; its running drivers are asked to wait at their next safe point."""
    if job.ending:
        raise InvalidRequest(f"job {job.number} is ending: it cannot be paused")
    if job.reserved is not None:
        unreserve(state, effects, job.reserved)
    state.job_list.change(job, effects, state=JobState.PAUSED, reason="")
    for number in job.attempts:
        attempt = state.attempts[number]
        if attempt.has_slots:
            attempt_state.ask_to_lend(effects, attempt)
    refresh(state, effects, job)


def unpause(state: State, effects: Effects, job: BrokerJob) -> None:
    """Let a paused job go on; a job that never ran looks at its `after` and `when` again."""
    if job.attempts or job.session:
        state.job_list.change(job, effects, state=JobState.RUNNING)
    else:
        state.job_list.change(job, effects, state=JobState.WAITING)
        release(state, effects, job)
    refresh(state, effects, job)


def refresh(state: State, effects: Effects, job: BrokerJob) -> None:
    """Tell the service clock in which work classes the job has units to deal."""
    number, clock, now = job.number, state.clock, effects.now
    state.touched.jobs.add(number)
    if job.submit.max_time:
        state.run_times.count(job, now)
    if job.ended:
        return
    dealt = job.dealt
    if job.reserved is not None and not (dealt and job.has_work):
        unreserve(state, effects, job.reserved)
    open_ = dealt and job.reserved is None
    ready = job.next_ready() if open_ else None
    work_class = None if ready is None else state.work_class(job, ready)
    if work_class is not None:
        clock.wake(number, work_class, now)
        if state.free_slots.at_driver_limit:  # a driver that waits in a full kernel may compute a share
            for map_ in job.maps.values():
                driver = state.attempts.get(map_.driver)
                if driver is not None and map_.waiting:
                    state.touched.kernels[driver.kernel.number] = driver.kernel
    for here, waiting in job.resumable.items() if open_ else ():
        clock.wake(number, job.driver_class(here), now)
        state.touched.kernels[here] = waiting[0].kernel
    work_classes = clock.work_classes(number)
    if len(work_classes) > (work_class is not None):
        for other in [d for d in work_classes if d is not work_class]:
            if not open_ or not isinstance(other, int) or abs(other) not in job.resumable:
                clock.sleep(number, other, now)


def unreserve(state: State, effects: Effects, kernel: Kernel) -> None:
    """Open the reserved slots to all jobs again."""
    if kernel.reserved:
        job = state.jobs[kernel.reserved]
        kernel.reserved, job.reserved = 0, None
        state.free_slots.unreserve(kernel)
        state.touched.kernels[kernel.number] = kernel
        if not job.ended:
            refresh(state, effects, job)


def begin_end(state: State, effects: Effects, job: BrokerJob, how: str, reason: str) -> None:
    """Stop, abort or "fail" the job (abort it as failed): no new unit is dealt, and its attempts are told."""
    if job.ended or job.ending not in ("", "stop") or job.ending == how:
        return
    if how == "stop" and job.state is JobState.PAUSED:
        unpause(state, effects, job)
        if job.ended:
            return
    job.ending = how
    if reason:
        state.job_list.change(job, effects, reason=reason)
    for map_ in list(job.maps.values()):
        if not job.wants(map_):
            map_.stop()
            if how != "stop" and job.session and not map_.driver:
                _fail_map(state, effects, job, map_, reason)
    stop = how == "stop" and not job.session  # the results of an ended session have no use
    for number in list(job.attempts):
        attempt = state.attempts[number]
        attempt_state.end_attempt(effects, attempt, "stop" if stop else "abort", soft=not attempt.map.root)
    if how != "stop":
        attempt_state.end_superseded(
            state, effects, [n for n in state.superseded if state.attempts[n].map.job == job.number]
        )
    _feeds_no_more(state, job)
    state.job_list.store(job, effects)
    for map_ in list(job.maps.values()):
        check_map(state, effects, map_)
    refresh(state, effects, job)
    _check_job(state, effects, job)


def drop_map(state: State, effects: Effects, map_: JobMap) -> None:
    """Forget at once a map whose results are of no use any more: its maker may come back and make it anew."""
    map_.cancel()
    for number in list(map_.running):
        attempt_state.end_attempt(effects, state.attempts[number], "abort")
    if state.maps.get(map_.key) is map_:
        _forget_map(state, effects, state.job(map_.job), map_)


def check_map(state: State, effects: Effects, map_: JobMap) -> None:
    """Wake the driver of a map that has ended, or end its job."""
    if not map_.ended or map_.running:
        return
    job = state.job(map_.job)
    if state.maps.get(map_.key) is not map_:  # it was dropped before its chunks had ended
        _check_job(state, effects, job)
        return
    if job.released or job.ending:
        _forget_map(state, effects, job, map_)


def _forget_map(state: State, effects: Effects, job: BrokerJob, map_: JobMap) -> None:
    del state.maps[map_.key], job.maps[map_.key]
    if dropped := state.code_cache.leave(map_.function):
        drop_code(effects, dropped)
    state.count_spooled(job, -sum(map_.sizes.values()))
    map_.sizes.clear()
    if not map_.root:
        effects.spool += [Write("units", map_.key_of(s), None) for s in map_.segments]
    driver = state.attempts.get(map_.driver)
    if driver is not None:
        driver.maps.discard(map_.key)
        if driver.state is AttemptState.IN_MAP and not driver.maps:
            attempt_state.move(state, driver, AttemptState.READY)
            state.touched.kernels[driver.kernel.number] = driver.kernel
            refresh(state, effects, job)
    _check_job(state, effects, job)


def _check_job(state: State, effects: Effects, job: BrokerJob) -> None:
    """End the job if it has no unit left."""
    if job.ended or job.attempts or job.maps:
        return
    if job.session:
        if job.ending:
            _end(state, effects, job, JobState.ABORTED if job.ending == "abort" else JobState.COMPLETE)
        return
    if job.ending == "abort":
        _end(state, effects, job, JobState.ABORTED)
    elif job.error:
        _end(state, effects, job, JobState.FAILED, _failure(job))
    elif job.ending == "stop" and job.facts.started is None:
        _end(state, effects, job, JobState.ABORTED, "stopped before it started")
    elif job.submit.once and not job.results:
        _end(state, effects, job, JobState.ABORTED, "stopped before it had a result")
    else:
        _end(state, effects, job, JobState.COMPLETE)


def _failure(job: BrokerJob) -> str:
    failed, total = job.failed, job.total
    return f"{job.error} ({failed} of {total} units failed)" if failed > 1 else job.error


def _end(state: State, effects: Effects, job: BrokerJob, last: JobState, reason: str | None = None) -> None:
    """End the job in the state *last*: none of its units is scheduled any more, and its peers are told."""
    job.clock = state.retention_clock.read(state.now)
    if job.root is not None and not job.root.once:
        job.total = job.root.total
    forget_checkpoints(effects, job)
    # Release goes after the commit, because controls may be on their way to kernels then
    release_after = 0 if job.controls is None else effects.turn
    controls.forget(state, effects, job)
    job.runs_since = None
    fields: dict[str, Any] = {"state": last, "ended": effects.wall}
    if reason is not None:
        fields["reason"] = reason
    elif last is JobState.COMPLETE and not job.ending:
        fields["reason"] = ""
    fields["stopped"] = job.ending == "stop" and last is JobState.COMPLETE and not job.session
    state.job_list.change(job, effects, **fields)
    notify.note_end(state, effects, job)
    _unschedule(state, effects, job)
    effects.ended.append(job.number)
    state.deferred.dependents_due.append(job.number)
    for kernel in job.kernels.values():
        kernel.jobs.discard(job.number)
        effects.send(kernel.peer, messages.Release(job.number), after=release_after)
    job.kernels.clear()
    for waiter in job.waiters:
        waiter.member.fetches.pop((waiter.attempt, waiter.id), None)
        fetches.answer(state, effects, job, waiter)
    job.waiters.clear()
    _feeds_no_more(state, job)


def _unschedule(state: State, effects: Effects, job: BrokerJob) -> None:
    """Remove an ended job from the service clock, the ledger's open charges, and the reserved slots."""
    if job.reserved is not None:
        unreserve(state, effects, job.reserved)
    state.recovery.jobs.discard(job.number)
    state.clock.remove(job.number, effects.now)
    state.free_slots.need_no_more(job.needs)
    state.ledger.end(job.number, job.owner, stored=not job.session)
    job.ready.clear()


def forget_checkpoints(effects: Effects, job: BrokerJob, units: range | None = None) -> None:
    """Delete the checkpoints of answered *units*, or of all units (None)."""
    for unit in [u for u in job.checkpoints if units is None or u in units]:
        del job.checkpoints[unit]
        effects.writes.append(Write("checkpoint", (job.number, unit), None))


def fail(state: State, effects: Effects, job: BrokerJob, error: str) -> None:
    """Fail a job that cannot be completed; its running units are aborted."""
    job.error = job.error or error
    begin_end(state, effects, job, "fail", "")


def fail_unrepeatable(state: State, effects: Effects, job: BrokerJob, cause: str) -> None:
    """The job fails: a unit of it was lost and must not run twice."""
    fail(state, effects, job, f"{cause}, and idempotent=False forbids a second run")


def _fail_map(state: State, effects: Effects, job: BrokerJob, map_: JobMap, reason: str) -> None:
    client = state.roster.client_of(job.client)
    if client is not None:
        text = f"session {job.number} has ended: {reason}"
        effects.send(client.peer, messages.MapFailed(map_.key, "JobAborted", text, job.number))


def _feeds_no_more(state: State, job: BrokerJob) -> None:
    """Take no more inputs for the job; its client may leave."""
    client = state.roster.client_of(job.client)
    if client is not None and (not job.session or job.ended):
        client.open.discard(job.number)


def count_done(state: State, job: BrokerJob, map_: JobMap, units: int, failed: int) -> None:
    """Count answered units of the root map, *failed* of them with an error, in the progress of the job."""
    if map_.root or job.session:
        job.done += units
        job.failed += failed
        state.job_list.counted(job)


def note_failure(state: State, effects: Effects, job: BrokerJob, map_: JobMap, unit: int, cause: str) -> None:
    """Give the job the error of the first unit of its root map that fails. It may end the job."""
    if not job.error:
        job.error = cause[:MAX_REASON_CHARS] if map_.once else f"unit {unit}: {cause[:MAX_REASON_CHARS]}"
        if job.stops_at_failure:
            map_.stop()
            _feeds_no_more(state, job)
        state.job_list.store(job, effects)


def drop_code(effects: Effects, codes: list[bytes]) -> None:
    """Delete this code from the spool."""
    effects.spool += [Write("blob", (code,), None) for code in codes]
