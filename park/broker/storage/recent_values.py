"""Long values that came to the disk a moment ago and are still in memory: most are sent on at once, and never read again.

The memory is that in which they came (over ipc a file that other processes map), and it is bounded in bytes and time.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from park.broker.storage.pieces import Laid

#: Bytes of all values that stay in memory, and for how long (seconds).
MAX_RECENT_BYTES, RECENT_SECONDS = 128 << 20, 2.0


class RecentValues:
    """The recent values of one store. Time is an argument."""

    def __init__(self) -> None:
        #: the values, the oldest first, and when each came
        self._values: deque[tuple[float, Laid]] = deque()
        self._size = 0

    def __repr__(self) -> str:
        return f"<RecentValues: {len(self._values)} of {self._size:,} bytes>"

    def add(self, value: Laid, memory: Any, now: float) -> None:
        """A value is on the disk; *memory* has its bytes."""
        if len(value) <= MAX_RECENT_BYTES:
            value.memory = memory
            self._values.append((now, value))
            self._size += len(value)
        self.forget(now)

    def forget(self, now: float) -> None:
        """Forget what is too old, or too much: it is read from the disk from now on."""
        while self._values and (self._size > MAX_RECENT_BYTES or now >= self._values[0][0] + RECENT_SECONDS):
            _, value = self._values.popleft()
            value.memory = None
            self._size -= len(value)
