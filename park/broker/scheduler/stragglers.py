"""Chunks at the tail of a map that take far longer than they should.

When all units of a map are dealt, its end depends on the slowest chunk. If the request says that its units are *pure*,
a chunk that runs far past its estimate is issued again, provided that a slot is free and no other work is due. The
first answer counts. The other attempt is not killed: it is only late, and its process may be importing modules that all
later units need. It ends after its present unit, and keeps its slot until then, but for `SUPERSEDED_SECONDS` at most.
"""

from __future__ import annotations

import heapq
import math

from park.broker.entities.maps import Attempt

#: A chunk is a straggler after this many times its estimate, but not before `MIN_STRAGGLER_SECONDS` seconds.
STRAGGLER_FACTOR = 3.0
MIN_STRAGGLER_SECONDS = 0.5
#: Seconds for which an attempt may go on after the other one has answered its units.
SUPERSEDED_SECONDS = 300.0


class Stragglers:
    """Attempts by the time at which they are late."""

    def __init__(self) -> None:
        #: (time, number, attempt); an ended attempt stays in the heap until it comes to the top
        self._heap: list[tuple[float, int, Attempt]] = []

    def watch(self, attempt: Attempt, after: float = 0.0) -> None:
        """Look at it when it is late, and not before *after*."""
        patience = max(MIN_STRAGGLER_SECONDS, STRAGGLER_FACTOR * attempt.expected)
        heapq.heappush(self._heap, (max(attempt.since + patience, after), attempt.number, attempt))

    def late(self, now: float) -> list[int]:
        """The numbers of attempts that would be late now, if they still run."""
        found = []
        while self._heap and self._heap[0][0] <= now:
            found.append(heapq.heappop(self._heap)[1])
        return found

    def next_deadline(self) -> float:
        """The time from which one that still runs is late."""
        while self._heap and self._heap[0][1] not in self._heap[0][2].map.running:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else math.inf
