"""The number of a job, from any object that stands for it."""

from __future__ import annotations

from typing import Any

from park.body.reference import Reference, job_of
from park.errors import InvalidRequest, UnknownJob


class Numbered:
    """The base of objects that stand for a job: `id` is its number."""

    @property
    def id(self) -> int:
        """The number of the job, unique to the queue."""
        raise NotImplementedError


def number_of(job: Any) -> int:
    """The number of a job: of a `park.Job`, a `Reference` or a number. Raises InvalidRequest, UnknownJob."""
    if isinstance(job, Numbered):
        return job.id
    if isinstance(job, Reference):
        return job_of(job)
    if isinstance(job, int) and not isinstance(job, bool):
        if not 0 < job < 1 << 63:
            raise UnknownJob(f"job {job} is unknown")
        return job
    raise InvalidRequest(f"{job!r} is neither a job nor the number of one")
