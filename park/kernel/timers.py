"""How long units with a limit have run: from when they begin, without the time that they wait in a map or without a slot.

A process tells when the first unit of a chunk begins, and then, once in a while, that another does. So the limit of a
chunk of several units is looked at a little later than that of a single one, and never too early.
"""

from __future__ import annotations

from dataclasses import dataclass

from park.wire.messages import Run

#: A process tells that another unit of its chunk runs when it has not for `park.kernel.slot.LOOK` seconds; twice that.
SLACK = 0.1


@dataclass(slots=True)
class _Timer:
    """A unit that runs."""

    #: seconds that it may run, and has run before *since*
    most: float
    ran: float = 0.0
    #: None: it waits, or it began after the last tick
    since: float | None = None
    waits: bool = False

    @property
    def until(self) -> float:
        """When it will have run as long as it may, if it runs on."""
        return 0.0 if self.since is None else self.since + self.most - self.ran


class Timers:
    """See the module; by attempt. Times are those of ticks."""

    def __init__(self) -> None:
        self._timers: dict[int, _Timer] = {}

    def __bool__(self) -> bool:
        """Whether the time of any unit is limited."""
        return bool(self._timers)

    def begin(self, run: Run) -> None:
        """A unit of the attempt begins."""
        if run.limit:
            self._timers[run.attempt] = _Timer(run.limit + (SLACK if run.count > 1 else 0.0))

    def wait(self, attempt: int, now: float) -> None:
        """Its unit waits."""
        timer = self._timers.get(attempt)
        if timer is not None:
            if timer.since is not None:
                timer.ran += now - timer.since
            timer.since, timer.waits = None, True

    def go_on(self, attempt: int) -> None:
        """It waits no more."""
        timer = self._timers.get(attempt)
        if timer is not None:
            timer.waits = False

    def end(self, attempt: int) -> None:
        """It is over."""
        self._timers.pop(attempt, None)

    def tick(self, now: float) -> list[int]:
        """The attempts whose unit has run for longer than it may."""
        late = []
        for attempt, timer in self._timers.items():
            if timer.since is None and not timer.waits:
                timer.since = now
            elif timer.since is not None and now >= timer.until:
                late.append(attempt)
        return late

    def deadline(self) -> float | None:
        """When `tick` has something to do; at once, where a unit has begun."""
        return min((timer.until for timer in self._timers.values() if not timer.waits), default=None)
