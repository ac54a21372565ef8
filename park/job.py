"""`Job`: a handle on one job of a service; and `JobManager`, the list of jobs that a broker keeps."""

from __future__ import annotations

import contextlib
import functools
import math
import queue
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from msgspec.structs import replace

from park.body.reference import Reference
from park.client.job_number import Numbered, number_of
from park.client.live_table import MAX_JOBS_SHOWN, jobs_in_html
from park.errors import InvalidRequest, JobAborted, JobFailed, ParkError, WaitTimeout
from park.model import JobRecord, JobState, Log, Progress
from park.text import visible

if TYPE_CHECKING:
    import asyncio

    from park.broker.manager import JobManager

__all__ = ["Job", "JobManager", "Jobs", "Reference", "as_completed", "check_timeout", "number_of"]


def __getattr__(name: str) -> Any:
    if name != "JobManager":  # it loads all of the broker, which clients do not need
        raise AttributeError(f"module 'park.job' has no attribute {name!r}")
    from park.broker.manager import JobManager

    return JobManager


class JobService(Protocol):
    """The methods of a service that its jobs call."""

    def status(self, job: int) -> JobRecord: ...

    def wait(self, job: int | None = None, timeout: float | None = None) -> Any: ...

    def stream(self, job: int, timeout: float | None = None, logs: bool = False) -> Iterator[Any]: ...

    def files(self, job: int) -> Mapping[str, bytes]: ...

    def logs(self, job: int) -> list[Log]: ...

    def stop(self, job: int) -> None: ...

    def abort(self, job: int) -> None: ...

    def pause(self, job: int) -> None: ...

    def resume(self, job: int) -> None: ...

    def control(self, job: int, message: str | dict[str, Any]) -> bool: ...

    def delete(self, job: int) -> None: ...

    def set(self, job: int, priority: int | str | None = None, tags: Iterable[str] | None = None) -> None: ...

    def when_ended(self, job: int, callback: Callable[[], None]) -> None: ...


class Job(Numbered):
    """One job of *service*, by its *number*. ``repr`` is a status line; ``await job`` waits in asyncio."""

    _service: JobService
    _number: int
    _last: JobRecord | None

    def __init__(self, service: JobService, number: int) -> None:
        self._service = service
        self._number = number
        self._last = None
        self._value: tuple[Any] | None = None
        self._raised: ParkError | None = None

    def __repr__(self) -> str:
        try:
            r = self.record
        except ParkError as error:
            return f"<{type(self).__name__} {self._number}: {error}>"
        parts = [f"<{type(self).__name__} {self._number}"]
        if r.name:
            parts.append(repr(r.name))
        parts.append(r.state.value)
        if r.total is not None:
            parts.append(f"{r.done} of {r.total}")
        elif r.progress is not None and not r.state.ended:
            parts.append(f"{self.progress.fraction:.0%}")
        said = "; ".join(text for text in (r.reason, r.remark) if text)
        return visible(" ".join(parts) + (f": {said}>" if said else ">"))

    def _repr_html_(self) -> str:
        """The table that a notebook shows."""
        return Jobs([self])._repr_html_()

    @property
    def record(self) -> JobRecord:
        """Everything that the service tells of the job, as it is now."""
        if self._last is None or not self._last.state.ended:
            self._last = self._service.status(self._number)
        return self._last

    @property
    def id(self) -> int:
        """The number of the job, unique to the queue."""
        return self._number

    @property
    def owner(self) -> str:
        return self.record.owner

    @property
    def tags(self) -> tuple[str, ...]:
        return self.record.tags

    @property
    def priority(self) -> int:
        return self.record.priority

    @property
    def state(self) -> JobState:
        return self.record.state

    @property
    def reason(self) -> str:
        """Why the job waits, or why it ended, in one sentence; empty if it runs or is complete."""
        return self.record.reason

    @property
    def remark(self) -> str:
        """The body's remark on the result, for example that a fit has not converged; empty if there is none."""
        return self.record.remark

    @property
    def progress(self) -> Progress:
        """The progress that the body reported, else the number of units that are done."""
        return self.record.how_far

    @property
    def result(self) -> Any:
        """The result; before the end a `Reference` to it. Raises as `wait` does when the job has failed."""
        if not self.record.state.ended:
            return Reference(self._number)
        return self.wait()

    @property
    def error(self) -> ParkError | None:
        """The error that `wait` would raise; None while the job runs, and when it is complete."""
        if self.record.state.ended:
            try:
                self.wait()
            except ParkError as error:
                return error
        return None

    def wait(self, timeout: float | None = None) -> Any:
        """Wait until the job has ended, at most *timeout* seconds, and return its result.

        A list in the order of the inputs, or what the body returned. Raises JobFailed, JobAborted, WaitTimeout.
        """
        limit = check_timeout(timeout)
        if self._raised is not None:
            raise self._raised
        if self._value is None:
            try:
                self._value = (self._service.wait(self._number, limit),)
            except (JobFailed, JobAborted) as error:
                self._raised = error
                raise
        return self._value[0]

    def stream(self, timeout: float | None = None, logs: bool = False) -> Iterator[Any]:
        """The job's messages as they come: first `park.client.stream.Join`, then the messages of the body, last the
        message of its end.

        With *logs* the last lines that it has printed and logged follow the Join. Raises WaitTimeout where no message comes
        for *timeout* seconds::

            for message in job.stream():
                print(message)
        """
        return self._service.stream(self._number, timeout, logs)

    @property
    def files(self) -> Mapping[str, bytes]:
        """The files that its bodies have kept with it, by name."""
        return self._service.files(self._number)

    def logs(self) -> list[Log]:
        """The last lines that it has printed and logged, the oldest first."""
        return self._service.logs(self._number)

    def stop(self) -> None:
        """Ask it to end at its next safe point with the best so far. Raises UnknownJob when it has ended."""
        self._service.stop(self._number)

    def abort(self) -> None:
        """End it now. Raises UnknownJob when it has ended."""
        self._service.abort(self._number)

    def pause(self) -> None:
        """Start no more units of it. Running units end, and a body waits at its next safe point, without a slot.

        Raises UnknownJob when it has ended, InvalidRequest when it is about to.
        """
        self._service.pause(self._number)

    def resume(self) -> None:
        """Let it go on after `pause`. Raises UnknownJob when it has ended."""
        self._service.resume(self._number)

    def control(self, message: str | dict[str, Any]) -> bool:
        """Send a control to its body; see `park.ServerProxy.control`. Returns False if the job has ended.

        The body's method ``on_threshold`` serves this one when the body is ready for it::

            job.control({"kind": "threshold", "value": 0.1})
        """
        return self._service.control(self._number, message)

    def delete(self) -> None:
        """Forget it, with its request, inputs and results. Raises Refused before it has ended."""
        self._service.delete(self._number)

    def set(self, priority: int | str | None = None, tags: Iterable[str] | None = None) -> None:
        """Give it another *priority* (-3 to 6, or its name), or other *tags* in place of the old ones.

        Raises UnknownJob when it has ended.
        """
        self._service.set(self._number, priority, tags)

    def __await__(self) -> Generator[Any, None, Any]:
        import asyncio

        loop = asyncio.get_running_loop()
        ended: asyncio.Future[None] = loop.create_future()

        def see() -> None:
            if not ended.done():
                ended.set_result(None)

        def wake() -> None:
            with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
                loop.call_soon_threadsafe(see)

        self._service.when_ended(self._number, wake)
        yield from ended
        return self.wait()


