"""The sleep of the machine, seen by two clocks: one stands still while a laptop is suspended, the other does not."""

from __future__ import annotations

import time

#: A shorter sleep (seconds) does not matter: the broker has not missed the kernel meanwhile.
MIN_SLEEP_SECONDS = 1.0


def clock_with_sleep() -> float:
    """Seconds on a clock that counts sleep too; if the system has no such clock, `time.monotonic`."""
    number = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if number is None else time.clock_gettime(number)


class SleepWatch:
    """Compares the two clocks again and again.

    >>> watch = SleepWatch(100.0, 100.0)
    >>> watch.look(101.0, 101.0), watch.look(102.0, 3702.0), watch.look(103.0, 3703.0)
    (0.0, 3600.0, 0.0)
    """

    def __init__(self, now: float, with_sleep: float) -> None:
        self._ahead = with_sleep - now

    def look(self, now: float, with_sleep: float) -> float:
        """Seconds that the machine has slept since the last look; 0: it has not."""
        slept = with_sleep - now - self._ahead
        if slept < MIN_SLEEP_SECONDS:
            return 0.0
        self._ahead += slept
        return slept
