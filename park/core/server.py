"""The service as clients see it: `Server`, the abstract service, and `ServerProxy`, one over a link.

`default_service` is the one that counts where none is named: that of `service_stack`, else `local_service`.

Inherit from `ServerProxy` to make a type of service with methods of its own, over any service that is there.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import platform
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import UTC, datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from msgspec import Struct, structs

from park import payload
from park.backends import offer
from park.batches import LARGEST_BATCH, batches_of, check_function
from park.core.asking import (
    Ends,
    JobFiles,
    Monitored,
    Reason,
    check_after,
    common_fields,
    job_of_record,
    name_of,
    numbers_of,
    packed_control,
    partial_results,
    query_of,
)
from park.core.stack import service_stack
from park.errors import InvalidRequest, NotComplete, ParkError, UnitError, WaitTimeout
from park.job import Job, Jobs, check_timeout, number_of
from park.kernel import env
from park.kernel.term import DRAIN
from park.link import Link, Reply
from park.live import LiveTable
from park.model import (
    ENDED,
    NOT_RUN,
    AccountRecord,
    JobRecord,
    KernelRecord,
    Log,
    Request,
    check_grant,
    make_request,
    owner_name,
    priority_number,
    texts,
    wall_time,
)
from park.reference import collecting
from park.results import job_result
from park.search import Query
from park.stream import Inbox, Messages
from park.util.bar import Bar
from park.util.bar import seen as bar_seen
from park.util.outlet import tell
from park.wire import codec, messages
from park.wire.messages import MAX_INT
from park.wire.pack import Pack

if TYPE_CHECKING:
    from park.executor import Executor
    from park.pool import Pool
    from park.session import MapIterator, Mapper, Session

#: Seconds in which a broker should have answered anything that needs no waiting.
ANSWER = 30.0
#: Batches of inputs on their way to the store.
PIPELINE = 8

_last = threading.local()


def usertag(environment: Mapping[str, str] | None = None) -> str:
    """Who this is, for people: PARKTAG, the user part of PARKMAIL, LOGNAME, USERNAME, or the host's name.

    Raises InvalidRequest where that is longer than 200 bytes.

    >>> usertag({"PARKMAIL": "ada@example.org"})
    'ada'
    """
    env = os.environ if environment is None else environment
    mail = env.get("PARKMAIL", "").partition("@")[0]
    logname, username = env.get("LOGNAME", ""), env.get("USERNAME", "")
    names = (
        env.get("PARKTAG", ""),
        mail,
        logname if logname != "root" else "",
        username if username not in ("Administrator", "root") else "",
        platform.node(),
    )
    return owner_name(next((name for name in names if name), "somebody"))


def own_tags() -> list[str]:
    """The `usertag` as the tag of a request, if it can be one."""
    with contextlib.suppress(InvalidRequest):
        return list(texts(usertag(), "tag"))
    return []


#: Tags that every request of this process gets besides its own. It may be changed.
TAGS: list[str] = own_tags()


def default_service() -> Server:
    """The service that counts where none is named.

    That of the innermost ``with`` of this thread or task; else the newest that is open in the process, a connection or
    another thread's ``with``; else `local_service`. Raises ParkError in a body, where the last would be a second fabric.
    """
    service = service_stack.current
    if service is not None:
        return service
    if env.inside():
        raise ParkError(
            "a body runs here, whose work goes to its own fabric with park.environment().map(...): to submit a job from "
            "inside all the same write `with park.connect(...):` around this, or pass service=..."
        )
    local: Server = __getattr__("local_service")
    return local


def __getattr__(name: str) -> Any:
    if name != "local_service":  # it loads all of the broker, and clients do without
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from park.local import local_service

    return local_service


class Connector:
    """``Server.connect(user, token)``: another connection, as another user.

    Of the class it leads to the broker that $PARK_BROKER or a park.toml names, of a service to that service's own.
    """

    def __get__(self, service: Server | None, kind: type[Server] | None = None) -> Callable[..., ServerProxy]:
        return functools.partial(self._connect, service)

    @staticmethod
    def _connect(
        service: Server | None, user: str | None = None, token: str | os.PathLike[str] | None = None
    ) -> ServerProxy:
        """A connection of the *user*, by the key of that name which *token* selects; see `park.connect`."""
        from park.service import connect

        return connect(None if service is None else service._broker, user=user, token=token)


class JobCopy(Struct, frozen=True):
    """A job as the service keeps it: its record, the request that makes it again, and its result.

    *result* is None before the end; of a job that failed or was aborted it is what ``wait`` raises.
    """

    record: JobRecord
    request: Request
    result: Any


class About(Struct, frozen=True):
    """A broker as it presents itself: its *place*, the *release* of PARK that it runs, its *store* and the number and
    beginning of its life (*epoch*; *since*, seconds since 1970), seconds between signs of life (*heartbeat*) and until
    somebody who gives none is lost (*lease*), and by how many its clock is *ahead* of the one here (None: it has not
    said so; it does with the table, every second).
    """

    place: str
    release: str
    store: str
    epoch: int
    since: float
    heartbeat: float
    lease: float
    ahead: float | None


class Server(ABC):
    """A service that runs jobs."""

    #: ``connect(user, token)``: the service as somebody else sees it
    connect = Connector()

    @property
    def _broker(self) -> Any:
        """Where `connect` finds the broker. Raises InvalidRequest where there is none."""
        return None

    @abstractmethod
    def submit(self, request: Request, monitor: Any = None, when: datetime | float | None = None) -> int:
        """Submit *request*; the number of its job, once the service has it for good."""

    @abstractmethod
    def wait(self, job: Any = None, timeout: float | None = None) -> Any:
        """Wait for the end of a job (None: this thread's last) and return its result."""

    @abstractmethod
    def status(self, job: Any) -> JobRecord:
        """The record of a job as it is now. Raises UnknownJob."""

    @abstractmethod
    def jobs(
        self, filter: Any = None, owner: str | None = None, since: datetime | float | None = None
    ) -> list[Job]:
        """The jobs of *owner* (None: your own, "*": everybody's) that pass the *filter*."""

    @abstractmethod
    def fetch(self, job: Any) -> JobCopy:
        """The record, the request and the result of a job."""

    @abstractmethod
    def stream(self, job: Any, timeout: float | None = None, logs: bool = False) -> Iterator[Any]:
        """The messages of a job as they come."""

    @abstractmethod
    def files(self, job: Any) -> Mapping[str, bytes]:
        """The files that a job has kept, by name."""

    @abstractmethod
    def logs(self, job: Any) -> list[Log]:
        """The last lines that a job has printed and logged."""

    @abstractmethod
    def stop(self, job: Any) -> None:
        """Ask a job to end at its next safe point with its best so far."""

    @abstractmethod
    def abort(self, job: Any) -> None:
        """End a job now."""

    @abstractmethod
    def pause(self, job: Any) -> None:
        """Deal nothing more of a job until `resume`; a body waits at its next safe point, without a slot."""

    @abstractmethod
    def resume(self, job: Any) -> None:
        """Let a paused job go on."""

    @abstractmethod
    def control(self, job: Any, message: str | dict[str, Any]) -> bool:
        """Give the body of a job a message; False: the job has ended."""

    @abstractmethod
    def delete(self, job: Any) -> None:
        """Forget a job that has ended, with its request, inputs and results."""

    @abstractmethod
    def set(self, job: Any, priority: int | str | None = None, tags: Iterable[str] | None = None) -> None:
        """Change the priority or the tags of a job that has not ended (None: as it is)."""

    @abstractmethod
    def set_tags(self, tags: str | Iterable[str]) -> None:
        """Give all later requests to this service these tags, besides their own."""

    @abstractmethod
    def credits(self, owner: str | None = None) -> list[AccountRecord]:
        """The account of *owner* (None: your own, "*": everybody's)."""

    @abstractmethod
    def grant(self, owner: str, credits: float) -> None:
        """Give an owner more credits; only the broker's own user may."""

    @abstractmethod
    def kernels(self) -> list[KernelRecord]:
        """The kernels that are connected."""

    @abstractmethod
    def drain(self, kernel: int, grace: float = DRAIN) -> None:
        """Send a kernel away in good order."""

    @abstractmethod
    def when_ended(self, job: int, callback: Callable[[], None]) -> None:
        """Call *callback*, in a thread of the service, when the job has ended."""

    @abstractmethod
    def map(
        self, fn: Callable[[Any], Any], inputs: Iterable[Any], ordered: bool = True, **fields: Any
    ) -> MapIterator:
        """Run *fn* over *inputs* in a session; an iterator over the results."""

    @abstractmethod
    def mapper(self, fn: Callable[[Any], Any], **fields: Any) -> Mapper:
        """A callable that maps *fn* over points; many maps in one session."""

    @abstractmethod
    def executor(self, **fields: Any) -> Executor:
        """A `concurrent.futures.Executor` on the service."""

    @property
    def slots(self) -> int:
        """The slots of all kernels that take work now."""
        return sum(kernel.slots for kernel in self.kernels() if not kernel.draining)

    def pool(self, **fields: Any) -> Pool:
        """A pool as of `multiprocessing`, for tools that take one; *fields* are those of `park.Request`.

        For scipy's ``workers=pool.map``, the ``pool=`` of emcee and dynesty, lmfit's ``workers=pool``::

            with park.local_service as service, service.pool() as pool:
                scipy.optimize.differential_evolution(f, bounds, workers=pool.map, updating="deferred")
        """
        from park.pool import Pool

        return Pool(self.executor(**fields), lambda: self.slots)

    def start(
        self,
        body: Any,
        inputs: Any = None,
        monitor: Any = None,
        **fields: Any,
    ) -> int:
        """Submit *body*, to run once or over *inputs*; *fields* are those of `park.Request`. The job's number."""
        return self.submit(make_request(body, inputs, fields), monitor=monitor)

    def job(self, job: Any) -> Job:
        """A handle on a job: of the class that made it, where that is installed. Raises UnknownJob."""
        return job_of_record(self, self.status(job))

    def __enter__(self) -> Self:
        offer()
        service_stack.push(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(ParkError):  # it ends in another task than it has begun in
            service_stack.pop(self)


class ServerProxy(Server):
    """A service over a `Link`, or *over* another service, whose connection it shares.

    Inherit from it to make a service with methods of its own, for one kind of work. It is used as any other is, and what it
    is made of is closed as before::

        class LineService(park.ServerProxy):
            def fit_line(self, x, y, **fields):
                line = park.fit.Model(lambda x, a, b: a * x + b, a=(-10, 10), b=(-10, 10))
                return park.Fit(park.Assembly((line, (x, y))), "lm", service=self, **fields)

        with LineService(park.local_service) as service:       # or LineService(park.connect("tcp://head:7275"))
            print(service.fit_line([0, 1, 2], [1, 3, 5]).wait())
    """

    #: tags that requests get besides their own
    _tags: tuple[str, ...] = ()

    def __init__(self, over: Link | ServerProxy) -> None:
        self._over = over

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._over!r}>"

    @property
    def _broker(self) -> Any:
        return self._over._broker if isinstance(self._over, ServerProxy) else None

    @property
    def _link(self) -> Link:
        return self._over._link if isinstance(self._over, ServerProxy) else self._over

    def set_tags(self, tags: str | Iterable[str]) -> None:
        """Give all later requests to this service *tags*, besides their own and in place of those that were set before.

        A service that is made over this one gives them too. Raises InvalidRequest for what is no tag::

            service.set_tags(["thesis", "sample=7"])
            job = service.start(abs, [-1], tags="first")
            service.status(job).tags               # ("thesis", "sample=7", "first")
        """
        self._tags = texts(tags, "tag")

    def _base_tags(self) -> list[str]:
        """Tags that a request gets besides its own: those of the process, and of services, the innermost first."""
        over = getattr(self, "_over", None)  # the local service is over nothing
        return [*(over._base_tags() if isinstance(over, ServerProxy) else texts(TAGS, "tag")), *self._tags]

    # -- jobs ----------------------------------------------------------------------------------

    def submit(self, request: Request, monitor: Any = None, when: datetime | float | None = None) -> int:
        if not isinstance(request, Request):
            raise InvalidRequest(f"{request!r} is no park.Request")
        if when is not None:
            request = replace(request, when=when)
        check_function(request.body, "body")
        with collecting() as found:
            blob = payload.dump_code(request.body)
            batches = (
                batches_of(request.inputs, lambda: LARGEST_BATCH) if request.inputs is not None else None
            )
            first = next(batches) if batches is not None else (b"", True)
        data, closed = first
        submit = messages.Submit(
            id=0,
            key=os.urandom(16),
            body=payload.code_hash(blob),
            kind=request.kind,
            after=check_after(numbers_of(request.after) | found),
            when=wall_time(request.when, time.time()),
            seed=_random_seed() if request.seed is None else request.seed & (2**63 - 1),
            on_error=request.on_error,
            once=request.inputs is None,
            count=Pack(data).count,
            closed=closed,
            **common_fields(request, name_of(request.body), self._base_tags()),
        )
        reply = self._link.request(lambda n: structs.replace(submit, id=n), data, (submit.body, blob))
        accepted, _ = self._answer(reply)
        assert isinstance(accepted, messages.Accepted)
        if monitor is not None:
            self.follow(accepted.job, monitor)
        if batches is not None and not closed:
            try:
                self._feed(accepted.job, submit.count, batches)
            except BaseException:  # the inputs end here: nobody could ever complete the job
                with contextlib.suppress(ParkError):
                    self.abort(accepted.job)
                raise
        _last.job = (self, accepted.job)
        return accepted.job

    def _feed(self, job: int, sent: int, batches: Iterator[tuple[bytes, bool]]) -> None:
        """Bring a lazy iterable to its end into the store."""
        replies: list[Reply] = []
        for data, closed in batches:
            count = Pack(data).count
            make = lambda n, s=sent, c=count, e=closed: messages.Units(s, c, e, job=job, id=n)  # noqa: E731
            replies.append(self._link.request(make, data))
            sent += count
            if len(replies) >= PIPELINE:
                self._answer(replies.pop(0))
            if closed:
                break
        for reply in replies:
            self._answer(reply)

    def follow(self, job: int, monitor: Any) -> None:
        """Call ``monitor.on_<kind>(message)`` for each message of the job, in a thread of the service.

        The last call is of ``on_complete``, ``on_error`` or ``on_abort``; ``on_error`` with a `park.stream.Error` that
        has no record is not the job's end: messages were left out, or come no more, or a control found nobody.
        """
        self._link.watch(job, Monitored(monitor, self._link))

    def stream(self, job: Any, timeout: float | None = None, logs: bool = False) -> Messages:
        """The messages of a job as they come, `park.stream.Join` first; they end with the job.

        With *logs* the last lines of its log follow each Join, with none lost or doubled between them and those to come.
        Raises WaitTimeout where no message comes for *timeout* seconds, UnknownJob, Refused for the job of somebody else::

            for message in service.stream(12):
                print(message)
        """
        number = number_of(job)
        limit = check_timeout(timeout)
        inbox, link = Inbox(logs), self._link
        messages_ = Messages(inbox, limit, lambda: link.unwatch(number, inbox))
        try:
            self._answer(link.watch(number, inbox))
        except BaseException:
            messages_.close()
            raise
        return messages_

    def files(self, job: Any) -> Mapping[str, bytes]:
        """The files that a job has kept (`park.environment().store`), by name; each is read when it is asked for.

        Raises UnknownJob, Refused for the job of somebody else.
        """
        return JobFiles(number_of(job), self._ask)

    def logs(self, job: Any) -> list[Log]:
        """The last lines that a job has printed and logged (256 KiB, 5,000 messages at most), the oldest first."""
        number = number_of(job)
        _, data = self._ask(lambda n: messages.Logs(n, number))
        return [Log(*codec.unpack(line)) for line in codec.unpack(data)]

    def wait(self, job: Any = None, timeout: float | None = None) -> Any:
        number = self._last_job() if job is None else number_of(job)
        limit = check_timeout(timeout)
        reply = self._link.request(lambda n: messages.Fetch(n, number, wait=True))
        try:
            came = self._attend(reply, number, limit)
        except KeyboardInterrupt:
            came = self._interrupted(number, reply, limit)
        if not came:
            record = self.status(number)
            if record.state.ended and reply.wait(ANSWER):  # the answer was on its way
                return self._result(reply)
            self._link.forget(reply)
            raise WaitTimeout(
                f"job {number} is {record.state} after {timeout} s"
                + (f": {record.reason}" if record.reason else "")
            )
        return self._result(reply)

    def _attend(self, reply: Reply, job: int, limit: float | None) -> bool:
        """Wait for the reply; on a terminal and in a notebook, with a progress bar after a second."""
        if (limit is not None and limit <= 1.0) or not bar_seen():
            return reply.wait(limit)
        deadline = float("inf") if limit is None else time.monotonic() + limit
        if reply.wait(1.0):
            return True
        reason = Reason(self._link, job)
        with self._link.hush(), Bar(f"job {job}") as bar:
            while not reply.wait(min(0.2, max(0.0, deadline - time.monotonic()))):
                now = time.monotonic()
                if now >= deadline:
                    return False
                record = self.table.jobs.get(job)
                if record is not None:
                    bar.update(record.how_far, self._why(record, reason), now)
        return True

    def _why(self, record: JobRecord, reason: Reason) -> str:
        """What a progress bar says beside the numbers."""
        if self.table.stale:
            return f"no sign of {self._link.name}"
        if record.running:
            return record.reason
        return record.reason or reason.look() or record.state.value

    def _interrupted(self, job: int, reply: Reply, limit: float | None) -> bool:
        """Ctrl-C in `wait`: the job goes on without us. (A service that stops it returns whether it ended in time.)"""
        if isinstance(self._over, ServerProxy):
            return self._over._interrupted(job, reply, limit)
        self._link.forget(reply)
        where = f"park.connect({self._link.name!r}).job({job}).wait()"
        tell(f"\npark: job {job} goes on; wait for it again with {where}")
        raise KeyboardInterrupt from None

    def _result(self, reply: Reply) -> Any:
        fetched, _ = reply.value()
        assert isinstance(fetched, messages.Fetched)
        pieces = [(m.start, d) for m, d in reply.messages if isinstance(m, messages.Results)]
        return job_result(fetched.record, fetched.once, pieces)

    def status(self, job: Any) -> JobRecord:
        number = number_of(job)
        return self._records(lambda n: messages.Status(n, number))[0]

    def reason(self, job: Any) -> Reason:
        """Why a job does not run, to be looked at again and again."""
        return Reason(self._link, number_of(job))

    def jobs(
        self, filter: Any = None, owner: str | None = None, since: datetime | float | None = None
    ) -> list[Job]:
        """The jobs of *owner* (None: your own, "*": everybody's) that pass the *filter*.

        *filter*: a state, a tag, a text in the name, or a callable that takes the record; None: all. *since*: only those
        submitted at that time or later, a datetime, or so many seconds ago. Raises InvalidRequest::

            service.jobs("running", owner="*", since=3600)
        """
        query = query_of(filter, self.user if owner is None else owner, since)
        found = self.records(query, archived=True)
        return Jobs(job_of_record(self, r) for r in found if not callable(filter) or filter(r))

    @property
    def user(self) -> str:
        """Who this client is: the owner of what it submits."""
        return self._link.user

    def records(self, query: Query | None = None, archived: bool = False) -> list[JobRecord]:
        """The records of the jobs that *query* finds, as they are now, by number; None: all jobs of everybody.

        Those that are in the table, and with *archived* those in the archive too.
        """
        names = list(JobRecord.__struct_fields__)
        rows = self.rows(query or Query(), names, archived)
        return [JobRecord.from_map(dict(zip(names, row, strict=True))) for row in rows]

    def rows(self, query: Query, names: Sequence[str], archived: bool = False) -> list[list[Any]]:
        """Of the same records only the fields *names*, a list a job: cheaper where there are thousands.

        Raises InvalidRequest for a field that records of jobs do not have.
        """
        found = {row[0]: row[1:] for row in self._rows(query, names)}
        if archived and (not query.states or ENDED.intersection(query.states)):
            below = MAX_INT
            while (not query.newest or len(found) < query.newest) and (
                page := self._rows(query, names, below)
            ):
                found |= {row[0]: row[1:] for row in page if row[0] not in found}
                below = page[-1][0]
        return [row for _, row in sorted(found.items())][-query.newest :]

    def _rows(self, q: Query, names: Sequence[str], below: int = 0) -> list[list[Any]]:
        """One answer: the number of each job, then its fields."""
        tags, states, shown = list(q.tags), list(q.states), ["job", *names]
        _, data = self._ask(
            lambda n: messages.Status(n, 0, q.owner, states, tags, q.word, q.since, q.newest, shown, below)
        )
        found: list[list[Any]] = codec.unpack(data)
        return found

    def _records(self, make: Callable[[int], messages.Message]) -> list[JobRecord]:
        _, data = self._ask(make)
        return [JobRecord.from_map(fields) for fields in codec.unpack(data)]

    def fetch(self, job: Any) -> JobCopy:
        number = number_of(job)
        reply = self._link.request(lambda n: messages.Fetch(n, number, request=True))
        fetched, _ = self._answer(reply)
        assert isinstance(fetched, messages.Fetched)
        record = JobRecord.from_map(fetched.record)
        submit = fetched.submit
        if record.kind == "session":
            raise InvalidRequest(f"job {number} is a session: its request is not kept")
        blob = next(d for m, d in reply.messages if isinstance(m, messages.Blob))
        inputs: list[Any] = []
        for message, data in reply.messages:
            if isinstance(message, messages.Units):
                inputs += payload.decode_units(data)
        request = Request(
            payload.loads(blob),
            None if submit["once"] else inputs,
            name=submit["name"],
            tags=tuple(submit["tags"]),
            priority=submit["priority"],
            after=tuple(submit["after"]),
            when=None if submit["when"] is None else datetime.fromtimestamp(submit["when"], UTC),
            seed=submit["seed"],
            on_error=submit["on_error"],
            idempotent=submit["idempotent"],
            pure=submit["pure"],
            cpus=submit["cpus"],
            memory=submit["memory"],
            labels=tuple(submit["labels"]),
            requires=tuple(submit["requires"].items()),
            kind=submit["kind"],
            max_time=submit["max_time"] or None,
            max_unit_time=submit["max_unit_time"] or None,
            argv=tuple(submit["argv"]),
        )
        result: Any = None
        with contextlib.suppress(NotComplete):
            try:
                result = self._result(reply)
            except NotComplete:
                raise
            except ParkError as error:
                result = error
        return JobCopy(record, request, result)

    def retry(self, job: Any, failed: bool = False) -> int:
        """Submit the request of a job once more, with the same seed; the number of the new job.

        *failed*: only the inputs whose units failed or did not run, so that their random numbers differ from those of the
        first time. Raises InvalidRequest when there are none.
        """
        copy = self.fetch(job)
        request = copy.request
        if failed and request.inputs is not None:
            results = copy.result if isinstance(copy.result, list) else partial_results(copy.result)
            missing = [
                value
                for value, result in zip(
                    request.inputs, results or [NOT_RUN] * len(request.inputs), strict=True
                )
                if result is NOT_RUN or isinstance(result, UnitError)
            ]
            if not missing:
                raise InvalidRequest(f"job {copy.record.job} has no units that failed or did not run")
            request = replace(request, inputs=missing)
        return self.submit(replace(request, after=(), when=None))

    def stop(self, job: Any = None) -> None:
        number = self._last_job() if job is None else number_of(job)
        self._ask(lambda n: messages.Stop(n, number))

    def abort(self, job: Any = None) -> None:
        number = self._last_job() if job is None else number_of(job)
        self._ask(lambda n: messages.Abort(n, number))

    def pause(self, job: Any = None) -> None:
        self._change(job, paused=True)

    def resume(self, job: Any = None) -> None:
        self._change(job, paused=False)

    def control(self, job: Any, message: str | dict[str, Any]) -> bool:
        """Give the body of a job a *message*: a dict with a ``kind``, or the kind alone. Whether it was taken.

        It is on the broker's disk when this returns True, and reaches ``on_<kind>(message)`` of the body at its next safe
        point: before or between units, in ``env.ready()``, or when a map of its own is over. A job that waits
        or is paused gets it when it runs, and one that runs again gets all of them again, in the order in which they
        were taken, but for those that its checkpoint has. Each process that runs units of the job gives them to its own
        body. What a body does not know, or fails at, is a `park.stream.Error` on the job's stream, and the job goes on.

        False: the job has ended, and the message is for nobody. Raises InvalidRequest for what is no control, for one of
        more than 1 MiB and for sessions; NotPicklable; LimitReached beyond 10,000 controls or 16 MiB that a job would
        need if it ran again; UnknownJob; Refused for the job of somebody else::

            service.control(12, "report")
            service.control(12, {"kind": "threshold", "value": 0.1})
        """
        number, data = number_of(job), packed_control(message)
        key = os.urandom(16)
        answer, _ = self._answer(self._link.request(lambda n: messages.Control(number, n, key), data))
        assert isinstance(answer, messages.Done)
        return not answer.ignored

    def delete(self, job: Any) -> None:
        """Forget a job that has ended, with its request, inputs and results; nobody can find it any more.

        Raises Refused while it, or a job that comes after it, has not ended, and to all but its owner and the admin;
        UnknownJob where there is none::

            number = service.start(abs, [-1, -2])
            service.wait(number)
            service.delete(number)
        """
        number = number_of(job)
        self._ask(lambda n: messages.Delete(n, number))

    def set(
        self, job: Any = None, priority: int | str | None = None, tags: Iterable[str] | None = None
    ) -> None:
        """Change a job that has not ended: *priority* (-3 to 6, or its name) and *tags*, which replace the old ones.

        What is not given stays as it is. It counts from the next unit on. Raises UnknownJob when it has ended.
        """
        if priority is None and tags is None:
            raise InvalidRequest("say what to set: priority= or tags=")
        self._change(
            job,
            priority=None if priority is None else priority_number(priority),
            tags=None if tags is None else list(dict.fromkeys(texts(tags, "tag"))),
        )

    def _change(self, job: Any, **values: Any) -> None:
        number = self._last_job() if job is None else number_of(job)
        self._ask(lambda n: messages.Change(n, number, **values))

    def hush(self) -> AbstractContextManager[None]:
        """Meanwhile the caller shows by itself when the broker is away."""
        return self._link.hush()

    def about(self) -> About:
        """What the broker has said of itself when it last welcomed this client."""
        link = self._link
        w = link.welcome
        assert w is not None
        return About(link.name, w.release, w.store, w.epoch, w.since, w.heartbeat, w.lease, link.ahead)

    def credits(self, owner: str | None = None) -> list[AccountRecord]:
        """The account of *owner* (None: your own), a list of one, or of everybody ("*"), by name.

        With what is left and how fast it is refilled, what its jobs have cost, and its share of the slots now.
        """
        if owner is not None and (not isinstance(owner, str) or not owner):
            raise InvalidRequest(f"owner={owner!r} is no name of an owner")
        who = self._link.user if owner is None else owner
        _, data = self._ask(lambda n: messages.Credits(n, who))
        return [AccountRecord.from_map(fields) for fields in codec.unpack(data)]

    def grant(self, owner: str, credits: float) -> None:
        """Give *owner* so many *credits* more, beyond the cap if need be.

        Raises InvalidRequest for what is no positive number, or where there is no credit limit, as in the local
        service; Refused for all but the broker's own user, over ipc.
        """
        if not isinstance(owner, str) or not owner:
            raise InvalidRequest(f"owner={owner!r} is no name of an owner")
        check_grant(credits)
        self._ask(lambda n: messages.Grant(n, owner, float(credits)))

    def when_ended(self, job: int, callback: Callable[[], None]) -> None:
        self._link.request(lambda n: messages.Fetch(n, job, wait=True, results=False), on_finish=callback)

    def ends(self, jobs: Iterable[Any]) -> Ends:
        """The ends of *jobs*, as they come."""
        return Ends(self._link, [number_of(job) for job in jobs])

    # -- sessions ------------------------------------------------------------------------------

    def map(
        self, fn: Callable[[Any], Any], inputs: Iterable[Any], ordered: bool = True, **fields: Any
    ) -> MapIterator:
        """Run *fn* over *inputs*, which may be lazy and endless; an iterator over the results.

        In the order of the inputs, or, with ``ordered=False``, as they come. Raises UnitError at an item that failed.
        """
        from park.session import MapIterator  # late: few commands make maps

        check_function(fn)
        return MapIterator(self._session(fn, fields), fn, inputs, ordered)

    def mapper(self, fn: Callable[[Any], Any], **fields: Any) -> Mapper:
        from park.session import Mapper

        check_function(fn)
        return Mapper(self._session(fn, fields), fn)

    def executor(self, **fields: Any) -> Executor:
        from park.executor import Executor

        return Executor(self._session(None, fields))

    def _session(self, fn: Any, fields: dict[str, Any]) -> Session:
        from park.session import Session

        for name in fields.keys() & {"when", "after", "on_error", "kind"}:
            raise InvalidRequest(
                f"a session takes no {name}=: it runs at once, and its results go to the caller"
            )
        request = make_request(fn, None, fields)
        name = name_of(fn) if fn is not None else "executor"
        submit = messages.Submit(
            id=0, key=b"", session=True, **common_fields(request, name, self._base_tags())
        )
        kept, reply = self._link.open_session(submit)
        try:
            self._answer(reply)
        except BaseException:
            with contextlib.suppress(ParkError):
                self._link.close_session(kept)
            raise
        seed = _random_seed() if request.seed is None else request.seed
        return Session(self._link, kept, seed)

    # -- the service ---------------------------------------------------------------------------

    @property
    def table(self) -> LiveTable:
        """The consistent copy of the public table: ``.jobs``, ``.kernels``, ``.owners``, ``.subscribe``, ``.changes``."""
        self._link.wait_synced(ANSWER)
        return self._link.table

    def kernels(self) -> list[KernelRecord]:
        """The kernels that are connected."""
        return list(self.table.kernels.values())

    def drain(self, kernel: int, grace: float = DRAIN) -> None:
        """Send a kernel away, by its number in `kernels`: it takes no new work, and leaves.

        What it runs may go on for *grace* seconds; then it is handed back, and run elsewhere. Returns when the kernel
        knows. Raises UnknownKernel where there is none with this number, Refused for all but its owner and the
        broker's own user.
        """
        if isinstance(kernel, bool) or not isinstance(kernel, int):
            raise InvalidRequest(f"{kernel!r} is no number of a kernel")
        if isinstance(grace, bool) or not isinstance(grace, int | float) or not math.isfinite(grace):
            raise InvalidRequest(f"grace={grace!r} is not a number of seconds")
        if isinstance(self._over, ServerProxy):
            self._over.drain(kernel, grace)
            return
        self._link.wait_synced(ANSWER)
        epoch = self._link.mirror.epoch
        self._ask(lambda n: messages.Drain(n, kernel, float(grace), epoch))

    def _answer(self, reply: Reply) -> tuple[messages.Message, Any]:
        if not reply.wait(ANSWER):
            self._link.forget(reply)
            raise WaitTimeout(
                f"{self._link.name} did not answer within {ANSWER:.0f} s: is the broker still there?"
            )
        return reply.value()

    def _ask(self, make: Callable[[int], messages.Message]) -> tuple[messages.Message, Any]:
        return self._answer(self._link.request(make))

    def _last_job(self) -> int:
        service, number = getattr(_last, "job", (None, 0))
        if service is not self:
            raise InvalidRequest("this thread has submitted no job to this service: say which one")
        return int(number)


def _random_seed() -> int:
    """63 random bits."""
    return int.from_bytes(os.urandom(8)) >> 1
