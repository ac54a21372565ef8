"""Words for people: why a job waits, what its share is, and when to expect its next unit.

Two readers look for parts of these sentences, and change with them: `park.web.next_turn` and `park.client.stall_notice`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence

from park.broker.entities.jobs import BrokerJob
from park.broker.entities.maps import Attempt
from park.broker.entities.requirements import Kind, Needs, unmet
from park.broker.entities.roster import Kernel
from park.broker.handlers import charging
from park.broker.state import State
from park.errors import with_cause
from park.model import JobState, Serves

#: Seconds after which a driver that was asked for its slot and keeps it is named.
UNANSWERED_SECONDS = 2.0


class WaitReasons:
    """The reasons of one moment. Facts that jobs of one owner, or with the same needs, share are worked out once."""

    def __init__(self, state: State, held: Sequence[Attempt]) -> None:
        """*held*: drivers that were asked for their slots and keep them."""
        self._state = state
        self._held = held
        self._missing = functools.cache(self._no_kernel)
        self._shared = functools.cache(self._share)

    def why(self, job: BrokerJob) -> str:
        """One sentence; empty while the job runs and nothing of it waits."""
        record = job.facts
        if record.state.ended or record.reason:
            return record.reason
        if record.state is JobState.PAUSED:
            return f"`park resume {job.number}`, in Python job.resume(), lets it go on"
        state = self._state
        if record.state is JobState.WAITING:
            for other in record.after:
                before = state.jobs.get(other)
                if before is not None and not before.ended:
                    return f"waits for job {other}, which is {before.state}"
            return "waits for its time"
        if job.root is not None and not job.root.closed and not job.root.waiting and not job.attempts:
            return "waits for more inputs from its client"
        if state.disk.waiting and any(number in state.disk.waiting for number in job.attempts):
            return f"{state.disk.trouble}: kernels keep results until there is room"
        ready = job.next_ready()
        if ready is None and not job.resumable:
            return ""
        if job.recovering:
            return "waits, a lease at most, for kernels of the broker's last life, which may still run some of it"
        if job.held:
            return "waits until its client takes the results that are there"
        drives = ready is not None and state.door(job, ready).kind is Kind.DRIVER
        if job.needs.job and not state.roster.slots_for(job.owner, job.needs.job):
            return _without_kernels(job)
        return self._missing(job.owner, job.needs, drives) or self._turn(job)

    def _no_kernel(self, owner: str, needs: Needs, drives: bool) -> str:
        """The requirement that keeps such a job from running anywhere, or ""; *drives*: its next unit is a driver."""
        state = self._state
        kernels = state.roster.kernels.values()
        if not kernels:
            return "no kernel is connected"
        if all(kernel.draining for kernel in kernels):
            return "all kernels that are connected are draining: they take no new work"
        profiles = [p for p in state.free_slots.profiles if not p.only or p.owner == owner]
        if all(unmet(needs, p) for p in profiles) and (pauses := _pauses(kernels, owner, needs)):
            return pauses
        if not profiles:
            return f"no kernel runs {owner}'s jobs: all that are connected run only others'"
        missing = [unmet(needs, p) for p in profiles]
        if all(missing):
            text = f"no kernel {_common(missing)}"
            if needs.python and not needs.environment and all(p.python != needs.python for p in profiles):
                versions = ", ".join(sorted({p.python for p in profiles}))
                text += f" (connected: {versions}); `park-kernel --python PATH` adds one"
            elif needs.cpus > max(p.slots for p in profiles):
                text += f" (the largest has {max(p.slots for p in profiles)})"
            return text
        if drives and all(k.full_of_drivers for k in kernels if not k.closed and not unmet(needs, k.profile)):
            return "every kernel holds as many waiting drivers as it may"
        return ""

    def _share(self, slots: int, share: float, broke: str) -> str:
        """A share of the slots in words; *broke*: the owner who cannot pay for more."""
        text = f"its share is {100 * share:.3g} % of {slots} slot{'s'[: slots != 1]}"
        return text + (f", as for a free one because {broke} has no credit left" if broke else "")

    def _turn(self, job: BrokerJob) -> str:
        """Its share, and when its turn comes."""
        state = self._state
        broke = job.owner if job.facts.priority > 0 and state.ledger.broke(job.owner, state.now) else ""
        slots = state.roster.slots_for(job.owner, job.needs.job)
        text = self._shared(slots, charging.shares(state).get(job.number, 0.0), broke)
        if job.reserved is not None:
            wide = f"{job.needs.cpus} slots" if job.needs.cpus > 1 else "memory"
            return f"waits until {wide} are free at once on {job.reserved.host}; {text}"
        if job.running:
            return f"runs on {job.running} slot{'s'[: job.running != 1]}, with more to do: {text}"
        unit = state.estimates.get(job.owner, job.root.function) if job.root is not None else None
        soon = state.clock.ahead(job.number, charging.forecast(state), (unit or 0.0) * job.needs.cpus) / max(
            1, slots
        )
        text = f"{self._scarce(job)} are busy with work that is due before: {text}, its next unit in about {_seconds(soon)}"
        longest = next((a for a in self._held if a.map.job != job.number), None)
        if state.disk.waiting:
            text += f"; {state.disk.trouble}: kernels keep results, and their slots, until there is room"
        elif longest is not None:
            since = state.now - (longest.asked or state.now)
            text += (
                f"; job {longest.map.job} was asked for its slot {_seconds(since)} ago "
                "and has not called env.ready() since"
            )
        return text

    def _scarce(self, job: BrokerJob) -> str:
        """The resource that the job waits for, in words."""
        needs, state = job.needs, self._state
        if needs.gpus:
            able = [k for k in state.roster.kernels.values() if not k.closed and not unmet(needs, k.profile)]
            if any(k.has_slots(needs) for k in able):
                return "all GPUs"
        return "all slots"


def explainer(state: State) -> Callable[[int], str]:
    """The function that explains the jobs of this moment by number: why each waits, or why it ended.

    A sentence says the cause, the share of the job, and when to expect its next unit; or the reason of its end.
    """
    reasons = WaitReasons(state, state.preemption.holding(state.now, UNANSWERED_SECONDS))
    return lambda number: reasons.why(state.jobs[number])


def _pauses(kernels: Iterable[Kernel], owner: str, needs: Needs) -> str:
    """The pause that keeps such a job of this owner from the kernels that could run it, in words; "": there is none."""
    pausing = [
        kernel
        for kernel in kernels
        if kernel.serves is not Serves.ALL
        and not kernel.draining
        and not (kernel.announced.only and kernel.announced.owner != owner)
        and not unmet(needs, kernel.announced)
    ]
    if not pausing:
        return ""
    first = f"{pausing[0].node or pausing[0].host}: {pausing[0].pause}"
    if len(pausing) == 1:
        return f"the kernel that could run it pauses, on {first}"
    return f"all {len(pausing)} kernels that could run it pause, one on {first}"


def _without_kernels(job: BrokerJob) -> str:
    """Why a private job waits that has no kernel."""
    if job.facts.allocation:
        return f"waiting: its allocation {job.facts.allocation}"
    return (
        f"waiting: no kernel serves it alone, and `park alloc give {job.number}` asks a batch system for some"
    )


def _common(missing: list[str]) -> str:
    """The requirement that most kernels lack, in words."""
    return max(sorted(set(missing)), key=missing.count)


def _seconds(seconds: float) -> str:
    if seconds < 1:
        return "a second"
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h"


def failed_dependency(other: BrokerJob) -> str:
    """Why a job that comes after *other*, which has failed or was aborted, fails too."""
    verb = "has failed" if other.state is JobState.FAILED else "was aborted"
    return with_cause(f"job {other.number}, which it comes after, {verb}", other.facts.reason)
