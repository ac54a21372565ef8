"""The connections of the page. Strangers may hold only a few of them, for a short time.

Every user of the machine can reach the page's port. A stranger that connects without end, or never ends a request,
would take all descriptors of the process, and so would a reader who takes nothing. So a connection whose requests have
not passed the guard has little time. With too many connections the oldest such one goes.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

#: Connections at once.
MAX_CONNECTIONS = 200
#: Seconds that a stranger has, and with an answer under way.
STRANGER_SECONDS, ANSWER_SECONDS = 10.0, 30.0
#: The key of a request's scope by which the guard says that it has let the sender in.
ADMITTED = "park.admitted"


class PageConnection(H11Protocol):
    """A connection of a browser, or of a stranger."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        #: when it began, in the clock of the loop
        self.began = self.loop.time()
        self._look_at = self.loop.call_later(STRANGER_SECONDS, self._look)
        if len(self.connections) > MAX_CONNECTIONS:
            others = [c for c in self.connections if isinstance(c, PageConnection) and not c.admitted]
            min(others, key=lambda c: c.began, default=self).drop()

    def connection_lost(self, exc: Exception | None) -> None:
        self._look_at.cancel()
        super().connection_lost(exc)

    @property
    def admitted(self) -> bool:
        """Whether its last request has passed the guard with a session."""
        return bool(self.scope) and bool(self.scope.get(ADMITTED))

    def drop(self) -> None:
        """Close it at once, whatever the other end still reads."""
        if isinstance(self.transport, asyncio.Transport):
            self.transport.abort()

    def _look(self) -> None:
        """Close the connection of a stranger whose time is over."""
        left = self.began + ANSWER_SECONDS - self.loop.time()
        if self.admitted:
            self._look_at = self.loop.call_later(STRANGER_SECONDS, self._look)
        elif left > 0.0 and self.cycle is not None and not self.cycle.response_complete:
            self._look_at = self.loop.call_later(left, self._look)
        else:
            self.drop()
