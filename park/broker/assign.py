"""Assignment of work to slots: free slots, chunks ahead, wide units, lent slots, stragglers."""

from __future__ import annotations

from park.broker.effects import Effects, Write
from park.broker.entities.jobs import BrokerJob
from park.broker.entities.maps import CHUNK_SECONDS, Attempt, AttemptState, JobMap, Span
from park.broker.entities.requirements import KernelProfile, WorkClass, unmet
from park.broker.entities.roster import Kernel
from park.broker.handlers import attempt_state, attempts, charging, code_sharing, controls, job_lifecycle
from park.broker.scheduler.stragglers import MIN_STRAGGLER_SECONDS
from park.broker.state import State
from park.model import JobState
from park.wire import codec, messages

#: A work class of the service clock, or the one of the drivers that wait at a kernel (`BrokerJob.driver_class`).
AnyWorkClass = WorkClass | int


def deal(state: State, effects: Effects) -> None:
    """Give every free slot to the job that is due."""
    if state.touched.single_units:
        for job, map_ in state.touched.single_units:
            if not deal_at_once(state, effects, job, map_):
                job_lifecycle.refresh(state, effects, job)
        state.touched.single_units.clear()
    if not state.clock.awake and not state.free_slots.reserved:  # nothing waits
        state.touched.kernels.clear()
    else:
        _deal_waiting(state, effects)
    if state.free_slots.free:
        _reissue_stragglers(state, effects)


def _deal_waiting(state: State, effects: Effects) -> None:
    clock, slots = state.clock, state.free_slots
    touched: list[Kernel] = []
    # first the kernels of this event, which may have reserved slots and drivers of their own
    while state.touched.kernels:  # a deal here may make work there
        kernel = state.touched.kernels.pop(next(iter(state.touched.kernels)))
        touched.append(kernel)
        while kernel.free > 0 and _deal_on(state, effects, kernel):
            pass
    # then every other free slot, by the kind of its kernel
    for profile in list(slots.free):
        while clock.awake and profile in slots.free:
            place = _next_place(state, effects, profile)
            if place is None:
                break
            touched.append(place[1])
            _give(state, effects, *place)
    # then the kernels where no further driver may start
    for kernel in list(slots.at_driver_limit.values()) if clock.awake and slots.at_driver_limit else ():
        while kernel.number in slots.at_driver_limit and _deal_full(state, effects, kernel):
            touched.append(kernel)
    for kernel in [*touched, *state.touched.kernels.values()]:
        if kernel.free <= 0:
            _deal_ahead(state, effects, kernel)
    state.touched.kernels.clear()


def _next_place(state: State, effects: Effects, profile: KernelProfile) -> tuple[BrokerJob, Kernel] | None:
    """The job that is due at the kernels of a profile, and one of them; None: no job is."""
    work_classes: list[AnyWorkClass] = [*state.free_slots.work_classes(profile)]
    while number := state.clock.pick(work_classes, effects.now, owner=profile.owner, only=profile.only):
        job = state.jobs[number]
        kernel = state.free_slots.place(profile, job.kernels, job.needs)
        if not _lacks_gpus(kernel, job):
            return job, kernel
        work_classes = [work_class for work_class in work_classes if not _for_gpus(work_class)]
    return None


def _work_classes(state: State, kernel: Kernel) -> list[AnyWorkClass]:
    """The work classes that this kernel serves: those of its profile, and those of the drivers that wait there."""
    work_classes: list[AnyWorkClass] = [*state.free_slots.work_classes(kernel.profile), kernel.number]
    return [*work_classes, -kernel.number] if kernel.profile.gpus else work_classes


def _pick(
    state: State,
    effects: Effects,
    kernel: Kernel,
    work_classes: list[AnyWorkClass],
    stay: bool = False,
    anyone: bool = False,
) -> int:
    """The job that is due in *work_classes* of this kernel; 0: none is. *anyone*: of all owners alike.

    *stay*: work for which the kernel has a process may go first.
    A job that waits for a GPU gets the next free one: jobs without GPUs overtake it meanwhile, jobs with GPUs do not.
    """
    start = kernel.processes.start_seconds
    prefer, ready = (kernel.last, kernel.processes.ready) if stay else (0, {})
    owner, only = ("", False) if anyone else (kernel.profile.owner, kernel.profile.only)
    number = state.clock.pick(work_classes, effects.now, prefer, owner, only, ready, start)
    if number and _lacks_gpus(kernel, state.jobs[number]):
        work_classes = [work_class for work_class in work_classes if not _for_gpus(work_class)]
        number = state.clock.pick(work_classes, effects.now, prefer, owner, only, ready, start)
    return number


