"""How a thread waits for what comes: it sleeps, or it looks for it without sleeping.

While one thing comes soon after the other, a thread looks for the next one before it goes to sleep, and lets others have
the processor between two looks. To be woken takes up to 50 us where a processor has gone to sleep; and the system likes
to move whoever is woken to such a one, where its caches are cold. Where others take the processor for long, there is none
to spare, and the thread does not look so for a while.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

_yield: Callable[[], None] | None = getattr(os, "sched_yield", None)
#: Who waited for less than so many seconds looks for so long before it sleeps the next time.
BRIEF = 0.0 if _yield is None else 0.0005
#: Where others have kept the processor for so many seconds meanwhile, none is to spare: the thread does not look for so
#: long, twice as long if it is so again, and so on.
KEPT = 0.0005
PAUSE, LONGEST_PAUSE = 0.02, 1.0


class Waits:
    """Those of one thread."""

    __slots__ = ("brief", "crowded_until", "pause")

    def __init__(self) -> None:
        #: the last one was brief
        self.brief = False
        #: until then no processor is to spare, and for how long that was thought last
        self.crowded_until = self.pause = 0.0

    def wait(self, ask: Callable[[float], T], limit: float) -> T:
        """What *ask* finds within *limit* seconds: it is given the seconds that it may sleep, and what is true is found."""
        began = now = time.monotonic()
        found: T | None = None
        if self.brief and now >= self.crowded_until:
            assert _yield is not None
            until = began + min(limit, BRIEF)
            while not (found := ask(0.0)) and now < until:
                _yield()
                before, now = now, time.monotonic()
                if now > before + KEPT:
                    self.crowded(now)
                    break
        result = found or ask(limit)
        self.brief = time.monotonic() < began + BRIEF
        return result

    def crowded(self, now: float) -> None:
        """Others have kept the processor."""
        again = now < self.crowded_until + self.pause
        self.pause = min(2 * self.pause, LONGEST_PAUSE) if again else PAUSE
        self.crowded_until = now + self.pause
