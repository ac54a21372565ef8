"""The copy of the public table. It follows the changes that the broker publishes, and asks for the whole table if one
is missing.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable
from typing import Any, Protocol

from park.client.live_table import LiveTable
from park.client.outgoing import Outgoing
from park.client.pending import Pending, Reply
from park.errors import ProtocolError
from park.net.reactor import Reactor
from park.table.mirror import RESYNC_SPREAD_SECONDS, Mirror, MirrorState
from park.wire import codec, messages
from park.wire.pack import Buffer


class Listener(Protocol):
    """The source of the table's changes: a socket or a lane."""

    def waiting(self) -> bool: ...

    def receive(self) -> list[Any] | None: ...

    def close(self) -> None: ...


class TableFeed:
    """Feeds the mirror of the table, from the first call of `wait_synced` on; *listen* opens the source of changes."""

    def __init__(
        self,
        reactor: Reactor,
        out: Outgoing,
        pending: Pending,
        listen: Callable[[], Listener],
        call_back: Callable[[Callable[[], None]], None],
    ) -> None:
        self._reactor = reactor
        self._out = out
        self._pending = pending
        self._listen = listen
        #: None until the table is asked for
        self._listener: Listener | None = None
        self.mirror = Mirror(lambda: random.uniform(0.0, RESYNC_SPREAD_SECONDS))
        self.table = LiveTable(self.mirror, call_back)
        #: seconds by which the broker's clock is ahead of the one here; None: not known yet
        self.ahead: float | None = None
        #: messages at which the broker has failed since its process began
        self.faults = 0
        #: seconds of the broker's last write to the disk, and the number of its clients
        self.commit_seconds, self.clients = 0.0, 0
        #: bytes of its store's file in pages that hold nothing
        self.unused_bytes = 0
        self.full = ""
        self._synced = Reply(reactor)
        self._has_table = False

    def wait_synced(self, timeout: float) -> bool:
        """Follow the table from now on. Returns whether it is here, or comes within *timeout* seconds."""

        def follow() -> None:
            if self._listener is None:
                self._listener = self._listen()
                # asks at once: a change that is published before the subscription works shows as a gap
                self._ask_if_due(time.monotonic())

        if self._listener is None:
            self._reactor.call(follow)
        return self._has_table or self._synced.wait(timeout)

    # -- in the reactor's loop -----------------------------------------------------------------

    def waiting(self) -> bool:
        """Whether a change has been published that was not read."""
        return self._listener is not None and self._listener.waiting()

    def receive(self, now: float) -> None:
        """Feed the mirror all changes that were published."""
        if self._listener is None:
            return
        while (frames := self._listener.receive()) is not None:
            with contextlib.suppress(ProtocolError):  # the mirror sees the gap, and asks for the whole table
                message, data = codec.decode(frames)
                self.mirror.feed(message, data, now)
                if isinstance(message, messages.Head):
                    self.ahead = message.wall - time.time()
                    self.faults = message.faults
                    self.commit_seconds, self.clients = message.commit, message.clients
                    self.unused_bytes, self.full = message.unused, message.full
        self.mirror.tick(now)
        if not self._has_table and self.mirror.state is MirrorState.LIVE:
            self._has_table = True
            self._synced.finish()

    def receive_header(self, message: messages.Header, data: Buffer, now: float) -> None:
        """The whole table has come."""
        self.mirror.feed(message, data, now)

    def ask(self, now: float) -> None:
        """Ask for the whole table, if the mirror needs it."""
        if self._listener is not None:
            self._ask_if_due(now)

    def deadline(self) -> float | None:
        """The time at which `ask` or `receive` has something to do; None: when a change is published."""
        return self.mirror.deadline() if self._listener is not None and self._out.live else None

    def close(self) -> None:
        """Follow the table no longer."""
        if self._listener is not None:
            self._listener.close()

    def _ask_if_due(self, now: float) -> None:
        if self._out.live and self.mirror.wants_snapshot(now):
            self._out.send(messages.Snapshot(self._pending.next_number()), now=now)
