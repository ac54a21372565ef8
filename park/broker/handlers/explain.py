"""Decides why a job waits, what its share is, and when to expect its next unit.

The reason is a record; `park.wait_reason.words` puts it into words.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime

from park.broker.entities.jobs import BrokerJob
from park.broker.entities.maps import Attempt
from park.broker.entities.requirements import KernelProfile, Kind, Needs, unmet
from park.broker.entities.roster import Kernel
from park.broker.handlers import charging
from park.broker.state import State
from park.errors import with_cause
from park.model import JobState, Serves
from park.wait_reason import Cause, WaitReason

#: Labels, or environments, that a reason names at most.
MAX_NAMED = 5
#: Seconds after which a driver that was asked for its slot and keeps it is named.
UNANSWERED_SECONDS = 2.0


class WaitReasons:
    """The reasons of one moment. Facts that jobs of one owner, or with the same needs, share are worked out once."""

    def __init__(self, state: State) -> None:
        self._state = state
        #: drivers that were asked for their slots and keep them
        self._held: Sequence[Attempt] = state.preemption.holding(state.now, UNANSWERED_SECONDS)
        self._missing = functools.cache(self._no_kernel)

    def why(self, job: BrokerJob) -> WaitReason:
        """The reason why the job waits, or why it ended; `Cause.NONE` while the job runs and nothing of it waits."""
        record, state = job.facts, self._state
        if record.state.ended or record.reason:
            return WaitReason(Cause.ENDING if record.reason else Cause.NONE, record.reason)
        if record.state is JobState.PAUSED:
            return WaitReason(Cause.PAUSED, job=job.number)
        if record.state is JobState.WAITING:
            befores = filter(None, map(state.jobs.get, record.after))
            before = next((other for other in befores if not other.ended), None)
            if before is None:
                return WaitReason(Cause.TIME, _time(record.when))
            return WaitReason(Cause.OTHER_JOB, job=before.number, state=before.state)
        if job.root is not None and not job.root.closed and not job.root.waiting and not job.attempts:
            host = job.number if record.allocation and not record.total else 0
            return self._no_allocation(job) or WaitReason(Cause.INPUTS, job=host)
        ready = job.next_ready()
        idle = ready is None and not job.resumable
        if any(n in state.disk.waiting for n in job.attempts) or (
            idle and state.disk.is_full and not job.session
        ):
            return WaitReason(Cause.DISK, state.disk.trouble)
        if idle:
            return WaitReason()
        if job.recovering:
            return WaitReason(Cause.RECOVERY)
        if job.client_slow:
            return WaitReason(Cause.RESULTS)
        kind = Kind.PLAIN if ready is None else state.work_class(job, ready).kind
        weight = state.clock.weight(job.number)
        return (
            self._no_allocation(job) or self._missing(job.owner, job.needs, kind, weight) or self._turn(job)
        )

    def _no_allocation(self, job: BrokerJob) -> WaitReason | None:
        """The reason of a private job whose kernels are not there, or of one that shares them; None: they are."""
        number, state = job.needs.job, self._state
        if not number or state.roster.slots_for(job.owner, number):
            return None
        standing = state.jobs[number].facts.allocation if number in state.jobs else ""
        return WaitReason(Cause.ALLOCATION if standing else Cause.NO_ALLOCATION, standing, number)

    def _no_kernel(self, owner: str, needs: Needs, kind: Kind, weight: float) -> WaitReason | None:
        """The reason that keeps such a job from running anywhere; None: a kernel may run it.

        *kind*: of its next unit. *weight*: the job's.
        """
        state = self._state
        kernels = state.roster.kernels.values()
        if not kernels:
            return WaitReason(Cause.NO_KERNEL)
        if all(kernel.draining for kernel in kernels):
            return WaitReason(Cause.DRAINING)
        profiles = [p for p in state.free_slots.profiles if p.serves(owner)]
        missing = [unmet(needs, p) for p in profiles]
        if all(missing) and (pausing := _pausing(kernels, owner, needs)):
            first = pausing[0]
            return WaitReason(Cause.PAUSES, first.node or first.host, count=len(pausing), pause=first.pause)
        if not profiles:
            return WaitReason(Cause.OTHER_OWNERS, owner)
        if all(missing):
            pythons: list[str] = []
            if needs.python and not needs.environment and all(p.python != needs.python for p in profiles):
                pythons = sorted({p.python for p in profiles})
            largest = max(p.slots for p in profiles)
            return WaitReason(
                Cause.REQUIREMENT,
                _most_common(missing) + _alternatives(needs, profiles),
                pythons=tuple(pythons),
                largest=largest if needs.cpus > largest else 0,
            )
        able = [k for k in kernels if not (k.closed or unmet(needs, k.profile)) and k.profile.serves(owner)]
        if able and not any(kind <= k.takes or self._takes_driver(k, owner, weight) for k in able):
            return WaitReason(Cause.DRIVERS)
        return None

    def _takes_driver(self, kernel: Kernel, owner: str, weight: float) -> bool:
        """Whether the kernel, full of drivers, takes one of a job that weighs so much as soon as a slot is free."""
        weights = self._state.weights_of_drivers(kernel)
        return weights is not None and weight > weights.get(owner, 0.0)

    def _turn(self, job: BrokerJob) -> WaitReason:
        """The reason of a job that some kernel could run: its share, and when its turn comes."""
        state = self._state
        slots = state.roster.slots_for(job.owner, job.needs.job)
        reason = functools.partial(
            WaitReason,
            share=charging.shares(state).get(job.number, 0.0),
            slots=slots,
            broke=job.owner if job.facts.priority > 0 and state.ledger.broke(job.owner, state.now) else "",
        )
        if job.reserved is not None:
            wide = job.needs.cpus if job.needs.cpus > 1 else 0
            return reason(Cause.FREE_AT_ONCE, job.reserved.host, count=wide)
        if job.running:
            return reason(Cause.MORE, running=job.running)
        unit = state.estimates.get(job.owner, job.root.function) if job.root is not None else None
        work = state.clock.ahead(job.number, charging.forecast(state), (unit or 0.0) * job.needs.cpus)
        longest = next((a for a in self._held if a.map.job != job.number), None)
        return reason(
            Cause.TURN,
            self._scarce(job),
            seconds=work / max(1, slots),
            disk=state.disk.trouble if state.disk.is_full else "",
            holder=0 if longest is None else longest.map.job,
            holder_seconds=0.0 if longest is None else state.now - (longest.asked or state.now),
        )

    def _scarce(self, job: BrokerJob) -> str:
        """The resource that the job waits for, in words."""
        needs, state = job.needs, self._state
        if needs.gpus:
            able = [k for k in state.roster.kernels.values() if not k.closed and not unmet(needs, k.profile)]
            if any(k.has_slots(needs) for k in able):
                return "all GPUs"
        return "all slots"


def explainer(state: State) -> Callable[[int], WaitReason]:
    """The function that explains the jobs of this moment by number: why each waits, or why it ended."""
    reasons = WaitReasons(state)
    return lambda number: reasons.why(state.jobs[number])


def _time(when: float | None) -> str:
    """A wall time in words; "": there is none."""
    return "" if when is None else f"{datetime.fromtimestamp(when, UTC):%Y-%m-%d %H:%M} UTC"


def _pausing(kernels: Iterable[Kernel], owner: str, needs: Needs) -> list[Kernel]:
    """The kernels that could run such a job of this owner and pause."""
    return [
        kernel
        for kernel in kernels
        if kernel.serves is not Serves.ALL
        and not kernel.draining
        and not (kernel.announced.only and kernel.announced.owner != owner)
        and not unmet(needs, kernel.announced)
    ]


def _most_common(missing: list[str]) -> str:
    """The requirement that most kernels lack, in words."""
    return max(sorted(set(missing)), key=missing.count)


def _alternatives(needs: Needs, profiles: Iterable[KernelProfile]) -> str:
    """The names that kernels have where they lack the one that is needed, as words behind that; "": there are none."""
    if needs.environment:
        kind, wanted = "environments", {needs.environment}
        known = {name for profile in profiles for name, _ in profile.environments}
    else:
        kind, wanted = "labels", set(needs.labels)
        known = {label for profile in profiles for label in profile.labels}
    names = sorted(known)
    if wanted <= known or not names:
        return ""
    more = f" and {len(names) - MAX_NAMED:,} more" if len(names) > MAX_NAMED else ""
    return f"; kernels have the {kind} {', '.join(names[:MAX_NAMED])}{more}"


def failed_dependency(other: BrokerJob) -> str:
    """Why a job that comes after *other*, which has failed or was aborted, fails too."""
    verb = "has failed" if other.state is JobState.FAILED else "was aborted"
    return with_cause(f"job {other.number}, which it comes after, {verb}", other.facts.reason)
