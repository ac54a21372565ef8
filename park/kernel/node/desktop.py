"""Whether a desktop serves now: the decision from readings of the machine and the time.

Jobs of others are guests on a desktop. While its user is at the keyboard, the desktop serves the user's own jobs only,
or with *only_idle* no job. On battery, or when other programs need the processors, it serves no job. A pause begins at
once. It ends after some time without a reason for it, so that jobs do not come and go with each key press.
"""

from __future__ import annotations

from msgspec import Struct

from park.model import Serves

#: The choices, in the order from the least work to the most.
_ORDER = (Serves.NONE, Serves.OWN, Serves.ALL)


class Readings(Struct, frozen=True):
    """Facts about a machine, each None where it is not known. *others*: the processors that other programs use."""

    at_keyboard: bool | None = None
    on_battery: bool | None = None
    others: float | None = None


class Verdict(Struct, frozen=True):
    """The owners whose new work the desktop takes, and why it takes less than it might, in words."""

    serves: Serves
    why: str = ""


def load_limit(processors: int, slots: int) -> float:
    """The processors that other programs may use beside the *slots*: those that are not lent, but at least a quarter of
    all.

    >>> load_limit(8, 4), load_limit(8, 8)
    (4.0, 2.0)
    """
    return max(float(processors - slots), processors / 4)


class Donation:
    """The decision whether a desktop lends its slots now. *most*: processors that other programs may use. *settle*:
    seconds without a reason for a pause after which it ends.
    """

    def __init__(self, only_idle: bool, most: float, settle: float) -> None:
        self._only_idle = only_idle
        self._most = most
        self._settle = settle
        self._verdict: Verdict | None = None
        #: since when the readings allow more than the last verdict; None: they allow no more
        self._easier_since: float | None = None

    def decide(self, readings: Readings, now: float) -> Verdict:
        """The verdict from now on."""
        wanted, held = self._wanted(readings), self._verdict
        if held is None or _ORDER.index(wanted.serves) <= _ORDER.index(held.serves):
            self._easier_since = None
            self._verdict = wanted
            return wanted
        if self._easier_since is None:
            self._easier_since = now
        if now < self._easier_since + self._settle:
            return held
        self._easier_since = None
        self._verdict = wanted
        return wanted

    def _wanted(self, readings: Readings) -> Verdict:
        """The verdict by the readings alone."""
        if readings.on_battery:
            return Verdict(Serves.NONE, "it runs on battery")
        if readings.others is not None and readings.others > self._most:
            return Verdict(Serves.NONE, "other programs need its processors")
        if readings.at_keyboard:
            return Verdict(Serves.NONE if self._only_idle else Serves.OWN, "its user is at the keyboard")
        return Verdict(Serves.ALL)
