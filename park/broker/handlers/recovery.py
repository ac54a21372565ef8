"""Recovery: work goes on after the broker was restarted, or after the contact with a kernel was lost.

A broker that starts again has the jobs that are stored, and knows which kernels were there. Kernels may still hold
restored units, so the broker deals none of them until all those kernels have come back, or for one lease at most. A job
that was asked to stop does not end in this time, so that its best result so far counts. Each kernel lists its attempts
in its hello. If the map of an attempt is known, the broker takes the attempt in as it is. If not, because the message
of the driver or client is still on its way, the attempt waits for one lease as an *orphan*, and the messages of its
kernel about it wait too. An attempt that fits nowhere is aborted, and its units are dealt again.
"""

from __future__ import annotations

from typing import Any

from park.broker.effects import Effects, Event, Write
from park.broker.entities.jobs import BrokerJob
from park.broker.entities.maps import Attempt, AttemptState, JobMap, Orphan, Span
from park.broker.entities.requirements import Needs
from park.broker.entities.roster import Kernel
from park.broker.handlers import attempt_state, charging, controls, job_lifecycle
from park.broker.state import State
from park.errors import ProtocolError
from park.model import JobState
from park.wire import messages
from park.wire.codec import unpack
from park.wire.messages import Message

#: The most events of one orphan that are kept; a kernel sends no more.
MAX_ORPHAN_EVENTS = 8

#: Seconds that an attempt may have run before it is taken in.
MAX_ORPHAN_SECONDS = 30 * 86400.0


#: The states of attempts that are taken in, by the words of their kernels.
_STATES = {
    "runs": AttemptState.RUNNING,
    "ahead": AttemptState.AHEAD,
    "waits": AttemptState.RETURNED,
    "done": AttemptState.RETURNED,
}


def expect(state: State, incarnations: set[bytes]) -> None:
    """Expect the kernels that were connected in the broker's last life."""
    state.recovery.expected = set(incarnations)


def recover(state: State, job: BrokerJob) -> None:
    """Note that a job is of an earlier life, so that kernels may hold work of it."""
    if state.recovery.expected:
        state.recovery.jobs.add(job.number)
        job.recovering = True


def come_back(state: State, effects: Effects, incarnation: bytes) -> None:
    """Note that a kernel is connected (again). When all are, or their time is over, all units may be dealt."""
    state.recovery.expected.discard(incarnation)
    if not state.recovery.expected:
        _recovered(state, effects)


def _recovered(state: State, effects: Effects) -> None:
    for number in sorted(state.recovery.jobs):
        job = state.jobs[number]
        job.recovering = False
        if not job.ended:
            look_at_lost(state, effects, job)
            job.stop_root()
            job_lifecycle.refresh(state, effects, job)
            if job.root is not None and not job.ended:
                job_lifecycle.check_map(state, effects, job.root)
    state.recovery.jobs.clear()


def look_at_lost(state: State, effects: Effects, job: BrokerJob) -> None:
    """Put units back into the queue that were under way in an earlier life and that no kernel has brought back."""
    if job.submit.once and not job.attempts:
        state.ledger.forgive(job.number)
        job.paid = state.ledger.costs.get(job.number, 0)
        lost = job.seconds - state.ledger.used_seconds(job.number)
        state.clock.refund(job.number, lost, state.clock.rates(job.number, effects.now))
        job.seconds -= lost
    if job.risky:
        _check_risky(state, effects, job)


def _check_risky(state: State, effects: Effects, job: BrokerJob) -> None:
    """Units that must not run twice."""
    running = {u for n in job.attempts for u in _units_of(state.attempts[n])}
    root = job.root
    waiting = {u for s in root.pending for u in range(s.start, s.stop)} if root is not None else set()
    lost = [u for start, count in job.risky for u in range(start, start + count)]
    if any(u in waiting and u not in running for u in lost):
        job_lifecycle.fail_unrepeatable(
            state, effects, job, "the broker was restarted, and no kernel has brought the unit back"
        )
    job.risky.clear()


def _units_of(attempt: Attempt) -> range:
    return range(attempt.span.start, attempt.span.stop) if attempt.map.root else range(0)


def look_for_lost(state: State, effects: Effects) -> None:
    """Abort claims whose map has not come within their time; give up kernels that have not come back."""
    if state.recovery.expected and effects.now >= state.recovery.until:
        effects.writes += [Write("kernel", (i,), None) for i in sorted(state.recovery.expected)]
        state.recovery.expected.clear()
        _recovered(state, effects)
    for orphan in [o for o in state.recovery.orphans.values() if effects.now >= o.until]:
        _drop_orphan(state, effects, orphan)


