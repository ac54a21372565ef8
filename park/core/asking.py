"""What a service proxy asks with and answers with: fields of requests, queries, files, reasons, monitors."""

from __future__ import annotations

import contextlib
import functools
import queue
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

from msgspec.structs import replace

from park import payload
from park.errors import InvalidRequest, ParkError, ServiceClosed
from park.job import Job, Service, number_of
from park.link import Link, Reply
from park.model import MAX_CONTROL, MAX_KIND, PYTHON, JobRecord, JobState, Request, control_too_large, is_kind
from park.search import Query
from park.stream import Error, decode
from park.wire import codec, messages
from park.wire.place import Place

#: The jobs that one may come after: their numbers travel in the head of a message.
MAX_AFTER = 4_000


class JobFiles(Mapping[str, bytes]):
    """The files of a job, as they were when this was made; their bytes as they are."""

    def __init__(self, job: int, ask: Callable[..., tuple[messages.Message, Any]]) -> None:
        self._job = job
        self._ask = ask
        self._sizes: dict[str, int] = codec.unpack(self._filed("")[1])

    def __repr__(self) -> str:
        return f"<files of job {self._job}: {', '.join(self._sizes)}>"

    def _filed(self, name: str) -> tuple[bool, bytes]:
        answer, data = self._ask(lambda n: messages.Files(n, self._job, name))
        assert isinstance(answer, messages.Filed)
        return answer.there, bytes(data)

    def __getitem__(self, name: str) -> bytes:
        there, data = self._filed(name) if name else (False, b"")
        if not there:
            raise KeyError(name)
        return data

    def __iter__(self) -> Iterator[str]:
        return iter(self._sizes)

    def __len__(self) -> int:
        return len(self._sizes)


class Monitored:
    """Passes a job's messages on to the methods of an object of the user's, in the thread of the callbacks."""

    def __init__(self, monitor: Any, link: Link) -> None:
        self._monitor = monitor
        self._link = link
        self.logs = False
        self.place = Place()

    def put(self, kind: str, data: Any) -> None:
        method = getattr(self._monitor, f"on_{kind}", None)
        if method is not None:
            self._link.call_back(lambda: method(decode(kind, data)))

    def fail(self, error: ParkError) -> None:
        """No more will come. That its own program has closed the connection a monitor is not told."""
        method = getattr(self._monitor, "on_error", None)
        if method is not None and not isinstance(error, ServiceClosed):
            self._link.call_back(lambda: method(Error(str(error))))


class Reason:
    """Why a job does not run. Its service works that out when it is asked: about once a second, and nobody waits."""

    def __init__(self, link: Link, job: int) -> None:
        self._link = link
        self._job = job
        self._reply: Reply | None = None
        self._due = 0.0
        self._text = ""

    def look(self) -> str:
        """What is known now; the next answer is on its way."""
        now = time.monotonic()
        if self._reply is None and now >= self._due:
            self._reply = self._link.request(lambda n: messages.Status(n, self._job))
        if self._reply is not None and self._reply.wait(0):
            with contextlib.suppress(ParkError):
                self._text = codec.unpack(self._reply.value()[1])[0]["reason"]
            self._reply, self._due = None, now + 1.0
        return self._text


class Ends:
    """The ends of *jobs*, as they come; their results stay where they are."""

    def __init__(self, link: Link, jobs: Iterable[int]) -> None:
        self._came: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._replies = {
            job: link.request(
                lambda n, job=job: messages.Fetch(n, job, wait=True, results=False),  # type: ignore[misc]
                on_finish=lambda job=job: self._came.put(job),  # type: ignore[misc]
            )
            for job in dict.fromkeys(jobs)
        }

    def next(self, timeout: float) -> JobRecord | None:
        """How the next one ended; None: none did within *timeout* seconds.

        Raises UnknownJob of one that was deleted, Refused of somebody else's, NoBroker where the broker stays away.
        """
        try:
            job = self._came.get(timeout=timeout)
        except queue.Empty:
            return None
        fetched, _ = self._replies.pop(job).value()
        assert isinstance(fetched, messages.Fetched)
        return JobRecord.from_map(fetched.record)


