"""`Server`: the methods of every service, local or remote."""

from __future__ import annotations

import contextlib
import functools
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from park.backends import offer
from park.client.requests import JobCopy
from park.core.service_stack import service_stack
from park.errors import ParkError
from park.job import Job, job_of_record
from park.model import (
    DRAIN_SECONDS,
    NOT_IN_SESSIONS,
    AccountRecord,
    JobRecord,
    KernelRecord,
    Log,
    Request,
    make_request,
    takes_request_fields,
)

if TYPE_CHECKING:
    from park.client.executor import Executor
    from park.client.maps import MapIterator, Mapper
    from park.client.pool import Pool
    from park.core.server import ServerProxy


class Connector:
    """``Server.connect(user, token)``: another connection, as another user.

    Called on the class, it connects to the broker that $PARK_BROKER or a park.toml names; called on a service, to the
    broker of that service.
    """

    def __get__(self, service: Server | None, kind: type[Server] | None = None) -> Callable[..., ServerProxy]:
        return functools.partial(self._connect, service)

    @staticmethod
    def _connect(
        service: Server | None, user: str | None = None, token: str | os.PathLike[str] | None = None
    ) -> ServerProxy:
        """A connection of the *user*, by the key of that name which *token* selects; see `park.connect`."""
        from park.core.connect import connect

        return connect(None if service is None else service._broker, user=user, token=token)


class Server(ABC):
    """A service that runs jobs.

    It has more than 25 public methods, because it is the whole interface of a service: one method for each request.
    """

    #: ``connect(user, token)``: another connection to the service, as another user
    connect = Connector()

    @property
    def _broker(self) -> Any:
        """The address at which `connect` finds the broker. Raises InvalidRequest where there is none."""
        return None

    @abstractmethod
    def submit(self, request: Request, monitor: Any = None, when: datetime | float | None = None) -> int:
        """Submit *request*. Returns the number of its job once the service has stored it."""

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
        """Start no more units of a job until `resume`. A body waits at its next safe point, without a slot."""

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
    def set_email(self, address: str, when: str = "daily") -> None:
        """Send news of the end of all later jobs of this service to *address*, if their requests name none."""

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
    def drain(self, kernel: int, grace: float = DRAIN_SECONDS) -> None:
        """Send a kernel away in good order."""

    @abstractmethod
    def when_ended(self, job: int, callback: Callable[[], None]) -> None:
        """Call *callback*, in a thread of the service, when the job has ended."""

    @abstractmethod
    @takes_request_fields(NOT_IN_SESSIONS)
    def map(
        self, fn: Callable[[Any], Any], inputs: Iterable[Any], ordered: bool = True, **fields: Any
    ) -> MapIterator:
        """Run *fn* over *inputs* in a session; an iterator over the results."""

    @abstractmethod
    @takes_request_fields(NOT_IN_SESSIONS)
    def mapper(self, fn: Callable[[Any], Any], **fields: Any) -> Mapper:
        """A callable that maps *fn* over points; many maps in one session."""

    @abstractmethod
    @takes_request_fields(NOT_IN_SESSIONS)
    def executor(self, **fields: Any) -> Executor:
        """A `concurrent.futures.Executor` on the service."""

    @property
    def slots(self) -> int:
        """The slots of all kernels that take work now."""
        return sum(k.slots for k in self.kernels() if k.standing not in ("draining", "paused"))

    @takes_request_fields(NOT_IN_SESSIONS)
    def pool(self, **fields: Any) -> Pool:
        """A pool like that of `multiprocessing`, for tools that take one; *fields* are those of `park.Request`.

        For scipy's ``workers=pool.map``, the ``pool=`` of emcee and dynesty, lmfit's ``workers=pool``::

            with park.local_service as service, service.pool() as pool:
                scipy.optimize.differential_evolution(f, bounds, workers=pool.map, updating="deferred")
        """
        from park.client.pool import Pool

        return Pool(self.executor(**fields), lambda: self.slots)

    @takes_request_fields()
    def start(
        self,
        body: Any,
        inputs: Any = None,
        monitor: Any = None,
        **fields: Any,
    ) -> int:
        """Submit *body*, to run once or over *inputs*; *fields* are those of `park.Request`. Returns the job's number."""
        return self.submit(make_request(body, inputs, fields), monitor=monitor)

    def job(self, job: Any) -> Job:
        """A handle on a job, of the class that made the job if that class is installed. Raises UnknownJob."""
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
