"""The times that jobs with a time limit have run, and when to look at them.

A job's time is the time in which it was *running*, in seconds of the monotonic clock, over all lives of the broker.
Time does not count while the job waits, is queued or paused, or while the broker is away. The broker stores the time
every `STORE_SECONDS`, so a job gains at most that much when the broker dies.
"""

from __future__ import annotations

import heapq

from park.broker.entities.jobs import BrokerJob
from park.model import JobState

#: Seconds after which the time that a job has run is stored again.
STORE_SECONDS = 10.0
#: A job over its limit is asked to stop. If its request names no grace, it is aborted after a tenth of the limit, but not
#: before this time (seconds).
MIN_GRACE_SECONDS = 10.0
#: Sums of times are not exact.
_NEAR = 1e-6


class RunTimes:
    """The times that jobs with a time limit have run."""

    def __init__(self) -> None:
        #: when to look at which job; entries of jobs that do not run are left out when their time comes
        self._looks: list[tuple[float, int]] = []

    def __bool__(self) -> bool:
        """Whether there is a job to look at."""
        return bool(self._looks)

    def count(self, job: BrokerJob, now: float) -> None:
        """Bring the job's time up to *now*; it has perhaps begun to run, or ceased to."""
        if job.runs_since is not None:
            job.ran += now - job.runs_since
            job.runs_since = now
        running = job.state is JobState.RUNNING
        if not running:
            job.runs_since = None
        elif job.runs_since is None:
            job.runs_since = now
            if job.ending in ("", "stop"):  # else it ends by itself
                self.look_again(job, now)

    def look_again(self, job: BrokerJob, now: float) -> None:
        """Look at the job when its limit, its grace or the next record is due."""
        left = job.submit.max_time - job.ran
        if job.overtime is not None:
            left = job.overtime + grace(job) - job.ran
        heapq.heappush(self._looks, (now + min(STORE_SECONDS, max(0.0, left)), job.number))

    def due(self, now: float) -> list[int]:
        """The jobs to look at now."""
        found = set()
        while self._looks and self._looks[0][0] <= now:
            found.add(heapq.heappop(self._looks)[1])
        return sorted(found)

    def next_deadline(self) -> float:
        return self._looks[0][0]


def over(job: BrokerJob) -> bool:
    """Whether the job has run for as long as it may."""
    return job.ran >= job.submit.max_time - _NEAR


def grace(job: BrokerJob) -> float:
    """Seconds that the job may take to stop after its limit."""
    return job.submit.grace or max(MIN_GRACE_SECONDS, job.submit.max_time / 10)


def is_past_grace(job: BrokerJob) -> bool:
    """Whether the job was asked to stop, and has had its `grace` since."""
    return job.overtime is not None and job.ran >= job.overtime + grace(job) - _NEAR


def length(seconds: float) -> str:
    """A length of time in words.

    >>> length(5), length(5400), length(0.25)
    ('5 s', '1 h 30 min', '0.25 s')
    """
    words = []
    for unit, name in ((86400, "d"), (3600, "h"), (60, "min")):
        count, seconds = divmod(seconds, unit)
        if count:
            words.append(f"{count:.0f} {name}")
    if seconds or not words:
        words.append(f"{seconds:g} s")
    return " ".join(words)
