"""The dispatcher: a pure state machine that decides what happens to every job.

`Dispatcher.handle(event, now)` takes a decoded message with its sender, or a `Tick`, and returns an
`Outcome`: records to write, changes of the public table, messages to send at once, and messages to
send when the records are on disk. It has no socket, clock, file or thread, and it opens no payload.

How a job moves: Submit makes it waiting or queued. A free slot goes to the job that the service clock
picks, and there to a driver whose map has ended, else to the next units of its deepest map. A driver
that sends a Map gives its slot back until that map has ended. When the last unit of the root map is
answered the job ends.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from park.core.fairshare import ServiceClock
from park.core.jobs import Job, JobList, Waiter
from park.core.outcome import Event, Outcome, Peer, Publication, Ref, Send, Tick, Write
from park.core.roster import Client, Kernel, Roster
from park.core.work import KILLS, Attempt, Estimates, Map, Span, chunk_size
from park.errors import InvalidRequest, ParkError, ProtocolError, Refused, UnknownJob
from park.model import Delta, JobRecord, JobState
from park.wire import codec, messages, pack
from park.wire.messages import Message, Submit

#: Estimate for the first unit of unknown code, slot-seconds.
FIRST_GUESS = 0.01


class Dispatcher:
    """See the module. *epoch* counts the lives of the broker; *heartbeat* and *lease* are in seconds."""

    def __init__(
        self, store: str = "", epoch: int = 1, heartbeat: float = 2.0, lease: float = 20.0, next_job: int = 1
    ) -> None:
        self.store = store
        self.epoch = epoch
        self.roster = Roster(heartbeat, lease)
        self.list = JobList(next_job)
        self.clock = ServiceClock()
        self.estimates = Estimates()
        self.attempts: dict[int, Attempt] = {}
        self.maps: dict[bytes, Map] = {}
        self.blobs: set[bytes] = set()
        #: answers that came too late or twice
        self.duplicates = 0
        self._next_attempt = epoch << 32
        self._next_map = 0
        self._held: dict[float, set[int]] = {}
        self._wall = 0.0
        self._last_results: dict[int, tuple[list[Send], int]] = {}
        self._out = Outcome()
        self._now = 0.0

    # -- the door ------------------------------------------------------------------------------

    def handle(self, event: Event | Tick, now: float) -> Outcome:
        """What follows from *event* at monotonic time *now*, seconds."""
        self._out = out = Outcome()
        self._now = now
        self._last_results.clear()
        if isinstance(event, Tick):
            self._tick(event)
        else:
            self._receive(event)
        self._deal()
        self.list.flush(now, out)
        return out

    def next_deadline(self) -> float | None:
        """When a Tick may next lead to something; None: not before a message comes."""
        wall = min(self._held, default=None)
        times = [
            self.roster.next_deadline(),
            self.list.next_deadline(),
            None if wall is None else self._now + max(0.0, wall - self._wall_now),
        ]
        return min((t for t in times if t is not None), default=None)

    @property
    def _wall_now(self) -> float:
        return self._now + self._wall

    def _tick(self, tick: Tick) -> None:
        self._wall = tick.wall - self._now
        for wall in [w for w in self._held if w <= tick.wall]:
            for number in self._held.pop(wall):
                self._release_waiting(self.list.jobs[number])
        silent, due = self.roster.look(self._now)
        for member in silent:
            if isinstance(member, Kernel):
                self._lose_kernel(member)
            else:
                self._lose_client(member, "its client was lost")
        for member in due:
            self._send(member.peer, messages.Heartbeat(self.epoch))

    def _receive(self, event: Event) -> None:
        message = event.message
        if not self.roster.heard(event.peer, self._now) and not isinstance(
            message, messages.Hello | messages.KernelHello
        ):
            if not isinstance(message, messages.Goodbye):
                self._send(event.peer, messages.Unwelcome(self.epoch))
            return
        handler = self._HANDLERS.get(type(message))
        try:
            if handler is None:
                raise ProtocolError(f"a broker takes no {type(message).__name__}")
            handler(self, event, message)
        except ParkError as error:
            reply = getattr(message, "id", 0)
            if reply:
                failure = messages.Failure(
                    reply, type(error).__name__, str(error), attempt=getattr(message, "attempt", 0)
                )
                self._send(event.peer, failure)

    def _send(self, peer: Peer, message: Message, payload: bytes | memoryview | Ref = b"") -> None:
        self.roster.said(peer, self._now)
        self._out.sends.append(Send(peer, message, payload))

    def _answer(self, peer: Peer, message: Message, payload: bytes | memoryview | Ref = b"") -> None:
        """An acknowledgement: only when the turn's records are on disk."""
        self.roster.said(peer, self._now)
        self._out.sends_after_commit.append(Send(peer, message, payload))

    # -- who is there --------------------------------------------------------------------------

    def _hello(self, event: Event, m: messages.Hello) -> None:
        client = self.roster.client_of(m.incarnation)
        if client is None:
            client = Client(event.peer, m.incarnation, m.user, m.python, self._now, self._now)
            fresh = True
        else:
            del self.roster.clients[client.peer]
            client.peer = event.peer
            fresh = False
        client.heard = self._now
        self.roster.join_client(client)
        self._welcome(event.peer, fresh, m.id)

    def _kernel_hello(self, event: Event, m: messages.KernelHello) -> None:
        if m.slots < 1:
            raise ProtocolError("a kernel needs at least one slot")
        kernel = self.roster.kernel_of(m.incarnation)
        fresh = kernel is None
        if kernel is None:
            kernel = self.roster.join_kernel(
                event.peer, m.incarnation, m.user, m.host, m.pid, m.slots, m.python, self._now
            )
            self._out.deltas.append(Delta("kernel", kernel.number, kernel.record().as_map()))
        else:
            self.roster.move_kernel(kernel, event.peer)
            kernel.heard = self._now
        self._welcome(event.peer, fresh, 0)
        held = set(m.attempts)
        for number in kernel.running | kernel.parked:
            if number not in held:
                self._take_back(self.attempts[number])
        for number in held - kernel.running - kernel.parked:
            self._send(event.peer, messages.Abort(attempt=number))

    def _welcome(self, peer: Peer, fresh: bool, reply: int) -> None:
        r = self.roster
        self._send(peer, messages.Welcome(self.store, self.epoch, r.heartbeat, r.lease, fresh, reply))

    def _heartbeat(self, event: Event, m: messages.Heartbeat) -> None:
        """`Roster.heard` has seen it."""

    def _goodbye(self, event: Event, m: messages.Goodbye) -> None:
        if event.peer in self.roster.kernels:
            self._lose_kernel(self.roster.kernels[event.peer])
        else:
            self._lose_client(self.roster.clients[event.peer], m.reason or "its client has left")

    def _lose_client(self, client: Client, why: str) -> None:
        del self.roster.clients[client.peer]
        self._out.gone.append(client.peer)
        for job in self.list.jobs.values():
            job.waiters = [w for w in job.waiters if w.peer != client.peer]
        for number in list(client.sessions):
            job = self.list.jobs[number]
            if not job.ended:
                self._begin_end(job, "abort", why)

    def _lose_kernel(self, kernel: Kernel) -> None:
        for number in sorted(kernel.running | kernel.parked):
            attempt = self.attempts.get(number)
            if attempt is not None:
                self._take_back(attempt)
        del self.roster.kernels[kernel.peer]
        self.list.forget_kernel(kernel.number, self._out)

    # -- requests ------------------------------------------------------------------------------

    def _client(self, event: Event) -> Client:
        client = self.roster.clients.get(event.peer)
        if client is None:
            raise ProtocolError("this message is a client's")
        return client

    def _job(self, number: int) -> Job:
        job = self.list.jobs.get(number)
        if job is None:
            raise UnknownJob(f"job {number} is unknown")
        return job

    def _active(self, number: int) -> Job:
        job = self._job(number)
        if job.ended:
            raise UnknownJob(f"job {number} has ended: it is {job.state}")
        return job

    def _blob(self, event: Event, m: messages.Blob) -> None:
        if m.hash not in self.blobs:
            self.blobs.add(m.hash)
            self._out.spool.append(Write("blob", (m.hash,), event.payload))
        kernel = self.roster.kernels.get(event.peer)
        if kernel is not None:
            kernel.known.add(m.hash)

    def _submit(self, event: Event, m: Submit) -> None:
        client = self._client(event)
        known = self.list.by_key.get(m.key)
        if known is not None:
            root = self.list.jobs[known].root
            received = root.total if root is not None else 0
            self._answer(event.peer, messages.Accepted(m.id, known, existed=True, received=received))
            return
        if not -3 <= m.priority <= 6:
            raise InvalidRequest(f"priority {m.priority} is not between -3 and 6")
        if m.when is not None and not math.isfinite(m.when):
            raise InvalidRequest(f"when={m.when} is not a time")
        if len(m.key) != 16 or m.count < 0:
            raise ProtocolError("a request key has 16 bytes, and a count is not negative")
        if not m.session and m.body not in self.blobs:
            raise ProtocolError("the code of the body did not arrive before the request")
        for other in m.after:
            self._job(other)
        job = self._new_job(m, client)
        self._answer(event.peer, messages.Accepted(m.id, job.number, received=m.count))
        if m.session:
            client.sessions.add(job.number)
            self.list.change(job, self._out, state=JobState.RUNNING, started=self._wall_now)
            return
        writes = self._out.writes
        writes.append(Write("submit", (job.number,), codec.pack(codec.fields(m))))
        writes.append(Write("blob", (m.body,), Ref("blob", (m.body,))))
        root = self._root_map(job)
        if m.once:
            root.add(0, 1)
        elif m.count:
            self._add_units(root, 0, m.count, event.payload)
        self._release_waiting(job)

    def _new_job(self, m: Submit, client: Client) -> Job:
        record = JobRecord(
            job=self.list.new_number(self._out),
            owner=client.user,
            name=m.name,
            kind="session" if m.session else m.kind,
            tags=tuple(m.tags),
            priority=m.priority,
            state=JobState.QUEUED if m.session else JobState.WAITING,
            total=m.count if m.closed and not m.once and not m.session else None,
            after=tuple(m.after),
            when=m.when,
            submitted=self._wall_now,
            python=m.python,
            epoch=self.epoch,
        )
        job = Job(record, m, client.incarnation)
        self.list.add(job, self._out)
        self.clock.add(job.number, record.owner, record.priority)
        return job

    def _root_map(self, job: Job) -> Map:
        m = job.submit
        root = Map(m.key, job.number, job.owner, m.body, m.seed, 0, root=True, once=m.once, closed=m.closed)
        job.root = self.maps[root.key] = job.maps[root.key] = root
        return root

    def _add_units(self, map_: Map, start: int, count: int, payload: bytes | memoryview) -> None:
        if start != map_.total or pack.count(payload) != count:
            raise ProtocolError(f"units {start} to {start + count} do not follow unit {map_.total}")
        map_.add(start, count)
        write = Write("units", map_.key_of(start), payload)
        (self._out.writes if map_.root else self._out.spool).append(write)

    def _units(self, event: Event, m: messages.Units) -> None:
        if m.job:
            job = self._active(m.job)
            map_ = job.root
        else:
            map_ = self.maps.get(m.map)
            if map_ is None:
                return  # it was cancelled
            job = self._job(map_.job)
        if map_ is None or map_.closed or job.client != self._client(event).incarnation:
            raise ProtocolError("no map of this client takes more units")
        if m.start < map_.total:  # sent again after a lost acknowledgement
            if m.id:
                self._answer(event.peer, messages.Done(m.id))
            return
        if m.count:
            self._add_units(map_, m.start, m.count, event.payload)
            if job.ending:
                map_.drop_pending()
        map_.closed = m.closed
        if map_.root:
            job.total = map_.total
            self.list.counted(job)
        if m.id:
            self._answer(event.peer, messages.Done(m.id))
        self._refresh(job)
        self._check_map(map_)

    def _map(self, event: Event, m: messages.Map) -> None:
        if m.map in self.maps:
            return
        attempt: Attempt | None = None
        if event.peer in self.roster.kernels:
            attempt = self.attempts.get(m.attempt)
            if attempt is None or attempt.kernel.peer != event.peer or attempt.parked:
                return  # its lease ran out, or its job has ended: an Abort is on its way
            job = self._job(attempt.map.job)
        else:
            job = self._job(m.job)
            if not job.session or job.client != self._client(event).incarnation:
                raise ProtocolError(f"job {m.job} is no session of this client")
        if m.function not in self.blobs or len(m.map) != 16:
            raise ProtocolError("the code of the function did not arrive before the map")
        if attempt is None and (job.ended or job.ending):
            text = f"session {job.number} has ended" + (f": {job.facts.reason}" if job.facts.reason else "")
            self._send(event.peer, messages.MapFailed(m.map, "JobAborted", text))
            return
        self._next_map += 1
        map_ = Map(
            m.map,
            job.number,
            job.owner,
            m.function,
            m.seed,
            self._next_map,
            depth=attempt.map.depth + 1 if attempt is not None else 0,
            driver=attempt.number if attempt is not None else 0,
            closed=m.closed,
        )
        self._add_units(map_, 0, m.count, event.payload)
        self.maps[map_.key] = job.maps[map_.key] = map_
        if attempt is not None:
            attempt.maps.add(map_.key)
            self._park(attempt)
        self._refresh(job)
        self._check_map(map_)

    def _cancel(self, event: Event, m: messages.Cancel) -> None:
        map_ = self.maps.get(m.map)
        if map_ is None or self._job(map_.job).client != self._client(event).incarnation:
            return
        map_.cancelled = map_.closed = True
        map_.drop_pending()
        for number in map_.running:
            self._end_attempt(self.attempts[number], "abort")
        self._check_map(map_)
        self._refresh(self._job(map_.job))

    def _stop(self, event: Event, m: messages.Stop) -> None:
        self._begin_end(self._active(m.job), "stop", "stopped by its owner")
        self._answer(event.peer, messages.Done(m.id))

    def _abort(self, event: Event, m: messages.Abort) -> None:
        self._begin_end(self._active(m.job), "abort", "aborted by its owner")
        self._answer(event.peer, messages.Done(m.id))

    def _close(self, event: Event, m: messages.Close) -> None:
        job = self._active(m.job)
        if not job.session or job.client != self._client(event).incarnation:
            raise ProtocolError(f"job {m.job} is no session of this client")
        self._begin_end(job, "abort" if m.reason else "stop", m.reason)
        self._answer(event.peer, messages.Done(m.id))

    def _fetch(self, event: Event, m: messages.Fetch) -> None:
        job = self._job(m.job)
        waiter = Waiter(event.peer, m.id, m.attempt, m.request)
        if m.wait and not job.ended:
            job.waiters.append(waiter)
        else:
            self._answer_fetch(job, waiter)

    def _forget(self, event: Event, m: messages.Forget) -> None:
        for job in self.list.jobs.values():
            job.waiters = [w for w in job.waiters if (w.peer, w.id) != (event.peer, m.id)]

    def _answer_fetch(self, job: Job, w: Waiter) -> None:
        for start, count in job.results:
            results = messages.Results(start, count, job=job.number, attempt=w.attempt, reply=w.id)
            self._answer(w.peer, results, Ref("results", (job.number, start)))
        if w.request:
            self._answer(w.peer, messages.Blob(job.submit.body, w.id), Ref("blob", (job.submit.body,)))
            if job.root is not None:
                for start, stop in zip(
                    job.root.segments, [*job.root.segments[1:], job.root.total], strict=True
                ):
                    units = messages.Units(start, stop - start, closed=True, job=job.number, id=w.id)
                    self._answer(w.peer, units, Ref("units", (job.number, start)))
        fields = codec.fields(job.submit) if w.request else {}
        record = replace(job.record, reason=self.explain(job.number)).as_map()
        self._answer(w.peer, messages.Fetched(w.id, record, fields, w.attempt, once=job.submit.once))

    def _status(self, event: Event, m: messages.Status) -> None:
        if m.job:
            jobs = [self._job(m.job)]
        else:
            jobs = [j for j in self.list.jobs.values() if m.owner in ("*", j.owner)]
        records = [replace(j.record, reason=self.explain(j.number)).as_map() for j in jobs]
        self._answer(event.peer, messages.Records(m.id), codec.pack(records))

    # -- kernels' answers ----------------------------------------------------------------------

    def _held_attempt(self, event: Event, number: int) -> Attempt | None:
        """The attempt, if this kernel holds it; an answer for any other is late, and dropped."""
        attempt = self.attempts.get(number)
        if attempt is None or attempt.kernel.peer != event.peer:
            self.duplicates += 1
            return None
        return attempt

    def _finished(self, event: Event, m: messages.Finished) -> None:
        attempt = self._held_attempt(event, m.attempt)
        if attempt is None:
            return
        map_, span, job = attempt.map, attempt.span, self._job(attempt.map.job)
        if not (m.start == span.start and 0 <= m.count <= len(span) and pack.count(event.payload) == m.count):
            raise ProtocolError(f"attempt {m.attempt} answers units that it was not given")
        self._retire(attempt, m.seconds, m.count)
        map_.answered(m.count)
        if m.count:
            self._deliver(job, map_, m.start, m.count, event.payload)
        if map_.root and m.failed and not job.error:
            job.error = m.cause if map_.once else f"unit {m.unit}: {m.cause}"
        if map_.root or job.session:
            job.done += m.count
            job.failed += m.failed
            self.list.counted(job)
        stop = bool(map_.root and m.failed and job.submit.on_error == "stop")
        if stop:
            map_.closed = True
            map_.drop_pending()
        rest = Span(span.start + m.count, span.stop, span.segment)
        if len(rest):
            if map_.cancelled or job.ending or stop:
                map_.answered(len(rest))
            else:
                map_.give_back(rest)
        self._refresh(job)
        self._check_map(map_)

    def _deliver(self, job: Job, map_: Map, start: int, count: int, payload: bytes | memoryview) -> None:
        """Results of a map go to the store, to the driver or to the session's client."""
        if map_.root:
            job.results.append((start, count))
            self._out.writes.append(Write("results", (job.number, start), payload))
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
        for attempt in held:
            culprit = attempt.number == m.attempts[-1]
            job = self._job(attempt.map.job)
            if not culprit or job.ending or attempt.map.cancelled:
                self._take_back(attempt)
            else:
                self._blame(job, attempt, m.cause, m.stderr)

    def _blame(self, job: Job, attempt: Attempt, cause: str, stderr: str) -> None:
        """The attempt's process died: run its units again one at a time; one that kills too often fails."""
        map_, span = attempt.map, attempt.span
        self._retire(attempt, None, 0)
        unit = span.start
        map_.kills[unit] = map_.kills.get(unit, 0) + (len(span) == 1)
        if len(span) == 1 and (map_.kills[unit] >= KILLS or not job.submit.idempotent):
            where = None if map_.once else unit
            entry = pack.error_entry(cause, stderr, where)
            map_.answered(1)
            self._deliver(job, map_, unit, 1, pack.pack_entries([entry]))
            if map_.root:
                job.error = job.error or (cause if map_.once else f"unit {unit}: {cause}")
                job.done += 1
                job.failed += 1
                self.list.counted(job)
        elif job.submit.idempotent:
            map_.give_back(span, singly=True)
        else:
            self._fail_unrepeatable(job, cause)
            return
        self._refresh(job)
        self._check_map(map_)

    def _publish(self, event: Event, m: messages.Publish) -> None:
        attempt = self.attempts.get(m.attempt)
        if attempt is None or attempt.kernel.peer != event.peer:
            return
        job = self._job(attempt.map.job)
        if m.kind == "progress" and m.done is not None and m.total is not None:
            job.progress = (m.done, m.total)
            self.list.counted(job)
        self._out.publications.append(Publication(job.number, m.kind, event.payload, m.header))

    # -- attempts ------------------------------------------------------------------------------

    def _park(self, attempt: Attempt) -> None:
        """The driver waits in a map: its slot goes back to the fabric."""
        used = self._now - attempt.since
        attempt.used += used
        self.clock.charge(attempt.map.job, used - attempt.charged)
        attempt.charged = 0.0
        attempt.parked = True
        kernel = attempt.kernel
        kernel.running.discard(attempt.number)
        kernel.parked.add(attempt.number)
        self._count_running(attempt, -1)

    def _resume(self, attempt: Attempt) -> None:
        attempt.parked = attempt.resumable = False
        attempt.since = self._now
        attempt.kernel.parked.discard(attempt.number)
        attempt.kernel.running.add(attempt.number)
        job = self._job(attempt.map.job)
        job.resumable.remove(attempt)
        last = self._last_results.get(attempt.number)
        if last is not None and last[0] is self._out.sends:
            send = last[0][last[1]]
            assert isinstance(send.message, messages.Results)
            last[0][last[1]] = replace(send, message=replace(send.message, resume=True))
        else:
            self._send(attempt.kernel.peer, messages.Resume(attempt.number))
        self._count_running(attempt, +1)

    def _retire(self, attempt: Attempt, seconds: float | None, units: int) -> None:
        """The attempt is over; its slot is free and its time is charged."""
        job = self._job(attempt.map.job)
        del self.attempts[attempt.number]
        job.attempts.discard(attempt.number)
        attempt.map.running.discard(attempt.number)
        attempt.kernel.running.discard(attempt.number)
        attempt.kernel.parked.discard(attempt.number)
        if attempt in job.resumable:
            job.resumable.remove(attempt)
        driver = attempt.used > 0.0
        held = 0.0 if attempt.parked else self._now - attempt.since
        used = held if driver or seconds is None else seconds
        self.clock.charge(job.number, used - attempt.charged)
        if seconds is not None and units and not driver:
            self.estimates.learn(job.owner, attempt.map.function, units, seconds)
        for key in list(attempt.maps):
            self._drop_map(job, key)
        self._count_running(attempt, -1 if not attempt.parked else 0)

    def _drop_map(self, job: Job, key: bytes) -> None:
        """A map whose results nobody wants any more."""
        map_ = self.maps.get(key)
        if map_ is None:
            return
        map_.cancelled = map_.closed = True
        map_.drop_pending()
        for number in list(map_.running):
            self._end_attempt(self.attempts[number], "abort")
        self._check_map(map_)

    def _take_back(self, attempt: Attempt) -> None:
        """The fabric lost the attempt: its units wait again, unless nobody wants them."""
        job, map_ = self._job(attempt.map.job), attempt.map
        self._retire(attempt, None, 0)
        if job.ending or map_.cancelled:
            map_.answered(len(attempt.span))
        elif not job.submit.idempotent:
            self._fail_unrepeatable(job, "the kernel that ran it was lost")
            map_.answered(len(attempt.span))
        else:
            map_.give_back(attempt.span)
        self._refresh(job)
        self._check_map(map_)

    def _fail_unrepeatable(self, job: Job, cause: str) -> None:
        job.error = job.error or f"{cause}, and idempotent=False forbids a second run"
        self._begin_end(job, "fail", job.error)

    def _end_attempt(self, attempt: Attempt, how: str) -> None:
        if how == "abort" or not attempt.ending:
            message: Message = (
                messages.Stop(attempt=attempt.number)
                if how == "stop"
                else messages.Abort(attempt=attempt.number)
            )
            self._send(attempt.kernel.peer, message)
        attempt.ending = True

    def _count_running(self, attempt: Attempt, step: int) -> None:
        job = self._job(attempt.map.job)
        job.running += step
        self.list.counted(job)
        self.list.counted_kernel(attempt.kernel)

    # -- the end of maps and jobs --------------------------------------------------------------

    def _check_map(self, map_: Map) -> None:
        """If the map has ended: wake its driver, or end its job."""
        if not map_.ended or map_.running or self.maps.get(map_.key) is not map_:
            return
        job = self._job(map_.job)
        del self.maps[map_.key], job.maps[map_.key]
        if not map_.root:
            self._out.spool += [Write("units", map_.key_of(s), None) for s in map_.segments]
        driver = self.attempts.get(map_.driver)
        if driver is not None:
            driver.maps.discard(map_.key)
            if driver.parked and not driver.resumable:
                driver.resumable = True
                job.resumable.append(driver)
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
        if job.state is JobState.WAITING and not job.ending:
            return
        if job.ending == "abort":
            self._end(job, JobState.ABORTED)
        elif job.error:
            self._end(job, JobState.FAILED, self._failure(job))
        elif job.ending == "stop" and job.facts.started is None:
            self._end(job, JobState.ABORTED, "stopped before it started")
        else:
            self._end(job, JobState.COMPLETE)

    def _failure(self, job: Job) -> str:
        failed, total = job.failed, job.total
        return f"{job.error} ({failed} of {total} units failed)" if failed > 1 else job.error

    def _begin_end(self, job: Job, how: str, reason: str) -> None:
        """Stop or abort ("fail": abort, but it has failed): nothing new is dealt, what runs is told."""
        job.ending = how if job.ending in ("", "stop") else job.ending
        if reason and how != "fail":
            self.list.change(job, self._out, reason=reason)
        for map_ in list(job.maps.values()):
            if how != "stop" or map_.root or job.session:
                map_.closed = True
                map_.drop_pending()
        for number in list(job.attempts):
            attempt = self.attempts[number]
            # the units of a driver's maps finish: its best so far may need them
            if how != "stop" or attempt.map.root:
                self._end_attempt(attempt, "stop" if how == "stop" else "abort")
        if job.session:
            client = self.roster.client_of(job.client)
            for map_ in list(job.maps.values()) if client is not None and how != "stop" else []:
                text = f"session {job.number} has ended: {reason}"
                self._send(client.peer, messages.MapFailed(map_.key, "JobAborted", text))  # type: ignore[union-attr]
        for map_ in list(job.maps.values()):
            self._check_map(map_)
        self._refresh(job)
        self._check_job(job)

    def _end(self, job: Job, state: JobState, reason: str | None = None) -> None:
        fields: dict[str, Any] = {"state": state, "ended": self._wall_now}
        if reason is not None:
            fields["reason"] = reason
        elif state is JobState.COMPLETE and not job.ending:
            fields["reason"] = ""
        if job.root is not None and not job.root.once:
            job.total = job.root.total
        fields["stopped"] = job.ending == "stop" and state is JobState.COMPLETE and not job.session
        self.list.change(job, self._out, **fields)
        self.clock.remove(job.number)
        self._out.ended.append(job.number)
        for kernel in self.roster.kernels.values():
            if job.number in kernel.jobs:
                kernel.jobs.discard(job.number)
                self._send(kernel.peer, messages.Release(job.number))
        for waiter in job.waiters:
            self._answer_fetch(job, waiter)
        job.waiters.clear()
        if job.session:
            client = self.roster.client_of(job.client)
            if client is not None:
                client.sessions.discard(job.number)
        for number in sorted(self.list.dependents.pop(job.number, ())):
            other = self.list.jobs[number]
            if not other.ended:
                self._release_waiting(other)

    # -- waiting and ready ---------------------------------------------------------------------

    def _release_waiting(self, job: Job) -> None:
        """Look at `after` and `when` again: fail it, queue it, or leave it waiting and say why."""
        record = job.facts
        if record.state is not JobState.WAITING or job.ending:
            return
        others = [self._job(n).record for n in record.after]
        for other in others:
            if other.state in (JobState.FAILED, JobState.ABORTED):
                job.error = (
                    f"job {other.job}, which it comes after, {_verb(other.state)}: {other.reason}".rstrip(
                        ": "
                    )
                )
                self._begin_end(job, "fail", job.error)
                return
        if any(not o.state.ended for o in others):
            return
        if record.when is not None and record.when > self._wall_now:
            self._held.setdefault(record.when, set()).add(job.number)
            return
        self.list.change(job, self._out, state=JobState.QUEUED, reason="")
        self._refresh(job)
        if job.root is not None:
            self._check_map(job.root)

    def _refresh(self, job: Job) -> None:
        """Tell the service clock whether the job has something to deal."""
        if job.ended:
            return
        for map_ in job.maps.values():
            job.list_ready(map_)
        if job.state is not JobState.WAITING and job.has_work:
            self.clock.wake(job.number)
        else:
            self.clock.sleep(job.number)

    # -- dealing -------------------------------------------------------------------------------

    def _deal(self) -> None:
        """Give every free slot to the job that is due."""
        for kernel in self.roster.kernels.values():
            while kernel.free > 0:
                number = self.clock.pick(lambda n, k=kernel: self._work(n, k) is not None)  # type: ignore[misc]
                if number is None:
                    break
                work = self._work(number, kernel)
                if isinstance(work, Attempt):
                    self._resume(work)
                elif work is not None:
                    self._dispatch(self._job(number), work, kernel)
                self._refresh(self._job(number))

    def _work(self, number: int, kernel: Kernel) -> Attempt | Map | None:
        """What the job could do on this kernel now: a driver of it that goes on, or the map to deal from."""
        job = self.list.jobs[number]
        for attempt in job.resumable:
            if attempt.kernel is kernel:
                return attempt
        if job.facts.python and job.facts.python != kernel.python:
            return None
        map_ = job.next_ready()
        if map_ is None or not kernel.full_of_drivers:
            return map_
        # only inside a driver that waits for it: no further process
        return next(
            (m for m in job.maps.values() if m.waiting and m.driver in kernel.parked and not m.apart), None
        )

    def _dispatch(self, job: Job, map_: Map, kernel: Kernel) -> None:
        estimate = self.estimates.get(map_.owner, map_.function)
        slots = sum(k.slots for k in self.roster.kernels.values())
        span = map_.take(chunk_size(map_.waiting, slots, estimate))
        cost = (FIRST_GUESS if estimate is None else estimate) * len(span)
        number = self._next_attempt
        self._next_attempt += 1
        attempt = Attempt(number, map_, span, kernel, cost, self._now)
        self.attempts[number] = attempt
        job.attempts.add(number)
        map_.running.add(number)
        kernel.running.add(number)
        kernel.jobs.add(job.number)
        self.clock.charge(job.number, cost)
        if map_.function not in kernel.known:
            kernel.known.add(map_.function)
            self._send(kernel.peer, messages.Blob(map_.function), Ref("blob", (map_.function,)))
        run = messages.Run(
            attempt=number,
            job=job.number,
            owner=map_.owner,
            map=map_.key,
            function=map_.function,
            start=span.start,
            count=len(span),
            seed=map_.seed,
            epoch=self.epoch,
            lease=self.roster.lease,
            once=map_.once,
            apart=map_.apart,
            cpus=job.submit.cpus,
        )
        payload = b"" if map_.once else map_.ref(span)
        # units of the store may have come this very turn: they run when they are on disk
        (self._answer if map_.root else self._send)(kernel.peer, run, payload)
        if job.state is JobState.QUEUED:
            self.list.change(job, self._out, state=JobState.RUNNING, started=self._wall_now)
        self._count_running(attempt, +1)

    # -- words for people ----------------------------------------------------------------------

    def explain(self, number: int) -> str:
        """One sentence: why the job waits, or what ended it."""
        job = self._job(number)
        record = job.record
        if record.state.ended or record.reason:
            return record.reason
        if record.state is JobState.WAITING:
            for other in record.after:
                if not self._job(other).ended:
                    return f"waits for job {other}, which is {self._job(other).state}"
            return "waits for its time"
        if job.root is not None and not job.root.closed and not job.root.waiting and not job.attempts:
            return "waits for more inputs from its client"
        if not job.has_work or job.attempts:
            return ""
        kernels = self.roster.kernels.values()
        if not kernels:
            return "no kernel is connected"
        fitting = [k for k in kernels if not record.python or k.python == record.python]
        if not fitting:
            others = ", ".join(sorted({k.python for k in kernels}))
            return f"no kernel runs Python {record.python} (connected: {others})"
        if all(k.full_of_drivers for k in fitting):
            return "every kernel holds as many waiting drivers as it may"
        if all(k.free <= 0 for k in fitting):
            return "all slots are busy with work that is due before"
        return ""

    # -- restart -------------------------------------------------------------------------------

    def restore(
        self,
        record: JobRecord,
        submit: Submit,
        segments: list[tuple[int, int]],
        results: list[tuple[int, int]],
        failed: int,
    ) -> None:
        """A stored job of an earlier life: what is not answered waits again."""
        job = Job(record, submit, b"", results=results)
        self.list.restore(job)
        self.blobs.add(submit.body)
        if record.state.ended:
            job.root = Map(submit.key, record.job, record.owner, submit.body, submit.seed, 0, root=True)
            job.root.segments = [start for start, _ in segments]
            job.root.total = sum(count for _, count in segments)
            return
        self.clock.add(record.job, record.owner, record.priority)
        root = self._root_map(job)
        for start, count in segments if not submit.once else [(0, 1)]:
            root.add(start, count)
        _remove_answered(root, results)
        waiting = any(not self._known_ended(n) for n in record.after) or record.state is JobState.WAITING
        state = JobState.WAITING if waiting else JobState.QUEUED
        job.facts = replace(record, state=state, epoch=self.epoch)
        job.done, job.failed, job.progress = sum(c for _, c in results), failed, None

    def _known_ended(self, number: int) -> bool:
        job = self.list.jobs.get(number)
        return job is not None and job.ended

    def settle(self, now: float, wall: float) -> Outcome:
        """After all `restore` calls: release what may run, as the first tick of this life."""
        out = Outcome()
        for number, job in list(self.list.jobs.items()):
            self._out, self._now, self._wall = Outcome(), now, wall - now
            if job.state is JobState.WAITING:
                self._release_waiting(job)
            elif not job.ended:
                self._refresh(job)
                if job.root is not None:
                    self._check_map(job.root)
            out.writes += self._out.writes
            assert number == job.number
        return out

    # -- invariants ----------------------------------------------------------------------------

    def check(self) -> None:
        """Assert every invariant; the tests call it after each event."""
        self.clock.check()
        self.list.check()
        for number, attempt in self.attempts.items():
            assert number == attempt.number
            assert number in attempt.map.running
            assert (number in attempt.kernel.parked) == attempt.parked
            assert (number in attempt.kernel.running) != attempt.parked
            assert self.roster.kernels[attempt.kernel.peer] is attempt.kernel
        for map_ in self.maps.values():
            map_.check(self.attempts[n] for n in map_.running)
        for kernel in self.roster.kernels.values():
            assert kernel.free >= 0
            assert kernel.running | kernel.parked <= self.attempts.keys()
        for job in self.list.jobs.values():
            assert job.running == sum(not self.attempts[n].parked for n in job.attempts)
            if not job.ended:
                ready = job.state is not JobState.WAITING and job.has_work
                assert self.clock.runnable(job.number) == ready, job.record

    _HANDLERS: dict[type[Message], Any] = {  # noqa: RUF012
        messages.Hello: _hello,
        messages.KernelHello: _kernel_hello,
        messages.Heartbeat: _heartbeat,
        messages.Goodbye: _goodbye,
        messages.Blob: _blob,
        messages.Submit: _submit,
        messages.Units: _units,
        messages.Map: _map,
        messages.Cancel: _cancel,
        messages.Stop: _stop,
        messages.Abort: _abort,
        messages.Close: _close,
        messages.Fetch: _fetch,
        messages.Forget: _forget,
        messages.Status: _status,
        messages.Finished: _finished,
        messages.Crashed: _crashed,
        messages.Publish: _publish,
    }


def _verb(state: JobState) -> str:
    return "has failed" if state is JobState.FAILED else "was aborted"


def _remove_answered(root: Map, results: list[tuple[int, int]]) -> None:
    """Take out of a restored map the units whose results are stored."""
    answered = sorted((start, start + count) for start, count in results)
    spans = list(root.pending)
    root.drop_pending()
    for span in spans:
        at = span.start
        for lo, hi in answered:
            if hi <= at or lo >= span.stop:
                continue
            if lo > at:
                root.remaining += lo - at
                root._put(Span(at, lo, span.segment))
            at = max(at, hi)
        if at < span.stop:
            root.remaining += span.stop - at
            root._put(Span(at, span.stop, span.segment))


__all__ = ["Dispatcher", "Refused"]
