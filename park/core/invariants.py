"""What must always hold in a dispatcher. The tests call `check` after each event."""

from __future__ import annotations

from collections.abc import Iterable

from park.core.jobs import Job
from park.core.roster import Kernel
from park.core.state import State
from park.core.work import Attempt
from park.model import JobState


def check(d: State, everything: bool = True) -> None:
    """Assert every invariant; not *everything*: of what the last event has changed."""
    numbers: Iterable[int] = d.list.jobs if everything else d.touched_jobs & d.list.jobs.keys()
    jobs = [d.list.jobs[n] for n in numbers]
    kernels = list(d.roster.kernels.values())
    d.clock.check(None if everything else [j.number for j in jobs if not j.ended])
    d.ledger.check()
    assert d.roster.slots == sum(k.offers for k in kernels)
    for job in jobs:
        _check_job(d, job)
    if not everything:
        named = {d.attempts[n].kernel.number for j in jobs for n in j.attempts}
        kernels = [k for k in kernels if k.number in named]
    for kernel in kernels:
        _check_kernel(d, kernel)
    d.vacancies.check(kernels)
    if everything:
        d.list.check()
        d.codes.check()
        void = {n for n, a in d.attempts.items() if a.void}
        assert d.attempts.keys() == {n for j in jobs for n in j.attempts} | void
        assert d.outrun.keys() <= void
        assert d.maps.keys() == {key for j in jobs for key in j.maps}
        left = {id(m): m for m in (*d.maps.values(), *(a.map for a in d.attempts.values()))}
        for owner, tally in d.list.tallies:
            units = sum(m.remaining for m in left.values() if m.owner == owner)
            assert tally.units == units, (owner, tally, units)


def _check_job(d: State, job: Job) -> None:
    for n in job.attempts:
        _check_attempt(d, d.attempts[n])
    for key, map_ in job.maps.items():
        assert d.maps[key] is map_
        map_.check(d.attempts[n] for n in map_.running)
        assert map_.function in d.codes
        assert map_.job == job.number
        assert map_.remaining or not map_.closed or not job.released, "it should have ended"
        assert map_.sizes.keys() == (map_.segments.keys() if map_.session else set())
        assert map_.listed or not map_.waiting, "its units wait, and nobody knows"
        driver = d.attempts.get(map_.driver)
        assert (driver is not None and key in driver.maps) or not map_.driver or map_.cancelled
    assert job.spooled == sum(sum(m.sizes.values()) for m in job.maps.values())
    holders = [d.attempts[n] for n in job.attempts if not d.attempts[n].parked and not d.attempts[n].ahead]
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
        _check_told(d, job)
    assert job.root is None or all(0 <= unit < job.root.total for unit in job.checkpoints)
    assert job.runs_since is None or job.state is JobState.RUNNING
    assert job.runs_since is not None or job.state is not JobState.RUNNING or not job.submit.max_time
    if job.ended:
        assert not job.checkpoints
        return
    assert job.attempts or job.maps or job.session, "nothing of it is left: it should have ended"
    doors: set[object] = set(job.resumable)
    ready = job.next_ready()
    opened = set(d.clock.doors(job.number)) & set(job.doors)
    if ready is not None:
        doors |= opened or {d.door(job, ready)}
    assert len(opened) <= 1
    expected = doors if job.dealt and job.reserved is None else set()
    assert d.clock.doors(job.number) == expected, (job.record, doors)
    # what the service clock was told is what was used, and what is thought of what runs
    charged = job.seconds + sum(d.attempts[n].charged for n in job.attempts)
    assert abs(d.clock.charged(job.number) - charged) < 1e-6 * (1.0 + charged), job.record


def _check_told(d: State, job: Job) -> None:
    """Whoever runs the job's own units gets what is said to it."""
    assert job.controls is not None
    assert job.controls.told.keys() <= job.kernels.keys()
    holders = {d.attempts[n].kernel.number for n in job.attempts if d.attempts[n].map.root}
    assert holders <= job.controls.told.keys(), "a kernel runs it, and does not hear"
    for number in holders:
        assert job.controls.told[number] == job.controls.last, "a control waits, and nobody will give it"


def _check_attempt(d: State, a: Attempt) -> None:
    kernel = a.kernel
    assert a.number in a.map.running
    assert (a.number in kernel.parked) == a.parked
    assert (a.number in kernel.ahead) == a.ahead
    assert (a.number in kernel.running) == (not a.parked and not a.ahead)
    assert d.roster.kernels[kernel.peer] is kernel
    job = d.list.jobs[a.map.job]
    assert a.resumable == (a in job.resumable.get(kernel.number, ()))
    assert a.parked == (a.resumable or bool(a.maps) or a.lent), "a driver waits for nothing"
    assert a.parked or not a.lent
    assert a.twin is None or (a.twin.twin is a and a.twin.span == a.span and a.twin.map is a.map)
    assert a.map.job in kernel.jobs or a.map.job not in job.kernels


def _check_kernel(d: State, kernel: Kernel) -> None:
    running = [d.attempts[n] for n in kernel.running]
    orphans = [o for o in d.orphans.values() if o.kernel is kernel and o.how == "runs"]
    cpus = sum(a.cpus for a in running) + sum(o.cpus for o in orphans)
    assert kernel.busy == cpus <= kernel.slots
    assert kernel.free == kernel.slots - kernel.busy
    assert kernel.memory == sum(a.memory for a in running) + sum(o.memory for o in orphans)
    assert kernel.holds <= d.attempts.keys()
    assert not (kernel.ahead and kernel.free), "a slot is free beside work that waits for one"
    assert all(not d.list.jobs[n].ended for n in kernel.jobs)
    assert all(kernel.number in d.list.jobs[n].kernels for n in kernel.jobs)
    assert not (kernel.draining and kernel.reserved), "slots are kept free where no new work begins"
    assert kernel.draining or kernel.grace is None
    if kernel.reserved:
        job = d.list.jobs[kernel.reserved]
        assert job.reserved is kernel
        assert not job.ended
        assert job.state is not JobState.PAUSED
