"""How far something is, in words, and how long it goes on."""

from __future__ import annotations

from collections import deque

from park.model import Progress

#: The last so many seconds count, and of them one moment each STEP, so that a pace that changes is followed.
SPAN, STEP = 60.0, 1.0


class Pace:
    """From how far it was when, to when it will be over.

    Only what changes before somebody's eyes counts: before that it may have waited, or have done what is not counted.
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
        elif done > before and (not seen or now >= seen[-1][0] + STEP):
            seen.append((now, done))
        self._units, self._done = progress.units, done
        while len(seen) > 2 and seen[1][0] <= now - SPAN:
            seen.popleft()
        if not seen or not progress.total or done <= seen[0][1]:
            return None
        return max(0.0, progress.total - done) * (now - seen[0][0]) / (done - seen[0][1])


def counted(progress: Progress) -> str:
    """How far it is, for people; empty where nothing has been counted. That units are units goes without saying.

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
    minutes, rest = divmod(round(min(seconds, 1e9)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes:02}:{rest:02}"


def _number(number: float) -> str:
    """An integer where it is one: it reads better."""
    return f"{int(number):,}" if number == int(number) else f"{number:,g}"
