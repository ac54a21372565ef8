"""Who is dealt what: free slots, chunks that wait ahead, wide units, slots that are lent, stragglers."""

from __future__ import annotations

from park.core.attempts import Attempts
from park.core.jobs import Job
from park.core.needs import Kind, unmet
from park.core.outcome import Ref, Write
from park.core.roster import DRIVERS_PER_SLOT, Kernel
from park.core.speculation import LEAST
from park.core.work import CHUNK_SECONDS, Attempt, Map, Span
from park.model import JobState
from park.wire import codec, messages


class Dealing(Attempts):
    """The floor above `Attempts`."""

    def _deal(self) -> None:
        """Give every free slot to the job that is due."""
        if self._single:
            for job, map_ in self._single:
                if not self._deal_at_once(job, map_):
                    self._refresh(job)
            self._single.clear()
        if not self.clock.awake and not self.vacancies.reserved:  # nothing waits
            self._touched.clear()
        else:
            self._deal_waiting()
        if self.vacancies.free:
            self._speculate()

    def _deal_waiting(self) -> None:
        clock, dealing = self.clock, self.vacancies
        touched: list[Kernel] = []
        while self._touched:  # a deal here may open a door there
            kernel = self._touched.pop(next(iter(self._touched)))
            touched.append(kernel)
            while kernel.free > 0 and self._deal_on(kernel):
                pass
        for profile in list(dealing.free):
            while clock.awake and profile in dealing.free:
                number = clock.pick(dealing.doors(profile), self._now, owner=profile.owner, only=profile.only)
                if not number:
                    break
                job = self.list.jobs[number]
                kernel = dealing.place(profile, job.kernels, job.submit.cpus, job.submit.memory)
                touched.append(kernel)
                self._give(job, kernel)
        for kernel in list(dealing.full.values()) if clock.awake and dealing.full else ():
            while kernel.number in dealing.full and self._deal_full(kernel):
                touched.append(kernel)
        for kernel in [*touched, *self._touched.values()]:
            if kernel.free <= 0:
                self._deal_ahead(kernel)
        self._touched.clear()

    def _deal_on(self, kernel: Kernel) -> bool:
        """Give a free slot of this kernel to whoever is due; False: nothing can be done."""
        if kernel.draining:
            return self._resume_on(kernel)
        if kernel.reserved:
            job = self.list.jobs[kernel.reserved]
            if not self._has_room(kernel, job):
                return False
            self._unreserve(kernel)
            self._give(job, kernel)
            return True
        if kernel.full_of_drivers:
            return self._deal_full(kernel)
        profile = kernel.profile
        doors = [*self.vacancies.doors(profile), kernel.number]
        number = self.clock.pick(doors, self._now, kernel.last, profile.owner, profile.only)
        if not number:
            return False
        self._give(self.list.jobs[number], kernel)
        return True

    def _resume_on(self, kernel: Kernel) -> bool:
        """The same where no new work may begin: only drivers go on."""
        number = self.clock.pick([kernel.number], self._now)
        if not number or not self._has_room(kernel, self.list.jobs[number]):
            return False
        self._resume(self.list.jobs[number].resumable[kernel.number][0])
        return True

    def _deal_full(self, kernel: Kernel) -> bool:
        """The same where no further driver may start: drivers go on, chunks run inside those that wait, and units of
        code that makes no maps find a process. Of code that is not known yet, a few are tried."""
        inside = self._inside(kernel)
        profile = kernel.profile
        most = Kind.UNKNOWN if len(kernel.parked) < (DRIVERS_PER_SLOT + 1) * kernel.slots else Kind.PLAIN
        doors = [d for d in self.vacancies.doors(profile) if d.kind <= most]
        number = self.clock.pick(doors, self._now, owner=profile.owner, only=profile.only)
        if inside is not None and (not number or self.clock.before(inside[0]) <= self.clock.before(number)):
            job, work = self.list.jobs[inside[0]], inside[1]
            if isinstance(work, Attempt):
                self._resume(work)
            else:
                self._dispatch(job, work, kernel)
            return True
        if number:
            self._give(self.list.jobs[number], kernel)
        return bool(number)

    def _inside(self, kernel: Kernel) -> tuple[int, Attempt | Map] | None:
        """The job that is due of those whose drivers wait here, with the driver that goes on, or the map to deal from.

        A driver here of whose map nothing is here is the innermost of its process, so that a chunk of that map
        runs inside it: there is one such driver in each chain of drivers that wait.
        """
        found: dict[int, Attempt | Map] = {}
        for n in kernel.parked:
            attempt = self.attempts[n]
            job = self.list.jobs[attempt.map.job]
            if not job.dealt or job.reserved is not None or not self._has_room(kernel, job):
                continue
            if attempt.resumable:
                found[job.number] = attempt
            elif job.number not in found:
                idle = (self.maps[key] for key in attempt.maps)
                for map_ in idle:
                    if map_.waiting and all(self.attempts[r].kernel is not kernel for r in map_.running):
                        found[job.number] = map_
        if not found:
            return None
        number = min(found, key=self.clock.before)
        return number, found[number]

    def _has_room(self, kernel: Kernel, job: Job) -> bool:
        return kernel.fits(job.submit.cpus, job.submit.memory)

    def _give(self, job: Job, kernel: Kernel) -> None:
        """The job gets a slot here: for a driver of it that wants to go on, else for units. A wide unit waits for room."""
        if not self._has_room(kernel, job):
            kernel.reserved, job.reserved = job.number, kernel
            self.vacancies.reserve(kernel)
            self._refresh(job)
            return
        waiting = job.resumable.get(kernel.number)
        if waiting:
            self._resume(waiting[0])
            return
        map_ = job.next_ready()
        assert map_ is not None
        self._dispatch(job, map_, kernel)

    def _deal_ahead(self, kernel: Kernel) -> None:
        """Where all slots are busy, a chunk of what runs there may wait for the next free one, if it is due.

        Not where another job is between two generations: its next one would have to wait for that chunk too.
        """
        profile = kernel.profile
        while kernel.free <= 0 and not kernel.reserved and len(kernel.ahead) < kernel.offers:
            doors = [*self.vacancies.doors(profile), kernel.number]
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

    def _deal_at_once(self, job: Job, map_: Map) -> bool:
        """Deal the one unit of a session's map, if a slot is free and nobody waits; else it takes its turn.

        It is what `_refresh` and `_deal` would do, in half the time: whoever asks for one unit waits for it.
        """
        submit = job.submit
        alone = not (self.clock.awake or self._touched or self.vacancies.reserved or job.resumable)
        plain = submit.cpus == 1 and not (submit.memory or submit.max_time)
        if not (alone and plain and map_.waiting == 1 and job.dealt and job.next_ready() is map_):
            return False
        door = self.door(job, map_)
        for profile in self.vacancies.free:
            if door in self.vacancies.doors(profile) and (not profile.only or profile.owner == job.owner):
                kernel = self.vacancies.place(profile, job.kernels, 1, 0)
                self.clock.visit(job.number, door, self._now)
                self._give_out(job, map_, 1, kernel)
                self.touched_jobs.add(job.number)
                return True
        return False

    def _dispatch(self, job: Job, map_: Map, kernel: Kernel) -> None:
        """Deal the next chunk of the map to the kernel."""
        estimate = self.estimates.get(map_.owner, map_.function)
        size = map_.chunk_size(self.roster.slots, estimate)
        size = min(size, self.estimates.most(map_.owner, map_.function))
        if job.submit.max_unit_time and not job.submit.idempotent:
            size = 1  # of several, those beside one that runs too long would run twice
        self._give_out(job, map_, size, kernel)
        self._refresh(job)

    def _give_out(self, job: Job, map_: Map, size: int, kernel: Kernel) -> None:
        """Up to *size* units of the map go to the kernel; of a map that is dealt out, late chunks are watched."""
        attempt = self._issue(job, map_, map_.take(size), kernel)
        known = self.estimates.get(map_.owner, map_.function) is not None
        if not map_.waiting and known and self._may_run_twice(job, map_):
            for number in [attempt.number] if map_.tail else map_.running:
                self.stragglers.watch(self.attempts[number])
            map_.tail = True

    def _issue(self, job: Job, map_: Map, span: Span, kernel: Kernel, twin: Attempt | None = None) -> Attempt:
        """An attempt at the units of *span*."""
        count = len(span)
        expected = self.estimates.guess(map_.owner, map_.function, self._now) * count
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
            self.clock.serve(job.number, self.door(job, map_), cost, self._now),
            expected,
            self._price(weight),
            weight,
            ahead=kernel.free <= 0,
            twin=twin,
            begun=self._now,
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
        limit = 0.0 if map_.once else submit.max_unit_time
        run = messages.Run(
            attempt=number,
            job=job.number,
            owner=map_.owner,
            map=map_.key,
            function=map_.function,
            start=span.start,
            count=count,
            seed=map_.seed,
            epoch=self.epoch,
            lease=self.roster.lease,
            once=map_.once,
            # where its process may be ended, nobody else's work is in it
            apart=map_.apart or twin is not None or limit > 0,
            ahead=attempt.ahead,
            cpus=submit.cpus,
            memory=submit.memory,
            stored=map_.root,
            limit=limit,
            restored=map_.root and any(span.start <= u < span.stop for u in job.checkpoints),
            served=job.controls.served if map_.root and job.controls is not None else 0,
            argv=submit.argv,
        )
        if map_.root:
            self._give_controls(job, kernel)
        if map_.root and not submit.idempotent:
            # should the broker die now, its next life knows that these units may have run
            self._out.writes.append(Write("attempt", (job.number, span.start), codec.pack(count)))
        payload = b"" if map_.once else map_.ref(span)
        # units of the store, or the kernel, may have come just now: they run when that is on disk, as do those of which
        # it must be known that they may have run
        at_once = kernel.joined <= self._saved
        if map_.root:
            at_once = at_once and map_.came <= self._saved and submit.idempotent
            if (
                job.controls is not None
            ):  # it begins behind those that a checkpoint has: not before that is on disk
                at_once = at_once and job.controls.turn <= self._saved
        (self._send if at_once else self._answer)(kernel.peer, run, payload)
        if job.state is JobState.QUEUED:
            self.list.change(job, self._out, state=JobState.RUNNING, started=self._wall_now)
        if job.ending == "stop" and not map_.root:
            self._end_attempt(attempt, "stop", soft=True)
        self._count_running(attempt, 0 if attempt.ahead else +1)
        return attempt

    def _ask_to_lend(self) -> None:
        """Of the drivers that hold a slot while another job is due, ask those that are furthest ahead."""
        if not self.clock.awake and not self.vacancies.reserved:
            return
        clock, asked = self.clock, []
        for attempt in self.lending.round(self._now):
            kernel, number = attempt.kernel, attempt.map.job
            if kernel.draining or (kernel.free > 0 and not kernel.reserved):
                continue
            self._accrue(attempt)
            profile = kernel.profile
            doors = [*self.vacancies.doors(profile), kernel.number]
            due = kernel.reserved or clock.pick(doors, self._now, owner=profile.owner, only=profile.only)
            if due and due != number and clock.before(due) < clock.before(number):
                asked.append(attempt)
        asked.sort(key=lambda a: clock.before(a.map.job), reverse=True)
        for attempt in asked[: clock.awake + len(self.vacancies.reserved)]:
            self._ask(attempt)

    def _speculate(self) -> None:
        """Issue late chunks again where slots are free and nothing else is due."""
        for number in self.stragglers.late(self._now):
            attempt = self.attempts.get(number)
            if attempt is None or attempt.twin is not None or attempt.void or attempt.told:
                continue
            if attempt.driver or attempt.parked:
                continue
            map_ = attempt.map
            job = self._job(map_.job)
            if map_.waiting or not job.dealt or not self._may_run_twice(job, map_):
                continue
            driver = self.attempts.get(map_.driver)
            if driver is not None and driver.kernel is attempt.kernel:
                continue  # it may run inside its driver's process, and could not be ended alone
            if attempt.ahead or number in self.room.waiting:
                self.stragglers.watch(attempt, self._now + LEAST)
                continue
            kernel = self._elsewhere(job, attempt.kernel)
            if kernel is None:
                self.stragglers.watch(attempt, self._now + LEAST)
            else:
                self._issue(job, map_, attempt.span, kernel, twin=attempt)
                self.list.change(job, self._out, doubled=(job.facts.doubled or 0) + 1)

    def _may_run_twice(self, job: Job, map_: Map) -> bool:
        return (
            job.submit.pure
            and job.submit.idempotent
            and not map_.once
            and not map_.apart
            and not map_.cancelled
            and not (map_.root and job.checkpoints)
            and map_.function not in job.callers
        )

    def _elsewhere(self, job: Job, kernel: Kernel) -> Kernel | None:
        """A kernel with a free slot for the job's units, if possible another one than *kernel*."""
        best: Kernel | None = None
        for profile in self.vacancies.free:
            if not unmet(job.needs, profile) and (not profile.only or profile.owner == job.owner):
                found = self.vacancies.place(profile, (), job.submit.cpus, job.submit.memory)
                if found is kernel and len(self.vacancies.free[profile]) > 1:
                    found = self.vacancies.place(profile, (), job.submit.cpus, job.submit.memory)
                if self._has_room(found, job) and (best is None or best is kernel):
                    best = found
        return best
