"""Spin-wait: a thread may poll for the next event before it blocks.

While events follow one another closely, a thread polls for the next one before it sleeps, and yields the processor
between two polls. To wake a sleeping thread takes up to 50 us where its processor has gone idle, and the kernel of the
operating system likes to move a woken thread to such a processor, where its caches are cold. If other threads keep the
processor for long, no processor is to spare, and the thread stops polling for a while.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

_yield: Callable[[], None] | None = getattr(os, "sched_yield", None)
#: A thread whose last wait was shorter than this spins this long before it blocks (seconds).
SPIN_SECONDS = 0.0 if _yield is None else 0.001
#: A yield that takes longer than this (seconds) shows that no processor is to spare.
CROWDED_SECONDS = 0.0005
#: Seconds without spinning after that. The pause doubles each time that the thread finds no spare processor again.
PAUSE_SECONDS, MAX_PAUSE_SECONDS = 0.02, 1.0


class SpinWait:
    """The spin-wait state of one thread. *clock* gives the time in seconds."""

    __slots__ = ("brief", "clock", "crowded_until", "pause")

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        #: the last wait was shorter than `SPIN_SECONDS`
        self.brief = False
        #: the end of the current pause, and the length of the last one
        self.crowded_until = self.pause = 0.0

    def wait(self, ask: Callable[[float], T], limit: float) -> T:
        """The first true answer of *ask* within *limit* seconds. *ask* gets the seconds for which it may block."""
        began = now = self.clock()
        found: T | None = None
        if self.brief and now >= self.crowded_until:
            assert _yield is not None
            until = began + min(limit, SPIN_SECONDS)
            while not (found := ask(0.0)) and now < until:
                _yield()
                before, now = now, self.clock()
                if now > before + CROWDED_SECONDS:
                    self.crowded(now)
                    break
        result = found or ask(limit)
        self.brief = self.clock() < began + SPIN_SECONDS
        return result

    def crowded(self, now: float) -> None:
        """Note at time *now* that other threads have kept the processor: stop polling for a while."""
        again = now < self.crowded_until + self.pause
        self.pause = min(2 * self.pause, MAX_PAUSE_SECONDS) if again else PAUSE_SECONDS
        self.crowded_until = now + self.pause