def _for_gpus(work_class: AnyWorkClass) -> bool:
    """Whether the units of this work class need GPUs."""
    return work_class < 0 if isinstance(work_class, int) else work_class.needs.gpus > 0


def _lacks_gpus(kernel: Kernel, job: BrokerJob) -> bool:
    """Whether the job's next unit needs GPUs that are not free at this kernel. A driver goes on with the GPUs that it
    had.
    """
    if not job.needs.gpus:
        return False
    if waiting := job.resumable.get(kernel.number):
        return not kernel.devices.has_room(waiting[0].devices, job.needs.gpus)
    return kernel.devices.choose(job.needs.gpus) is None


def _deal_on(state: State, effects: Effects, kernel: Kernel) -> bool:
    """Give a free slot of this kernel to the job that is due; False: nothing can be done."""
    if kernel.closed:
        return _resume_on(state, effects, kernel)
    if kernel.reserved:
        job = state.jobs[kernel.reserved]
        if not _fits(kernel, job):
            return False
        job_lifecycle.unreserve(state, effects, kernel)
        _give(state, effects, job, kernel)
        return True
    if kernel.full_of_drivers:
        return _deal_full(state, effects, kernel)
    number = _pick(state, effects, kernel, _work_classes(state, kernel), stay=True)
    if not number:  # the kernel pauses for the owner of the driver, which can go on nowhere else
        return kernel.profile.only and not kernel.announced.only and _resume_on(state, effects, kernel)
    _give(state, effects, state.jobs[number], kernel)
    return True


def _resume_on(state: State, effects: Effects, kernel: Kernel) -> bool:
    """Let one driver go on at a kernel that takes no new work. False: none is due."""
    number = _pick(state, effects, kernel, [kernel.number, -kernel.number], anyone=True)
    if not number or not _fits(kernel, state.jobs[number]):
        return False
    attempts.resume(state, effects, state.jobs[number].resumable[kernel.number][0])
    return True


def _deal_full(state: State, effects: Effects, kernel: Kernel) -> bool:
    """Deal to a kernel that is full of drivers. Drivers that wait there go on, chunks run inside waiting drivers, and
    units of code that makes no maps get a process. A few units of unknown code are tried, and a driver starts if its
    owner has none there, or only of jobs that weigh less.
    """
    inside = _inside(state, kernel)
    work_classes: list[AnyWorkClass] = [
        d for d in state.free_slots.work_classes(kernel.profile) if d.kind <= kernel.takes
    ]
    number = _pick(state, effects, kernel, work_classes, stay=True)
    newcomer = _newcomer(state, kernel)
    if newcomer and (not number or state.clock.before(newcomer) < state.clock.before(number)):
        number = newcomer
    if inside is not None and (not number or state.clock.before(inside[0]) <= state.clock.before(number)):
        job, work = state.jobs[inside[0]], inside[1]
        if isinstance(work, Attempt):
            attempts.resume(state, effects, work)
        else:
            _dispatch(state, effects, job, work, kernel)
        return True
    if number:
        _give(state, effects, state.jobs[number], kernel)
    return bool(number)


def _newcomer(state: State, kernel: Kernel) -> int:
    """The job that is due among those of which a driver may start at a kernel that is full of drivers; 0: none is. What
    the kernel does not take of any job may be a driver.
    """
    weights = state.weights_of_drivers(kernel)
    if weights is None:
        return 0
    drivers = [d for d in state.free_slots.work_classes(kernel.profile) if d.kind > kernel.takes]
    only = kernel.profile.owner if kernel.profile.only else ""
    number = state.clock.pick_heavier(drivers, weights, only)
    if number and _lacks_gpus(kernel, state.jobs[number]):
        number = state.clock.pick_heavier([d for d in drivers if not _for_gpus(d)], weights, only)
    return number


