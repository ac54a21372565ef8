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

import heapq
from collections import deque
from dataclasses import replace
from typing import Any

from park.core import invariants
from park.core.codes import Codes, check_code
from park.core.dealing import Dealing
from park.core.fairshare import QUANTUM, ServiceClock
from park.core.jobs import Job, JobList, Waiter
from park.core.ledger import MICRO, Ledger, Policy
from park.core.lending import Lending
from park.core.needs import profile_of
from park.core.outcome import Event, Outcome, Peer, Publication, Ref, Send, Tick, Write
from park.core.reasons import failed_dependency, why
from park.core.requests import check_change, check_submit
from park.core.rights import check_return, check_right
from park.core.roster import Client, Kernel, Member, Roster
from park.core.speculation import LEAST, Stragglers
from park.core.work import (
    CHUNK_SECONDS,
    KILLS,
    Attempt,
    Estimates,
    Map,
    Span,
    chunk_seconds,
    chunk_size,
)
from park.errors import InvalidRequest, ParkError, ProtocolError, Refused, UnknownJob
from park.model import Delta, JobRecord, JobState, OwnerRecord
from park.wire import codec, messages, pack
from park.wire.messages import Message, Submit

#: Estimate for the first unit of unknown code, slot-seconds.
FIRST_GUESS = 0.01
#: Characters of a cause or a reason that others gave.
WORDS = 500
#: More slots than any node has.
MAX_SLOTS = 1 << 16
#: A job whose time is this near is due, seconds: sums of wall clock and monotonic time are not exact.
SOON = 1e-3


