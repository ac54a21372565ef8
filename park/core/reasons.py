"""Words for people: why a job waits, what its share is, and when to expect its next unit."""

from __future__ import annotations

from collections.abc import Sequence

from park.core.charging import Charging
from park.core.jobs import Job
from park.core.needs import Kind, unmet
from park.core.work import Attempt
from park.model import JobState

#: Seconds after which a driver that was asked for its slot and keeps it is named.
PATIENCE = 2.0


def why(d: Charging, job: Job, held: Sequence[Attempt]) -> str:
    """One sentence; empty while the job runs and nothing of it waits. *held*: drivers that have kept their slots."""
    record = job.facts
    if record.state.ended or record.reason:
        return record.reason
    if record.state is JobState.PAUSED:
        return f"`park resume {job.number}` lets it go on"
    if record.state is JobState.WAITING:
        for other in record.after:
            before = d.list.jobs.get(other)
            if before is not None and not before.ended:
                return f"waits for job {other}, which is {before.state}"
        return "waits for its time"
    if job.root is not None and not job.root.closed and not job.root.waiting and not job.attempts:
        return "waits for more inputs from its client"
    if any(number in d.room.waiting for number in job.attempts):
        return f"{d.room.trouble}: results wait on kernels until there is room"
    if not job.has_work:
        return ""
    if job.recovering:
        return "waits, a lease at most, for kernels of the broker's last life, which may still run some of it"
    if job.held:
        return "waits until its client takes the results that are there"
    return _no_kernel(d, job) or _turn(d, job, held)


def _no_kernel(d: Charging, job: Job) -> str:
    """What is missing for the job to run anywhere, if something is."""
    kernels = d.roster.kernels.values()
    if not kernels:
        return "no kernel is connected"
    if all(kernel.draining for kernel in kernels):
        return "all kernels that are connected are draining: they take no new work"
    profiles = [p for p in d.vacancies.profiles if not p.only or p.owner == job.owner]
    if not profiles:
        return f"no kernel runs {job.owner}'s jobs: all that are connected run only others'"
    missing = [unmet(job.needs, p) for p in profiles]
    if all(missing):
        text = f"no kernel {_common(missing)}"
        if job.needs.python and all(p.python != job.needs.python for p in profiles):
            text += f" (connected: {', '.join(sorted({p.python for p in profiles}))})"
        elif job.needs.cpus > max(p.slots for p in profiles):
            text += f" (the largest has {max(p.slots for p in profiles)})"
        return text
    ready = job.next_ready()
    drives = ready is not None and d.door(job, ready).kind is Kind.DRIVER
    if drives and all(
        k.full_of_drivers for k in kernels if not k.draining and not unmet(job.needs, k.profile)
    ):
        return "every kernel holds as many waiting drivers as it may"
    return ""


def _common(missing: list[str]) -> str:
    """What most kernels lack, in words."""
    return max(sorted(set(missing)), key=missing.count)


def _turn(d: Charging, job: Job, held: Sequence[Attempt]) -> str:
    """Its share, and when its turn comes."""
    slots = d.roster.slots
    share = d.shares.get(job.number, 0.0)
    text = f"its share is {_percent(share)} of {slots} slot{'s'[: slots != 1]}"
    if job.facts.priority > 0 and d.ledger.broke(job.owner, d.now):
        text += f", as for a free one because {job.owner} has no credit left"
    if job.reserved is not None:
        wide = f"{job.needs.cpus} slots" if job.needs.cpus > 1 else "memory"
        return f"waits until {wide} are free at once on {job.reserved.host}; {text}"
    if job.running:
        return f"runs on {job.running} slot{'s'[: job.running != 1]}, with more to do: {text}"
    unit = d.estimates.get(job.owner, job.root.function) if job.root is not None else None
    soon = d.clock.ahead(job.number, d.line, (unit or 0.0) * job.needs.cpus) / max(1, slots)
    text = f"all slots are busy with work that is due before: {text}, its next unit in about {_seconds(soon)}"
    longest = next((a for a in held if a.map.job != job.number), None)
    if longest is not None:
        since = d.now - (longest.asked or d.now)
        text += (
            f"; job {longest.map.job} was asked for its slot {_seconds(since)} ago "
            "and has not called env.ready() since"
        )
    return text


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _seconds(seconds: float) -> str:
    if seconds < 1:
        return "a second"
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h"


def failed_dependency(other: Job) -> str:
    """Why a job that comes after *other*, which has failed or was aborted, fails too."""
    verb = "has failed" if other.state is JobState.FAILED else "was aborted"
    return f"job {other.number}, which it comes after, {verb}: {other.facts.reason}".rstrip(": ")