def _inside(state: State, kernel: Kernel) -> tuple[int, Attempt | JobMap] | None:
    """The job that is due among those with a driver waiting at this kernel, and the driver that goes on or the map to
    deal from.

    A chunk runs only inside the innermost waiting driver of a process: the one of whose map no chunk is at this kernel.
    Each chain of waiting drivers has one such driver. A driver of an owner for whom the kernel pauses may go on, but it
    gets no new units here.
    """
    profile = kernel.profile
    found: dict[int, Attempt | JobMap] = {}
    for n in kernel.parked:
        attempt = state.attempts[n]
        job = state.jobs[attempt.map.job]
        if not job.dealt or job.reserved is not None or not _fits(kernel, job):
            continue
        if attempt.resumable:
            if kernel.devices.has_room(attempt.devices, attempt.needs.gpus):
                found[job.number] = attempt
        elif job.number not in found and _fits_anew(kernel, job) and profile.serves(job.owner):
            idle = (state.maps[key] for key in attempt.maps)
            for map_ in idle:
                if map_.waiting and all(state.attempts[r].kernel is not kernel for r in map_.running):
                    found[job.number] = map_
    if not found:
        return None
    number = min(found, key=state.clock.before)
    return number, found[number]


def _fits(kernel: Kernel, job: BrokerJob) -> bool:
    """Whether the kernel has the slots, memory and GPUs that the job would use next."""
    return kernel.has_slots(job.needs) and not _lacks_gpus(kernel, job)


def _fits_anew(kernel: Kernel, job: BrokerJob) -> bool:
    """Whether the kernel has the slots, memory and GPUs for a unit of the job."""
    return kernel.fits(job.needs)


def _give(state: State, effects: Effects, job: BrokerJob, kernel: Kernel) -> None:
    """Give the job a slot of this kernel: for a driver of it that wants to go on, else for units. A wide unit waits
    until enough slots are free.
    """
    if not _fits(kernel, job):
        kernel.reserved, job.reserved = job.number, kernel
        state.free_slots.reserve(kernel)
        job_lifecycle.refresh(state, effects, job)
        return
    waiting = job.resumable.get(kernel.number)
    if waiting:
        attempts.resume(state, effects, waiting[0])
        return
    map_ = job.next_ready()
    assert map_ is not None
    _dispatch(state, effects, job, map_, kernel)


def _deal_ahead(state: State, effects: Effects, kernel: Kernel) -> None:
    """If all slots are busy, let a chunk that is due wait at the kernel for the next free slot.

    It does not where another job is between two generations: the next generation would wait for that chunk too.
    """
    while kernel.free <= 0 and not (kernel.reserved or kernel.stalled) and len(kernel.ahead) < kernel.offers:
        number = _pick(state, effects, kernel, _work_classes(state, kernel), stay=True)
        if not number or kernel.full_of_drivers or state.clock.rests(number, effects.now):
            return
        job = state.jobs[number]
        map_ = job.next_ready()
        if map_ is None or kernel.number in job.resumable or not _may_be_ahead(state, job, map_, kernel):
            return
        _dispatch(state, effects, job, map_, kernel)


def _may_be_ahead(state: State, job: BrokerJob, map_: JobMap, kernel: Kernel) -> bool:
    """Whether a chunk of the map may wait at the kernel for a slot: its units are short, some run there, and the next
    free slot has a process for it.
    """
    if map_.apart or not job.needs.plain or not kernel.processes.has_next(map_.owner):
        return False
    estimate = state.estimates.get(map_.owner, map_.function)
    return (
        estimate is not None and estimate <= CHUNK_SECONDS and any(n in kernel.running for n in map_.running)
    )


def deal_at_once(state: State, effects: Effects, job: BrokerJob, map_: JobMap) -> bool:
    """Deal the one unit of a session's map, if a slot is free and no job waits; else it takes its turn.

    `deal` would choose the same slot in twice the time, and a client that sends one unit waits for its result.
    """
    alone = not (state.clock.awake or state.touched.kernels or state.free_slots.reserved or job.resumable)
    plain = job.needs.plain and not job.submit.max_time
    if not (alone and plain and map_.waiting == 1 and job.dealt and job.next_ready() is map_):
        return False
    work_class = state.work_class(job, map_)
    for profile in state.free_slots.free:
        if work_class in state.free_slots.work_classes(profile) and profile.serves(job.owner):
            kernel = state.free_slots.place(profile, job.kernels, job.needs)
            state.clock.visit(job.number, work_class, effects.now)
            _give_out(state, effects, job, map_, 1, kernel)
            state.touched.jobs.add(job.number)
            return True
    return False


