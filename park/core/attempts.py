"""What becomes of what was dealt: answers, deaths, drivers that wait and go on, slots that are free again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from msgspec.structs import replace

from park.core.course import Course
from park.core.jobs import Job
from park.core.needs import Kind
from park.core.outcome import Event, Heard, Peer, Publication, Send, Write
from park.core.requests import check_publish
from park.core.roster import Kernel
from park.core.speculation import PATIENCE
from park.core.state import WORDS
from park.core.timing import length
from park.core.work import FIRST_GUESS, KILLS, Attempt, Map, Span
from park.errors import ProtocolError
from park.model import MAX_NOTE, remark_of
from park.wire import messages, pack

#: A kernel is told that its answers are on disk when there are so many of them, or so many bytes.
CONFIRM = 32
CONFIRM_BYTES = 1 << 20
#: It is told which messages of streams were heard after so many seconds, or when there are so many, and of so many
#: attempts in one message at most.
TELL = 0.5
MANY_HEARD = 256
MOST_TOLD = 2 * 1000
#: What became of a unit that was handed back.
LEFT = "its kernel has left while it ran"


class Attempts(Course):
    """The floor above `Course`."""

    def _held_attempt(self, event: Event, number: int) -> Attempt | None:
        """The attempt, if this kernel holds it; an answer for any other is late, and dropped."""
        attempt = self.attempts.get(number)
        if attempt is None or attempt.kernel.peer != event.peer:
            self.duplicates += 1
            return None
        return attempt

    def _is_void(self, attempt: Attempt) -> bool:
        """Whether nobody needs the attempt, which now asks for something: it would wait for ever, and is ended."""
        if attempt.void:
            self._end_attempt(attempt, "abort")
        return attempt.void

    def _finished(self, event: Event, m: messages.Finished) -> None:
        attempt = self._held_attempt(event, m.attempt)
        if attempt is not None and attempt.map.root and not self.room.use(len(event.payload)):
            self.room.wait(m.attempt, event, self._now)
            return
        kernel = self.roster.kernels.get(event.peer)
        if kernel is not None and (attempt is None or attempt.map.root):
            self._note_answer(kernel, m.attempt, len(event.payload))
        if attempt is None:
            return
        if attempt.void:
            self.duplicates += 1
            self._let_go(attempt)
            return
        if m.ended == "broken" and not m.count:
            self._take_back(attempt, LEFT)
            return
        map_, span, job = attempt.map, attempt.span, self._job(attempt.map.job)
        if attempt.twin is not None and m.count < len(span):
            self._retire(job, attempt, lost=True)  # the other attempt at these units counts
            self._refresh(job)
            return
        if not _answers(m, span, event.payload):
            self._blame(job, attempt, "its kernel answered other units than it was given", "")
            return
        if m.ended == "abort" and attempt.told != "abort" and job.wants(map_):
            self._blame(job, attempt, "it raised park.Abort, though nobody had aborted it", "")
            return
        if attempt.twin is not None:
            self._settle_twin(attempt)
        most = self._now - attempt.since + attempt.slack
        self._retire(job, attempt, min(max(m.seconds, 0.0), most), m.count)
        if m.count:
            self.estimates.weigh(job.owner, map_.function, m.count, len(event.payload))
        map_.answered(m.count)
        if m.count and not map_.cancelled:
            self._deliver(job, map_, m.start, m.count, event.payload)
            self._count_done(job, map_, m.count, m.failed)
            if m.remark:  # on disk with the result, and before the job ends
                self.list.change(job, self._out, remark=remark_of(m.remark))
        if m.failed and map_.root:
            self._note_failure(job, map_, m.unit, m.cause)
        if m.count < len(span):
            rest = Span(span.start + m.count, span.stop, span.segment)
            if job.wants(map_) and (job.submit.idempotent or m.ended != "broken"):
                map_.give_back(rest)
                job.list_ready(map_)
            else:
                map_.answered(len(rest))
                if job.wants(map_):
                    self._fail_unrepeatable(job, LEFT)
        self._drop_spent(map_, span.segment)
        self._refresh(job)
        self._check_map(map_)

    def _drop_spent(self, map_: Map, segment: int) -> None:
        """A session's map may be endless: units of which nothing waits or runs are not kept."""
        known = map_.session and self.maps.get(map_.key) is map_
        if known and map_.drop_spent(segment, (self.attempts[n] for n in map_.running)):
            self._job(map_.job).spooled -= map_.sizes.pop(segment)
            self._out.spool.append(Write("units", map_.key_of(segment), None))

    def _note_answer(self, kernel: Kernel, attempt: int, size: int) -> None:
        """The kernel need not keep this answer once it is on disk, or if it is late; it is told so of several at once."""
        kernel.confirm.append(attempt)
        kernel.confirm_bytes += size
        full = len(kernel.confirm) >= CONFIRM or kernel.confirm_bytes >= CONFIRM_BYTES
        if full or kernel.draining or self._now >= kernel.confirmed + self.roster.heartbeat / 2:
            self._confirm(kernel)

    def _confirm(self, kernel: Kernel) -> None:
        """Tell the kernel which answers are on disk when this turn is."""
        if kernel.confirm:
            self._answer(kernel.peer, messages.Committed(kernel.confirm))
            kernel.confirm, kernel.confirm_bytes, kernel.confirmed = [], 0, self._now

    def _publish(self, event: Event, m: messages.Publish) -> None:
        kernel = self.roster.kernels.get(event.peer)
        if kernel is None:
            return
        job = self._said_by(kernel, m)
        if job is None:  # nobody wants it
            if m.number:
                if m.attempt not in self.attempts and m.attempt not in kernel.marks:
                    # first: what goes on without its first messages must not be taken in by a later life
                    self._answer(event.peer, messages.Abort(attempt=m.attempt))
                self._out.sends_after_commit += self.heard([(event.peer, m.attempt, m.number)])
            return
        kind = m.kind
        try:
            check_publish(m, len(event.payload))
        except ProtocolError:
            kind = ""
        if m.control and not self._blame_control(job, m.control):
            kind = ""
        if m.kind == "progress" and m.done is not None and m.total is not None:
            job.progress = (m.done, m.total)
            job.units, job.note = remark_of(m.units, MAX_NOTE), remark_of(m.note, MAX_NOTE)
            self.list.counted(job)
        if not (kind or m.number):
            return
        self._out.publications.append(
            Publication(job.number, kind, event.payload, m.header, m.attempt, m.number, event.peer)
        )

    def _said_by(self, kernel: Kernel, m: messages.Publish) -> Job | None:
        """The job whose message it is, if anybody wants that.

        An attempt of an earlier life may have been answered then, and its last messages come now; one that may be taken in
        has no map yet. Their messages are the job's if the kernel serves its owner.
        """
        attempt = self.attempts.get(m.attempt)
        if attempt is not None:
            mine = not attempt.void and attempt.kernel is kernel
            return self._job(attempt.map.job) if mine else None
        other = m.attempt < self.epoch << 32 or m.attempt in self.orphans
        job = self.list.jobs.get(m.job) if other else None
        profile = kernel.profile
        if job is None or job.ended or job.session or (profile.only and profile.owner != job.owner):
            return None
        return job

    def heard(self, of: Iterable[Heard], count: int = 1) -> list[Send]:
        """These messages, about *count* of them, are on disk, or nobody wants them: what their kernels are told now."""
        for peer, attempt, number in of:
            kernel = self.roster.kernels.get(peer)
            if kernel is not None:
                kernel.marks[attempt] = max(number, kernel.marks.get(attempt, 0))
                kernel.untold += count
                self.hears.setdefault(peer, kernel.told + TELL)
                if kernel.untold >= MANY_HEARD:  # it may hold up a body that says much
                    self.hears[peer] = self._now
        due = [peer for peer, at in self.hears.items() if self._now >= at]
        return [Send(peer, message) for peer in due for message in self._tell(peer)]

    def _tell(self, peer: Peer) -> Iterator[messages.Committed]:
        """What this kernel was not told of messages that were heard."""
        del self.hears[peer]
        kernel = self.roster.kernels.get(peer)
        if kernel is not None:
            flat = [part for mark in kernel.marks.items() for part in mark]
            kernel.marks.clear()
            kernel.told, kernel.untold = self._now, 0
            for n in range(0, len(flat), MOST_TOLD):
                yield messages.Committed([], flat[n : n + MOST_TOLD])

    def _deliver(self, job: Job, map_: Map, start: int, count: int, payload: bytes | memoryview) -> None:
        """Results of a map go to the store, to the driver or to the session's client."""
        if map_.root:
            job.results.append((start, count))
            self.list.grow(job, len(payload))
            self._out.writes.append(Write("results", (job.number, start), payload))
            if not job.submit.idempotent:
                self._out.writes.append(Write("attempt", (job.number, start), None))
            if job.checkpoints:
                self._forget_checkpoints(job, range(start, start + count))
            return
        results = messages.Results(start, count, map=map_.key, job=job.number, attempt=map_.driver)
        driver = self.attempts.get(map_.driver)
        if driver is not None:
            self._send(driver.kernel.peer, results, payload)
            self._last_results[driver.number] = (self._out.sends, len(self._out.sends) - 1)
        elif not map_.driver:
            client = self.roster.client_of(job.client)
            if client is not None:
                self._send(client.peer, results, payload)

    def _crashed(self, event: Event, m: messages.Crashed) -> None:
        held = [a for n in m.attempts if (a := self._held_attempt(event, n)) is not None]
        for attempt in reversed(held):  # the culprit first, while somebody still wants its units
            if self.attempts.get(attempt.number) is not attempt:
                continue
            culprit = attempt.number == m.attempts[-1] and not attempt.void
            if culprit and (job := self._job(attempt.map.job)).wants(attempt.map):
                if m.late:
                    self._too_late(job, attempt)
                else:
                    self._blame(job, attempt, m.cause[:WORDS], m.stderr)
            else:
                self._take_back(attempt, "its process died")

    def _blame(self, job: Job, attempt: Attempt, cause: str, stderr: str) -> None:
        """The attempt's process died: run its units again one at a time; one that kills too often fails."""
        map_, span, twin = attempt.map, attempt.span, attempt.twin
        self._retire(job, attempt)
        map_.apart = True
        job.killers.add(map_.function)
        if twin is not None:  # it is still at these units
            self._refresh(job)
            return
        unit = span.start
        for suspect in range(span.start, span.stop):
            map_.kills[suspect] = map_.kills.get(suspect, 0) + 1
        if len(span) == 1 and (map_.kills[unit] >= KILLS or not job.submit.idempotent):
            self._fail_unit(job, map_, unit, cause, stderr)
        elif job.submit.idempotent:
            map_.give_back(span, singly=True)
            job.list_ready(map_)
        else:
            map_.answered(len(span))
            self._fail_unrepeatable(job, cause)
        self._drop_spent(map_, span.segment)
        self._refresh(job)
        self._check_map(map_)

    def _too_late(self, job: Job, attempt: Attempt) -> None:
        """A unit of it ran longer than its limit. That one fails; of several, each runs again by itself, to see which."""
        map_, span, twin = attempt.map, attempt.span, attempt.twin
        self._retire(job, attempt)
        if twin is not None:  # it is still at these units
            self._refresh(job)
            return
        if len(span) == 1:
            limit = length(job.submit.max_unit_time)
            self._fail_unit(job, map_, span.start, f"ran longer than its limit of {limit}", "")
        else:
            map_.give_back(span, singly=True)
            job.list_ready(map_)
        self._drop_spent(map_, span.segment)
        self._refresh(job)
        self._check_map(map_)

    def _fail_unit(self, job: Job, map_: Map, unit: int, cause: str, stderr: str) -> None:
        """The unit is answered with an error."""
        entry = pack.error_entry(cause, stderr, None if map_.once else unit)
        map_.answered(1)
        self._deliver(job, map_, unit, 1, pack.pack_entries([entry]))
        self._count_done(job, map_, 1, 1)
        if map_.root:
            self._note_failure(job, map_, unit, cause)

    def _park(self, job: Job, attempt: Attempt) -> None:
        """The driver waits, in a map or at a safe point: its slot goes back to the fabric."""
        if attempt.parked:  # the answers of its last map were lost, or nobody knew that they had come
            job.drop_resumable(attempt)
            attempt.lent = False
            return
        self._account(job, attempt, 0.0 if attempt.ahead else self._now - attempt.since)
        self._vacate(attempt)
        attempt.parked = attempt.driver = True
        self.estimates.begin_anew(job.owner, attempt.map.function)
        kernel = attempt.kernel
        kernel.parked.add(attempt.number)
        self.vacancies.changed(kernel)
        self._count_running(attempt, 0 if attempt.ahead else -1)
        kernel.ahead.pop(attempt.number, None)  # the kernel began with it before the slot was seen to be free
        attempt.ahead = False
        self._begin_next(kernel)

    def _lent(self, event: Event, m: messages.Lent) -> None:
        """A driver waits at its safe point, until its job is due again."""
        attempt = self._held_attempt(event, m.attempt)
        if attempt is None:
            self._send(event.peer, messages.Abort(attempt=m.attempt))
            return
        if self._is_void(attempt) or (attempt.parked and attempt.lent and attempt.resumable):
            return
        job = self._job(attempt.map.job)
        for key in list(attempt.maps):
            self._drop_map(self.maps[key])  # it has gone on since it made them
        if self.attempts.get(attempt.number) is not attempt:
            return
        self._settle_twin(attempt)
        self._park(job, attempt)
        attempt.lent, attempt.asked = True, None
        job.drop_resumable(attempt)
        job.add_resumable(attempt)
        self._refresh(job)

    def _resume(self, attempt: Attempt) -> None:
        job = self._job(attempt.map.job)
        job.drop_resumable(attempt)
        attempt.parked = attempt.lent = False
        attempt.since, attempt.asked = self._now, None
        attempt.kernel.parked.discard(attempt.number)
        self._occupy(attempt)
        estimate = self.estimates.get(attempt.map.owner, attempt.map.function)
        attempt.charged = (
            min(self.clock.quantum, FIRST_GUESS if estimate is None else estimate) * attempt.cpus
        )
        attempt.rates = self.clock.serve(job.number, job.doors[Kind.DRIVER], attempt.charged, self._now)
        attempt.weight = self._weight(job)
        attempt.price = self._price(attempt.weight)
        last = self._last_results.get(attempt.number)
        if last is not None and last[0] is self._out.sends:
            send = last[0][last[1]]
            assert isinstance(send.message, messages.Results)
            last[0][last[1]] = replace(send, message=replace(send.message, resume=True))
        else:
            self._send(attempt.kernel.peer, messages.Resume(attempt.number))
        self._count_running(attempt, +1)
        self._refresh(job)

    def _retire(
        self, job: Job, attempt: Attempt, seconds: float | None = None, units: int = 0, lost: bool = False
    ) -> None:
        """The attempt is over: its slot is free, and its time is charged, unless the fabric has *lost* its work."""
        held = 0.0 if attempt.parked or attempt.ahead else self._now - attempt.since
        if lost or attempt.map.lost:
            self._refund(job, attempt)
            self._lose_below(attempt)
        else:
            self._account(job, attempt, held if attempt.driver or seconds is None else seconds)
        if seconds is not None and units and not attempt.driver:
            self.estimates.learn(job.owner, attempt.map.function, units, seconds)
        else:
            self.estimates.begin_anew(job.owner, attempt.map.function)
        del self.attempts[attempt.number]
        job.attempts.discard(attempt.number)
        if attempt.resumable:
            job.drop_resumable(attempt)
        attempt.map.running.discard(attempt.number)
        if attempt.twin is not None:
            self._part(attempt)
        kernel = attempt.kernel
        kernel.parked.discard(attempt.number)
        kernel.ahead.pop(attempt.number, None)
        self._vacate(attempt)
        kernel.last = job.number
        for key in list(attempt.maps):
            self._drop_map(self.maps[key])
        self._count_running(attempt, 0 if attempt.parked or attempt.ahead else -1)
        if kernel.ahead:
            self._begin_next(kernel)

    def _take_back(self, attempt: Attempt, why_lost: str) -> None:
        """The fabric lost the attempt: its units wait again, unless nobody wants them."""
        if attempt.void:
            self._let_go(attempt)
            return
        job, map_, twin = self._job(attempt.map.job), attempt.map, attempt.twin
        self._retire(job, attempt, lost=True)
        if twin is not None:
            pass  # the other attempt at these units counts
        elif not job.wants(map_):
            map_.answered(len(attempt.span))
        elif job.submit.idempotent:
            map_.give_back(attempt.span)
            job.list_ready(map_)
        else:
            map_.answered(len(attempt.span))
            self._fail_unrepeatable(job, why_lost)
        self._refresh(job)
        self._check_map(map_)

    def _lose_below(self, attempt: Attempt) -> None:
        """What runs in the attempt's maps is lost with it: what it has cost was refunded, and more will be."""
        for key in attempt.maps:
            map_ = self.maps[key]
            map_.lost = True
            for number in map_.running:
                inner = self.attempts[number]
                inner.used = inner.used_below = inner.use_below = 0.0
                inner.paid = inner.paid_below = 0
                self._lose_below(inner)

    def _occupy(self, attempt: Attempt) -> None:
        """The attempt has its slots."""
        kernel = attempt.kernel
        kernel.running.add(attempt.number)
        kernel.occupy(attempt.cpus, attempt.memory)
        self.vacancies.changed(kernel)
        self.lending.begin(attempt)

    def _vacate(self, attempt: Attempt) -> None:
        """Its slots are free, if it had them."""
        kernel = attempt.kernel
        self._touched[kernel.number] = kernel
        if attempt.number in kernel.running:
            kernel.running.discard(attempt.number)
            kernel.occupy(-attempt.cpus, -attempt.memory)
            self.lending.end(attempt)
            self.list.counted_kernel(kernel)
        self.vacancies.changed(kernel)

    def _begin_next(self, kernel: Kernel) -> None:
        """A slot is free: the kernel begins with what was dealt ahead, as its `Lifecycle` does by itself."""
        while kernel.ahead and kernel.free > 0:
            attempt = self.attempts[next(iter(kernel.ahead))]
            del kernel.ahead[attempt.number]
            attempt.ahead = False
            attempt.since = self._now
            self._occupy(attempt)
            if not attempt.void:
                self._count_running(attempt, +1)

    def _settle_twin(self, attempt: Attempt) -> None:
        """It is the one that counts. The other attempt at the same units may go on until it is at the end of one."""
        twin = self._part(attempt)
        if twin is None:
            return
        job = self._job(attempt.map.job)
        twin.void = True
        self.outrun[twin.number] = self._now + PATIENCE
        self.lending.end(twin)
        self._end_attempt(twin, "stop")
        self._refund(job, twin)
        self._count_running(twin, 0 if twin.parked or twin.ahead else -1)
        job.attempts.discard(twin.number)
        attempt.map.running.discard(twin.number)

    def _part(self, attempt: Attempt) -> Attempt | None:
        """From now on the attempt and its twin, which is returned, have nothing to do with each other."""
        twin, attempt.twin = attempt.twin, None
        if twin is not None:
            twin.twin = None
        return twin

    def _let_go(self, attempt: Attempt) -> None:
        """An attempt that nobody needed is over: all that it had was its slot."""
        del self.attempts[attempt.number]
        self.outrun.pop(attempt.number, None)
        self._vacate(attempt)
        attempt.kernel.ahead.pop(attempt.number, None)
        self.vacancies.changed(attempt.kernel)
        self._begin_next(attempt.kernel)


def _answers(m: messages.Finished, span: Span, payload: bytes | memoryview) -> bool:
    """Whether the message answers units that were asked: the first ones of *span*."""
    try:
        count = pack.count(payload)
    except ProtocolError:
        return False
    return m.start == span.start and 0 <= m.failed <= m.count == count <= len(span)
