"""The invariants of the dispatcher's state. The tests call `check` after each event."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from park.broker.entities.jobs import BrokerJob
from park.broker.entities.maps import Attempt, AttemptState
from park.broker.entities.roster import Kernel, Member
from park.broker.state import State
from park.model import WHOLE_GPU, JobState, gpu_part


def check(state: State, everything: bool = True) -> None:
    """Assert every invariant. Without *everything* only those of objects that the last event has changed."""
    numbers: Iterable[int] = state.jobs if everything else state.touched.jobs & state.jobs.keys()
    jobs = [state.jobs[n] for n in numbers]
    kernels = list(state.roster.kernels.values())
    state.clock.check(None if everything else [j.number for j in jobs if not j.ended])
    state.ledger.check()
    assert state.roster.slots + state.roster.slots_of.total() == sum(k.offers for k in kernels)
    for job in jobs:
        _check_job(state, job)
    if not everything:
        named = {state.attempts[n].kernel.number for j in jobs for n in j.attempts}
        kernels = [k for k in kernels if k.number in named]
    for kernel in kernels:
        _check_kernel(state, kernel)
    state.free_slots.check(kernels)
    if everything:
        waits = {w.key: job.number for job in jobs for w in job.waiters}
        members: list[Member] = [*state.roster.kernels.values(), *state.roster.clients.values()]
        for member in members:
            assert all(waits[id(member), *key] == job for key, job in member.fetches.items())
        state.job_list.check()
        state.code_cache.check()
        for spread in state.sharing.spreads.values():
            spread.check()
        void = {n for n, a in state.attempts.items() if a.void}
        assert state.attempts.keys() == {n for j in jobs for n in j.attempts} | void
        assert state.superseded.keys() <= void
        assert state.maps.keys() == {key for j in jobs for key in j.maps}
        left = {id(m): m for m in (*state.maps.values(), *(a.map for a in state.attempts.values()))}
        for owner, tally in state.job_list.tallies:
            units = sum(m.remaining for m in left.values() if m.owner == owner)
            assert tally.units == units, (owner, tally, units)
            assert tally.spooled == sum(j.spooled for j in jobs if j.owner == owner)
        assert state.spooled == sum(j.spooled for j in jobs)


def _check_job(state: State, job: BrokerJob) -> None:
    for n in job.attempts:
        _check_attempt(state, state.attempts[n])
    for key, map_ in job.maps.items():
        assert state.maps[key] is map_
        map_.check(state.attempts[n] for n in map_.running)
        assert map_.function in state.code_cache
        assert map_.job == job.number
        assert map_.remaining or not map_.closed or not job.released, "it should have ended"
        assert map_.sizes.keys() == (map_.segments.keys() if map_.session else set())
        assert map_.listed or not map_.waiting, "its units wait, and its job does not list it"
        driver = state.attempts.get(map_.driver)
        assert (driver is not None and key in driver.maps) or not map_.driver or map_.cancelled
    assert job.spooled == sum(sum(m.sizes.values()) for m in job.maps.values())
    holders = [state.attempts[n] for n in job.attempts if state.attempts[n].has_slots]
    assert job.running == len(holders)
    assert all(w.member.fetches[w.attempt, w.id] == job.number for w in job.waiters)
    assert job.reserved is None or job.reserved.reserved == job.number
    answered = (
        {unit for start, count in job.results for unit in range(start, start + count)}
        if job.checkpoints
        else ()
    )
    assert not any(unit in answered for unit in job.checkpoints), "a checkpoint of what is answered"
    if job.controls is not None:
        job.controls.check()
        _check_told(state, job)
    assert job.root is None or all(0 <= unit < job.root.total for unit in job.checkpoints)
    assert job.runs_since is None or job.state is JobState.RUNNING
    assert job.runs_since is not None or job.state is not JobState.RUNNING or not job.submit.max_time
    if job.ended:
        assert not job.checkpoints
        return
    assert job.attempts or job.maps or job.session, "nothing of it is left: it should have ended"
    work_classes: set[object] = {job.driver_class(kernel) for kernel in job.resumable}
    ready = job.next_ready()
    opened = set(state.clock.work_classes(job.number)) & set(job.work_classes)
    if ready is not None:
        work_classes |= opened or {state.work_class(job, ready)}
    assert len(opened) <= 1
    expected = work_classes if job.dealt and job.reserved is None else set()
    assert state.clock.work_classes(job.number) == expected, (job.record, work_classes)
    # the service clock counts seconds used, and estimates for running units
    charged = job.seconds + sum(state.attempts[n].charged for n in job.attempts)
    assert abs(state.clock.charged(job.number) - charged) < 1e-6 * (1.0 + charged), job.record


def _check_told(state: State, job: BrokerJob) -> None:
    """Each kernel that runs the job's own units gets its controls."""
    assert job.controls is not None
    assert job.controls.sent.keys() <= job.kernels.keys()
    holders = {state.attempts[n].kernel.number for n in job.attempts if state.attempts[n].map.root}
    assert holders <= job.controls.sent.keys(), "a kernel runs it, and does not hear"
    for number in holders:
        assert job.controls.sent[number] == job.controls.last, "a control waits, and no event will send it"


def _check_attempt(state: State, a: Attempt) -> None:
    kernel = a.kernel
    assert a.number in a.map.running
    assert (a.number in kernel.parked) == a.parked
    assert (a.number in kernel.ahead) == a.ahead
    assert (a.number in kernel.running) == a.has_slots
    assert state.roster.kernels[kernel.peer] is kernel
    job = state.jobs[a.map.job]
    assert kernel.announced.job == job.needs.job, "a private job and a kernel that serves others"
    assert a.resumable == (a in job.resumable.get(kernel.number, ()))
    assert a.state is not AttemptState.OVER
    assert not a.void
    assert bool(a.maps) == (a.state is AttemptState.IN_MAP), "a driver waits for nothing"
    assert a.twin is None or (a.twin.twin is a and a.twin.span == a.span and a.twin.map is a.map)
    assert a.map.job in kernel.jobs or a.map.job not in job.kernels


def _check_kernel(state: State, kernel: Kernel) -> None:
    running = [state.attempts[n] for n in kernel.running]
    orphans = [o for o in state.recovery.orphans.values() if o.kernel is kernel and o.how == "runs"]
    holders = [(a.needs, a.devices) for a in running] + [(o.needs, o.devices) for o in orphans]
    assert kernel.busy == sum(needs.cpus for needs, _ in holders) <= kernel.slots
    assert kernel.free == kernel.slots - kernel.busy
    assert kernel.processes.working == Counter(a.map.owner for a in running)
    assert kernel.memory == sum(needs.memory for needs, _ in holders)
    given = [0] * kernel.profile.gpus
    for needs, devices in holders:
        assert bool(needs.gpus) == bool(devices)
        for device in devices:
            given[device] += gpu_part(needs.gpus)
    assert kernel.devices.given == given
    assert max(given, default=0) <= WHOLE_GPU, "more than a whole device is given out"
    assert kernel.holds <= state.attempts.keys()
    assert not (kernel.ahead and kernel.free), "a slot is free beside work that waits for one"
    assert all(not state.jobs[n].ended for n in kernel.jobs)
    assert all(kernel.number in state.jobs[n].kernels for n in kernel.jobs)
    assert not (kernel.closed and kernel.reserved), "slots are kept free where no new work begins"
    assert kernel.draining or kernel.grace is None
    if kernel.reserved:
        job = state.jobs[kernel.reserved]
        assert job.reserved is kernel
        assert not job.ended
        assert job.state is not JobState.PAUSED
