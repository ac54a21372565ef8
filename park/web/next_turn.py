"""A guess for the page at the job that is served next, from the words in which the broker explains why jobs wait."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from park.model import JobRecord, JobState

#: Jobs whose explanations are compared.
MAX_CANDIDATES = 20

_TURN = re.compile(r"its next unit in about (a second|(\d+) (s|min|h))")
_UNIT_SECONDS = {"s": 1, "min": 60, "h": 3600}


def candidates(records: Iterable[JobRecord]) -> list[JobRecord]:
    """The candidates for the next slot: for each owner the oldest job of its highest priority that has no slot."""
    first: dict[str, JobRecord] = {}
    for record in records:
        if record.state in (JobState.QUEUED, JobState.RUNNING) and not record.running:
            best = first.get(record.owner)
            if best is None or (-record.priority, record.job) < (-best.priority, best.job):
                first[record.owner] = record
    return sorted(first.values(), key=lambda r: (-r.priority, r.job))[:MAX_CANDIDATES]


def seconds_until(reason: str) -> float | None:
    """The time until a job's next unit, as its explanation says; None where it says none.

    >>> seconds_until("all slots are busy: its share is 50 % of 2 slots, its next unit in about 3 min")
    180.0
    """
    found = _TURN.search(reason)
    if found is None:
        return None
    return 1.0 if found[2] is None else float(found[2]) * _UNIT_SECONDS[found[3]]


def served_next(records: Iterable[JobRecord], reasons: Mapping[int, str]) -> JobRecord | None:
    """The record whose *reason* promises the soonest unit; None where none does."""
    timed = [
        (seconds, record.job, record)
        for record in records
        if (seconds := seconds_until(reasons.get(record.job, ""))) is not None
    ]
    return min(timed)[2] if timed else None