def deadline(state: State) -> float:
    """The time at which an orphan is aborted, or a kernel of the last life is given up."""
    times = [o.until for o in state.recovery.orphans.values()]
    if state.recovery.expected:
        times.append(state.recovery.until)
    return min(times)


def take_in(
    state: State, effects: Effects, kernel: Kernel, message: messages.KernelHello, payload: bytes | memoryview
) -> None:
    """Take in the attempts of a kernel that the broker does not know as attempts of that kernel."""
    entries: Any = unpack(payload) if len(payload) else []
    if not isinstance(entries, list) or len(entries) != len(message.attempts):
        entries = [None] * len(message.attempts)
    for number, entry in zip(message.attempts, entries, strict=True):
        if number in kernel.holds or (kernel.number, number) in state.recovery.orphans:
            continue
        orphan = _orphan(state, effects, number, kernel, entry)
        if orphan is None:
            effects.send(kernel.peer, messages.Abort(attempt=number))
            continue
        state.recovery.orphans[orphan.claim] = orphan
        state.recovery.orphans_of.setdefault(orphan.map, {})[orphan.claim] = orphan
        if orphan.how == "runs":
            kernel.occupy(orphan.needs, orphan.devices)
            state.job_list.counted_kernel(kernel)
            state.free_slots.changed(kernel)
        map_ = state.maps.get(orphan.map)
        if map_ is not None:
            _claim(state, effects, map_, orphan)


def _orphan(state: State, effects: Effects, number: int, kernel: Kernel, entry: Any) -> Orphan | None:
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
            *rest,
        ] if 0.0 <= seconds <= MAX_ORPHAN_SECONDS:
            pass
        case _:
            return None
    gpus, devices = _devices(rest, kernel)
    needs = Needs(cpus=cpus, memory=memory, gpus=gpus)
    room = kernel.has_slots(needs) and kernel.devices.has_room(devices, gpus) if how == "runs" else True
    if len(key) != 16 or start < 0 or count < 1 or cpus < 1 or memory < 0 or not room:
        return None
    if (
        number in state.attempts or number >= state.next_attempt
    ):  # another kernel holds it, or no kernel has it yet
        return None
    until = effects.now + state.roster.lease
    return Orphan(number, kernel, key, start, count, needs, devices, how, seconds, until, told)


def _devices(said: list[Any], kernel: Kernel) -> tuple[float, tuple[int, ...]]:
    """The GPUs of an attempt as its kernel names them, and their devices; a kernel of an earlier release names none."""
    match said:
        case [float(gpus), [*devices]] if gpus > 0.0 and devices:
            known = [n for n in devices if isinstance(n, int) and 0 <= n < kernel.profile.gpus]
            if known == devices and len(set(known)) == max(1, int(gpus)):
                return gpus, tuple(known)
    return 0.0, ()


def adopt(state: State, effects: Effects, map_: JobMap) -> None:
    """Let kernels go on with chunks of a map that is known now."""
    for orphan in list(state.recovery.orphans_of.get(map_.key, {}).values()):
        _claim(state, effects, map_, orphan)


def _claim(state: State, effects: Effects, map_: JobMap, orphan: Orphan) -> None:
    """Make the orphan an attempt at its map if its units wait; else abort it."""
    job, kernel = state.job(map_.job), orphan.kernel
    span = _claimed(state, job, map_, orphan)
    if span is None:
        _drop_orphan(state, effects, orphan)
        return
    _forget_orphan(state, orphan)
    attempt = _attempt_of(state, effects, map_, span, orphan)
    state.attempts[orphan.number] = attempt
    job.attempts.add(orphan.number)
    map_.running.add(orphan.number)
    kernel.jobs.add(job.number)
    job.kernels[kernel.number] = kernel
    attempt_state.move(state, attempt, _STATES[orphan.how])
    attempt.driver = orphan.how == "waits"
    if attempt.has_slots:
        state.count_running(attempt, +1)
    elif attempt.ahead:
        attempt_state.begin_next(state, effects, kernel)
    if map_.root:
        controls.deliver(state, effects, job, kernel)
    if job.ending == "stop":
        attempt_state.end_attempt(effects, attempt, "stop", soft=not map_.root)
    if job.state is JobState.QUEUED:
        started = job.facts.started or effects.wall
        state.job_list.change(job, effects, state=JobState.RUNNING, started=started)
    job_lifecycle.refresh(state, effects, job)
    state.recovery.replay.extend(orphan.events)


