"""What clients ask for: requests and their units, maps, changes, results and records."""

from __future__ import annotations

from park.core.codes import check_code
from park.core.jobs import Job, Waiter
from park.core.keeping import Keeping
from park.core.limits import RECORD, check_room
from park.core.outcome import Event, Ref, Write
from park.core.requests import check_change, check_control, check_submit
from park.core.rights import check_right
from park.core.roster import Client
from park.core.state import WORDS
from park.core.work import Attempt, Map
from park.errors import Busy, InvalidRequest, ProtocolError, Refused, UnknownJob
from park.model import JobRecord, JobState
from park.wire import codec, messages, pack
from park.wire.messages import Submit

#: Bytes of units that a broker keeps in memory for the sessions of one client, and seconds after which a client to which
#: that was said may try again. A single message may be longer, if it is alone.
SPOOL = 256 << 20
AGAIN = 2.0


class Intake(Keeping):
    """The floor above `Keeping`."""

    def _client(self, event: Event) -> Client:
        client = self.roster.clients.get(event.peer)
        if client is None:
            raise ProtocolError("this message is a client's")
        return client

    def _active(self, number: int) -> Job:
        job = self._job(number)
        if job.ended:
            raise UnknownJob(f"job {number} has ended: it is {job.state}")
        return job

    def check_right(self, event: Event, job: int, owner: str) -> None:
        """Whether the sender may steer the *owner*'s job, or see its payloads. Raises Refused."""
        member = self.roster.member(event.peer)
        assert member is not None
        attempt = self.attempts.get(getattr(event.message, "attempt", 0))
        check_right(member, job, owner, attempt)

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

    def _submit(self, event: Event, m: Submit) -> None:
        client = self._client(event)
        known = self.list.by_key.get(m.key)
        if known is not None:
            job = self.list.jobs[known]
            self.check_right(event, known, job.owner)
            root = job.root
            received = root.total if root is not None else 0
            self._answer(event.peer, messages.Accepted(m.id, known, existed=True, received=received))
            return
        check_submit(m, event.payload)
        for other in m.after:
            self._job(other)
        if not m.session and m.body not in self.codes:
            self._send(event.peer, messages.NeedBlob(m.body))  # and then the request again
            return
        request = codec.pack(codec.fields(m))
        code = 0 if m.session else self.codes.size(m.body)
        size = 0 if m.session else RECORD + len(request) + code + len(event.payload)
        self._check_room(client.user, 1, m.count + m.once, size)
        if not m.session:
            self.room.demand(size)
        job = self._new_job(m, client, code)
        self._answer(event.peer, messages.Accepted(m.id, job.number, received=m.count))
        if m.session:
            job.held = client.slow
            client.open.add(job.number)
            self.list.change(job, self._out, state=JobState.RUNNING, started=self._wall_now)
            self._refresh(job)
            return
        self.list.grow(job, RECORD + len(request) + code)
        writes = self._out.writes
        writes.append(Write("submit", (job.number,), request))
        if self.codes.keep(m.body, code):
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

    def _check_room(self, owner: str, jobs: int, units: int, size: int) -> None:
        """Whether the owner may have so much more. Raises LimitReached."""
        if self.limits is not None:
            check_room(owner, self.limits.of(owner), self.list.tallies.of(owner), jobs, units, size)

    def _new_job(self, m: Submit, client: Client, code: int) -> Job:
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
            argv=tuple(m.argv),
            doubled=0 if m.pure else None,
        )
        job = Job(record, m, client.incarnation, code=code)
        self.list.add(job, self._out)
        self._join_clock(job, self._now)
        return job

    def _join_clock(self, job: Job, born: float) -> None:
        """The job may want slots from now on; it was submitted at *born*."""
        self.clock.add(job.number, job.owner, self._weight(job), born, job.seconds)
        job.doors = self.vacancies.need(job.needs)
        job.needs = job.doors[0].needs
        self._out.deltas += self.ledger.deltas([job.owner])

    def _root_map(self, job: Job) -> Map:
        m = job.submit
        root = Map(m.key, job.number, job.owner, m.body, m.seed, 0, root=True, once=m.once, closed=m.closed)
        root.tally = self.list.tallies.of(job.owner)
        root.came = self._turn
        job.root = root
        self._add_map(job, root)
        return root

    def _add_map(self, job: Job, map_: Map) -> None:
        self.maps[map_.key] = job.maps[map_.key] = map_
        map_.apart = map_.function in job.killers
        self.codes.use(map_.function)

    def _add_units(self, map_: Map, start: int, count: int, payload: bytes | memoryview) -> None:
        """A segment of units that follows the last one; it may be empty."""
        if start != map_.total or pack.count(payload) != count:
            raise ProtocolError(f"units {start} to {start + count} do not follow unit {map_.total}")
        if count:
            map_.came = self._turn
            map_.add(start, count)
            if map_.known:
                map_.skip(map_.known)
            self._spool(map_, start, len(payload))
            write = Write("units", map_.key_of(start), payload)
            (self._out.writes if map_.root else self._out.spool).append(write)
            if map_.root:
                self.list.grow(self.list.jobs[map_.job], len(payload))
            self.list.jobs[map_.job].list_ready(map_)

    def _spool(self, map_: Map, segment: int, size: int) -> None:
        """So many bytes of a session's map are in memory now."""
        if map_.session:
            map_.sizes[segment] = size
            self.list.jobs[map_.job].spooled += size

    def _check_spool(self, client: Client, size: int) -> None:
        """Whether there is room in memory for more units of its sessions. Raises Busy."""
        held = sum(self.list.jobs[number].spooled for number in client.open)
        if held and held + size > SPOOL:
            raise Busy(
                f"busy: {held:,} bytes of units of this client wait, and no more than {SPOOL:,} may: retry after "
                f"{AGAIN:.0f} s"
            )

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
        if not (job.ended or job.ending or job.stops_at_failure):
            if m.start >= map_.total:
                self._take_units(client, map_, m, event.payload)
            elif map_.session:
                self._take_again(job, map_, m, event.payload)
        if m.job and not job.ended:
            (client.open.discard if map_.closed else client.open.add)(job.number)
        if m.id:
            self._answer(event.peer, messages.Done(m.id))

    def _take_units(self, client: Client, map_: Map, m: messages.Units, payload: bytes | memoryview) -> None:
        job = self.list.jobs[map_.job]
        if map_.closed:
            if m.count:
                raise ProtocolError("this map has all its units already")
            return
        if map_.root:
            self._check_room(job.owner, 0, m.count, len(payload))
            self.room.demand(len(payload))
        elif m.start == map_.total:
            self._check_spool(client, len(payload))
        self._add_units(map_, m.start, m.count, payload)
        if m.closed:
            map_.closed = True
            if map_.root:
                job.total = map_.total
                self.list.counted(job)
                self.list.store(job, self._out)
        self._refresh(job)
        self._check_map(map_)

    def _take_again(
        self, job: Job, map_: Map, m: messages.Map | messages.Units, payload: bytes | memoryview
    ) -> None:
        """Units of a session's map that came before, and come again over a new connection."""
        if m.start not in map_.segments and m.start + m.count <= map_.total and map_.base <= m.start:
            if pack.count(payload) != m.count:
                raise ProtocolError(f"there are not {m.count} units")
            waited = map_.waiting
            map_.restore(m.start, m.count)
            self._spool(map_, m.start, len(payload))
            job.done = max(0, job.done - (map_.waiting - waited))
            self.list.counted(job)
            self._out.spool.append(Write("units", map_.key_of(m.start), payload))
            job.list_ready(map_)
        if m.closed and m.start + m.count == map_.total:
            map_.closed = True
        self._refresh(job)
        self._check_map(map_)

    def _map(self, event: Event, m: messages.Map) -> None:
        attempt: Attempt | None = None
        if event.peer in self.roster.kernels:
            attempt = self.attempts.get(m.attempt)
            if attempt is None or attempt.kernel.peer != event.peer:
                self._send(
                    event.peer, messages.Abort(attempt=m.attempt)
                )  # its lease ran out, or its job has ended
                return
            if self._is_void(attempt):
                return
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
        if known is not None and attempt is None and known.session and known.job != job.number:
            other = self._job(known.job)
            if other.client != job.client or not other.ending:
                raise ProtocolError("another map has this key")
            self._drop_map(known)  # of a session that the client has lost, and opened anew
        elif known is not None:
            mine = known.job == job.number and known.driver == (attempt.number if attempt is not None else 0)
            if mine and known.peer != event.peer:
                known.peer = event.peer
                self._again(job, known, m, event.payload)
            elif (
                mine and known.session and m.start == known.total
            ):  # there was no room for these units before
                units = messages.Units(m.start, m.count, m.closed)
                self._take_units(self._client(event), known, units, event.payload)
            return  # else nothing was lost, it was only impatient
        if len(m.map) != 16:
            raise ProtocolError("a map key has 16 bytes")
        if m.function not in self.codes:
            self._send(event.peer, messages.NeedBlob(m.function))  # and then the map again
            return
        if attempt is None:
            self._check_room(job.owner, 0, m.count, 0)
            self._check_spool(self._client(event), len(event.payload))
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
            peer=event.peer,
            base=m.start,
            total=m.start,
            known=m.answered,
            tally=self.list.tallies.of(job.owner),
        )
        self._add_units(map_, m.start, m.count, event.payload)
        self._add_map(job, map_)
        if attempt is None and m.epoch not in (0, self.epoch):
            self._recover(job)
        if self.orphans:
            self._adopt(map_)
        if attempt is not None:
            attempt.maps.add(map_.key)
            job.callers.add(attempt.map.function)
            self._settle_twin(attempt)  # what makes maps runs once at a time
            self._park(job, attempt)
        if attempt is None and map_.waiting == 1:
            self._single.append((job, map_))
        else:
            self._refresh(job)
        self._check_map(map_)

    def _again(self, job: Job, map_: Map, m: messages.Map, payload: bytes | memoryview) -> None:
        """Whoever made the map sends it again over a new connection: answers may have been lost on the old one."""
        if map_.cancelled:
            return
        map_.known = [0, m.start, *m.answered]
        units = map_.again(self.attempts[n] for n in map_.running)
        waiting = map_.waiting
        map_.skip(map_.known)
        units -= waiting - map_.waiting
        job.list_ready(map_)
        if job.session:
            job.done = max(0, job.done - units)
            self.list.counted(job)
        if map_.session and m.start < map_.total:
            self._take_again(job, map_, m, payload)
        elif map_.session:
            client = self.roster.clients[map_.peer]
            self._take_units(client, map_, messages.Units(m.start, m.count, m.closed), payload)
        else:
            self._refresh(job)
            self._check_map(map_)

    def _cancel(self, event: Event, m: messages.Cancel) -> None:
        map_ = self.maps.get(m.map)
        client = self._client(event)
        if map_ is None or not map_.session or self._job(map_.job).client != client.incarnation:
            map_ = None
        if m.spare:
            units = self._spare(map_) if map_ is not None else []
            self._answer(event.peer, messages.Dropped(m.id, m.map, units))
            return
        if map_ is not None:
            self._drop_map(map_)
            self._refresh(self._job(map_.job))
        if m.id:
            self._answer(event.peer, messages.Done(m.id))

    def _spare(self, map_: Map) -> list[int]:
        """Nothing more of the map begins; the units that wait, [first, behind the last, ...], are dropped."""
        units = [edge for span in map_.pending for edge in (span.start, span.stop)]
        map_.closed = True
        map_.drop_pending()
        self._refresh(self._job(map_.job))
        self._check_map(map_)
        return units

    def _stop(self, event: Event, m: messages.Stop) -> None:
        job = self._active(m.job)
        self.check_right(event, job.number, job.owner)
        self._begin_end(job, "stop", "stopped by its owner")
        self._answer(event.peer, messages.Done(m.id))

    def _abort(self, event: Event, m: messages.Abort) -> None:
        job = self._active(m.job)
        self.check_right(event, job.number, job.owner)
        self._begin_end(job, "abort", "aborted by its owner")
        self._answer(event.peer, messages.Done(m.id))

    def _control(self, event: Event, m: messages.Control) -> None:
        job = self._job(m.job)
        self.check_right(event, job.number, job.owner)
        if job.session:
            raise InvalidRequest(
                f"job {job.number} is a session: what drives it is a program of its owner's, which takes no controls"
            )
        check_control(m, event.payload)
        if not job.ended:
            self._keep_control(job, m.key, event.payload)
        self._answer(event.peer, messages.Done(m.id, ignored=job.ended))

    def _delete(self, event: Event, m: messages.Delete) -> None:
        job = self._job(m.job)
        self.check_right(event, job.number, job.owner)
        self._check_deletable(job)
        self._remove(job)
        self._answer(event.peer, messages.Done(m.id))

    def _change(self, event: Event, m: messages.Change) -> None:
        job = self._active(m.job)
        self.check_right(event, job.number, job.owner)
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

    def _close(self, event: Event, m: messages.Close) -> None:
        job = self._active(m.job)
        if not job.session or job.client != self._client(event).incarnation:
            raise ProtocolError(f"job {m.job} is no session of this client")
        self._begin_end(job, "abort" if m.reason else "stop", m.reason[:WORDS])
        self._answer(event.peer, messages.Done(m.id))

    def _fetch(self, event: Event, m: messages.Fetch) -> None:
        job = self._job(m.job)
        self.check_right(event, job.number, job.owner)
        member = self.roster.member(event.peer)
        assert member is not None
        waiter = Waiter(member, m.id, m.attempt, m.request, m.results)
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

    def _credits(self, event: Event, m: messages.Credits) -> None:
        self._send(event.peer, messages.Records(m.id), codec.pack(self._accounts(m.owner)))

    def _grant(self, event: Event, m: messages.Grant) -> None:
        if not self._client(event).admin:
            raise Refused(
                "only the broker's own user grants credits, over ipc: run `park credits grant` on its machine"
            )
        self.ledger.grant(m.owner, m.credits, self._now)
        self._out.deltas += self.ledger.deltas({m.owner} & self.list.owners().keys())
        self._answer(event.peer, messages.Done(m.id))
