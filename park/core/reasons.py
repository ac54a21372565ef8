"""Words for people: why a job waits, what its share is, and when to expect its next unit."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from park.core.charging import Charging
from park.core.jobs import Job
from park.core.needs import Kind, Needs, unmet
from park.core.work import Attempt
from park.model import JobState

#: Seconds after which a driver that was asked for its slot and keeps it is named.
PATIENCE = 2.0


class Reasons:
    """The reasons of one moment. What jobs of one owner, or with the same needs, have in common is worked out once."""

    def __init__(self, d: Charging, held: Sequence[Attempt]) -> None:
        """*held*: drivers that were asked for their slots and keep them."""
        self._d = d
        self._held = held
        self._slots = d.roster.slots
        self._missing = functools.cache(self._no_kernel)
        self._shared = functools.cache(self._share)

    def why(self, job: Job) -> str:
        """One sentence; empty while the job runs and nothing of it waits."""
        record = job.facts
        if record.state.ended or record.reason:
            return record.reason
        if record.state is JobState.PAUSED:
            return f"`park resume {job.number}`, in Python job.resume(), lets it go on"
        d = self._d
        if record.state is JobState.WAITING:
            for other in record.after:
                before = d.list.jobs.get(other)
                if before is not None and not before.ended:
                    return f"waits for job {other}, which is {before.state}"
            return "waits for its time"
        if job.root is not None and not job.root.closed and not job.root.waiting and not job.attempts:
            return "waits for more inputs from its client"
        if d.room.waiting and any(number in d.room.waiting for number in job.attempts):
            return f"{d.room.trouble}: results wait on kernels until there is room"
        ready = job.next_ready()
        if ready is None and not job.resumable:
            return ""
        if job.recovering:
            return "waits, a lease at most, for kernels of the broker's last life, which may still run some of it"
        if job.held:
            return "waits until its client takes the results that are there"
        drives = ready is not None and d.door(job, ready).kind is Kind.DRIVER
        return self._missing(job.owner, job.needs, drives) or self._turn(job)

    def _no_kernel(self, owner: str, needs: Needs, drives: bool) -> str:
        """What is missing for such a job to run anywhere, if something is; *drives*: its next unit does."""
        d = self._d
        kernels = d.roster.kernels.values()
        if not kernels:
            return "no kernel is connected"
        if all(kernel.draining for kernel in kernels):
            return "all kernels that are connected are draining: they take no new work"
        profiles = [p for p in d.vacancies.profiles if not p.only or p.owner == owner]
        if not profiles:
            return f"no kernel runs {owner}'s jobs: all that are connected run only others'"
        missing = [unmet(needs, p) for p in profiles]
        if all(missing):
            text = f"no kernel {_common(missing)}"
            if needs.python and all(p.python != needs.python for p in profiles):
                text += f" (connected: {', '.join(sorted({p.python for p in profiles}))})"
            elif needs.cpus > max(p.slots for p in profiles):
                text += f" (the largest has {max(p.slots for p in profiles)})"
            return text
        if drives and all(
            k.full_of_drivers for k in kernels if not k.draining and not unmet(needs, k.profile)
        ):
            return "every kernel holds as many waiting drivers as it may"
        return ""

    def _share(self, share: float, broke: str) -> str:
        """A share in words; *broke*: the owner who cannot pay for more."""
        text = f"its share is {100 * share:.3g} % of {self._slots} slot{'s'[: self._slots != 1]}"
        return text + (f", as for a free one because {broke} has no credit left" if broke else "")

    def _turn(self, job: Job) -> str:
        """Its share, and when its turn comes."""
        d = self._d
        broke = job.owner if job.facts.priority > 0 and d.ledger.broke(job.owner, d.now) else ""
        text = self._shared(d.shares.get(job.number, 0.0), broke)
        if job.reserved is not None:
            wide = f"{job.needs.cpus} slots" if job.needs.cpus > 1 else "memory"
            return f"waits until {wide} are free at once on {job.reserved.host}; {text}"
        if job.running:
            return f"runs on {job.running} slot{'s'[: job.running != 1]}, with more to do: {text}"
        unit = d.estimates.get(job.owner, job.root.function) if job.root is not None else None
        soon = d.clock.ahead(job.number, d.line, (unit or 0.0) * job.needs.cpus) / max(1, self._slots)
        text = f"all slots are busy with work that is due before: {text}, its next unit in about {_seconds(soon)}"
        longest = next((a for a in self._held if a.map.job != job.number), None)
        if longest is not None:
            since = d.now - (longest.asked or d.now)
            text += (
                f"; job {longest.map.job} was asked for its slot {_seconds(since)} ago "
                "and has not called env.ready() since"
            )
        return text


def _common(missing: list[str]) -> str:
    """What most kernels lack, in words."""
    return max(sorted(set(missing)), key=missing.count)


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
