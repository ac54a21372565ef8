"""The course of a job: it waits, it is queued, it may be paused, and it ends.

A map has ended when nothing of it waits or runs; then its driver may go on, or, if it was the job's own, the job ends.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from typing import Any

from msgspec.structs import replace

from park.core.controlling import Controlling
from park.core.jobs import Job, Waiter
from park.core.outcome import Ref, Write
from park.core.reasons import PATIENCE, Reasons, failed_dependency
from park.core.roster import Kernel
from park.core.state import WORDS
from park.core.work import Attempt, Map
from park.errors import InvalidRequest
from park.model import JobState
from park.wire import codec, messages

#: A job whose time is this near is due, seconds: sums of wall clock and monotonic time are not exact.
SOON = 1e-3


class Course(Controlling):
    """The floor above `Controlling`."""

    def explain(self, number: int) -> str:
        """One sentence: why the job waits, its share, and when to expect its next unit; or what ended it."""
        return self.explainer()(number)

    def explainer(self) -> Callable[[int], str]:
        """`explain`, for many jobs at one moment."""
        why, jobs = Reasons(self, self.lending.holding(self._now, PATIENCE)).why, self.list.jobs
        return lambda number: why(jobs[number])

    def _answer_fetch(self, job: Job, w: Waiter) -> None:
        peer, root, request = w.member.peer, job.root, w.request and not job.session
        for start, count in job.results if w.results else ():
            results = messages.Results(start, count, job=job.number, attempt=w.attempt, reply=w.id)
            self._answer(peer, results, Ref("results", (job.number, start)))
        if request:
            self._answer(peer, messages.Blob(job.submit.body, w.id), Ref("blob", (job.submit.body,)))
        if request and root is not None and not job.submit.once:
            for start, count in root.segments.items():
                units = messages.Units(start, count, closed=True, job=job.number, id=w.id)
                self._answer(peer, units, Ref("units", (job.number, start)))
        fields = codec.fields(job.submit) if request else {}
        record = replace(job.record, reason=self.explain(job.number)).as_map()
        self._answer(peer, messages.Fetched(w.id, record, fields, w.attempt, once=job.submit.once))

    def _release_dependents(self) -> None:
        """Look at the jobs that come after those that have ended; a loop, because chains may be long."""
        while self._ended:
            for number in sorted(self.list.dependents.pop(self._ended.popleft(), ())):
                self._release_waiting(self.list.jobs[number])

    def _release_waiting(self, job: Job) -> None:
        """Look at `after` and `when` again: fail it, queue it, or leave it waiting and say why."""
        record = job.facts
        if record.state is not JobState.WAITING or job.ending:
            return
        # whoever has left the memory was complete: else this job would have failed with it
        others = [self.list.jobs[n] for n in record.after if n in self.list.jobs]
        for other in others:
            if other.state in (JobState.FAILED, JobState.ABORTED):
                self._fail(job, failed_dependency(other)[:WORDS])
                return
        if any(not other.ended for other in others):
            return
        if record.when is not None and record.when > self._wall_now + SOON:
            heapq.heappush(self._held, (record.when, job.number))
            return
        self.list.change(job, self._out, state=JobState.QUEUED, reason="")
        self._refresh(job)
        if job.root is not None:
            self._check_map(job.root)

    def _pause(self, job: Job) -> None:
        """Deal nothing more of it; drivers that run are asked to wait at their next safe point."""
        if job.ending:
            raise InvalidRequest(f"job {job.number} is ending: it cannot be paused")
        if job.reserved is not None:
            self._unreserve(job.reserved)
        self.list.change(job, self._out, state=JobState.PAUSED, reason="")
        for number in job.attempts:
            attempt = self.attempts[number]
            if not attempt.parked and not attempt.ahead:
                self._ask(attempt)
        self._refresh(job)

    def _unpause(self, job: Job) -> None:
        """Go on; what never ran looks at its `after` and `when` again."""
        if job.attempts or job.session:
            self.list.change(job, self._out, state=JobState.RUNNING)
        else:
            self.list.change(job, self._out, state=JobState.WAITING)
            self._release_waiting(job)
        self._refresh(job)

    def _refresh(self, job: Job) -> None:
        """Tell the service clock through which doors the job has something to deal."""
        number, clock, now = job.number, self.clock, self._now
        self.touched_jobs.add(number)
        if job.submit.max_time:
            self.times.count(job, now)
        if job.ended:
            return
        dealt = job.dealt
        if job.reserved is not None and not (dealt and job.has_work):
            self._unreserve(job.reserved)
        open_ = dealt and job.reserved is None
        ready = job.next_ready() if open_ else None
        door = None if ready is None else self.door(job, ready)
        if door is not None:
            clock.wake(number, door, now)
            if self.vacancies.full:  # a driver that waits in a full kernel may compute a share
                for map_ in job.maps.values():
                    driver = self.attempts.get(map_.driver)
                    if driver is not None and map_.waiting:
                        self._touched[driver.kernel.number] = driver.kernel
        for here, waiting in job.resumable.items() if open_ else ():
            clock.wake(number, here, now)
            self._touched[here] = waiting[0].kernel
        doors = clock.doors(number)
        if len(doors) > (door is not None):
            for other in [d for d in doors if d is not door]:
                if not open_ or other not in job.resumable:
                    clock.sleep(number, other, now)

    def _unreserve(self, kernel: Kernel) -> None:
        """Its slots are for everybody again."""
        if kernel.reserved:
            job = self.list.jobs[kernel.reserved]
            kernel.reserved, job.reserved = 0, None
            self.vacancies.unreserve(kernel)
            self._touched[kernel.number] = kernel
            if not job.ended:
                self._refresh(job)

    def _ask(self, attempt: Attempt) -> None:
        if attempt.asked is None:
            attempt.asked = self._now
            self._answer(attempt.kernel.peer, messages.Lend(attempt.number))  # after its Run

    def _begin_end(self, job: Job, how: str, reason: str) -> None:
        """Stop, abort, or "fail" (abort, but it has failed): nothing new is dealt, what runs is told."""
        if job.ended or job.ending not in ("", "stop") or job.ending == how:
            return
        if how == "stop" and job.state is JobState.PAUSED:
            self._unpause(job)
            if job.ended:
                return
        job.ending = how
        if reason:
            self.list.change(job, self._out, reason=reason)
        for map_ in list(job.maps.values()):
            if not job.wants(map_):
                map_.closed = True
                map_.drop_pending()
                if how != "stop" and job.session and not map_.driver:
                    self._fail_map(job, map_, reason)
        stop = how == "stop" and not job.session  # of a session that is over, nobody wants anything more
        for number in list(job.attempts):
            attempt = self.attempts[number]
            self._end_attempt(attempt, "stop" if stop else "abort", soft=not attempt.map.root)
        if how != "stop":
            self._end_outrun(n for n in self.outrun if self.attempts[n].map.job == job.number)
        self._feeds_no_more(job)
        self.list.store(job, self._out)
        for map_ in list(job.maps.values()):
            self._check_map(map_)
        self._refresh(job)
        self._check_job(job)

    def _end_attempt(self, attempt: Attempt, how: str, soft: bool = False) -> None:
        """Tell it to "stop" or to "abort", once."""
        if attempt.told in (how, "abort"):
            return
        attempt.told = how
        number = attempt.number
        message = (
            messages.Abort(attempt=number) if how == "abort" else messages.Stop(attempt=number, soft=soft)
        )
        # after the Run, which may wait for the disk
        self._answer(attempt.kernel.peer, message)

    def _end_outrun(self, numbers: Iterable[int]) -> None:
        """These attempts, whose units others have answered, may not go on."""
        for number in list(numbers):
            del self.outrun[number]
            self._end_attempt(self.attempts[number], "abort")

    def _drop_map(self, map_: Map) -> None:
        """A map whose results nobody wants any more. It is forgotten at once: its maker may come back and make it anew."""
        map_.cancelled = map_.closed = True
        map_.drop_pending()
        for number in list(map_.running):
            self._end_attempt(self.attempts[number], "abort")
        if self.maps.get(map_.key) is map_:
            self._forget_map(self._job(map_.job), map_)

    def _check_map(self, map_: Map) -> None:
        """If the map has ended: wake its driver, or end its job."""
        if not map_.ended or map_.running:
            return
        job = self._job(map_.job)
        if self.maps.get(map_.key) is not map_:  # it was dropped before its chunks had ended
            self._check_job(job)
            return
        if job.released or job.ending:
            self._forget_map(job, map_)

    def _forget_map(self, job: Job, map_: Map) -> None:
        del self.maps[map_.key], job.maps[map_.key]
        if dropped := self.codes.leave(map_.function):
            self._drop_code(dropped)
        job.spooled -= sum(map_.sizes.values())
        map_.sizes.clear()
        if not map_.root:
            self._out.spool += [Write("units", map_.key_of(s), None) for s in map_.segments]
        driver = self.attempts.get(map_.driver)
        if driver is not None:
            driver.maps.discard(map_.key)
            if driver.parked and not driver.resumable and not driver.maps:
                job.add_resumable(driver)
                self._touched[driver.kernel.number] = driver.kernel
                self._refresh(job)
        self._check_job(job)

    def _check_job(self, job: Job) -> None:
        """If nothing of the job is left: it ends."""
        if job.ended or job.attempts or job.maps:
            return
        if job.session:
            if job.ending:
                self._end(job, JobState.ABORTED if job.ending == "abort" else JobState.COMPLETE)
            return
        if job.ending == "abort":
            self._end(job, JobState.ABORTED)
        elif job.error:
            self._end(job, JobState.FAILED, self._failure(job))
        elif job.ending == "stop" and job.facts.started is None:
            self._end(job, JobState.ABORTED, "stopped before it started")
        elif job.submit.once and not job.results:
            self._end(job, JobState.ABORTED, "stopped before it had a result")
        else:
            self._end(job, JobState.COMPLETE)

    def _failure(self, job: Job) -> str:
        failed, total = job.failed, job.total
        return f"{job.error} ({failed} of {total} units failed)" if failed > 1 else job.error

    def _end(self, job: Job, state: JobState, reason: str | None = None) -> None:
        job.clock = self.keep_clock
        fields: dict[str, Any] = {"state": state, "ended": self._wall_now}
        if reason is not None:
            fields["reason"] = reason
        elif state is JobState.COMPLETE and not job.ending:
            fields["reason"] = ""
        if job.root is not None and not job.root.once:
            job.total = job.root.total
        self._forget_checkpoints(job)
        tell = (
            self._send if job.controls is None else self._answer
        )  # controls may be on their way, after a commit
        self._forget_controls(job)
        job.runs_since = None
        fields["stopped"] = job.ending == "stop" and state is JobState.COMPLETE and not job.session
        self.list.change(job, self._out, **fields)
        if job.reserved is not None:
            self._unreserve(job.reserved)
        self.recovering.discard(job.number)
        self.clock.remove(job.number, self._now)
        self.vacancies.need_no_more(job.needs)
        self.ledger.end(job.number, job.owner, stored=not job.session)
        job.ready.clear()
        self._out.ended.append(job.number)
        self._ended.append(job.number)
        for kernel in job.kernels.values():
            kernel.jobs.discard(job.number)
            tell(kernel.peer, messages.Release(job.number))
        job.kernels.clear()
        for waiter in job.waiters:
            waiter.member.fetches.pop((waiter.attempt, waiter.id), None)
            self._answer_fetch(job, waiter)
        job.waiters.clear()
        self._feeds_no_more(job)

    def _forget_checkpoints(self, job: Job, units: range | None = None) -> None:
        """Of *units*, which are answered, or of all."""
        for unit in [u for u in job.checkpoints if units is None or u in units]:
            del job.checkpoints[unit]
            self._out.writes.append(Write("checkpoint", (job.number, unit), None))

    def _fail(self, job: Job, error: str) -> None:
        """The job cannot be completed: what runs of it is aborted."""
        job.error = job.error or error
        self._begin_end(job, "fail", "")

    def _fail_unrepeatable(self, job: Job, cause: str) -> None:
        self._fail(job, f"{cause}, and idempotent=False forbids a second run")

    def _fail_map(self, job: Job, map_: Map, reason: str) -> None:
        client = self.roster.client_of(job.client)
        if client is not None:
            text = f"session {job.number} has ended: {reason}"
            self._send(client.peer, messages.MapFailed(map_.key, "JobAborted", text))

    def _feeds_no_more(self, job: Job) -> None:
        """Its client need not bring more inputs, or be there at all."""
        client = self.roster.client_of(job.client)
        if client is not None and (not job.session or job.ended):
            client.open.discard(job.number)

    def _count_done(self, job: Job, map_: Map, units: int, failed: int) -> None:
        if map_.root or job.session:
            job.done += units
            job.failed += failed
            self.list.counted(job)

    def _note_failure(self, job: Job, map_: Map, unit: int, cause: str) -> None:
        """The first unit of a job's own that fails gives it its error, and may end it."""
        if not job.error:
            job.error = cause[:WORDS] if map_.once else f"unit {unit}: {cause[:WORDS]}"
            if job.stops_at_failure:
                map_.closed = True
                map_.drop_pending()
                self._feeds_no_more(job)
            self.list.store(job, self._out)