class Dispatcher:
    """See the module. *epoch* counts the lives of the broker; *heartbeat* and *lease* are in seconds.

    *policy*: the terms of credit; None: nothing is charged.
    """

    def __init__(
        self,
        store: str = "",
        epoch: int = 1,
        heartbeat: float = 2.0,
        lease: float = 20.0,
        next_job: int = 1,
        policy: Policy | None = None,
    ) -> None:
        self.store = store
        self.epoch = epoch
        self.roster = Roster(heartbeat, lease)
        self.list = JobList(next_job)
        self.clock = ServiceClock()
        self.ledger = Ledger(policy, epoch)
        self.dealing = Dealing()
        self.lending = Lending()
        self.stragglers = Stragglers()
        self.estimates = Estimates()
        self.attempts: dict[int, Attempt] = {}
        self.maps: dict[bytes, Map] = {}
        self.codes = Codes()
        #: answers that came too late or twice
        self.duplicates = 0
        self._next_attempt = epoch << 32
        self._next_map = 0
        #: when jobs that wait for their time may go on, wall clock, the first first
        self._held: list[tuple[float, int]] = []
        #: kernels whose slots or drivers this turn has changed
        self._touched: dict[int, Kernel] = {}
        #: jobs that this turn has changed, for `check`
        self.touched_jobs: set[int] = set()
        self._wall = 0.0
        #: ended jobs whose dependents have not been looked at
        self._ended: deque[int] = deque()
        self._last_results: dict[int, tuple[list[Send], int]] = {}
        self._out = Outcome()
        self._now = 0.0
        #: the shares of all jobs, if they were worked out after the last event
        self._shares: dict[int, float] | None = None

    # -- the door ------------------------------------------------------------------------------

    def handle(self, event: Event | Tick, now: float) -> Outcome:
        """What follows from *event* at monotonic time *now*, seconds."""
        self._out = out = Outcome()
        self._now = now
        self._last_results.clear()
        self.touched_jobs.clear()
        self._shares = None
        if isinstance(event, Tick):
            self._tick(event)
        else:
            self._receive(event)
        self._release_dependents()
        self._reweigh()
        self._deal()
        self.list.flush(now, out)
        self.ledger.flush(now, out)
        return out

    def next_deadline(self) -> float | None:
        """When a Tick may next lead to something; None: not before a message comes."""
        wall = self._held[0][0] if self._held else None
        times = [
            self.roster.next_deadline(),
            self.list.next_deadline(),
            self.ledger.next_deadline(),
            self.stragglers.next_deadline() if self.dealing.free else None,
            None if self.clock.idle and not self.dealing.reserved else self.lending.next_deadline(),
            None if wall is None else self._now + max(0.0, wall - self._wall_now),
        ]
        return min((t for t in times if t is not None), default=None)

    @property
    def now(self) -> float:
        """The time of the last event, monotonic seconds."""
        return self._now

    @property
    def _wall_now(self) -> float:
        return self._now + self._wall

    def _tick(self, tick: Tick) -> None:
        self._wall = tick.wall - self._now
        while self._held and self._held[0][0] <= tick.wall + SOON:
            self._release_waiting(self.list.jobs[heapq.heappop(self._held)[1]])
        silent, due = self.roster.look(self._now)
        for member in silent:
            self._lose(member, "its client was lost")
        for member in due:
            self._send(member.peer, messages.Heartbeat(self.epoch))
        self._ask_to_lend()

    def _receive(self, event: Event) -> None:
        message = event.message
        if not self.roster.heard(event.peer, self._now) and not isinstance(
            message, messages.Hello | messages.KernelHello
        ):
            if not isinstance(message, messages.Goodbye):
                self._send(event.peer, messages.Unwelcome(self.epoch))
            return
        kernel = self.roster.kernels.get(event.peer)
        if kernel is not None and self._now >= kernel.accrued + self.roster.heartbeat:
            kernel.accrued = self._now
            for number in kernel.running:
                self._accrue(self.attempts[number])
        handler = self._HANDLERS.get(type(message))
        try:
            if handler is None:
                raise ProtocolError(f"a broker takes no {type(message).__name__}")
            handler(self, event, message)
        except ParkError as error:
            reply = getattr(message, "id", 0)
            name, text = type(error).__name__, str(error)
            if reply:
                failure = messages.Failure(reply, name, text, attempt=getattr(message, "attempt", 0))
                self._send(event.peer, failure)
            elif isinstance(message, messages.Map) and event.peer in self.roster.clients:
                self._send(event.peer, messages.MapFailed(message.map, name, text))

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
        check_return(client, event.account)
        self._make_room(event.peer, client)
        if client is None:
            user = m.user if event.account is None else event.account.name
            self.roster.join_client(event.peer, m.incarnation, user, m.python, self._now, event.account)
        else:
            self._move(client, event.peer)
        self._welcome(event.peer, client is None, m.id)

    def _kernel_hello(self, event: Event, m: messages.KernelHello) -> None:
        if not 1 <= m.slots <= MAX_SLOTS:
            raise ProtocolError(f"a kernel has 1 to {MAX_SLOTS} slots, not {m.slots}")
        kernel = self.roster.kernel_of(m.incarnation)
        check_return(kernel, event.account)
        self._make_room(event.peer, kernel)
        if kernel is None:
            user = m.user if event.account is None else event.account.name
            kernel = self.roster.join_kernel(
                event.peer, m.incarnation, user, m.host, m.pid, profile_of(m), self._now, event.account
            )
            self._count_slots()
            self.dealing.join(kernel)
            self._touched[kernel.number] = kernel
            self._out.deltas.append(Delta("kernel", kernel.number, kernel.record().as_map()))
            self._welcome(event.peer, True, 0)
            return
        self._move(kernel, event.peer)
        # what was on its way is lost: code, work that it does not hold, answers to work that it held
        kernel.known.clear()
        self._welcome(event.peer, False, 0)
        held = set(m.attempts)
        for number in sorted(kernel.holds - held, reverse=True):
            attempt = self.attempts.get(number)
            if attempt is not None:
                self._end_attempt(attempt, "abort")
                self._take_back(attempt, "the connection to its kernel was lost")
        for number in sorted(held - kernel.holds):
            self._send(event.peer, messages.Abort(attempt=number))
        for attempt in [self.attempts[n] for n in sorted(kernel.holds)]:
            told, attempt.told = attempt.told, ""
            if told:
                self._end_attempt(attempt, told, soft=not attempt.map.root)

    def _count_slots(self) -> None:
        self.clock.quantum = max(QUANTUM, 2 * chunk_seconds(self.roster.slots))

    def _make_room(self, peer: Peer, member: Member | None) -> None:
        """Whoever had this connection before is gone, unless it is *member* itself."""
        other = self.roster.member(peer)
        if other is not None and other is not member:
            self._lose(other, "another client took its connection")

    def _move(self, member: Member, peer: Peer) -> None:
        """It came back; over a new connection it asks again for the streams that it watches."""
        if member.peer != peer:
            self._out.gone.append(member.peer)
        self.roster.move(member, peer, self._now)

    def _welcome(self, peer: Peer, fresh: bool, reply: int) -> None:
        r = self.roster
        self._send(peer, messages.Welcome(self.store, self.epoch, r.heartbeat, r.lease, fresh, reply))

    def _heartbeat(self, event: Event, m: messages.Heartbeat) -> None:
        """`Roster.heard` has seen it."""

    def _goodbye(self, event: Event, m: messages.Goodbye) -> None:
        member = self.roster.member(event.peer)
        assert member is not None
        self._lose(member, m.reason[:WORDS] or "its client has left")

    def _lose(self, member: Member, reason: str) -> None:
        """It left, or its lease has run out: *reason* is what the jobs say that end with it."""
        self._out.gone.append(member.peer)
        for number in member.fetches.values():
            job = self.list.jobs[number]
            job.waiters = [w for w in job.waiters if w.member is not member]
        if isinstance(member, Kernel):
            for number in sorted(member.holds, reverse=True):  # the first is dealt first again
                attempt = self.attempts.get(number)
                if attempt is not None:
                    self._take_back(attempt, "the kernel that ran it was lost")
            self._unreserve(member)
            self.list.forget_kernel(member.number, self._out)
            for number in member.jobs:
                self.list.jobs[number].kernels.pop(member.number, None)
            self.dealing.leave(member)
            self._touched.pop(member.number, None)
        self.roster.drop(member)
        self._count_slots()
        for number in sorted(member.open) if isinstance(member, Client) else ():
            job = self.list.jobs[number]
            if job.session:
                self._begin_end(job, "abort", reason)
            else:
                self._fail(job, f"{reason} before all inputs had come")

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

    def check_right(self, event: Event, job: Job) -> None:
        """Whether the sender may steer the job, or see its payloads. Raises Refused."""
        member = self.roster.member(event.peer)
        assert member is not None
        attempt = self.attempts.get(getattr(event.message, "attempt", 0))
        check_right(member, job.number, job.owner, attempt)

    def _blob(self, event: Event, m: messages.Blob) -> None:
        if m.hash not in self.codes:
            check_code(m.hash, event.payload)
            self._out.spool.append(Write("blob", (m.hash,), event.payload))
            self._drop_code(self.codes.add(m.hash, len(event.payload)))
        kernel = self.roster.kernels.get(event.peer)
        if kernel is not None:
            kernel.known.add(m.hash)

    def _need_blob(self, event: Event, m: messages.NeedBlob) -> None:
        """A kernel has dropped this code; it gives the work back that wanted it."""
        kernel = self.roster.kernels.get(event.peer)
        if kernel is not None:
            kernel.known.discard(m.hash)

    def _drop_code(self, codes: list[bytes]) -> None:
        self._out.spool += [Write("blob", (code,), None) for code in codes]

    def _submit(self, event: Event, m: Submit) -> None:
        client = self._client(event)
        known = self.list.by_key.get(m.key)
        if known is not None:
            self.check_right(event, self.list.jobs[known])
            root = self.list.jobs[known].root
            received = root.total if root is not None else 0
            self._answer(event.peer, messages.Accepted(m.id, known, existed=True, received=received))
            return
        check_submit(m, event.payload)
        for other in m.after:
            self._job(other)
        if not m.session and m.body not in self.codes:
            self._send(event.peer, messages.NeedBlob(m.body))  # and then the request again
            return
        job = self._new_job(m, client)
        self._answer(event.peer, messages.Accepted(m.id, job.number, received=m.count))
        if m.session:
            client.open.add(job.number)
            self.list.change(job, self._out, state=JobState.RUNNING, started=self._wall_now)
            return
        writes = self._out.writes
        writes.append(Write("submit", (job.number,), codec.pack(codec.fields(m))))
        writes.append(Write("blob", (m.body,), Ref("blob", (m.body,))))
        root = self._root_map(job)
        if m.once:
            root.add(0, 1)
            job.list_ready(root)
        else:
            self._add_units(root, 0, m.count, event.payload)
            if not m.closed:
                client.open.add(job.number)
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
        self._join_clock(job, self._now)
        return job

    def _join_clock(self, job: Job, born: float) -> None:
        """The job may want slots from now on; it was submitted at *born*."""
        self.clock.add(job.number, job.owner, self._weight(job), born, job.seconds)
        self.dealing.need(job.needs)
        self._out.deltas += self.ledger.deltas([job.owner])

    def _root_map(self, job: Job) -> Map:
        m = job.submit
        root = Map(m.key, job.number, job.owner, m.body, m.seed, 0, root=True, once=m.once, closed=m.closed)
        job.root = root
        self._add_map(job, root)
        return root

    def _add_map(self, job: Job, map_: Map) -> None:
        self.maps[map_.key] = job.maps[map_.key] = map_
        map_.apart = map_.function in job.killers
        self.codes.use(map_.function)
        job.list_ready(map_)

    def _add_units(self, map_: Map, start: int, count: int, payload: bytes | memoryview) -> None:
        """A segment of units that follows the last one; it may be empty."""
        if start != map_.total or pack.count(payload) != count:
            raise ProtocolError(f"units {start} to {start + count} do not follow unit {map_.total}")
        if count:
            map_.add(start, count)
            write = Write("units", map_.key_of(start), payload)
            (self._out.writes if map_.root else self._out.spool).append(write)
            self.list.jobs[map_.job].list_ready(map_)

    def _units(self, event: Event, m: messages.Units) -> None:
        client = self._client(event)
        if m.job:
            job = self._job(m.job)
            map_ = job.root
            if not job.client and job.owner == client.user:  # its broker was restarted
                job.client = client.incarnation
        else:
            map_ = self.maps.get(m.map)
            if map_ is None:
                return  # it was cancelled
            job = self._job(map_.job)
        if map_ is None or job.client != client.incarnation:
            raise ProtocolError("no map of this client takes more units")
        # sent again after a lost acknowledgement, or by a client that does not know yet that its job ends
        if m.start >= map_.total and not (job.ended or job.ending or job.stops_at_failure):
            self._take_units(job, map_, m, event.payload)
        if m.job and not job.ended:
            (client.open.discard if map_.closed else client.open.add)(job.number)
        if m.id:
            self._answer(event.peer, messages.Done(m.id))

    def _take_units(self, job: Job, map_: Map, m: messages.Units, payload: bytes | memoryview) -> None:
        if map_.closed:
            if m.count:
                raise ProtocolError("this map has all its units already")
            return
        self._add_units(map_, m.start, m.count, payload)
        if m.closed:
            map_.closed = True
            if map_.root:
                job.total = map_.total
                self.list.counted(job)
                self.list.store(job, self._out)
        self._refresh(job)
        self._check_map(map_)

    def _map(self, event: Event, m: messages.Map) -> None:
        attempt: Attempt | None = None
        if event.peer in self.roster.kernels:
            attempt = self.attempts.get(m.attempt)
            if attempt is None or attempt.void or attempt.kernel.peer != event.peer:
                return  # its lease ran out, or its job has ended: an Abort is on its way
            job = self._job(attempt.map.job)
            if job.ending in ("abort", "fail"):
                return
        else:
            job = self._job(m.job)
            if not job.session or job.client != self._client(event).incarnation:
                raise ProtocolError(f"job {m.job} is no session of this client")
            if job.ended or job.ending:
                text = f"session {job.number} has ended" + (
                    f": {job.facts.reason}" if job.facts.reason else ""
                )
                self._send(event.peer, messages.MapFailed(m.map, "JobAborted", text))
                return
        known = self.maps.get(m.map)
        if known is not None:
            if known.job == job.number and known.driver == (attempt.number if attempt is not None else 0):
                self._again(job, known)
            return
        if len(m.map) != 16:
            raise ProtocolError("a map key has 16 bytes")
        if m.function not in self.codes:
            self._send(event.peer, messages.NeedBlob(m.function))  # and then the map again
            return
        for key in list(attempt.maps) if attempt is not None else ():
            self._drop_map(self.maps[key])  # it was sent again in vain: its driver has gone on
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
        self._add_map(job, map_)
        if attempt is not None:
            attempt.maps.add(map_.key)
            job.callers.add(attempt.map.function)
            self._settle_twin(attempt)  # what makes maps runs once at a time
            self._park(job, attempt)
        self._refresh(job)
        self._check_map(map_)

    def _again(self, job: Job, map_: Map) -> None:
        """Whoever made the map sends it again over a new connection: answers may have been lost on the old one."""
        if map_.cancelled:
            return
        units = map_.again(self.attempts[n] for n in map_.running)
        job.list_ready(map_)
        if job.session:
            job.done = max(0, job.done - units)
            self.list.counted(job)
        self._refresh(job)

    def _cancel(self, event: Event, m: messages.Cancel) -> None:
        map_ = self.maps.get(m.map)
        client = self._client(event)
        if map_ is None or map_.driver or map_.root or self._job(map_.job).client != client.incarnation:
            return
        self._drop_map(map_)
        self._refresh(self._job(map_.job))

    def _stop(self, event: Event, m: messages.Stop) -> None:
        job = self._active(m.job)
        self.check_right(event, job)
        self._begin_end(job, "stop", "stopped by its owner")
        self._answer(event.peer, messages.Done(m.id))

    def _abort(self, event: Event, m: messages.Abort) -> None:
        job = self._active(m.job)
        self.check_right(event, job)
        self._begin_end(job, "abort", "aborted by its owner")
        self._answer(event.peer, messages.Done(m.id))

    def _change(self, event: Event, m: messages.Change) -> None:
        job = self._active(m.job)
        self.check_right(event, job)
        check_change(m)
        if m.tags is not None:
            self.list.change(job, self._out, tags=tuple(m.tags))
        if m.priority is not None:
            self.list.change(job, self._out, priority=m.priority)
            self.clock.reweigh(job.number, self._weight(job))
        if m.paused and job.state is not JobState.PAUSED:
            self._pause(job)
        elif m.paused is False and job.state is JobState.PAUSED:
            self._unpause(job)
        self._answer(event.peer, messages.Done(m.id))

    def _credits(self, event: Event, m: messages.Credits) -> None:
        self._answer(event.peer, messages.Records(m.id), codec.pack(self._accounts(m.owner)))

    def _grant(self, event: Event, m: messages.Grant) -> None:
        if not self._client(event).admin:
            raise Refused(
                "only the broker's own user grants credits, over ipc: run `park credits grant` on its machine"
            )
        self.ledger.grant(m.owner, m.credits, self._now)
        self._out.deltas += self.ledger.deltas({m.owner} & self.list.owners().keys())
        self._answer(event.peer, messages.Done(m.id))

    def _close(self, event: Event, m: messages.Close) -> None:
        job = self._active(m.job)
        if not job.session or job.client != self._client(event).incarnation:
            raise ProtocolError(f"job {m.job} is no session of this client")
        self._begin_end(job, "abort" if m.reason else "stop", m.reason[:WORDS])
        self._answer(event.peer, messages.Done(m.id))

    def _fetch(self, event: Event, m: messages.Fetch) -> None:
        job = self._job(m.job)
        self.check_right(event, job)
        member = self.roster.member(event.peer)
        assert member is not None
        waiter = Waiter(member, m.id, m.attempt, m.request)
        if not m.wait or job.ended:
            self._answer_fetch(job, waiter)
        elif (m.attempt, m.id) not in member.fetches:  # else it is asked again, over a new connection
            member.fetches[m.attempt, m.id] = job.number
            job.waiters.append(waiter)

    def _forget(self, event: Event, m: messages.Forget) -> None:
        member = self._client(event)
        number = member.fetches.pop((0, m.id), None)
        if number is not None:
            job = self._job(number)
            job.waiters = [w for w in job.waiters if (w.member, w.id) != (member, m.id)]

    def _answer_fetch(self, job: Job, w: Waiter) -> None:
        peer, root, request = w.member.peer, job.root, w.request and not job.session
        for start, count in job.results:
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
        if attempt.void:
            self.duplicates += 1
            self._let_go(attempt)
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
        self._settle_twin(attempt)
        self._retire(job, attempt, min(max(m.seconds, 0.0), self._now - attempt.since), m.count)
        map_.answered(m.count)
        if m.count:
            self._deliver(job, map_, m.start, m.count, event.payload)
            self._count_done(job, map_, m.count, m.failed)
        if m.failed and map_.root:
            self._note_failure(job, map_, m.unit, m.cause)
        rest = Span(span.start + m.count, span.stop, span.segment)
        if len(rest):
            if job.wants(map_):
                map_.give_back(rest)
                job.list_ready(map_)
            else:
                map_.answered(len(rest))
        self._refresh(job)
        self._check_map(map_)

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
        for attempt in reversed(held):  # the culprit first, while somebody still wants its units
            if self.attempts.get(attempt.number) is not attempt:
                continue
            job = self._job(attempt.map.job)
            if attempt.number == m.attempts[-1] and job.wants(attempt.map) and not attempt.void:
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
            entry = pack.error_entry(cause, stderr, None if map_.once else unit)
            map_.answered(1)
            self._deliver(job, map_, unit, 1, pack.pack_entries([entry]))
            self._count_done(job, map_, 1, 1)
            if map_.root:
                self._note_failure(job, map_, unit, cause)
        elif job.submit.idempotent:
            map_.give_back(span, singly=True)
            job.list_ready(map_)
        else:
            map_.answered(len(span))
            self._fail_unrepeatable(job, cause)
        self._refresh(job)
        self._check_map(map_)

    def _publish(self, event: Event, m: messages.Publish) -> None:
        attempt = self.attempts.get(m.attempt)
        if attempt is None or attempt.void or attempt.kernel.peer != event.peer:
            return
        job = self._job(attempt.map.job)
        if m.kind == "progress" and m.done is not None and m.total is not None:
            job.progress = (m.done, m.total)
            self.list.counted(job)
        self._out.publications.append(Publication(job.number, m.kind, event.payload, m.header))

    # -- attempts ------------------------------------------------------------------------------

    def _park(self, job: Job, attempt: Attempt) -> None:
        """The driver waits, in a map or at a safe point: its slot goes back to the fabric."""
        if attempt.parked:  # the answers of its last map were lost, or nobody knew that they had come
            job.drop_resumable(attempt)
            attempt.lent = False
            return
        self._account(job, attempt, 0.0 if attempt.ahead else self._now - attempt.since)
        self._vacate(attempt)
        attempt.parked = attempt.driver = True
        kernel = attempt.kernel
        kernel.parked.add(attempt.number)
        self._count_running(attempt, 0 if attempt.ahead else -1)
        kernel.ahead.pop(attempt.number, None)  # the kernel began with it before the slot was seen to be free
        attempt.ahead = False
        self._begin_next(kernel)

    def _lent(self, event: Event, m: messages.Lent) -> None:
        """A driver waits at its safe point, until its job is due again."""
        attempt = self._held_attempt(event, m.attempt)
        if attempt is None or attempt.void or (attempt.parked and attempt.lent):
            return
        job = self._job(attempt.map.job)
        for key in list(attempt.maps):
            self._drop_map(self.maps[key])  # it has gone on since it made them
        if self.attempts.get(attempt.number) is not attempt:
            return
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
        attempt.rates = self.clock.serve(job.number, job.needs, attempt.charged, self._now)
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
        if lost:
            self._refund(job, attempt)
        else:
            self._account(job, attempt, held if attempt.driver or seconds is None else seconds)
        if seconds is not None and units and not attempt.driver:
            self.estimates.learn(job.owner, attempt.map.function, units, seconds)
        del self.attempts[attempt.number]
        job.attempts.discard(attempt.number)
        job.drop_resumable(attempt)
        attempt.map.running.discard(attempt.number)
        self._part(attempt)
        self._vacate(attempt)
        kernel = attempt.kernel
        kernel.parked.discard(attempt.number)
        kernel.ahead.pop(attempt.number, None)
        self.dealing.changed(kernel)
        kernel.last = job.number
        for key in list(attempt.maps):
            self._drop_map(self.maps[key])
        self._count_running(attempt, 0 if attempt.parked or attempt.ahead else -1)
        self._begin_next(kernel)

    def _occupy(self, attempt: Attempt) -> None:
        """The attempt has its slots."""
        kernel = attempt.kernel
        kernel.running.add(attempt.number)
        kernel.busy += attempt.cpus
        kernel.memory += attempt.memory
        self.dealing.changed(kernel)
        if attempt.map.once:
            self.lending.begin(attempt)

    def _vacate(self, attempt: Attempt) -> None:
        """Its slots are free, if it had them."""
        kernel = attempt.kernel
        self._touched[kernel.number] = kernel
        if attempt.number in kernel.running:
            kernel.running.discard(attempt.number)
            kernel.busy -= attempt.cpus
            kernel.memory -= attempt.memory
            self.lending.end(attempt)
            self.list.counted_kernel(kernel)
        self.dealing.changed(kernel)

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

    # -- what it costs -------------------------------------------------------------------------

    def _weight(self, job: Job) -> float:
        """What the job's priority buys, if its owner can pay for it."""
        priority = job.facts.priority
        if priority > 0 and self.ledger.broke(job.owner, self._now):
            return 1.0
        return 2.0**priority

    def _price(self, weight: float) -> int:
        """Micro-credits a slot-second; nothing where there are no accounts."""
        return round(max(0.0, weight - 1.0) * MICRO) if self.ledger.policy is not None else 0

    def _account(self, job: Job, attempt: Attempt, seconds: float) -> None:
        """The attempt has used its slots for *seconds* since it last got them: correct what was thought, and charge."""
        used = seconds * attempt.cpus
        self.clock.charge(job.number, used - attempt.charged, attempt.rates)
        self.clock.used(job.owner, attempt.weight * used, self._now)
        attempt.charged = 0.0
        attempt.used += used
        job.seconds += used
        self.list.counted(job)
        self._pay(job, attempt, round(attempt.price * used))

    def _refund(self, job: Job, attempt: Attempt) -> None:
        """The fabric has lost what the attempt did, or did not need it."""
        self.clock.refund(job.number, attempt.charged + attempt.used, attempt.rates)
        self.clock.used(job.owner, -attempt.weight * attempt.used, self._now)
        job.seconds -= attempt.used
        self.list.counted(job)
        self._pay(job, attempt, -attempt.paid)
        attempt.charged = attempt.used = 0.0

    def _pay(self, job: Job, attempt: Attempt, amount: int) -> None:
        if amount:
            attempt.paid += amount
            job.paid += amount
            stored = attempt.map.root and not attempt.map.once
            self.ledger.charge(job.number, job.owner, amount, self._now, stored)

    def _accrue(self, attempt: Attempt) -> None:
        """An attempt that has run past its estimate is charged for what it has used up to now."""
        used = (self._now - attempt.since) * attempt.cpus
        if used > attempt.charged and not attempt.void:
            self.clock.charge(attempt.map.job, used - attempt.charged, attempt.rates)
            attempt.charged = used
            self.touched_jobs.add(attempt.map.job)

    def _reweigh(self) -> None:
        """Jobs of owners who have come to be broke count as free, and as what they are when they can pay again."""
        for owner in self.ledger.changed(self._now):
            for number in self.clock.jobs(owner):
                self.clock.reweigh(number, self._weight(self.list.jobs[number]))
            self._out.deltas += self.ledger.deltas({owner} & self.list.owners().keys())

    def _drop_map(self, map_: Map) -> None:
        """A map whose results nobody wants any more."""
        map_.cancelled = map_.closed = True
        map_.drop_pending()
        for number in list(map_.running):
            self._end_attempt(self.attempts[number], "abort")
        self._check_map(map_)

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

    def _fail_unrepeatable(self, job: Job, cause: str) -> None:
        self._fail(job, f"{cause}, and idempotent=False forbids a second run")

    def _fail(self, job: Job, error: str) -> None:
        """The job cannot be completed: what runs of it is aborted."""
        job.error = job.error or error
        self._begin_end(job, "fail", "")

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
        if not job.released and not job.ending:
            return
        del self.maps[map_.key], job.maps[map_.key]
        self._drop_code(self.codes.leave(map_.function))
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
        self._feeds_no_more(job)
        self.list.store(job, self._out)
        for map_ in list(job.maps.values()):
            self._check_map(map_)
        self._refresh(job)
        self._check_job(job)

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
        if job.reserved is not None:
            self._unreserve(job.reserved)
        self.clock.remove(job.number, self._now)
        self.dealing.need_no_more(job.needs)
        self.ledger.end(job.number, job.owner, stored=not job.session)
        job.ready.clear()
        self._out.ended.append(job.number)
        self._ended.append(job.number)
        for kernel in job.kernels.values():
            kernel.jobs.discard(job.number)
            self._send(kernel.peer, messages.Release(job.number))
        job.kernels.clear()
        for waiter in job.waiters:
            waiter.member.fetches.pop((waiter.attempt, waiter.id), None)
            self._answer_fetch(job, waiter)
        job.waiters.clear()
        self._feeds_no_more(job)

    def _release_dependents(self) -> None:
        """Look at the jobs that come after those that have ended; a loop, because chains may be long."""
        while self._ended:
            for number in sorted(self.list.dependents.pop(self._ended.popleft(), ())):
                self._release_waiting(self.list.jobs[number])

    # -- waiting and ready ---------------------------------------------------------------------

    def _release_waiting(self, job: Job) -> None:
        """Look at `after` and `when` again: fail it, queue it, or leave it waiting and say why."""
        record = job.facts
        if record.state is not JobState.WAITING or job.ending:
            return
        others = [self._job(n) for n in record.after]
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
            if attempt.map.once and not attempt.parked:
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
        if job.ended:
            return
        dealt = job.dealt
        if job.reserved is not None and not (dealt and job.has_work):
            self._unreserve(job.reserved)
        open_ = dealt and job.reserved is None
        if open_ and job.next_ready() is not None:
            clock.wake(number, job.needs, now)
            if self.dealing.full:  # a driver that waits in a full kernel may compute a share
                for map_ in job.maps.values():
                    driver = self.attempts.get(map_.driver)
                    if driver is not None and map_.waiting:
                        self._touched[driver.kernel.number] = driver.kernel
        else:
            clock.sleep(number, job.needs, now)
        doors = clock.doors(number)
        if job.resumable or len(doors) > (job.needs in doors):
            for door in [d for d in doors if d is not job.needs and d != job.needs]:
                if not open_ or door not in job.resumable:
                    clock.sleep(number, door, now)
            for door, waiting in job.resumable.items() if open_ else ():
                clock.wake(number, door, now)
                self._touched[door] = waiting[0].kernel

    # -- dealing -------------------------------------------------------------------------------

    def _deal(self) -> None:
        """Give every free slot to the job that is due."""
        clock, dealing = self.clock, self.dealing
        touched = list(self._touched.values())
        self._touched.clear()
        if clock.idle and not dealing.reserved and not dealing.free:
            return
        for kernel in touched:
            while kernel.free > 0 and self._deal_on(kernel):
                pass
        if not clock.idle:
            for profile in list(dealing.free):
                while profile in dealing.free:
                    number = clock.pick(
                        dealing.doors(profile), self._now, owner=profile.owner, only=profile.only
                    )
                    if not number:
                        break
                    job = self.list.jobs[number]
                    kernel = dealing.place(profile, job.kernels, job.submit.cpus, job.submit.memory)
                    touched.append(kernel)
                    self._give(job, kernel)
        for kernel in [*touched, *self._touched.values()]:
            self._deal_ahead(kernel)
        self._touched.clear()
        if dealing.free:
            self._speculate()

    def _deal_on(self, kernel: Kernel) -> bool:
        """Give a free slot of this kernel to whoever is due; False: nothing can be done."""
        if kernel.reserved:
            job = self.list.jobs[kernel.reserved]
            if not self._has_room(kernel, job):
                return False
            self._unreserve(kernel)
            self._give(job, kernel)
            return True
        if kernel.full_of_drivers:
            return self._deal_inside(kernel)
        profile = kernel.profile
        doors = [*self.dealing.doors(profile), kernel.number]
        number = self.clock.pick(doors, self._now, kernel.last, profile.owner, profile.only)
        if not number:
            return False
        self._give(self.list.jobs[number], kernel)
        return True

    def _deal_inside(self, kernel: Kernel) -> bool:
        """The same where no further process may start: drivers go on, or chunks run inside drivers that wait.

        A driver here of whose map nothing is here is the innermost of its process, so that a chunk of that map
        runs inside it: there is one such driver in each chain of drivers that wait.
        """
        found: dict[int, Attempt | Map] = {}
        for n in kernel.parked:
            attempt = self.attempts[n]
            job = self.list.jobs[attempt.map.job]
            if not job.dealt or job.reserved is not None:
                continue
            if attempt.resumable:
                found[job.number] = attempt
            elif job.number not in found:
                idle = (self.maps[key] for key in attempt.maps)
                for map_ in idle:
                    if map_.waiting and all(self.attempts[r].kernel is not kernel for r in map_.running):
                        found[job.number] = map_
        if not found:
            return False
        number = min(found, key=self.clock.before)
        job, work = self.list.jobs[number], found[number]
        if not self._has_room(kernel, job):
            return False
        if isinstance(work, Attempt):
            self._resume(work)
        else:
            self._dispatch(job, work, kernel)
        return True

    def _has_room(self, kernel: Kernel, job: Job) -> bool:
        return kernel.fits(job.submit.cpus, job.submit.memory)

    def _give(self, job: Job, kernel: Kernel) -> None:
        """The job gets a slot here: for a driver of it that wants to go on, else for units. A wide unit waits for room."""
        if not self._has_room(kernel, job):
            kernel.reserved, job.reserved = job.number, kernel
            self.dealing.reserve(kernel)
            self._refresh(job)
            return
        waiting = job.resumable.get(kernel.number)
        if waiting:
            self._resume(waiting[0])
            return
        map_ = job.next_ready()
        assert map_ is not None
        self._dispatch(job, map_, kernel)

    def _unreserve(self, kernel: Kernel) -> None:
        """Its slots are for everybody again."""
        if kernel.reserved:
            job = self.list.jobs[kernel.reserved]
            kernel.reserved, job.reserved = 0, None
            self.dealing.unreserve(kernel)
            self._touched[kernel.number] = kernel
            if not job.ended:
                self._refresh(job)

    def _deal_ahead(self, kernel: Kernel) -> None:
        """Where all slots are busy, a chunk of what runs there may wait for the next free one, if it is due.

        Not where another job is between two generations: its next one would have to wait for that chunk too.
        """
        profile = kernel.profile
        while kernel.free <= 0 and not kernel.reserved and len(kernel.ahead) < kernel.slots:
            doors = [*self.dealing.doors(profile), kernel.number]
            number = self.clock.pick(doors, self._now, kernel.last, profile.owner, profile.only)
            if not number or kernel.full_of_drivers or self.clock.rests(number, self._now):
                return
            job = self.list.jobs[number]
            map_ = job.next_ready()
            if map_ is None or kernel.number in job.resumable or not self._may_be_ahead(job, map_, kernel):
                return
            self._dispatch(job, map_, kernel)

    def _may_be_ahead(self, job: Job, map_: Map, kernel: Kernel) -> bool:
        """Whether a chunk of the map may wait at the kernel for a slot: its units are short, and some run there."""
        if map_.apart or job.submit.cpus != 1 or job.submit.memory:
            return False
        estimate = self.estimates.get(map_.owner, map_.function)
        return (
            estimate is not None
            and estimate <= CHUNK_SECONDS
            and any(n in kernel.running for n in map_.running)
        )

    # -- slots that are lent, and stragglers ---------------------------------------------------

    def _ask(self, attempt: Attempt) -> None:
        if attempt.asked is None:
            attempt.asked = self._now
            self._answer(attempt.kernel.peer, messages.Lend(attempt.number))  # after its Run

    def _ask_to_lend(self) -> None:
        """Of the drivers that hold a slot while another job is due, ask those that are furthest ahead."""
        if self.clock.idle and not self.dealing.reserved:
            return
        clock, asked = self.clock, []
        for attempt in self.lending.round(self._now):
            kernel, number = attempt.kernel, attempt.map.job
            if kernel.free > 0 and not kernel.reserved:
                continue
            self._accrue(attempt)
            profile = kernel.profile
            doors = [*self.dealing.doors(profile), kernel.number]
            due = kernel.reserved or clock.pick(doors, self._now, owner=profile.owner, only=profile.only)
            if due and due != number and clock.before(due) < clock.before(number):
                asked.append(attempt)
        asked.sort(key=lambda a: clock.before(a.map.job), reverse=True)
        for attempt in asked[: clock.awake + len(self.dealing.reserved)]:
            self._ask(attempt)

    def _speculate(self) -> None:
        """Issue late chunks again where slots are free and nothing else is due."""
        for number in self.stragglers.late(self._now):
            attempt = self.attempts.get(number)
            if attempt is None or attempt.twin is not None or attempt.void or attempt.told or attempt.driver:
                continue
            map_ = attempt.map
            job = self._job(map_.job)
            if map_.waiting or not job.dealt or not self._may_run_twice(job, map_):
                continue
            driver = self.attempts.get(map_.driver)
            if driver is not None and driver.kernel is attempt.kernel:
                continue  # it may run inside its driver's process, and could not be ended alone
            if attempt.ahead:
                self.stragglers.watch(attempt, self._now + LEAST)
                continue
            kernel = self._elsewhere(job, attempt.kernel)
            if kernel is None:
                self.stragglers.watch(attempt, self._now + LEAST)
            else:
                self._issue(job, map_, attempt.span, kernel, twin=attempt)

    def _may_run_twice(self, job: Job, map_: Map) -> bool:
        return (
            job.submit.idempotent
            and not map_.once
            and not map_.apart
            and not map_.cancelled
            and map_.function not in job.callers
        )

    def _elsewhere(self, job: Job, kernel: Kernel) -> Kernel | None:
        """A kernel with a free slot for the job's units, if possible another one than *kernel*."""
        best: Kernel | None = None
        for profile in self.dealing.free:
            if job.needs in self.dealing.doors(profile) and (not profile.only or profile.owner == job.owner):
                found = self.dealing.place(profile, (), job.submit.cpus, job.submit.memory)
                if found is kernel and len(self.dealing.free[profile]) > 1:
                    found = self.dealing.place(profile, (), job.submit.cpus, job.submit.memory)
                if self._has_room(found, job) and (best is None or best is kernel):
                    best = found
        return best

    def _settle_twin(self, attempt: Attempt) -> None:
        """It is the one that counts: the other attempt at the same units is ended."""
        twin = self._part(attempt)
        if twin is None:
            return
        job = self._job(attempt.map.job)
        twin.void = True
        self._end_attempt(twin, "abort")
        self._refund(job, twin)
        self._count_running(twin, 0 if twin.ahead else -1)
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
        self._vacate(attempt)
        attempt.kernel.ahead.pop(attempt.number, None)
        self.dealing.changed(attempt.kernel)
        self._begin_next(attempt.kernel)

    def _dispatch(self, job: Job, map_: Map, kernel: Kernel) -> None:
        """Deal the next chunk of the map to the kernel."""
        estimate = self.estimates.get(map_.owner, map_.function)
        span = map_.take(chunk_size(map_.waiting, self.roster.slots, estimate))
        attempt = self._issue(job, map_, span, kernel)
        if not map_.waiting and estimate is not None and self._may_run_twice(job, map_):
            for number in [attempt.number] if map_.tail else map_.running:
                self.stragglers.watch(self.attempts[number])
            map_.tail = True
        self._refresh(job)

    def _issue(self, job: Job, map_: Map, span: Span, kernel: Kernel, twin: Attempt | None = None) -> Attempt:
        """An attempt at the units of *span*."""
        estimate = self.estimates.get(map_.owner, map_.function)
        expected = (FIRST_GUESS if estimate is None else estimate) * len(span)
        submit, number = job.submit, self._next_attempt
        self._next_attempt += 1
        weight, cost = self._weight(job), expected * submit.cpus
        attempt = Attempt(
            number,
            map_,
            span,
            kernel,
            submit.cpus,
            submit.memory,
            self._now,
            cost,
            self.clock.serve(job.number, job.needs, cost, self._now),
            expected,
            self._price(weight),
            weight,
            ahead=kernel.free <= 0,
            twin=twin,
        )
        if twin is not None:
            twin.twin = attempt
        self.attempts[number] = attempt
        job.attempts.add(number)
        map_.running.add(number)
        if attempt.ahead:
            kernel.ahead[number] = None
        else:
            self._occupy(attempt)
        kernel.jobs.add(job.number)
        kernel.last = job.number
        job.kernels[kernel.number] = kernel
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
            apart=map_.apart or twin is not None,
            ahead=attempt.ahead,
            cpus=submit.cpus,
        )
        payload = b"" if map_.once else map_.ref(span)
        # units of the store may have come this very turn: they run when they are on disk
        (self._answer if map_.root else self._send)(kernel.peer, run, payload)
        if job.state is JobState.QUEUED:
            self.list.change(job, self._out, state=JobState.RUNNING, started=self._wall_now)
        if job.ending == "stop" and not map_.root:
            self._end_attempt(attempt, "stop", soft=True)
        self._count_running(attempt, 0 if attempt.ahead else +1)
        return attempt

    # -- words for people ----------------------------------------------------------------------

    def explain(self, number: int) -> str:
        """One sentence: why the job waits, its share, and when to expect its next unit; or what ended it."""
        return why(self, self._job(number))

    @property
    def shares(self) -> dict[int, float]:
        """What part of all slots is due to each job that has work or runs."""
        if self._shares is None:
            jobs = self.list.jobs
            wanting = {n for a in self.attempts.values() if jobs[n := a.map.job].dealt and not a.void}
            wanting.update(self.clock.waiting)
            wanting.update(k.reserved for k in self.dealing.reserved.values())
            self._shares = self.clock.shares(wanting, self._now)
        return self._shares

    def owners(self) -> list[OwnerRecord]:
        """Everybody who has jobs that have not ended."""
        accounts = self.ledger.accounts if self.ledger.policy is not None else {}
        return [
            OwnerRecord(name, jobs, accounts[name].balance / MICRO if name in accounts else None)
            for name, jobs in self.list.owners().items()
        ]

    def _accounts(self, owner: str) -> list[dict[str, Any]]:
        """What everybody may know of the account of *owner*, or of all ("*")."""
        known = {*self.ledger.accounts, *self.clock.owners}
        shares: dict[str, float] = {}
        for number, share in self.shares.items():
            name = self.list.jobs[number].owner
            shares[name] = shares.get(name, 0.0) + share
        found = []
        for name in sorted(known if owner == "*" else {owner}):
            account = None
            if self.ledger.policy is not None and name in self.ledger.accounts:
                account = self.ledger.account(name, self._now)
            jobs = self.list.jobs
            found.append(
                {
                    "owner": name,
                    "balance": None if account is None else account.balance / MICRO,
                    "cap": None if account is None else account.terms.cap,
                    "rate": None if account is None else account.terms.rate,
                    "use": self.clock.use(name, self._now),
                    "share": shares.get(name, 0.0),
                    "jobs": {
                        str(n): cost / MICRO
                        for n, cost in self.ledger.costs.items()
                        if cost and n in jobs and jobs[n].owner == name
                    },
                }
            )
        return found

    # -- restart -------------------------------------------------------------------------------

    def restore(
        self, stored: dict[str, Any], submit: Submit, segments: dict[int, int], results: list[tuple[int, int]]
    ) -> None:
        """A stored job of an earlier life: what is not answered waits again.

        *stored* is what `JobList.store` wrote, *segments* and *results* how many units begin where.
        """
        record = JobRecord.from_map(stored)
        job = Job(record, submit, b"", results=results, ending=stored["ending"], error=stored["error"])
        self.list.restore(job)
        if submit.body not in self.codes:
            self.codes.add(submit.body, 0)  # it lies in the store
        if record.state.ended:
            job.root = Map(submit.key, record.job, record.owner, submit.body, submit.seed, 0, root=True)
            job.root.segments, job.root.total = segments, sum(segments.values())
            return
        root = self._root_map(job)
        root.closed = stored["closed"]
        root.segments = {0: 1} if submit.once else segments
        root.total = sum(root.segments.values())
        root.put_missing((start, start + count) for start, count in results)
        if job.ending or job.stops_at_failure:
            root.closed = True
            root.drop_pending()
        job.list_ready(root)
        if record.state not in (JobState.WAITING, JobState.PAUSED):
            job.facts = replace(record, state=JobState.QUEUED, epoch=self.epoch)
        job.done, job.progress = sum(count for _, count in results), None

    def settle(self, now: float, wall: float) -> Outcome:
        """After all `restore` calls: release what may run, as the first tick of this life."""
        self._out, self._now, self._wall = Outcome(), now, wall - now
        for job in list(self.list.jobs.values()):
            if job.ended:
                continue
            # the wall clock only says how long it has waited; at worst it is thought to be new, or a day old
            self._join_clock(job, now - max(0.0, wall - job.facts.submitted))
            if job.submit.once:
                self.ledger.forgive(job.number)
                job.paid = self.ledger.costs.get(job.number, 0)
            self._release_waiting(job)
            self._refresh(job)
            if job.root is not None:
                self._check_map(job.root)
        self._release_dependents()
        return self._out

    # -- invariants ----------------------------------------------------------------------------

    def check(self, everything: bool = True) -> None:
        """Assert every invariant, or those of what the last event has changed; the tests call it after each event."""
        invariants.check(self, everything)

    _HANDLERS: dict[type[Message], Any] = {  # noqa: RUF012
        messages.Hello: _hello,
        messages.KernelHello: _kernel_hello,
        messages.Heartbeat: _heartbeat,
        messages.Goodbye: _goodbye,
        messages.Blob: _blob,
        messages.NeedBlob: _need_blob,
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
        messages.Change: _change,
        messages.Credits: _credits,
        messages.Grant: _grant,
        messages.Finished: _finished,
        messages.Lent: _lent,
        messages.Crashed: _crashed,
        messages.Publish: _publish,
    }


def _answers(m: messages.Finished, span: Span, payload: bytes | memoryview) -> bool:
    """Whether the message answers units that were asked: the first ones of *span*."""
    try:
        count = pack.count(payload)
    except ProtocolError:
        return False
    return m.start == span.start and 0 <= m.failed <= m.count == count <= len(span)
