"""The running times of units with a limit: from their beginning, without the time in which they wait for a map or a slot.

A process tells when the first unit of a chunk begins, and then, once in `park.slot.chunk_run.CHANNEL_POLL_SECONDS` at
most, that another one has begun. So the limit of a chunk of several units is applied a little later than that of a
single unit, and never too early.
"""

from __future__ import annotations

from msgspec import Struct

from park.wire.messages import Run

#: Seconds that a unit of a chunk of several has beyond its limit: twice the time between two reports of the process.
CHUNK_SLACK_SECONDS = 0.1


class _UnitTimer(Struct):
    """A unit that runs. Times are seconds."""

    #: how long it may run
    limit: float
    #: how long it had run before *since*
    ran: float = 0.0
    #: since when it runs; None: it waits, or it began after the last tick
    since: float | None = None
    waits: bool = False

    @property
    def until(self) -> float:
        """The time at which the unit reaches its limit if it goes on running."""
        return 0.0 if self.since is None else self.since + self.limit - self.ran


class UnitTimers:
    """The timers by attempt. Times are those of ticks."""

    def __init__(self) -> None:
        self._timers: dict[int, _UnitTimer] = {}

    def __bool__(self) -> bool:
        """Whether the time of any unit is limited."""
        return bool(self._timers)

    def begin(self, run: Run) -> None:
        """A unit of the attempt begins."""
        if run.limit:
            self._timers[run.attempt] = _UnitTimer(
                run.limit + (CHUNK_SLACK_SECONDS if run.count > 1 else 0.0)
            )

    def wait(self, attempt: int, now: float) -> None:
        """The unit of the attempt waits."""
        timer = self._timers.get(attempt)
        if timer is not None:
            if timer.since is not None:
                timer.ran += now - timer.since
            timer.since, timer.waits = None, True

    def go_on(self, attempt: int) -> None:
        """The unit of the attempt runs again."""
        timer = self._timers.get(attempt)
        if timer is not None:
            timer.waits = False

    def end(self, attempt: int) -> None:
        """The attempt has ended."""
        self._timers.pop(attempt, None)

    def tick(self, now: float) -> list[int]:
        """The attempts whose unit has run longer than it may."""
        late = []
        for attempt, timer in self._timers.items():
            if timer.since is None and not timer.waits:
                timer.since = now
            elif timer.since is not None and now >= timer.until:
                late.append(attempt)
        return late

    def deadline(self) -> float | None:
        """The time at which `tick` has something to do; at once, where a unit has begun."""
        return min((timer.until for timer in self._timers.values() if not timer.waits), default=None)
