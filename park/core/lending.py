"""Drivers that hold a slot although another job is due.

A driver that waits in a map has given its slot back. One that computes by itself, a serial optimizer for instance,
would keep it for days: it is asked to lend it at its next safe point, where the fit layer is in every iteration.
"""

from __future__ import annotations

import math

from park.core.fairshare import QUANTUM
from park.core.work import Attempt

#: So many drivers are looked at in one round.
LOOK = 64


class Lending:
    """The drivers that hold a slot now, and when to look at them again."""

    def __init__(self) -> None:
        self._running: dict[int, Attempt] = {}
        self._next = 0.0

    def begin(self, attempt: Attempt) -> None:
        """The driver has got a slot."""
        self._running[attempt.number] = attempt

    def end(self, attempt: Attempt) -> None:
        """It holds it no more."""
        self._running.pop(attempt.number, None)

    def round(self, now: float) -> list[Attempt]:
        """The next drivers to look at: those who have had their slot for a quantum and were not asked yet."""
        if not self._running or now < self._next:
            return []
        self._next = now + QUANTUM
        found = []
        for number in list(self._running)[:LOOK]:
            attempt = self._running.pop(number)
            self._running[number] = attempt  # the others come first in the next round
            if attempt.asked is None and not attempt.told and now - attempt.since >= QUANTUM:
                found.append(attempt)
        return found

    def holding(self, now: float, seconds: float) -> list[Attempt]:
        """Those who were asked so long ago and still hold their slot, whoever was asked first."""
        found = [a for a in self._running.values() if a.asked is not None and now - a.asked >= seconds]
        return sorted(found, key=lambda a: a.asked or 0.0)

    def next_deadline(self) -> float:
        """When `round` may next find somebody."""
        return self._next if self._running else math.inf
