"""The backlog: the slots that waiting work could use in kernels of a kind, for an allocator that may start some."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from msgspec.structs import replace

from park.broker.effects import Effects, Event
from park.broker.entities.jobs import BrokerJob
from park.broker.entities.requirements import KernelProfile, Needs, unmet
from park.broker.handlers import rights
from park.broker.state import State
from park.model import MAX_MEMORY_BYTES, WaitingWork
from park.wire import codec, messages

#: Labels of allocators whose kernels' resources are remembered.
MAX_REMEMBERED = 1000
#: Jobs whose part of the backlog is told.
MAX_PARTS = 1000
#: More slots than any allocator asks for.
MAX_BACKLOG_SLOTS = 1 << 30


def on_backlog(state: State, effects: Effects, event: Event, message: messages.Backlog) -> None:
    """An allocator asks for the work that waits."""
    rights.client(state, event)
    found = backlog(state, message, effects.now)
    effects.send(event.peer, messages.Records(message.id), codec.pack([found.as_map()]))


def backlog(state: State, m: messages.Backlog, now: float) -> WaitingWork:
    """The work that could run at once in kernels of the kind that *m* describes, if there were enough of them."""
    profile, is_known = _profile(state, m)
    slots, jobs, others, parts = 0, 0, Counter[str](), dict[str, int]()
    reasons: dict[tuple[str, int, Needs], str] = {}  # thousands of jobs differ in nothing of it
    for job in _waiting(state):
        alike = (job.owner, job.facts.priority, job.needs)
        reason = reasons.get(alike)
        if reason is None:
            reason = reasons[alike] = _obstacle(state, job, m, profile, is_known, now)
        wanted = 0 if reason else _slots(state, job, m.seconds, profile)
        if wanted:
            slots, jobs = slots + wanted, jobs + 1
            if jobs <= MAX_PARTS:
                parts[str(job.number)] = min(wanted, MAX_BACKLOG_SLOTS)
        else:
            others[reason or "with units that take longer than an allocation"] += 1
    return WaitingWork(min(slots, MAX_BACKLOG_SLOTS), jobs, dict(others.most_common(20)), parts)


def _profile(state: State, m: messages.Backlog) -> tuple[KernelProfile, bool]:
    """The resources of such a kernel. True: they are known from a kernel that has connected; False: only announced."""
    if m.like:
        for kernel in state.roster.kernels.values():
            if m.like in kernel.profile.labels:
                state.allocated.pop(m.like, None)  # so that the oldest is forgotten first
                state.allocated[m.like] = kernel.profile
                break
        if len(state.allocated) > MAX_REMEMBERED:
            del state.allocated[next(iter(state.allocated))]
        if m.like in state.allocated:
            return state.allocated[m.like], True
    labels = tuple(sorted({*m.labels, *([m.like] if m.like else [])}))
    memory = m.memory or MAX_MEMORY_BYTES
    return KernelProfile(m.python, m.slots, memory, labels, (), m.owner, m.only, gpus=m.gpus), False


def _waiting(state: State) -> Iterator[BrokerJob]:
    """The jobs with units that could be dealt if there were slots."""
    reserved = [kernel.reserved for kernel in state.free_slots.reserved.values()]
    for number in {*state.clock.waiting, *reserved}:
        job = state.jobs[number]
        if job.next_ready() is not None:
            yield job


def _obstacle(
    state: State, job: BrokerJob, m: messages.Backlog, profile: KernelProfile, is_known: bool, now: float
) -> str:
    """Why no unit of the job may run there, as words after "3 jobs"; "": its units may."""
    if not profile.serves(job.owner):
        return f"of others than {profile.owner}"
    priority = job.facts.priority
    if min(priority, 0) < m.priority <= priority and state.ledger.broke(job.owner, now):
        return "of owners without credit"
    if priority < m.priority:
        return "of a lower priority"
    needs = job.needs
    if not is_known:  # only the first kernel shows whether it has these packages or this environment
        python = "" if needs.environment else needs.python
        needs = replace(needs, packages=(), environment="", python=python)
    missing = unmet(needs, profile)
    return f"for a kernel that {missing}" if missing else ""


def _slots(state: State, job: BrokerJob, seconds: float, profile: KernelProfile) -> int:
    """The slots that the waiting units of the job could use at once, without those that take longer than *seconds*.

    A unit that needs a share of a kernel's GPUs takes the same share of its slots, if that is more than its own slots.
    """
    units = 0
    for map_ in job.maps.values():
        estimate = None if map_.once else state.estimates.get(map_.owner, map_.function)
        if not seconds or estimate is None or estimate <= seconds:
            units += map_.waiting
    part = job.needs.gpus / profile.gpus if job.needs.gpus else 0.0
    return round(units * max(job.needs.cpus, part * profile.slots))
