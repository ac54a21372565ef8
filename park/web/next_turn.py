"""A guess for the page at the job that is served next, from the reasons why jobs wait."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from park.model import JobRecord, JobState
from park.wait_reason import WaitReason

#: Jobs whose explanations are compared.
MAX_CANDIDATES = 20


def candidates(records: Iterable[JobRecord]) -> list[JobRecord]:
    """The candidates for the next slot: for each owner the oldest job of its highest priority that has no slot."""
    first: dict[str, JobRecord] = {}
    for record in records:
        if record.state in (JobState.QUEUED, JobState.RUNNING) and not record.running:
            best = first.get(record.owner)
            if best is None or (-record.priority, record.job) < (-best.priority, best.job):
                first[record.owner] = record
    return sorted(first.values(), key=lambda r: (-r.priority, r.job))[:MAX_CANDIDATES]


def served_next(records: Iterable[JobRecord], reasons: Mapping[int, WaitReason]) -> JobRecord | None:
    """The record whose reason promises the soonest unit; None where none does."""
    timed = [
        (reason.seconds, record.job, record)
        for record in records
        if (reason := reasons.get(record.job)) is not None and reason.seconds is not None
    ]
    return min(timed)[2] if timed else None
