"""The service that counts where none is named: a stack of ``with`` blocks, and the connections that are open.

Each thread and each asyncio task has a stack of its own. If it is empty, the newest open service of the process counts:
a connection, or the ``with`` block of another thread. So the threads of a program use the service that the program has
opened.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from contextvars import ContextVar
from typing import TYPE_CHECKING

from park.errors import ParkError

if TYPE_CHECKING:
    from park.core.server import Server


class ServiceStack:
    """The services of the open ``with`` blocks. ``with service:`` is short for ``with service_stack.push(service):``.

    >>> from park.core.server import local_service, service_stack
    >>> with service_stack.push(local_service):
    ...     service_stack.current is local_service
    True
    """

    def __init__(self) -> None:
        self._services: ContextVar[tuple[Server, ...]] = ContextVar("park_services", default=())
        self._lock = threading.Lock()
        #: the process's connections and ``with`` blocks, the newest last
        self._open: list[Server] = []

    def __repr__(self) -> str:
        return f"<ServiceStack of {len(self)}, {self.current!r} is current>"

    def __len__(self) -> int:
        """The number of open ``with`` blocks of this thread or task."""
        return len(self._services.get())

    def __iter__(self) -> Iterator[Server]:
        """Their services, the innermost last."""
        return iter(self._services.get())

    @property
    def current(self) -> Server | None:
        """The innermost service of this thread or task, else the newest one of the process, else None."""
        here = self._services.get()
        if here:
            return here[-1]
        with self._lock:
            return self._open[-1] if self._open else None

    def push(self, service: Server) -> contextlib.AbstractContextManager[Server]:
        """Make *service* the current one, until `pop`, or to the end of the ``with`` block that this is used in."""
        self._services.set((*self._services.get(), service))
        self.opened(service)
        return _PushedService(self, service)

    def pop(self, service: Server | None = None) -> Server:
        """Take the current one, or that *service*, off again, and return it. Raises ParkError where there is none."""
        here = self._services.get()
        for at in reversed(range(len(here))):
            if service is None or here[at] is service:
                self._services.set(here[:at] + here[at + 1 :])
                self.closed(here[at])
                return here[at]
        if service is not None:  # its block was begun in another task
            self.closed(service)
        raise ParkError("this thread or task is in no `with service:` block that could end")

    def opened(self, service: Server) -> None:
        """Make it the newest service of the process, until `closed` was called as often."""
        with self._lock:
            self._open.append(service)

    def closed(self, service: Server) -> None:
        """Undo one `opened`."""
        with self._lock:
            for at in reversed(range(len(self._open))):
                if self._open[at] is service:
                    del self._open[at]
                    return


class _PushedService(contextlib.AbstractContextManager["Server"]):
    """Takes a service off the stack at the end of its ``with`` block."""

    def __init__(self, stack: ServiceStack, service: Server) -> None:
        self._stack = stack
        self._service = service

    def __enter__(self) -> Server:
        return self._service

    def __exit__(self, *error: object) -> None:
        self._stack.pop(self._service)


service_stack = ServiceStack()
