"""The times at which a kernel leaves by itself, and its progress in leaving."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection
from typing import TYPE_CHECKING

from msgspec import Struct, field
from msgspec.structs import replace

from park.model import DRAIN_SECONDS

if TYPE_CHECKING:  # `park kernels` shows a default of this module, and its help comes at once
    from park.wire import messages

#: The part of the grace in which drivers may make a checkpoint before the kernel takes no new work.
CHECKPOINT_SHARE = 0.75
#: If the time until the kernel is killed is short: the parts of it after which running work is handed back, and after
#: which the kernel is gone.
HAND_BACK_SHARE, GONE_SHARE = 0.55, 0.85
#: Seconds after an abort in which the body may end, before its process is killed.
ABORT_GRACE_SECONDS = 2.0
#: Seconds that a process may take to clean up after it was told to end.
CLEANUP_SECONDS = 5.0
#: Seconds that stay unused at the end of a kernel's time.
MARGIN_SECONDS = 3.0


class ShutdownPolicy(Struct):
    """The time at which a kernel that came at *began* leaves by itself. Times are seconds; None: it does not.

    *limit*: its whole time; it begins to drain early enough. *idle*: the time without work after which it leaves. *away*:
    the time without a broker after which it leaves.
    *grace*: the time that running work has when the kernel leaves.
    """

    began: float
    limit: float | None = None
    idle: float | None = None
    away: float | None = None
    grace: float = DRAIN_SECONDS
    #: seconds that leaving may take beside the grace
    reserve: float = ABORT_GRACE_SECONDS + CLEANUP_SECONDS + MARGIN_SECONDS

    @property
    def needs(self) -> float:
        """Seconds that leaving may take."""
        return self.grace + self.reserve

    def within(self, seconds: float) -> ShutdownPolicy:
        """The policy in an allocation that ends in *seconds*. Where it is short, leaving takes half of it at most.

        >>> policy = ShutdownPolicy(0.0, limit=None, grace=6.0)
        >>> policy.within(3600.0).needs, policy.within(20.0).needs
        (16.0, 10.0)
        """
        policy = replace(self, limit=seconds if self.limit is None else min(seconds, self.limit))
        assert policy.limit is not None
        if policy.limit >= 2 * self.needs:
            return policy
        grace = min(self.grace, policy.limit / 4)
        return replace(policy, grace=grace, reserve=min(self.reserve, policy.limit / 2 - grace))

    def left(self, now: float) -> float:
        """Seconds of the kernel's time that are left."""
        return math.inf if self.limit is None else max(0.0, self.began + self.limit - now)

    def due(self, now: float, worked_at: float, away: float = 0.0) -> str:
        """Why the kernel leaves now, in words; "": it stays. *worked_at*: when it last had work. *away*: seconds for which
        it has missed the broker.
        """
        if self.limit is not None and now >= self.began + self.limit - self.needs:
            return "its time is over"
        if self.idle is not None and now >= worked_at + self.idle:
            return f"it had no work for {self.idle:g} s"
        if self.away is not None and away >= self.away:
            return f"no broker has answered for {self.away:g} s"
        return ""

    def deadline(self, worked_at: float) -> float | None:
        """The time at which `due` may next give a reason, as far as is known."""
        if self.limit is None:
            return None if self.idle is None else worked_at + self.idle
        over = self.began + self.limit - self.needs
        return over if self.idle is None else min(over, worked_at + self.idle)


def _grace_within(grace: float, left: float) -> float:
    """Seconds that running work may go on where the kernel is killed in *left* seconds; *grace* where that is possible.

    >>> _grace_within(6.0, 30.0), _grace_within(6.0, 2.0)
    (6.0, 1.1)
    """
    return min(grace, max(left - ABORT_GRACE_SECONDS - MARGIN_SECONDS, HAND_BACK_SHARE * left))


class DriverCheckpoints(Struct):
    """The checkpoints that a leaving kernel has asked its drivers for."""

    #: attempts that were asked
    asked: set[int] = field(default_factory=set)
    #: asked attempts whose new checkpoint is not on disk
    missing: set[int] = field(default_factory=set)
    #: the numbers of the new checkpoints that were made, by attempt
    made: dict[int, int] = field(default_factory=dict)

    def ask(self, attempt: int) -> None:
        """The attempt is asked for a checkpoint."""
        self.asked.add(attempt)
        self.missing.add(attempt)

    def make(self, attempt: int, number: int) -> None:
        """The attempt has made a checkpoint."""
        if attempt in self.missing:
            self.made.setdefault(attempt, number)

    def durable(self, attempt: int, number: int) -> bool:
        """Checkpoint *number* of the attempt is on disk. Returns whether it is the one that was asked for."""
        if attempt in self.missing and number >= self.made.get(attempt, number + 1):
            self.missing.discard(attempt)
            return True
        return False

    def has(self, attempt: int) -> bool:
        """Whether the checkpoint that the attempt was asked for is on disk."""
        return attempt in self.asked and attempt not in self.missing


class ShutdownNotice(Struct):
    """A kernel will drain once its drivers have made their checkpoints, or at *at*; the other times as of `Shutdown`."""

    reason: str
    at: float
    until: float
    ends: float


def notice_of(reason: str, now: float, grace: float, left: float = math.inf) -> ShutdownNotice:
    """A notice that is given now, with *grace* seconds, to a kernel that may be killed in *left* seconds."""
    grace = _grace_within(grace, left)
    return ShutdownNotice(reason, now + CHECKPOINT_SHARE * grace, now + grace, now + GONE_SHARE * left)


class Shutdown(Struct):
    """A kernel that leaves: why, when it hands back what still runs, and what it has handed back.

    *ends*: when the kernel may be killed.
    """

    reason: str
    until: float
    ends: float = math.inf
    #: the running attempts were told to end at once
    forced: bool = False
    #: units that were handed back, by job
    units: Counter[int] = field(default_factory=Counter)
    #: jobs whose driver was handed back
    drivers: set[int] = field(default_factory=set)

    @property
    def gives_up(self) -> float:
        """The time at which the kernel leaves, even if work is left."""
        return min(self.until + ABORT_GRACE_SECONDS + CLEANUP_SECONDS + MARGIN_SECONDS / 2, self.ends)

    def hand_back(self, run: messages.Run, answered: int = 0) -> None:
        """Count the units of *run* as handed back, without the first *answered* ones."""
        if run.once:
            self.drivers.add(run.job)
        else:
            self.units[run.job] += run.count - answered

    def __str__(self) -> str:
        """Everything that was handed back, in words."""
        parts = []
        if count := self.units.total():
            parts.append(f"{count} unit{'s'[: count != 1]} of {_jobs(self.units.keys())}")
        if self.drivers:
            parts.append(_jobs(self.drivers))
        return f"{' and '.join(parts)} handed back" if parts else "nothing had to be handed back"


def _jobs(numbers: Collection[int]) -> str:
    listed = ", ".join(map(str, sorted(numbers)[:20])) + (", ..." if len(numbers) > 20 else "")
    return f"job{'s'[: len(numbers) != 1]} {listed}"
