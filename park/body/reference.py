"""A reference to the result of a job that has not ended: it travels in a request and becomes the value where it runs."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any, NoReturn

from park.body import environment
from park.errors import NotComplete

_local = threading.local()


class Reference:
    """Stands for the result of job *job*.

    It may lie anywhere in a request: the new job then starts after that job, and finds the value in its place. Any other
    use raises NotComplete.
    """

    __slots__ = ("_job",)

    def __init__(self, job: int) -> None:
        self._job = job

    def __repr__(self) -> str:
        return f"<result of job {self._job}, which is not complete>"

    def __reduce__(self) -> Any:
        found = getattr(_local, "found", None)
        if found is None:  # nothing is being submitted that could wait for the job
            self._unusable()
        found.add(self._job)
        return (resolve, (self._job,))

    def _unusable(self, *_: Any) -> NoReturn:
        raise NotComplete(f"job {self._job} is not complete: call .wait()")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)  # copy, pickle and inspect ask for these
        self._unusable()

    __getitem__ = __iter__ = __len__ = __call__ = __float__ = __int__ = __bool__ = _unusable
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = _unusable
    __array__ = _unusable


def job_of(reference: Reference) -> int:
    """The number of the job that *reference* stands for."""
    return reference._job


@contextlib.contextmanager
def collecting() -> Iterator[set[int]]:
    """Collect the jobs whose references are pickled in this block, in this thread."""
    before = getattr(_local, "found", None)
    found: set[int] = set()
    _local.found = found
    try:
        yield found
    finally:
        _local.found = before


def resolve(job: int) -> Any:
    """The result of job *job* inside a body that PARK runs; elsewhere a reference again."""
    if not environment.inside():
        return Reference(job)
    return environment.environment()._host.fetch(job)
