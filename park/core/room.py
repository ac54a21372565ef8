"""Room on the disk: who is refused when there is little, and what waits for more.

A full disk must not look like a broken one, and whoever wants to make room must still be able to delete. So a reserve is
kept (`park.core.store`), and what is left beside it is what new jobs, inputs and results may take. Where one finds
no room, a client is refused, in words; a result waits, unacknowledged, so that its kernel keeps it, and its slot, until
there is room again; those that memory has no room for either are asked for again then. All else goes on: what is shown,
sessions, ends of jobs.
"""

from __future__ import annotations

import sys

from msgspec.structs import replace

from park.core.outcome import Event
from park.errors import Refused

#: Seconds after which what waits is looked at again.
AGAIN = 1.0
#: Bytes of the answers that wait in memory; of others only the size is kept.
MOST = 32 << 20


class Room:
    """See the module. It is told what is left from time to time, and counts what is taken in between."""

    def __init__(self) -> None:
        self._left = sys.maxsize
        self._where = ""
        #: answers for which there was no room, by attempt; of two from the one kernel that holds it the last
        self.waiting: dict[int, Event] = {}
        #: the bytes of them that are here, and the sizes of those whose payloads are not
        self.held = 0
        self.sizes: dict[int, int] = {}
        #: when they are looked at again
        self.look_at = 0.0

    def tell(self, left: int, where: str) -> None:
        """So many bytes are left *where* the store is."""
        self._left, self._where = left, where

    def use(self, size: int) -> bool:
        """Take room for so many bytes; False if there is not so much."""
        if size > max(0, self._left):
            return False
        self._left -= size
        return True

    def demand(self, size: int) -> None:
        """Take room for what a client brings. Raises Refused if there is not so much, or results wait for it."""
        if self.waiting or not self.use(size):
            raise Refused(f"{self.trouble}: no new jobs and no inputs are taken until there is room")

    @property
    def trouble(self) -> str:
        """The disk in words."""
        return f"the broker's disk is full (at {self._where})"

    def wait(self, attempt: int, event: Event, now: float) -> None:
        """The answer to this attempt waits for room."""
        if not self.waiting:
            self.look_at = now + AGAIN
        self._drop(attempt)
        size = len(event.payload)
        if self.held + size > MOST:
            self.sizes[attempt] = size
            event = replace(event, payload=b"")
        self.held += len(event.payload)
        self.waiting[attempt] = event

    def _drop(self, attempt: int) -> None:
        event = self.waiting.pop(attempt, None)
        self.held -= len(event.payload) if event is not None else 0
        self.sizes.pop(attempt, None)

    def let_in(self, now: float) -> tuple[list[Event], list[Event]]:
        """Those that find room now, in the order in which they came; and those of which the answer is to be given again."""
        here: list[Event] = []
        again: list[Event] = []
        if self.waiting and now >= self.look_at:
            self.look_at = now + AGAIN
            left = self._left
            for attempt, event in list(self.waiting.items()):
                left -= self.sizes.get(attempt, len(event.payload))
                if left < 0:
                    break
                (again if attempt in self.sizes else here).append(event)
                self._drop(attempt)
        return here, again

    def check(self) -> None:
        """Assert what must always hold."""
        assert self.held == sum(len(event.payload) for event in self.waiting.values()) <= MOST
        assert self.sizes.keys() <= self.waiting.keys()
