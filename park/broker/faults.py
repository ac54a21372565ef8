"""Faults of the broker itself: messages whose handling fails in a way that no handler foresees.

Such a message may not end the broker. The broker undoes the whole turn that handles it: the broker begins a new life
from its store, as after a restart, and nothing that was acknowledged is lost. The sender is told. From its second fault
on the sender is shut out for a while, each time for longer. A fault at a tick has no sender. If its cause is stored,
the new life repeats it, and after a few such faults the broker stops.
"""

from __future__ import annotations

from collections.abc import Hashable

#: A sender is shut out for this time after its second fault (seconds); the time doubles with each further fault.
SHUT_OUT_SECONDS = 60.0
#: No sender is shut out for longer (seconds).
MAX_SHUT_OUT_SECONDS = 3600.0
#: A sender without a fault for this time begins anew (seconds).
FORGET_SECONDS = 86400.0
#: Senders that are remembered; the one whose fault is oldest is forgotten first.
MAX_SENDERS = 1000
#: The broker stops at this number of faults at ticks within `TICK_SECONDS`.
MAX_TICK_FAULTS = 3
TICK_SECONDS = 60.0


class Faults:
    """The faults of one broker process. All times are monotonic seconds.

    A sender with a key is an account, so that a new connection does not clear its faults. A sender without one is a
    connection.
    """

    def __init__(self) -> None:
        #: faults since the process began
        self.count = 0
        #: by sender: its number of faults, the time of the last, and until when it is shut out
        self._senders: dict[Hashable, tuple[int, float, float]] = {}
        self._ticks: list[float] = []

    def blame(self, sender: Hashable, now: float) -> float:
        """Note that a message of *sender* has failed. Returns the seconds for which the sender is shut out."""
        self.count += 1
        times, last, _ = self._senders.pop(sender, (0, now, 0.0))
        times = 1 if now - last > FORGET_SECONDS else times + 1
        seconds = (
            min(SHUT_OUT_SECONDS * 2.0 ** min(times - 2, 16), MAX_SHUT_OUT_SECONDS) if times > 1 else 0.0
        )
        self._senders[sender] = times, now, now + seconds
        if len(self._senders) > MAX_SENDERS:
            del self._senders[next(iter(self._senders))]
        return seconds

    def shut_out_for(self, sender: Hashable, now: float) -> float:
        """The seconds for which the broker still refuses messages of *sender*; 0: it takes them."""
        found = self._senders.get(sender)
        return 0.0 if found is None else max(0.0, found[2] - now)

    @property
    def any(self) -> bool:
        """Whether some sender may be shut out."""
        return bool(self._senders)

    def at_tick(self, now: float) -> bool:
        """Note that a tick has failed. Returns whether the broker must stop, because a new life does not help."""
        self.count += 1
        self._ticks = [at for at in self._ticks if now - at < TICK_SECONDS] + [now]
        return len(self._ticks) >= MAX_TICK_FAULTS