def _dispatch(state: State, effects: Effects, job: BrokerJob, map_: JobMap, kernel: Kernel) -> None:
    """Deal the next chunk of the map to the kernel."""
    estimate = state.estimates.get(map_.owner, map_.function)
    size = map_.chunk_size(state.roster.slots_for(map_.owner, job.needs.job), estimate)
    size = min(size, state.estimates.most(map_.owner, map_.function))
    if job.submit.max_unit_time and not job.submit.idempotent:
        size = 1  # in a larger chunk, a unit over its limit would make the other units run twice
    _give_out(state, effects, job, map_, size, kernel)
    job_lifecycle.refresh(state, effects, job)


def _give_out(
    state: State, effects: Effects, job: BrokerJob, map_: JobMap, size: int, kernel: Kernel
) -> None:
    """Send up to *size* units of the map to the kernel. Late chunks are watched once all units of the map are dealt."""
    attempt = _issue(state, effects, job, map_, map_.take(size), kernel)
    known = state.estimates.get(map_.owner, map_.function) is not None
    if not map_.waiting and known and _may_run_twice(job, map_):
        for number in [attempt.number] if map_.all_dealt else map_.running:
            state.stragglers.watch(state.attempts[number])
        map_.all_dealt = True


def _issue(
    state: State,
    effects: Effects,
    job: BrokerJob,
    map_: JobMap,
    span: Span,
    kernel: Kernel,
    twin: Attempt | None = None,
) -> Attempt:
    """Make an attempt at the units of *span*, and send it to the kernel with its code and its inputs."""
    attempt = _new_attempt(state, effects, job, map_, span, kernel, twin)
    if map_.function not in kernel.known:
        kernel.known.add(map_.function)
        code_sharing.give(state, effects, kernel, map_.function)
    if map_.root:
        controls.deliver(state, effects, job, kernel)
        if not job.submit.idempotent:
            # if the broker dies now, its next life knows that these units may have run
            effects.writes.append(Write("attempt", (job.number, span.start), codec.pack(len(span))))
    payload = b"" if map_.once else map_.ref(span)
    effects.send(kernel.peer, _run(state, job, attempt), payload, _run_after(effects, job, attempt))
    if job.state is JobState.QUEUED:
        state.job_list.change(job, effects, state=JobState.RUNNING, started=effects.wall)
    if job.ending == "stop" and not map_.root:
        attempt_state.end_attempt(effects, attempt, "stop", soft=True)
    state.count_running(attempt, 0 if attempt.ahead else +1)
    return attempt


def _new_attempt(
    state: State,
    effects: Effects,
    job: BrokerJob,
    map_: JobMap,
    span: Span,
    kernel: Kernel,
    twin: Attempt | None,
) -> Attempt:
    """A new attempt, charged by estimate. It has its slots, or waits ahead if no slot is free."""
    expected = state.estimates.guess(map_.owner, map_.function, effects.now) * len(span)
    needs, number = job.needs, state.next_attempt
    state.next_attempt += 1
    weight, cost = charging.weight(state, effects, job), expected * kernel.cost(needs)
    devices = kernel.devices.choose(needs.gpus) if needs.gpus else ()
    assert devices is not None
    attempt = Attempt(
        number,
        map_,
        span,
        kernel,
        needs,
        effects.now,
        cost,
        state.clock.serve(job.number, state.work_class(job, map_), cost, effects.now),
        expected,
        charging.price(state, weight),
        weight,
        twin=twin,
        begun=effects.now,
        devices=devices,
    )
    if twin is not None:
        twin.twin = attempt
    state.attempts[number] = attempt
    job.attempts.add(number)
    map_.running.add(number)
    attempt_state.move(state, attempt, AttemptState.AHEAD if kernel.free <= 0 else AttemptState.RUNNING)
    kernel.jobs.add(job.number)
    kernel.last = job.number
    job.kernels[kernel.number] = kernel
    return attempt


def _run(state: State, job: BrokerJob, attempt: Attempt) -> messages.Run:
    """The message that gives the attempt to its kernel."""
    map_, span, needs = attempt.map, attempt.span, attempt.needs
    limit = 0.0 if map_.once else job.submit.max_unit_time
    return messages.Run(
        attempt=attempt.number,
        job=job.number,
        owner=map_.owner,
        map=map_.key,
        function=map_.function,
        start=span.start,
        count=len(span),
        seed=map_.seed,
        epoch=state.epoch,
        lease=state.roster.lease,
        once=map_.once,
        # the kernel may have to end the process of this attempt, so no other attempt runs in it
        apart=map_.apart or attempt.twin is not None or limit > 0,
        ahead=attempt.ahead,
        cpus=needs.cpus,
        memory=needs.memory,
        stored=map_.root,
        limit=limit,
        restored=map_.root and any(span.start <= u < span.stop for u in job.checkpoints),
        served=job.controls.served if map_.root and job.controls is not None else 0,
        argv=job.submit.argv,
        gpus=needs.gpus,
        devices=list(attempt.devices),
        environment=needs.environment,
    )