def _claimed(state: State, job: BrokerJob, map_: JobMap, orphan: Orphan) -> Span | None:
    """The units of the orphan, taken out of the queue of its map.

    None: they do not wait, or the kernel may not have them.
    """
    profile = orphan.kernel.announced  # attempts that began before a pause go on
    mine = profile.serves(job.owner)
    if map_.root and orphan.how != "done":
        mine = mine and not _is_superseded(job, orphan)
    # a job that is to stop closes its root map once kernels have brought back all its attempts
    wanted = job.wants(map_) or (map_.root and job.ending in ("", "stop"))
    if job.ended or not wanted or not mine or orphan.number in state.attempts:
        return None
    return map_.claim(orphan.start, orphan.count)


def _attempt_of(state: State, effects: Effects, map_: JobMap, span: Span, orphan: Orphan) -> Attempt:
    """The attempt that an orphan becomes, charged by estimate for its whole time."""
    job = state.job(map_.job)
    weight = charging.weight(state, effects, job)
    estimate = state.estimates.get(map_.owner, map_.function)
    return Attempt(
        orphan.number,
        map_,
        span,
        orphan.kernel,
        orphan.needs,
        effects.now - orphan.seconds,
        0.0,
        state.clock.rates(job.number, effects.now),
        MAX_ORPHAN_SECONDS if estimate is None else estimate * len(span),
        charging.price(state, weight),
        weight,
        slack=state.roster.lease,
        devices=orphan.devices,
    )


def _is_superseded(job: BrokerJob, orphan: Orphan) -> bool:
    """Whether a later attempt has made a checkpoint: an attempt that goes on from there has done more, and received
    more controls.
    """
    units = range(orphan.start, orphan.start + orphan.count)
    late = any(unit in units and by > orphan.number for unit, (by, _) in job.checkpoints.items())
    # controls that are in a checkpoint, and that this attempt has not received, are kept nowhere else
    return late or (job.controls is not None and orphan.last_control < job.controls.served)


def held_back(state: State, effects: Effects, event: Event, message: Message) -> bool:
    """Whether the message is about orphans: it waits until they are claimed."""
    if isinstance(message, messages.Crashed):
        kernel = state.roster.kernels.get(event.peer)
        if kernel is not None:
            lose_orphans(state, effects, kernel, message.attempts)
        return False
    number = getattr(message, "attempt", 0)
    holder = state.roster.kernels.get(event.peer) if number else None
    orphan = state.recovery.orphans.get((holder.number, number)) if holder is not None else None
    if orphan is None or isinstance(message, messages.Publish):
        return False
    if len(orphan.events) >= MAX_ORPHAN_EVENTS:
        raise ProtocolError("too many messages about an attempt whose map has not come back")
    orphan.events.append(event)
    return True


def _drop_orphan(state: State, effects: Effects, orphan: Orphan) -> None:
    """End an attempt whose result is of no use any more.

    The result that counts instead may not be on disk yet, so the kernel hears of the end after that. Results of a
    driver's map are never stored: there the kernel hears at once, before the driver goes on in the same process.
    """
    _forget_orphan(state, orphan)
    attempt_state.begin_next(state, effects, orphan.kernel)
    map_ = state.maps.get(orphan.map)
    tell = effects.answer if map_ is None or map_.root else effects.send
    tell(orphan.kernel.peer, messages.Abort(attempt=orphan.number))


def _forget_orphan(state: State, orphan: Orphan) -> None:
    del state.recovery.orphans[orphan.claim]
    of_map = state.recovery.orphans_of[orphan.map]
    del of_map[orphan.claim]
    if not of_map:
        del state.recovery.orphans_of[orphan.map]
    if orphan.how == "runs":
        kernel = orphan.kernel
        kernel.vacate(orphan.needs, orphan.devices)
        state.job_list.counted_kernel(kernel)
        state.free_slots.changed(kernel)
        state.touched.kernels[kernel.number] = kernel


def claims_of(state: State, kernel: Kernel) -> set[int]:
    """The attempts that the kernel holds, and whose maps the broker does not know yet."""
    return {number for holder, number in state.recovery.orphans if holder == kernel.number}


def lose_orphans(state: State, effects: Effects, kernel: Kernel, lost: list[int] | None = None) -> None:
    """Forget the orphans of a kernel that is gone, or those among *lost*, the attempts of one of its processes that
    died.
    """
    for orphan in [o for o in state.recovery.orphans.values() if o.kernel is kernel]:
        if lost is None or orphan.number in lost:
            _forget_orphan(state, orphan)
            attempt_state.begin_next(state, effects, kernel)