def common_fields(request: Request, name: str, tags: list[str]) -> dict[str, Any]:
    """What a Submit says of any request, be it for a job or a session; *name*: if it has none."""
    return {
        "name": request.name or name,
        "tags": list(dict.fromkeys([*tags, *request.tags])),
        "priority": request.priority,
        "idempotent": request.idempotent,
        "pure": request.pure,
        "cpus": request.cpus,
        "memory": request.memory,
        "labels": list(request.labels),
        "requires": dict(request.requires),
        "max_time": request.max_time or 0.0,
        "max_unit_time": request.max_unit_time or 0.0,
        "argv": list(request.argv),
        "python": PYTHON,
    }


def packed_control(message: Any) -> bytes:
    """A control as it travels: a dict with a ``kind``; a text is its kind alone. Raises InvalidRequest, NotPicklable."""
    if isinstance(message, str):
        message = {"kind": message}
    match message:
        case {"kind": str(kind)} if is_kind(kind):
            data = payload.dumps(dict(message), f"the control {kind!r}")
        case _:
            raise InvalidRequest(
                f"{message!r:.200} is no control: it is a name, or a dict with one as its 'kind', that can follow on_ in a "
                f"method's name and has at most {MAX_KIND} bytes"
            )
    if len(data) > MAX_CONTROL:
        raise InvalidRequest(control_too_large(len(data)))
    return data


def name_of(body: Any) -> str:
    """What a job of this body is called where it has no name."""
    name = getattr(body, "__qualname__", None) or type(body).__qualname__
    return str(name).rpartition(".")[2][:200] or "job"


def numbers_of(after: Any) -> set[int]:
    """The numbers of the jobs that a request comes after."""
    if after is None:
        return set()
    if isinstance(after, Iterable) and not isinstance(after, str):
        return {number_of(job) for job in after}
    return {number_of(after)}


def check_after(jobs: set[int]) -> list[int]:
    """The *jobs* that a request comes after, in order. Raises InvalidRequest for more than a request may name."""
    if len(jobs) > MAX_AFTER:
        raise InvalidRequest(
            f"a job may come after {MAX_AFTER:,} others, and this one after {len(jobs):,}: submit what they do as the "
            "units of one job (inputs=...) and come after that, or let each come after the one before"
        )
    return sorted(jobs)


def partial_results(error: Any) -> list[Any] | None:
    """What a job that failed or was aborted has as results."""
    found: list[Any] | None = getattr(error, "results", None) or getattr(error, "partial", None)
    return found


def query_of(filter: Any, owner: str, since: datetime | float | None) -> Query:
    """What the service is asked for. Raises InvalidRequest for a *filter* or a time that is none."""
    query = Query(owner, since=0.0 if since is None else time_ago(since))
    if isinstance(filter, JobState):
        return replace(query, states=(filter.value,))
    if isinstance(filter, str):
        return replace(query, word=filter)
    if filter is None or callable(filter):
        return query
    raise InvalidRequest(f"filter={filter!r} is neither a state, a tag, a text nor a callable")


def time_ago(since: Any) -> float:
    """Seconds since 1970 for a datetime, or for so many seconds ago. Raises InvalidRequest."""
    if isinstance(since, datetime):
        return since.timestamp()
    if isinstance(since, int | float) and not isinstance(since, bool) and since >= 0:
        return time.time() - since
    raise InvalidRequest(f"since={since!r} is neither a datetime nor a number of seconds ago")


def job_of_record(service: Service, record: JobRecord) -> Job:
    """A handle on the job of *record*, of the class that its kind names."""
    kind = job_class(record.kind)
    handle = kind.__new__(kind)
    Job.__init__(handle, service, record.job)
    handle._last = record if record.state.ended else None
    return handle


@functools.cache
def job_class(kind: str) -> type[Job]:
    """The class of an installed kind of job; `Job` for any other. Nothing that a service says is unpickled for it."""
    if kind in ("job", "session"):
        return Job
    from importlib.metadata import entry_points

    for entry in entry_points(group="park.jobs", name=kind):
        with contextlib.suppress(ImportError, AttributeError):
            found = entry.load()
            if isinstance(found, type) and issubclass(found, Job):
                return found
    return Job
