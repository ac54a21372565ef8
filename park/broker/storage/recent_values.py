"""Long values that came to the disk a moment ago and are still in memory: most are sent on at once, and never read again.

The memory is that in which they came (over ipc a file that other processes map). It is bounded in bytes and time.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import Any

#: Bytes of all values that stay in memory, and for how long (seconds).
MAX_RECENT_BYTES, RECENT_SECONDS = 128 << 20, 2.0


class RecentValues:
    """The recent values of one store, by the number of their pieces. Any thread may call it; time is an argument."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._memory: dict[int, Any] = {}
        #: when each value came, and its number; the oldest first
        self._came: deque[tuple[float, int]] = deque()
        self._size = 0

    def __repr__(self) -> str:
        return f"<RecentValues: {len(self._memory)} of {self._size:,} bytes>"

    def find(self, id: int) -> Any:
        """The bytes of a value; None: it is read from the disk."""
        return self._memory.get(id)

    def add(self, id: int, memory: Any, now: float) -> None:
        """A value is on the disk; *memory* has its bytes."""
        with self._lock:
            self._forget(now)
            if len(memory) <= MAX_RECENT_BYTES:
                self._memory[id] = memory
                self._came.append((now, id))
                self._size += len(memory)
            while self._size > MAX_RECENT_BYTES:
                self._forget_oldest()

    def forget(self, now: float) -> None:
        """Forget the values that are too old."""
        with self._lock:
            self._forget(now)

    def _forget(self, now: float) -> None:
        while self._came and now >= self._came[0][0] + RECENT_SECONDS:
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        _, id = self._came.popleft()
        self._size -= len(self._memory.pop(id))
