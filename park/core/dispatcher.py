"""The dispatcher: a pure state machine that decides what happens to every job.

`Dispatcher.handle(event, now)` takes a decoded message with its sender, or a `Tick`, and returns an
`Outcome`: records to write, changes of the public table, messages to send at once, and messages to
send when the records are on disk. It has no socket, clock, file or thread, and it opens no payload.

Its floors are in modules of their own; `park.core.state` lists them. Here is who is connected, what each message is
handled by, and the start of a new life.

How a job moves: Submit makes it waiting or queued. A free slot goes to the job that the service clock
picks, and there to a driver whose map has ended, else to the next units of its deepest map. A driver
that sends a Map gives its slot back until that map has ended. When the last unit of the root map is
answered the job ends.
"""

from __future__ import annotations

import heapq
from typing import Any

from msgspec.structs import replace

from park.core import invariants
from park.core.attempts import Attempts
from park.core.checkpoints import Checkpoints
from park.core.controls import Controls
from park.core.course import SOON
from park.core.dealing import Dealing
from park.core.files import Files
from park.core.intake import Intake
from park.core.jobs import Job
from park.core.keeping import ended_root
from park.core.leaving import Leaving
from park.core.needs import profile_of
from park.core.outcome import Event, Flow, Outcome, Peer, Tick, Write
from park.core.overtime import Overtime
from park.core.requests import check_hello
from park.core.rights import check_return
from park.core.roster import Client, Kernel, Member
from park.core.state import WORDS
from park.core.suspects import Suspects
from park.errors import Busy, ParkError, ProtocolError
from park.model import Delta, JobRecord, JobState
from park.version import __version__
from park.wire import messages
from park.wire.messages import Message, Submit

#: Before the name of a peer that was cut off.
CUT = b"!"
#: More slots than any node has.
MAX_SLOTS = 1 << 16