class Jobs(list[Job]):
    """Jobs in a list, which a notebook shows as a table."""

    def _repr_html_(self) -> str:
        shown = []
        for job in self[:MAX_JOBS_SHOWN]:
            try:
                shown.append(job.record)
            except ParkError as error:  # it was deleted, or its service is closed
                known = job._last or JobRecord(job.id, "")
                shown.append(replace(known, reason=str(error)))
        return jobs_in_html(shown, len(self))


def check_timeout(timeout: float | None) -> float | None:
    """*timeout* in seconds, None for no limit. Raises InvalidRequest."""
    if timeout is None:
        return None
    if (
        isinstance(timeout, bool)
        or not isinstance(timeout, int | float)
        or math.isnan(timeout)
        or timeout < 0
    ):
        raise InvalidRequest(f"timeout={timeout!r} is not a number of seconds from 0")
    return None if math.isinf(timeout) else float(timeout)


def as_completed(jobs: Iterable[Job], timeout: float | None = None) -> Iterator[Job]:
    """The *jobs* in the order in which they end. Raises WaitTimeout after *timeout* seconds in all."""
    ended: queue.SimpleQueue[Job] = queue.SimpleQueue()
    waiting = list(dict.fromkeys(jobs))
    for job in waiting:
        job._service.when_ended(job.id, lambda j=job: ended.put(j))  # type: ignore[misc]
    limit = check_timeout(timeout)
    deadline = None if limit is None else time.monotonic() + limit
    for done in range(len(waiting)):
        try:
            yield ended.get(timeout=None if deadline is None else max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            raise WaitTimeout(f"{len(waiting) - done} of {len(waiting)} jobs have not ended") from None


def job_of_record(service: JobService, record: JobRecord) -> Job:
    """A handle on the job of *record*, of the class that its kind names."""
    kind = job_class(record.kind)
    handle = kind.__new__(kind)
    Job.__init__(handle, service, record.job)
    handle._last = record if record.state.ended else None
    return handle


@functools.cache
def job_class(kind: str) -> type[Job]:
    """The class of an installed kind of job; `Job` for any other kind. It is found by name, without unpickling anything
    of the service.
    """
    if kind in ("job", "session"):
        return Job
    from importlib.metadata import entry_points

    for entry in entry_points(group="park.jobs", name=kind):
        with contextlib.suppress(ImportError, AttributeError):
            found = entry.load()
            if isinstance(found, type) and issubclass(found, Job):
                return found
    return Job
