"""The service as clients see it: `ServerProxy`, a `Server` over the link to a broker, and the default service.

`default_service` is used where no service is named: that of the innermost ``with``, else the newest open connection,
else `local_service`.

Inherit from `ServerProxy` to make a type of service with methods of its own, over any existing service.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from park.body import environment
from park.body.inputs import check_function
from park.client import job_waits, requests
from park.client.job_files import JobFiles
from park.client.job_lists import archived_rows, count_archived, find_rows, query_of
from park.client.link import ANSWER_SECONDS, Link
from park.client.live_table import LiveTable
from park.client.pending import Reply
from park.client.requests import JobCopy
from park.client.stream import Inbox, Messages, MonitorFollower, decode
from park.core.broker_info import BrokerInfo, broker_info
from park.core.interface import Server as Server
from park.core.service_stack import service_stack as service_stack
from park.errors import InvalidRequest, ParkError, WaitTimeout
from park.identity import own_notify, own_tags
from park.identity import usertag as usertag
from park.job import Job, Jobs, check_timeout, job_of_record, number_of
from park.model import (
    DRAIN_SECONDS,
    NOT_IN_SESSIONS,
    AccountRecord,
    JobRecord,
    KernelRecord,
    Log,
    Request,
    WaitingWork,
    check_grant,
    is_channel,
    notify_words,
    priority_number,
    split_notify,
    takes_request_fields,
    texts,
)
from park.table.query import Query
from park.util.stdio import tell
from park.wait_reason import WaitReason
from park.wire import codec, messages

if TYPE_CHECKING:
    from park.client.executor import Executor
    from park.client.maps import MapIterator, Mapper, MapSession

#: The last job that each thread has submitted, with its service.
_last = threading.local()

#: Tags that every request of this process gets besides its own. It may be changed.
TAGS: list[str] = own_tags()


def default_service() -> Server:
    """The service that counts where none is named.

    It is the service of the innermost ``with`` of this thread or task. Without one, it is the newest service that is
    open in the process: a connection, or the ``with`` of another thread. Else it is `local_service`. In a body this
    raises ParkError instead, because a local service would be a second fabric.
    """
    service = service_stack.current
    if service is not None:
        return service
    if environment.inside():
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


class ServerProxy(Server):
    """A service over a `Link`, or *over* another service, whose connection it shares.

    It has more than 25 public methods: one for each method of `Server`, and the questions that only a broker answers. The
    rules behind them are functions in `park.client`.

    Inherit from it to make a service with methods of its own, for one kind of work. Use it as any other service, and
    close the service below it as before::

        class LineService(park.ServerProxy):
            def fit_line(self, x, y, **fields):
                line = park.fit.Model(lambda x, a, b: a * x + b, a=(-10, 10), b=(-10, 10))
                return park.Fit(park.Assembly((line, (x, y))), "lm", service=self, **fields)

        with LineService(park.local_service) as service:       # or LineService(park.connect("tcp://head:7275"))
            print(service.fit_line([0, 1, 2], [1, 3, 5]).wait())
    """

    #: tags that requests get besides their own
    _tags: tuple[str, ...] = ()
    #: the address for news of jobs whose requests name none
    _notify = ""
    #: whether this process was told that the service sends no mail
    _told_no_mail = False

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

        A service that is made over this one gives them too. Raises InvalidRequest unless all are tags::

            service.set_tags(["thesis", "sample=7"])
            job = service.start(abs, [-1], tags="first")
            service.status(job).tags               # ("thesis", "sample=7", "first")
        """
        self._tags = texts(tags, "tag")

    def _base_tags(self) -> list[str]:
        """Tags that a request gets besides its own: those of the process, and of services, the innermost first."""
        over = getattr(self, "_over", None)  # the local service is over nothing
        return [*(over._base_tags() if isinstance(over, ServerProxy) else texts(TAGS, "tag")), *self._tags]

    def set_email(self, address: str, when: str = "daily") -> None:
        """Send news of the end of all later jobs of this service to *address*, if their requests name none.

        *when* is "daily" (failures at once, the rest in a daily digest), "now", "fail" (failures alone) or "never". A
        service that is made over this one does so, too. Without it the variable PARKMAIL counts. The broker needs
        ``[mail]`` in its park.toml. Raises InvalidRequest::

            service.set_email("ada@example.org")
        """
        self._notify = notify_words("never" if when == "never" else (address, when))

    def _base_notify(self) -> str:
        """The address of mail, and when, of a request that names none."""
        over = getattr(self, "_over", None)
        if self._notify or not isinstance(over, ServerProxy):
            return self._notify or own_notify()
        return over._base_notify()

    def _base_private(self) -> int:
        """The private job whose kernels run all requests that name none; 0: any kernels do."""
        over = getattr(self, "_over", None)
        return over._base_private() if isinstance(over, ServerProxy) else 0

    # -- jobs ----------------------------------------------------------------------------------

    def submit(self, request: Request, monitor: Any = None, when: datetime | float | None = None) -> int:
        if not isinstance(request, Request):
            raise InvalidRequest(f"{request!r} is no park.Request")
        if when is not None:
            request = replace(request, when=when)
        if not request.notify and (notify := self._base_notify()):
            request = replace(request, notify=notify)
        if not request.private and (private := self._base_private()):
            request = replace(request, private=private)

        def accepted(job: int) -> None:
            if monitor is not None:
                self.follow(job, monitor)

        job = requests.submit(self._link, request, self._base_tags(), accepted)
        _last.job = (self, job)
        if request.notify:
            self._warn_without_mail(request.notify)
        return job

    def _warn_without_mail(self, notify: str) -> None:
        """Say once on stderr that the broker sends no mail."""
        welcome = self._link.welcome
        address, when = split_notify(notify)
        if welcome is None or when == "never" or self._told_no_mail:
            return
        if not welcome.mails:
            why = "this service sends none, as a broker does with [mail] in its park.toml"
        elif welcome.mails == "channels" and not is_channel(address):
            why = "this service sends news to channels only"
        else:
            return
        self._told_no_mail = True
        tell(f"park: no mail will go to {address}: {why}")

    def follow(self, job: int, monitor: Any) -> None:
        """Call ``monitor.on_<kind>(message)`` for each message of the job, in a thread of the service.

        The last call is of ``on_complete``, ``on_error`` or ``on_abort``; ``on_error`` with a
        `park.client.stream.Error` without a record is not the job's end: messages were left out, or come no more, or the
        body has no method for a control.
        """
        self._link.followers.watch(job, MonitorFollower(monitor, self._link.call_back))

    def stream(
        self, job: Any, timeout: float | None = None, logs: bool = False, unpickle: bool = True
    ) -> Messages:
        """The messages of a job as they come, `park.client.stream.Join` first; they end with the job.

        With *logs* the last lines of its log follow each Join, and later lines follow them without a gap or a repeat.
        Without *unpickle* no pickle of the job is opened here: a `park.client.stream.Opaque` comes instead. Raises
        WaitTimeout if no message comes for *timeout* seconds, UnknownJob, Refused for the job of another owner::

            for message in service.stream(12):
                print(message)
        """
        number = number_of(job)
        limit = check_timeout(timeout)
        inbox, link = Inbox(logs, unpickle), self._link
        messages_ = Messages(inbox, limit, lambda: link.followers.unwatch(number, inbox))
        try:
            link.answer(link.followers.watch(number, inbox))
        except BaseException:
            messages_.close()
            raise
        return messages_

    def files(self, job: Any) -> JobFiles:
        """The files that a job has kept (`park.environment().store`), by name; each is read when it is asked for.

        Raises UnknownJob, Refused for the job of another owner.
        """
        return JobFiles(self._link, number_of(job))

    def logs(self, job: Any) -> list[Log]:
        """The last lines that a job has printed and logged (256 KiB, 5,000 messages at most), the oldest first."""
        number = number_of(job)
        _, data = self._link.ask(lambda n: messages.Logs(n, number))
        return [decode("log", line) for line in codec.unpack(data)]

    def wait(self, job: Any = None, timeout: float | None = None) -> Any:
        number = self._last_job() if job is None else number_of(job)
        limit = check_timeout(timeout)
        reply = self._link.request(lambda n: messages.Fetch(n, number, wait=True))
        try:
            came = job_waits.attend(self._link, number, reply, limit)
        except KeyboardInterrupt:
            came = self._interrupted(number, reply, limit)
        if not came:
            record = self.status(number)
            if record.state.ended and self._link.is_answered(reply):  # the answer was on its way
                return job_waits.result_of(reply)
            self._link.forget(reply)
            raise WaitTimeout(
                f"job {number} is {record.state} after {timeout} s"
                + (f": {record.reason}" if record.reason else "")
            )
        return job_waits.result_of(reply)

    def _interrupted(self, job: int, reply: Reply, limit: float | None) -> bool:
        """Ctrl-C in `wait`: the job goes on. (A service that stops the job returns whether it ended in time.)"""
        if isinstance(self._over, ServerProxy):
            return self._over._interrupted(job, reply, limit)
        job_waits.leave_running(self._link, job, reply)
        raise KeyboardInterrupt from None

    def status(self, job: Any) -> JobRecord:
        number = number_of(job)
        _, data = self._link.ask(lambda n: messages.Status(n, number))
        return JobRecord.from_map(codec.unpack(data)[0])

    def wait_reason(self, job: Any) -> WaitReason:
        """Why a job waits, as fields; `park.wait_reason.words` gives the sentence. Raises UnknownJob."""
        number = number_of(job)
        _, data = self._link.ask(lambda n: messages.Status(n, number))
        return WaitReason.beside(codec.unpack(data)[0])

    def reason(self, job: Any) -> job_waits.Reason:
        """Why a job does not run, to be looked at again and again."""
        return job_waits.Reason(self._link, number_of(job))

    def jobs(
        self, filter: Any = None, owner: str | None = None, since: datetime | float | None = None
    ) -> list[Job]:
        """The jobs of *owner* (None: your own, "*": everybody's) that pass the *filter*.

        *filter*: a state, a tag, a text in the name, or a callable that takes the record; None: all. *since*: only those
        submitted at that time or later, a datetime, or a number of seconds ago. Raises InvalidRequest::

            service.jobs("running", owner="*", since=3600)
        """
        query = query_of(filter, self.user if owner is None else owner, since)
        found = self.records(query, archived=True)
        return Jobs(job_of_record(self, r) for r in found if not callable(filter) or filter(r))

    @property
    def user(self) -> str:
        """The name of this client: the owner of the jobs that it submits."""
        return self._link.user

    def records(self, query: Query | None = None, archived: bool = False) -> list[JobRecord]:
        """The present records of the jobs that *query* finds, by number; None: all jobs of all owners.

        They come from the table, and with *archived* also from the archive.
        """
        names = list(JobRecord.__struct_fields__)
        rows = self.rows(query or Query(), names, archived)
        return [JobRecord.from_map(dict(zip(names, row, strict=True))) for row in rows]

    def archived(self, query: Query, below: int = 0) -> list[JobRecord]:
        """The records of a page of jobs in the archive that *query* finds, the newest first; no records: the last page.

        *below*: only jobs with smaller numbers, such as the last one of the page before.
        """
        names = list(JobRecord.__struct_fields__)
        rows = archived_rows(self._link, query, names, below)
        return [JobRecord.from_map(dict(zip(names, row, strict=True))) for row in rows]

    def count_archived(self, query: Query | None = None, below: int = 0) -> int:
        """The number of jobs in the archive that *query* finds; None: all jobs. *below*: as in `archived`."""
        return count_archived(self._link, query or Query(), below)

    def rows(self, query: Query, names: Sequence[str], archived: bool = False) -> list[list[Any]]:
        """The fields *names* of the same records, a list for each job: cheaper for thousands of jobs.

        Raises InvalidRequest for a field that records of jobs do not have.
        """
        return find_rows(self._link, query, names, archived)

    def fetch(self, job: Any) -> JobCopy:
        return requests.fetch(self._link, number_of(job))

    def retry(self, job: Any, failed: bool = False) -> int:
        """Submit the request of a job once more, with the same seed. Returns the number of the new job.

        *failed*: only the inputs whose units failed or did not run. They have other unit numbers then, and so other
        random numbers than the first time. Raises InvalidRequest if there are none. Without *failed* the request is not
        unpickled here.
        """
        if not failed:
            number = requests.repeat(self._link, number_of(job), self._base_tags(), self._base_private())
            _last.job = (self, number)
            return number
        copy = self.fetch(job)
        request = copy.request
        if request.inputs is not None:
            request = replace(request, inputs=requests.unfinished(copy))
        return self.submit(replace(request, after=(), when=None))

    def stop(self, job: Any = None) -> None:
        number = self._last_job() if job is None else number_of(job)
        self._link.ask(lambda n: messages.Stop(n, number))

    def abort(self, job: Any = None) -> None:
        number = self._last_job() if job is None else number_of(job)
        self._link.ask(lambda n: messages.Abort(n, number))

    def pause(self, job: Any = None) -> None:
        self._change(job, paused=True)

    def resume(self, job: Any = None) -> None:
        self._change(job, paused=False)

    def control(self, job: Any, message: str | dict[str, Any]) -> bool:
        """Give the body of a job a *message*: a dict with a ``kind``, or the kind alone. Returns whether the job took
        it.

        It is on the broker's disk when this returns True, and reaches ``on_<kind>(message)`` of the body at its next
        safe point: before or between units, in ``env.ready()``, or when a map of its own is over. A job that waits or
        is paused gets it when it runs. A job that runs again gets all its controls again in their order, without those
        that its checkpoint contains. Each process that runs units of the job gives them to its own body. A message that
        a body does not know, or fails at, is a `park.client.stream.Error` on the job's stream, and the job goes on.

        It returns False if the job has ended, so that no body gets the message. Raises InvalidRequest for a message
        that is no control or has more than 1 MiB, and for sessions; NotPicklable; LimitReached beyond 10,000 controls
        or 16 MiB that a rerun of the job would need; UnknownJob; Refused for the job of another owner::

            service.control(12, "report")
            service.control(12, {"kind": "threshold", "value": 0.1})
        """
        number, data = number_of(job), requests.packed_control(message)
        key = os.urandom(16)
        answer, _ = self._link.ask(lambda n: messages.Control(number, n, key), data)
        assert isinstance(answer, messages.Done)
        return not answer.ignored

    def delete(self, job: Any) -> None:
        """Forget a job that has ended, with its request, inputs and results; it cannot be found any more.

        Raises Refused while the job, or one that comes after it, has not ended, and for the job of another owner;
        UnknownJob::

            number = service.start(abs, [-1, -2])
            service.wait(number)
            service.delete(number)
        """
        number = number_of(job)
        self._link.ask(lambda n: messages.Delete(n, number))

    def set(
        self,
        job: Any = None,
        priority: int | str | None = None,
        tags: Iterable[str] | None = None,
        allocation: str | None = None,
    ) -> None:
        """Change a job that has not ended: *priority* (-3 to 6, or its name) and *tags*, which replace the old ones.

        *allocation*: the state of a private job's allocation in words, for its record and its reason to wait. A value
        that is not given stays as it is. The change counts from the next unit on. Raises UnknownJob if the job has
        ended.
        """
        if priority is None and tags is None and allocation is None:
            raise InvalidRequest("say what to set: priority=, tags= or allocation=")
        self._change(
            job,
            priority=None if priority is None else priority_number(priority),
            tags=None if tags is None else list(dict.fromkeys(texts(tags, "tag"))),
            allocation=allocation,
        )

    def _change(self, job: Any, **values: Any) -> None:
        number = self._last_job() if job is None else number_of(job)
        self._link.ask(lambda n: messages.Change(n, number, **values))

    def hush(self) -> AbstractContextManager[None]:
        """Meanwhile the caller shows by itself when the broker is away."""
        return self._link.hush()

    def about(self) -> BrokerInfo:
        """The broker as it presented itself when it last welcomed this client."""
        return broker_info(self._link)

    def credits(self, owner: str | None = None) -> list[AccountRecord]:
        """The account of *owner* (None: your own) as a list of one, or with "*" all accounts, by name.

        An account has its balance and refill, the costs of its jobs, and its present share of the slots.
        """
        if owner is not None and (not isinstance(owner, str) or not owner):
            raise InvalidRequest(f"owner={owner!r} is no name of an owner")
        who = self._link.user if owner is None else owner
        _, data = self._link.ask(lambda n: messages.Credits(n, who))
        return [AccountRecord.from_map(fields) for fields in codec.unpack(data)]

    def backlog(self, **kind: Any) -> WaitingWork:
        """The work that waits for kernels of a kind, as `park.wire.messages.Backlog` describes it: for allocators."""
        _, data = self._link.ask(lambda n: messages.Backlog(n, **kind))
        return WaitingWork.from_map(codec.unpack(data)[0])

    def grant(self, owner: str, credits: float) -> None:
        """Add *credits* to the account of *owner*, beyond the cap if need be.

        Raises InvalidRequest for a number that is not positive, and if there is no credit limit, as in the local
        service; Refused unless you are the broker's own user, over ipc.
        """
        if not isinstance(owner, str) or not owner:
            raise InvalidRequest(f"owner={owner!r} is no name of an owner")
        check_grant(credits)
        self._link.ask(lambda n: messages.Grant(n, owner, float(credits)))

    def when_ended(self, job: int, callback: Callable[[], None]) -> None:
        self._link.request(lambda n: messages.Fetch(n, job, wait=True, results=False), on_finish=callback)

    def ends(self, jobs: Iterable[Any]) -> job_waits.Ends:
        """The ends of *jobs*, as they come."""
        return job_waits.Ends(self._link, [number_of(job) for job in jobs])

    # -- sessions ------------------------------------------------------------------------------

    @takes_request_fields(NOT_IN_SESSIONS)
    def map(
        self, fn: Callable[[Any], Any], inputs: Iterable[Any], ordered: bool = True, **fields: Any
    ) -> MapIterator:
        """Run *fn* over *inputs*, which may be lazy and endless; an iterator over the results.

        In the order of the inputs, or, with ``ordered=False``, as they come. Raises UnitError at an item that failed.
        """
        from park.client.maps import MapIterator  # late: few commands make maps

        check_function(fn)
        return MapIterator(self._open_session(fn, fields), fn, inputs, ordered)

    @takes_request_fields(NOT_IN_SESSIONS)
    def mapper(self, fn: Callable[[Any], Any], **fields: Any) -> Mapper:
        from park.client.maps import Mapper

        check_function(fn)
        return Mapper(self._open_session(fn, fields), fn)

    @takes_request_fields(NOT_IN_SESSIONS)
    def executor(self, **fields: Any) -> Executor:
        from park.client.executor import Executor

        return Executor(self._open_session(None, fields))

    def _open_session(self, fn: Any, fields: dict[str, Any]) -> MapSession:
        from park.client.maps import open_session

        return open_session(self._link, fn, fields, self._base_tags(), self._base_private())

    # -- the service ---------------------------------------------------------------------------

    @property
    def table(self) -> LiveTable:
        """The consistent copy of the public table: ``.jobs``, ``.kernels``, ``.owners``, ``.subscribe``, ``.changes``."""
        self._link.feed.wait_synced(ANSWER_SECONDS)
        return self._link.feed.table

    def kernels(self) -> list[KernelRecord]:
        """The kernels that are connected."""
        return list(self.table.kernels.values())

    def drain(self, kernel: int, grace: float = DRAIN_SECONDS) -> None:
        """Send a kernel away, by its number in `kernels`: it takes no new work, and leaves.

        Units that it runs may go on for *grace* seconds; then they are handed back, and run elsewhere. Returns when the
        kernel knows. Raises UnknownKernel if no kernel has this number, Refused unless you are its owner or the
        broker's own user.
        """
        if isinstance(kernel, bool) or not isinstance(kernel, int):
            raise InvalidRequest(f"{kernel!r} is no number of a kernel")
        if isinstance(grace, bool) or not isinstance(grace, int | float) or not math.isfinite(grace):
            raise InvalidRequest(f"grace={grace!r} is not a number of seconds")
        if isinstance(self._over, ServerProxy):
            self._over.drain(kernel, grace)
            return
        self._link.feed.wait_synced(ANSWER_SECONDS)
        epoch = self._link.feed.mirror.epoch
        self._link.ask(lambda n: messages.Drain(n, kernel, float(grace), epoch))

    def _last_job(self) -> int:
        service, number = getattr(_last, "job", (None, 0))
        if service is not self:
            raise InvalidRequest("this thread has submitted no job to this service: say which one")
        return int(number)
