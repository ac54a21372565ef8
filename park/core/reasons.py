"""Words for people: why a job waits."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from park.core.jobs import Job
from park.core.roster import Kernel
from park.model import JobState


def why(job: Job, jobs: Mapping[int, Job], kernels: Collection[Kernel]) -> str:
    """One sentence: why the job waits, or what ended it; empty while it runs."""
    record = job.facts
    if record.state.ended or record.reason:
        return record.reason
    if record.state is JobState.WAITING:
        for other in record.after:
            if not jobs[other].ended:
                return f"waits for job {other}, which is {jobs[other].state}"
        return "waits for its time"
    if job.root is not None and not job.root.closed and not job.root.waiting and not job.attempts:
        return "waits for more inputs from its client"
    if not job.has_work or job.running:
        return ""
    if not kernels:
        return "no kernel is connected"
    fitting = [k for k in kernels if not record.python or k.python == record.python]
    if not fitting:
        others = ", ".join(sorted({k.python for k in kernels}))
        return f"no kernel runs Python {record.python} (connected: {others})"
    if all(k.full_of_drivers for k in fitting):
        return "every kernel holds as many waiting drivers as it may"
    if all(k.free <= 0 for k in fitting):
        return "all slots are busy with work that is due before"
    return ""


def failed_dependency(other: Job) -> str:
    """Why a job that comes after *other*, which has failed or was aborted, fails too."""
    verb = "has failed" if other.state is JobState.FAILED else "was aborted"
    return f"job {other.number}, which it comes after, {verb}: {other.facts.reason}".rstrip(": ")
