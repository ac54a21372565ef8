"""What is taken up again after the broker, or the contact with a kernel, was gone.

A broker that starts again has the jobs that are stored, and knows which kernels were there. Until these have come back,
but no longer than one lease, it deals nothing of what it has restored, because they may still hold it. Each kernel
says in its hello what it holds: an attempt whose map is known is taken in as it stands; one of a map that
is not known yet, because its driver's or its client's word is still on its way, waits for that as an *orphan*, with all
that its kernel says of it, for one lease. What fits nowhere is aborted, and its units are dealt again.
"""

from __future__ import annotations

from typing import Any

from park.core.attempts import Attempts
from park.core.jobs import Job
from park.core.outcome import Event, Write
from park.core.roster import Kernel
from park.core.work import Attempt, Map, Orphan
from park.errors import ProtocolError
from park.model import JobState
from park.wire import messages
from park.wire.codec import unpack
from park.wire.messages import Message

#: So much is kept of what a kernel says of one orphan; it says no more.
WORDS_OF_ORPHANS = 8
#: Seconds that an attempt may have run before it is taken in.
LONGEST = 30 * 86400.0


class Recovery(Attempts):
    """The floor above `Attempts`, on one level with `park.core.dealing`."""

    # -- a new life ----------------------------------------------------------------------------

    def expect(self, incarnations: set[bytes]) -> None:
        """These kernels were there in the broker's last life."""
        self.expected = set(incarnations)

    def _recover(self, job: Job) -> None:
        """The job was there in an earlier life: kernels may hold work of it."""
        if self.expected:
            self.recovering.add(job.number)
            job.recovering = True

    def _come_back(self, incarnation: bytes) -> None:
        """A kernel is there (again). When all are, or their time is over, everything is dealt."""
        self.expected.discard(incarnation)
        if not self.expected:
            self._recovered()

    def _recovered(self) -> None:
        for number in sorted(self.recovering):
            job = self.list.jobs[number]
            job.recovering = False
            if not job.ended:
                self._look_at_lost(job)
                self._refresh(job)
        self.recovering.clear()

    def _look_at_lost(self, job: Job) -> None:
        """What of the job was under way in an earlier life, and no kernel has brought back."""
        if job.submit.once and not job.attempts:
            self.ledger.forgive(job.number)
            job.paid = self.ledger.costs.get(job.number, 0)
        if job.risky:
            self._check_risky(job)

    def _check_risky(self, job: Job) -> None:
        """Units that must not run twice."""
        running = {u for n in job.attempts for u in self._units_of(self.attempts[n])}
        root = job.root
        waiting = {u for s in root.pending for u in range(s.start, s.stop)} if root is not None else set()
        lost = [u for start, count in job.risky for u in range(start, start + count)]
        if any(u in waiting and u not in running for u in lost):
            self._fail_unrepeatable(job, "the broker was restarted, and no kernel has brought the unit back")
        job.risky.clear()

    def _units_of(self, attempt: Attempt) -> range:
        return range(attempt.span.start, attempt.span.stop) if attempt.map.root else range(0)

    def _look_for_lost(self) -> None:
        """What nobody has claimed within its time is aborted; kernels that have not come back are lost."""
        if self.expected and self._now >= self.recover_until:
            self._out.writes += [Write("kernel", (i,), None) for i in sorted(self.expected)]
            self.expected.clear()
            self._recovered()
        for orphan in [o for o in self.orphans.values() if self._now >= o.until]:
            self._drop_orphan(orphan)

    def _recovery_deadline(self) -> float:
        times = [o.until for o in self.orphans.values()]
        if self.expected:
            times.append(self.recover_until)
        return min(times)

    # -- what kernels hold ---------------------------------------------------------------------

    def _take_in(self, kernel: Kernel, m: messages.KernelHello, payload: bytes | memoryview) -> None:
        """What a kernel holds that the broker does not know (any more) as its own."""
        entries: Any = unpack(payload) if len(payload) else []
        if not isinstance(entries, list) or len(entries) != len(m.attempts):
            entries = [None] * len(m.attempts)
        for number, entry in zip(m.attempts, entries, strict=True):
            if number in kernel.holds or number in self.orphans:
                continue
            orphan = self._orphan(number, kernel, entry)
            if orphan is None:
                self._send(kernel.peer, messages.Abort(attempt=number))
                continue
            self.orphans[number] = orphan
            self.orphans_of.setdefault(orphan.map, {})[number] = orphan
            if orphan.how == "runs":
                kernel.occupy(orphan.cpus, orphan.memory)
                self.list.counted_kernel(kernel)
                self.vacancies.changed(kernel)
            map_ = self.maps.get(orphan.map)
            if map_ is not None:
                self._claim(map_, orphan)

    def _orphan(self, number: int, kernel: Kernel, entry: Any) -> Orphan | None:
        match entry:
            case [
                bytes(key),
                int(start),
                int(count),
                int(cpus),
                int(memory),
                "runs" | "ahead" | "waits" | "done" as how,
                float(seconds),
                int(told),
            ] if 0.0 <= seconds <= LONGEST:
                pass
            case _:
                return None
        room = kernel.fits(cpus, memory) if how == "runs" else True
        if len(key) != 16 or start < 0 or count < 1 or cpus < 1 or memory < 0 or not room:
            return None
        if number in self.attempts:
            return None
        return Orphan(
            number, kernel, key, start, count, cpus, memory, how, seconds, self._now + self.roster.lease, told
        )

    def _adopt(self, map_: Map) -> None:
        """The map is known now: whoever holds chunks of it goes on with them."""
        for orphan in list(self.orphans_of.get(map_.key, {}).values()):
            self._claim(map_, orphan)

    def _claim(self, map_: Map, orphan: Orphan) -> None:
        """Take the orphan for an attempt at its map, if its units wait; else it is aborted."""
        job = self._job(map_.job)
        kernel = orphan.kernel
        profile = kernel.profile
        span = None
        mine = not profile.only or profile.owner == job.owner
        if map_.root and orphan.how != "done":
            mine = mine and not self._outrun(job, orphan)
        if not job.ended and job.wants(map_) and mine:
            span = map_.claim(orphan.start, orphan.count)
        if span is None:
            self._drop_orphan(orphan)
            return
        self._forget_orphan(orphan)
        weight = self._weight(job)
        estimate = self.estimates.get(map_.owner, map_.function)
        attempt = Attempt(
            orphan.number,
            map_,
            span,
            kernel,
            orphan.cpus,
            orphan.memory,
            self._now - orphan.seconds,
            0.0,
            self.clock.rates(job.number, self._now),
            LONGEST if estimate is None else estimate * len(span),
            self._price(weight),
            weight,
            slack=self.roster.lease,
        )
        self.attempts[orphan.number] = attempt
        job.attempts.add(orphan.number)
        map_.running.add(orphan.number)
        kernel.jobs.add(job.number)
        job.kernels[kernel.number] = kernel
        if orphan.how == "runs":
            self._occupy(attempt)
            self._count_running(attempt, +1)
        elif orphan.how == "ahead":
            attempt.ahead = True
            kernel.ahead[attempt.number] = None
            self._begin_next(kernel)
        else:  # a driver says next what it waits for, and an answer follows
            attempt.parked = attempt.lent = True
            attempt.driver = orphan.how == "waits"
            kernel.parked.add(attempt.number)
            self.vacancies.changed(kernel)
        if map_.root:
            self._give_controls(job, kernel)
        if job.state is JobState.QUEUED:
            started = job.facts.started or self._wall_now
            self.list.change(job, self._out, state=JobState.RUNNING, started=started)
        self._refresh(job)
        self.replay.extend(orphan.events)

    def _outrun(self, job: Job, orphan: Orphan) -> bool:
        """Whether a later attempt has made a checkpoint: what goes on from that is further, and has heard more."""
        units = range(orphan.start, orphan.start + orphan.count)
        late = any(unit in units and by > orphan.number for unit, (by, _) in job.checkpoints.items())
        # what it was not told, and a checkpoint has, nobody keeps any more
        return late or (job.controls is not None and orphan.told < job.controls.served)

    def held_back(self, event: Event, message: Message) -> bool:
        """Whether the message is about orphans: it waits until they are claimed."""
        if isinstance(message, messages.Crashed):
            kernel = self.roster.kernels.get(event.peer)
            if kernel is not None:
                self._lose_orphans(kernel, message.attempts)
            return False
        number = getattr(message, "attempt", 0)
        orphan = self.orphans.get(number) if number else None
        if orphan is None or orphan.kernel.peer != event.peer or isinstance(message, messages.Publish):
            return False
        if len(orphan.events) >= WORDS_OF_ORPHANS:
            raise ProtocolError("more is said of an attempt that nobody has claimed than there can be")
        orphan.events.append(event)
        return True

    def _drop_orphan(self, orphan: Orphan) -> None:
        """Nobody wants it."""
        self._forget_orphan(orphan)
        self._begin_next(orphan.kernel)
        self._answer(orphan.kernel.peer, messages.Abort(attempt=orphan.number))

    def _forget_orphan(self, orphan: Orphan) -> None:
        del self.orphans[orphan.number]
        of_map = self.orphans_of[orphan.map]
        del of_map[orphan.number]
        if not of_map:
            del self.orphans_of[orphan.map]
        if orphan.how == "runs":
            kernel = orphan.kernel
            kernel.occupy(-orphan.cpus, -orphan.memory)
            self.list.counted_kernel(kernel)
            self.vacancies.changed(kernel)
            self._touched[kernel.number] = kernel

    def _lose_orphans(self, kernel: Kernel, attempts: list[int] | None = None) -> None:
        """The kernel is gone, or a process of it that held *attempts*."""
        for orphan in [o for o in self.orphans.values() if o.kernel is kernel]:
            if attempts is None or orphan.number in attempts:
                self._forget_orphan(orphan)
                self._begin_next(kernel)
