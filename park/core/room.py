"""Room on the disk: who is refused when there is little, and what waits for more.

A full disk must not look like a broken one, and whoever wants to make room must still be able to delete. So a reserve is
kept (`park.core.store`), and what is left beside it is what new jobs, inputs and results may take. Where one finds
no room, a client is refused, in words; a result waits, unacknowledged, so that its kernel keeps it, and its slot, until
there is room again. All else goes on: what is shown, sessions, ends of jobs.
"""

from __future__ import annotations

import sys

from park.core.outcome import Event
from park.errors import Refused

#: Seconds after which what waits is looked at again.
AGAIN = 1.0


class Room:
    """See the module. It is told what is left from time to time, and counts what is taken in between."""

    def __init__(self) -> None:
        self._left = sys.maxsize
        self._where = ""
        #: answers for which there was no room, by attempt; of two to one attempt the last
        self.waiting: dict[int, Event] = {}
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
        self.waiting[attempt] = event

    def let_in(self, now: float) -> list[Event]:
        """Those that find room now, in the order in which they came."""
        if not self.waiting or now < self.look_at:
            return []
        self.look_at = now + AGAIN
        found, left = [], self._left
        for attempt, event in list(self.waiting.items()):
            left -= len(event.payload)
            if left < 0:
                break
            found.append(self.waiting.pop(attempt))
        return found

    def next_deadline(self) -> float | None:
        return self.look_at if self.waiting else None
