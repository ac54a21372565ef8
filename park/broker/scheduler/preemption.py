"""Attempts that hold a slot although another job is due.

A driver that waits in a map has given its slot back. A driver that computes by itself, such as a serial optimizer,
would keep its slot for days. So it is asked to lend the slot at its next safe point. The fit layer has one in every
iteration.
"""

from __future__ import annotations

import math

from park.broker.entities.maps import Attempt
from park.broker.scheduler.fairshare import QUANTUM_SLOT_SECONDS

#: Attempts that one round looks at, at most.
MAX_ROUND_ATTEMPTS = 64


class Preemption:
    """The attempts that hold slots now, and when to look at them again. Drivers and long units are asked to lend their
    slots.
    """

    def __init__(self) -> None:
        self._running: dict[int, Attempt] = {}
        self._next = 0.0

    def begin(self, attempt: Attempt) -> None:
        """The attempt has got its slots."""
        self._running[attempt.number] = attempt

    def end(self, attempt: Attempt) -> None:
        """The attempt holds no slot any more."""
        self._running.pop(attempt.number, None)

    def round(self, now: float) -> list[Attempt]:
        """The next attempts that have had their slots for a quantum and were not asked yet."""
        if not self._running or now < self._next:
            return []
        self._next = now + QUANTUM_SLOT_SECONDS
        found = []
        for number in list(self._running)[:MAX_ROUND_ATTEMPTS]:
            attempt = self._running.pop(number)
            self._running[number] = attempt  # the others come first in the next round
            if attempt.asked is None and not attempt.order and now - attempt.since >= QUANTUM_SLOT_SECONDS:
                found.append(attempt)
        return found

    def holding(self, now: float, seconds: float) -> list[Attempt]:
        """The drivers that still hold their slot *seconds* after they were asked, the first asked first."""
        found = [a for a in self._running.values() if a.asked is not None and now - a.asked >= seconds]
        return sorted(found, key=lambda a: a.asked or 0.0)

    def next_deadline(self) -> float:
        """The time at which `round` may next find a driver; infinity: no driver holds a slot."""
        return self._next if self._running else math.inf
