"""The page's live events: a snapshot, then numbered deltas, the same bytes for all browsers.

An event's id is ``BOOT.NUMBER``: the web process and the number of the change. A browser that comes back with the id of
its last event gets the events after it while they are here, else a snapshot. A slow browser falls behind and gets a
snapshot too: nothing queues up for it.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any

from msgspec import json

#: Events that are kept for browsers that come back.
KEPT_EVENTS = 240


def encoded(kind: str, number: str, data: Any) -> bytes:
    """One event as a stream carries it."""
    return b"event: %b\nid: %b\ndata: %b\n\n" % (kind.encode(), number.encode(), json.encode(data))


class Board:
    """The events of one web process. *snapshot* makes the data of a snapshot."""

    def __init__(self, snapshot: Callable[[], dict[str, Any]]) -> None:
        self._snapshot = snapshot
        self.boot = secrets.token_hex(4)
        self.number = 0
        #: streams that are open
        self.streams = 0
        self._kept: deque[tuple[int, bytes]] = deque(maxlen=KEPT_EVENTS)
        self._news = asyncio.Event()
        self._closed = False

    def publish(self, data: dict[str, Any]) -> None:
        """The next delta."""
        self.number += 1
        if self.streams:
            self._kept.append((self.number, encoded("delta", f"{self.boot}.{self.number}", data)))
        else:
            self._kept.clear()
        self._wake()

    def close(self) -> None:
        """End all streams."""
        self._closed = True
        self._wake()

    def _wake(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()

    def after(self, last: str) -> tuple[int, bytes]:
        """The number from which a stream goes on after its event *last*, and the snapshot that it needs first, or b""."""
        boot, _, number = last.rpartition(".")
        if boot == self.boot and number.isascii() and number.isdigit() and self._has(int(number)):
            return int(number), b""
        return self.number, encoded("snapshot", f"{self.boot}.{self.number}", self._snapshot())

    def _has(self, number: int) -> bool:
        """Whether all events after *number* are here."""
        return number == self.number or bool(self._kept and self._kept[0][0] <= number + 1 <= self.number)

    async def events(self, last: str) -> AsyncIterator[bytes]:
        """The events of one stream, from that after *last* on."""
        self.streams += 1
        try:
            at, first = self.after(last)
            if first:
                yield first
            while not self._closed:
                news = self._news
                if at != self.number:
                    if self._has(at):
                        batch = b"".join(data for number, data in self._kept if number > at)
                        at = self.number
                    else:
                        at, batch = self.after("")
                    yield batch
                    continue
                await news.wait()
        finally:
            self.streams -= 1
