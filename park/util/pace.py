"""The progress of a job in words, and the time that is left."""

from __future__ import annotations

import math
from collections import deque

from park.model import Progress

#: Numbers from this size on are shown with three digits and an exponent.
MAX_WRITTEN_OUT = 1e15
#: The pace is that of the last SPAN_SECONDS, with one moment in each STEP_SECONDS, so that it follows changes.
SPAN_SECONDS, STEP_SECONDS = 60.0, 1.0


class Pace:
    """An estimate of the time that is left, from the progress at several moments.

    Only changes that this object has seen count: before them the job may have waited, or done work without progress.
    """

    def __init__(self) -> None:
        self._units = ""
        self._done: float | None = None
        #: moments at which more was done than before
        self._seen: deque[tuple[float, float]] = deque()

    def left(self, progress: Progress, now: float) -> float | None:
        """Seconds until all is done, at the pace of the last minute; None where nothing tells.

        >>> pace = Pace()
        >>> [pace.left(Progress(done, 100), now) for now, done in enumerate([0, 0, 10, 20, 40])]
        [None, None, None, 8.0, 4.0]
        """
        done, before, seen = progress.done, self._done, self._seen
        if progress.units != self._units or before is None or done < before:  # counted from here on
            seen.clear()
        elif done > before and (not seen or now >= seen[-1][0] + STEP_SECONDS):
            seen.append((now, done))
        self._units, self._done = progress.units, done
        while len(seen) > 2 and seen[1][0] <= now - SPAN_SECONDS:
            seen.popleft()
        if not seen or not progress.total or done <= seen[0][1]:
            return None
        return max(0.0, progress.total - done) * (now - seen[0][0]) / (done - seen[0][1])


def counted(progress: Progress) -> str:
    """The progress, for people; empty where nothing has been counted. The word "units" is left out.

    >>> [counted(Progress(*each)) for each in [(1200.0, 10000, "samples"), (3, 7, "units"), (3, 0), (0, 0)]]
    ['1,200/10,000 samples', '3/7', '3 done', '']
    """
    units = progress.units if progress.units != "units" else ""
    if not progress.total:
        return f"{_number(progress.done)} {units or 'done'}" if progress.done else ""
    return f"{_number(progress.done)}/{_number(progress.total)} {units}".rstrip()


def span(seconds: float | None) -> str:
    """A time that is left, as bars show it.

    >>> span(75), span(7500.0), span(None)
    ('01:15', '2:05:00', '?')
    """
    if seconds is None:
        return "?"
    minutes, rest = divmod(round(min(max(seconds, 0.0), 1e9)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes:02}:{rest:02}"


def ratio(part: float, whole: float) -> float:
    """*part* of *whole*, 0 where that is no number.

    >>> ratio(3, 4), ratio(1.0, 0.0), ratio(1e308, 1e-300), ratio(10**400, 10**399)
    (0.75, 0.0, 0.0, 10.0)
    """
    try:
        found = part / whole if whole else 0.0
    except OverflowError:
        return 0.0
    return found if math.isfinite(found) else 0.0


def bounded(number: float, digits: int = 0) -> str:
    """*number* with *digits* decimals and with commas; short also for a huge number, "?" for one that is not finite.

    >>> bounded(1234.5, 1), bounded(-1e300, 2), bounded(10**400), bounded(float("nan"))
    ('1,234.5', '-1e+300', '?', '?')
    """
    try:
        value = float(number)
    except OverflowError:
        return "?"
    if not math.isfinite(value):
        return "?"
    return f"{number:,.{digits}f}" if abs(value) < MAX_WRITTEN_OUT else f"{value:.3g}"


def _number(number: float) -> str:
    """An integer where it is one: it reads better."""
    whole = isinstance(number, int) or (math.isfinite(number) and number == int(number))
    return bounded(number) if whole or abs(number) >= MAX_WRITTEN_OUT or number != number else f"{number:,g}"
