"""How long a kernel stays, and what it hands back when it leaves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # `park kernels` shows a default of this module, and its help comes at once
    from park.wire import messages

#: Seconds that units and drivers may go on while their kernel drains.
DRAIN = 6.0
#: Seconds that an aborted body has before its process is killed.
GRACE = 2.0
#: Seconds a process that was let go may take to clean up.
LEAVE = 5.0
#: Seconds that are left at the end of a kernel's time, besides.
SPARE = 3.0


@dataclass(slots=True)
class Term:
    """When a kernel that has come at *began* leaves by itself. Times are seconds, None: it does not.

    *limit*: its whole time; it begins to drain early enough. *idle*: it leaves after so long without work. *grace*:
    what it runs may go on for so long.
    """

    began: float
    limit: float | None = None
    idle: float | None = None
    grace: float = DRAIN

    @property
    def needs(self) -> float:
        """Seconds that leaving may take."""
        return self.grace + GRACE + LEAVE + SPARE

    def due(self, now: float, worked: float) -> str:
        """Why it shall leave now, in words; "": it stays. It *worked* last at that time; if it works, that is now."""
        if self.limit is not None and now >= self.began + self.limit - self.needs:
            return "its time is over"
        if self.idle is not None and now >= worked + self.idle:
            return f"it had no work for {self.idle:g} s"
        return ""

    def deadline(self, worked: float) -> float | None:
        """When `due` may next say something, as far as is known."""
        if self.limit is None:
            return None if self.idle is None else worked + self.idle
        over = self.began + self.limit - self.needs
        return over if self.idle is None else min(over, worked + self.idle)


@dataclass(slots=True)
class Leave:
    """A kernel leaves: why, when it hands back what still runs, and what it has handed back."""

    reason: str
    until: float
    #: what runs was told to end now
    forced: bool = False
    #: units that were handed back, by job, and jobs whose driver was
    units: Counter[int] = field(default_factory=Counter)
    drivers: set[int] = field(default_factory=set)

    @property
    def gives_up(self) -> float:
        """When it goes, whatever has not been done."""
        return self.until + GRACE + LEAVE + SPARE / 2

    def back(self, run: messages.Run, answered: int = 0) -> None:
        """The units of *run* behind the first ones, which are *answered*, are handed back."""
        if run.once:
            self.drivers.add(run.job)
        else:
            self.units[run.job] += run.count - answered

    def __str__(self) -> str:
        """What was handed back, in words."""
        parts = []
        if count := self.units.total():
            parts.append(f"{count} unit{'s'[: count != 1]} of {_jobs(self.units.keys())}")
        if self.drivers:
            parts.append(_jobs(self.drivers))
        return f"{' and '.join(parts)} handed back" if parts else "nothing had to be handed back"


def _jobs(numbers: Collection[int]) -> str:
    listed = ", ".join(map(str, sorted(numbers)[:20])) + (", ..." if len(numbers) > 20 else "")
    return f"job{'s'[: len(numbers) != 1]} {listed}"