def _run_after(effects: Effects, job: BrokerJob, attempt: Attempt) -> int:
    """The turn that must be on disk before the kernel gets the attempt."""
    after = attempt.kernel.joined
    if attempt.map.root:
        if not job.submit.idempotent:  # the record that its units may have run
            return effects.turn
        after = max(after, attempt.map.came)
        if job.controls is not None:  # its checkpoint, and the controls in it
            after = max(after, job.controls.turn)
    return after


def preempt(state: State, effects: Effects) -> None:
    """If another job is due, ask attempts to lend their slots, those of the jobs furthest ahead first."""
    if not state.clock.awake and not state.free_slots.reserved:
        return
    clock, asked = state.clock, []
    for attempt in state.preemption.round(effects.now):
        kernel, number = attempt.kernel, attempt.map.job
        room = kernel.free > 0 and not kernel.reserved
        if kernel.closed or (room and not attempt.devices):
            continue
        charging.accrue(state, effects, attempt)
        due = kernel.reserved or _due_instead(state, effects, attempt, room)
        if due and due != number and clock.before(due) < clock.before(number):
            asked.append(attempt)
    asked.sort(key=lambda a: clock.before(a.map.job), reverse=True)
    for attempt in asked[: clock.awake + len(state.free_slots.reserved)]:
        attempt_state.ask_to_lend(effects, attempt)


def _due_instead(state: State, effects: Effects, attempt: Attempt, room: bool) -> int:
    """The job that is due for the slot of this attempt, or for its GPUs; *room*: other slots are free."""
    kernel = attempt.kernel
    work_classes = _work_classes(state, kernel)
    if not attempt.devices:
        return _pick(state, effects, kernel, work_classes)
    if room:
        work_classes = [work_class for work_class in work_classes if _for_gpus(work_class)]
    return state.clock.pick(work_classes, effects.now, 0, kernel.profile.owner, kernel.profile.only)


def _reissue_stragglers(state: State, effects: Effects) -> None:
    """Issue late chunks again where slots are free and nothing else is due."""
    for number in state.stragglers.late(effects.now):
        attempt = state.attempts.get(number)
        if attempt is None or attempt.twin is not None or attempt.void or attempt.order:
            continue
        if attempt.driver or attempt.parked:
            continue
        map_ = attempt.map
        job = state.job(map_.job)
        if map_.waiting or not job.dealt or not _may_run_twice(job, map_):
            continue
        driver = state.attempts.get(map_.driver)
        if driver is not None and driver.kernel is attempt.kernel:
            continue  # it may run inside the process of its driver, where it cannot be ended alone
        if attempt.ahead or number in state.disk.waiting:
            state.stragglers.watch(attempt, effects.now + MIN_STRAGGLER_SECONDS)
            continue
        kernel = _elsewhere(state, job, attempt.kernel)
        if kernel is None:
            state.stragglers.watch(attempt, effects.now + MIN_STRAGGLER_SECONDS)
        else:
            _issue(state, effects, job, map_, attempt.span, kernel, twin=attempt)
            state.job_list.change(job, effects, doubled=(job.facts.doubled or 0) + 1)


def _may_run_twice(job: BrokerJob, map_: JobMap) -> bool:
    return (
        job.submit.pure
        and job.submit.idempotent
        and not map_.once
        and not map_.apart
        and not map_.cancelled
        and not (map_.root and job.checkpoints)
        and map_.function not in job.callers
    )


def _elsewhere(state: State, job: BrokerJob, kernel: Kernel) -> Kernel | None:
    """A kernel with a free slot for the job's units: another one than *kernel*, if there is one."""
    best: Kernel | None = None
    for profile in state.free_slots.free:
        if not unmet(job.needs, profile) and profile.serves(job.owner):
            found = state.free_slots.place(profile, (), job.needs)
            if found is kernel and len(state.free_slots.free[profile]) > 1:  # the next call names another one
                found = state.free_slots.place(profile, (), job.needs)
            if _fits_anew(found, job) and (best is None or best is kernel):
                best = found
    return best