class Dispatcher(Intake, Dealing, Checkpoints, Files, Leaving, Overtime, Suspects):
    """See the module. *epoch* counts the lives of the broker; *heartbeat* and *lease* are in seconds.

    *policy*: the terms of credit; None: nothing is charged.
    """

    # -- the door ------------------------------------------------------------------------------

    def handle(self, event: Event | Tick | Flow, now: float) -> Outcome:
        """What follows from *event* at monotonic time *now*, seconds."""
        self._out = out = Outcome()
        self._now = now
        self._last_results.clear()
        self.touched_jobs.clear()
        self._shares = self._line = None
        if isinstance(event, Tick):
            self._tick(event)
        elif isinstance(event, Flow):
            self._flow(event)
        else:
            self._receive(event)
        if self.room.waiting:
            self._let_in()
        while self.replay:
            self._receive(self.replay.popleft())
        if out.ended:
            self._release_dependents()
            self._keep_ended()
        if self.ledger.unsettled:
            self._reweigh()
        if self.trials:
            self._look_at_trials()
        self._deal()
        self.list.flush(now, out)
        self.ledger.flush(now, out)
        return out

    def next_deadline(self) -> float:
        """When a Tick may next lead to something; infinity: not before a message comes."""
        times = [
            self.roster.next_look,
            self.list.next_deadline(),
            self.ledger.next_deadline(),
            self._keep_deadline(),
        ]
        if self.hears:
            times += self.hears.values()
        if self.times:
            times.append(self.times.next_deadline())
        if self.orphans or self.expected:
            times.append(self._recovery_deadline())
        if self.room.waiting:
            times.append(self.room.look_at)
        if self.trials:
            times.append(self._trial_deadline())
        if self.outrun:
            times.append(next(iter(self.outrun.values())))
        if self.vacancies.free:
            times.append(self.stragglers.next_deadline())
        if self.clock.awake or self.vacancies.reserved:
            times.append(self.lending.next_deadline())
        if self._held:
            times.append(self._now + max(0.0, self._held[0][0] - self._wall_now))
        return min(times)

    def _let_in(self) -> None:
        """Answers that wait for room on the disk, if there is room now."""
        here, again = self.room.let_in(self._now)
        self.replay.extend(here)
        for waited in again:
            number = waited.message.attempt  # type: ignore[attr-defined]
            held = self.attempts.get(number)
            if held is not None and held.kernel.peer == waited.peer:
                self._send(waited.peer, messages.Again(number))

    def _tick(self, tick: Tick) -> None:
        self._wall = tick.wall - self._now
        while self._held and self._held[0][0] <= tick.wall + SOON:
            held = self.list.jobs.get(heapq.heappop(self._held)[1])
            if held is not None:  # else it was aborted, and deleted since
                self._release_waiting(held)
        if self.keep.age is not None and self._now >= self._clock_due:
            self._write_clock()
        self._end_outrun(n for n, until in self.outrun.items() if until <= self._now)
        self._look_for_lost()
        self._look_at_times()
        self._out.sends += self.heard(())
        silent, due = self.roster.look(self._now)
        for member in silent:
            self._lose(member, "its client was lost", silent=True)
        for member in due:
            self._send(member.peer, messages.Heartbeat(self.epoch))
            if isinstance(member, Kernel):
                self._confirm(member)
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
            if self.orphans and self.held_back(event, message):
                return
            if handler is None:
                raise ProtocolError(f"a broker takes no {type(message).__name__}")
            handler(self, event, message)
        except ParkError as error:
            reply = getattr(message, "id", 0)
            name, text = type(error).__name__, str(error)
            if reply:
                failure = messages.Failure(reply, name, text, attempt=getattr(message, "attempt", 0))
                self._send(event.peer, failure)
            elif event.peer in self.roster.clients and (
                isinstance(message, messages.Map)
                or (isinstance(message, messages.Units) and isinstance(error, Busy))
            ):
                self._send(event.peer, messages.MapFailed(message.map, name, text))

    # -- who is there --------------------------------------------------------------------------

    def _hello(self, event: Event, m: messages.Hello) -> None:
        check_hello(m)
        client = self.roster.client_of(m.incarnation)
        check_return(client, event.account)
        self._make_room(event.peer, client)
        fresh = client is None
        if client is None:
            user = m.user if event.account is None else event.account.name
            client = self.roster.join_client(
                event.peer, m.incarnation, user, m.python, self._now, event.account
            )
        elif client.peer != event.peer:
            self._move(client, event.peer)
            self._hold(client, False)
        self._send(event.peer, replace(self._welcome_to(fresh, m.id), number=client.number))

    def _kernel_hello(self, event: Event, m: messages.KernelHello) -> None:
        check_hello(m)
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
            self.vacancies.join(kernel)
            self._touched[kernel.number] = kernel
            self._out.deltas.append(Delta("kernel", kernel.number, kernel.record().as_map()))
            self._out.writes.append(Write("kernel", (m.incarnation,), b""))
            kernel.joined = self._turn
            if m.draining:
                self._knows(kernel)
            # when the next life would wait for it
            self._answer(event.peer, self._welcome_to(True))
            self._cleared(m.incarnation)
            self._take_in(kernel, m, event.payload)
            self._come_back(m.incarnation)
            return
        if kernel.peer == event.peer:  # it was only impatient
            if kernel.joined <= self._saved:  # else its welcome comes
                self._send(event.peer, self._welcome_to(False, lost=False))
            self._take_back_ended(kernel, m.attempts)
            return
        self._move(kernel, event.peer)
        if m.draining:
            self._knows(kernel)
        elif kernel.grace is not None:
            self._answer(event.peer, messages.Drain(grace=kernel.grace))
        # what was on its way is lost: code, work that it does not hold, answers to work that it held
        kernel.known.clear()
        self._send(event.peer, self._welcome_to(False))
        self._give_controls_again(kernel)
        held = set(m.attempts)
        self._lose_orphans(kernel, [n for n in self.orphans if n not in held])
        for number in sorted(kernel.holds - held, reverse=True):
            attempt = self.attempts.get(number)
            if attempt is not None:
                self._end_attempt(attempt, "abort")
                self._take_back(attempt, "the connection to its kernel was lost")
        for number in sorted(held - kernel.holds - self.orphans.keys()):
            self._send(event.peer, messages.Abort(attempt=number))
        for attempt in [self.attempts[n] for n in sorted(kernel.holds)]:
            told, attempt.told = attempt.told, ""
            if told:
                self._end_attempt(attempt, told, soft=not attempt.map.root)

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

    def _flow(self, event: Flow) -> None:
        """Of a slow client's sessions nothing more is dealt. Who was cut off is as a peer whose connection was cut."""
        member = self.roster.member(event.peer)
        if member is None:
            return
        if event.how == "alive":
            member.heard = self._now
            return
        if isinstance(member, Client):
            self._hold(member, event.how == "slow")
        if event.how == "cut":  # until it has said hello again it is not known, and nothing can reach it
            heard = member.heard
            self._move(member, CUT + event.peer)
            member.heard = heard

    def _hold(self, client: Client, slow: bool) -> None:
        if client.slow is not slow:
            client.slow = slow
            for job in [self.list.jobs[n] for n in sorted(client.open)]:
                job.held = slow and job.session
                self._refresh(job)

    def _welcome_to(self, fresh: bool, reply: int = 0, lost: bool = True) -> messages.Welcome:
        r = self.roster
        return messages.Welcome(
            self.store,
            self.epoch,
            r.heartbeat,
            r.lease,
            fresh,
            reply,
            lost,
            release=__version__,
            since=self._since,
        )

    def _heartbeat(self, event: Event, m: messages.Heartbeat) -> None:
        """`Roster.heard` has seen it. What a kernel has that is not its any more was given before contact was lost."""
        kernel = self.roster.kernels.get(event.peer)
        if kernel is not None:
            for number in m.attempts:
                if number not in kernel.holds and number not in self.orphans:
                    self._answer(event.peer, messages.Abort(attempt=number))
            self._take_back_ended(kernel, m.attempts)

    def _take_back_ended(self, kernel: Kernel, named: list[int]) -> None:
        """Work of an earlier life that the kernel brought along, and does not name any more, has ended in between.

        None of it can be on its way there, as new work may be; and what is on its way here came before these names.
        """
        for number in sorted(kernel.holds - set(named), reverse=True):
            attempt = self.attempts.get(number)
            if attempt is not None and number < self.epoch << 32:
                self._take_back(attempt, "its kernel has ended it")

    def _goodbye(self, event: Event, m: messages.Goodbye) -> None:
        member = self.roster.member(event.peer)
        assert member is not None
        self._lose(member, m.reason[:WORDS] or "its client has left")

    def _lose(self, member: Member, reason: str, silent: bool = False) -> None:
        """It left, or is *silent*, and its lease has run out: *reason* is what the jobs say that end with it."""
        self._out.gone.append(member.peer)
        for number in member.fetches.values():
            job = self.list.jobs[number]
            job.waiters = [w for w in job.waiters if w.member is not member]
        if isinstance(member, Kernel):
            suspects = self._suspects(member) if silent and not member.draining else []
            for number in sorted(member.holds, reverse=True):  # the first is dealt first again
                attempt = self.attempts.get(number)
                if attempt is not None:
                    self._take_back(attempt, "the kernel that ran it was lost")
            self._unreserve(member)
            self._answer_drainers(member)
            self._lose_orphans(member)
            self._out.writes.append(Write("kernel", (member.incarnation,), None))
            self.list.forget_kernel(member.number, self._out)
            for number in member.jobs:
                job = self.list.jobs[number]
                job.kernels.pop(member.number, None)
                if job.controls is not None:
                    job.controls.told.pop(member.number, None)
            if not member.draining:
                self.vacancies.leave(member)
            self._touched.pop(member.number, None)
            if suspects:
                self._suspect(member, suspects)
        self.roster.drop(member)
        self._count_slots()
        for number in sorted(member.open) if isinstance(member, Client) else ():
            job = self.list.jobs[number]
            if job.session:
                self._begin_end(job, "abort", reason)
            else:
                self._fail(job, f"{reason} before all inputs had come")

    # -- restart -------------------------------------------------------------------------------

    def restore(
        self,
        stored: dict[str, Any],
        submit: Submit,
        segments: dict[int, int],
        results: list[tuple[int, int]],
        risky: list[tuple[int, int]],
        size: int,
        controls: list[tuple[int, bytes, int]],
    ) -> None:
        """A stored job of an earlier life: what is not answered waits again, or is still held by a kernel.

        *stored* is what `JobList.store` wrote, *segments* and *results* how many units begin where, and *risky* those
        that were dealt and must not run twice; *size* are its bytes in the store, if it has not ended, and *controls* the
        numbers, keys and bytes of what its body is told.
        """
        record = JobRecord.from_map(stored)
        job = Job(record, submit, b"", results=results, ending=stored["ending"], error=stored["error"])
        kept = {unit: (attempt, 0) for unit, attempt in stored.get("checkpoints", ())}
        for start, count in results if kept else ():
            for unit in range(start, start + count):
                kept.pop(unit, None)
        job.checkpoints = kept
        job.files = stored.get("files", {})
        if controls:
            job.controls = Controls(stored.get("served", 0))
            for control in controls:
                job.controls.restore(*control)
            self.list.tallies.of(job.owner).controls += len(job.controls.kept)
        job.ran, job.overtime = stored.get("ran", 0.0), stored.get("overtime")
        self.list.restore(job)
        if risky:
            answered = {unit for start, count in results for unit in range(start, start + count)}
            job.risky = [(start, count) for start, count in risky if start not in answered]
        self.codes.keep(submit.body, stored["code"])
        job.code, job.clock = stored["code"], stored["clock"]
        if record.state.ended:
            self.list.grow(job, stored["bytes"])
            self.over_bytes += stored["bytes"]
            job.root = ended_root(job, segments)
            return
        self.list.grow(job, size)
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
        self._out, self._now, self._wall, self._since = Outcome(), now, wall - now, wall
        self.ledger.settle(self.list.jobs)
        self._begin_keeping(wall)
        self.recover_until = now + self.roster.lease
        for job in list(self.list.jobs.values()):
            if job.ended:
                continue
            # the wall clock only says how long it has waited; at worst it is thought to be new, or a day old
            self._join_clock(job, now - max(0.0, wall - job.facts.submitted))
            self._recover(job)
            self._release_waiting(job)
            self._refresh(job)
            if job.root is not None:
                self._check_map(job.root)
        self._release_dependents()
        self._keep_ended()
        if not self.expected:
            for job in self.list.jobs.values():
                if not job.ended:
                    self._look_at_lost(job)
        for job in self.list.jobs.values():
            job.paid = self.ledger.costs.get(job.number, 0)
        self.ledger.flush(now, self._out)
        return self._out

    def check(self, everything: bool = True) -> None:
        """Assert every invariant, or those of what the last event has changed; the tests call it after each event."""
        invariants.check(self, everything)
        self.room.check()
        if everything:
            self._check_keeping()

    def _files(self, event: Event, m: messages.Files) -> None:
        job = self._job(m.job)
        self.check_right(event, job.number, job.owner)
        self._answer_file(event, job, m.id, m.name)

    _HANDLERS: dict[type[Message], Any] = {  # noqa: RUF012
        messages.Hello: _hello,
        messages.KernelHello: _kernel_hello,
        messages.Heartbeat: _heartbeat,
        messages.Goodbye: _goodbye,
        messages.Blob: Intake._blob,
        messages.NeedBlob: Intake._need_blob,
        messages.Submit: Intake._submit,
        messages.Units: Intake._units,
        messages.Map: Intake._map,
        messages.Cancel: Intake._cancel,
        messages.Stop: Intake._stop,
        messages.Abort: Intake._abort,
        messages.Close: Intake._close,
        messages.Fetch: Intake._fetch,
        messages.Forget: Intake._forget,
        messages.Change: Intake._change,
        messages.Control: Intake._control,
        messages.Delete: Intake._delete,
        messages.Credits: Intake._credits,
        messages.Grant: Intake._grant,
        messages.Finished: Attempts._finished,
        messages.Lent: Attempts._lent,
        messages.Drain: Leaving._drain,
        messages.Draining: Leaving._draining,
        messages.Crashed: Attempts._crashed,
        messages.Checkpoint: Checkpoints._checkpoint,
        messages.Restore: Checkpoints._restore,
        messages.File: Files._file,
        messages.Files: _files,
        messages.Publish: Attempts._publish,
    }
