"""Estimates of how long one unit takes and how large its result is, by owner and code."""

from __future__ import annotations

from collections import OrderedDict

from park.broker.entities.maps import MAX_CHUNK_BYTES, MAX_CHUNK_UNITS

#: The estimate for the first unit of unknown code, and the largest guess while the first units run (seconds).
FIRST_GUESS_SECONDS, MAX_GUESS_SECONDS = 0.01, 60.0
#: Functions whose times are remembered; the one that ran longest ago is forgotten first.
MAX_ESTIMATES = 100_000


class Estimates:
    """The seconds that a unit takes: a running mean by (owner, code), over all maps."""

    def __init__(self) -> None:
        self._mean: OrderedDict[tuple[str, bytes], float] = OrderedDict()
        #: bytes of one result, of code whose results are large
        self._bytes: dict[tuple[str, bytes], float] = {}
        #: when the first unit was dealt, of code that has not answered yet
        self._begun: dict[tuple[str, bytes], float] = {}

    def get(self, owner: str, function: bytes) -> float | None:
        """Seconds a unit, None if none was ever measured."""
        return self._mean.get((owner, function))

    def weigh(self, owner: str, function: bytes, units: int, size: int) -> None:
        """Count *size* bytes for the results of *units* units."""
        key = (owner, function)
        if MAX_CHUNK_BYTES * units < size * MAX_CHUNK_UNITS:
            old = self._bytes.get(key, size / units)
            self._bytes[key] = 0.6 * old + 0.4 * size / units
            if len(self._bytes) > MAX_ESTIMATES:
                del self._bytes[next(iter(self._bytes))]
        elif key in self._bytes:
            del self._bytes[key]

    def most(self, owner: str, function: bytes) -> int:
        """Units whose results fit in a chunk."""
        size = self._bytes.get((owner, function))
        return MAX_CHUNK_UNITS if size is None else max(1, int(MAX_CHUNK_BYTES / size))

    def guess(self, owner: str, function: bytes, now: float) -> float:
        """Seconds to charge for a unit. While no unit was measured, the estimate is the time that the first one has run
        so far.

        Otherwise a job of long units would look cheap until its first unit ends, and would get every slot meanwhile.
        """
        mean = self._mean.get((owner, function))
        if mean is not None:
            return mean
        age = now - self._begun.setdefault((owner, function), now)
        return min(max(FIRST_GUESS_SECONDS, age), MAX_GUESS_SECONDS)

    def begin_anew(self, owner: str, function: bytes) -> None:
        """Forget attempts under way that were lost or are drivers: they say nothing of the run time."""
        self._begun.pop((owner, function), None)

    def learn(self, owner: str, function: bytes, units: int, seconds: float) -> None:
        self._begun.pop((owner, function), None)
        new = max(seconds, 1e-7) / units
        old = self._mean.get((owner, function))
        self._mean[owner, function] = new if old is None else 0.6 * old + 0.4 * new
        if old is None and len(self._mean) > MAX_ESTIMATES:
            self._mean.popitem(last=False)
