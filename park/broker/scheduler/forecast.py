"""The forecast of the queue: about how much work is due before a job's next unit.

A table shows the forecast of every waiting job, of ten thousand at once. So the tags of a moment are sorted only once,
those of the owners and those of each owner's jobs, and summed up. Then each answer takes two searches.
"""

from __future__ import annotations

import functools
from bisect import bisect_left
from collections.abc import Callable, Iterable
from itertools import accumulate


class _Sums:
    """Weights that lie at tags: how much weight x distance there is before a tag."""

    def __init__(self, weights: Iterable[tuple[float, float]]) -> None:
        pairs = sorted(weights)
        self._tags = [tag for tag, _ in pairs]
        self._weights = list(accumulate((weight for _, weight in pairs), initial=0.0))
        self._moments = list(accumulate((weight * tag for tag, weight in pairs), initial=0.0))

    def before(self, tag: float) -> float:
        """The sum of weight x (tag - entry's tag) over the entries with a lower tag."""
        n = bisect_left(self._tags, tag)
        return max(0.0, tag * self._weights[n] - self._moments[n])


class Forecast:
    """The queue at one moment. *jobs*: for each its owner, the owner's tag, its own tag, its order of arrival, its
    weight and its share.

    >>> line = Forecast([("ann", 0.0, 0.0, 1, 1.0, 0.25), ("ann", 0.0, 3.0, 2, 1.0, 0.25), ("bob", 2.0, 0.0, 3, 1.0, 0.5)])
    >>> line.ahead("ann", 0.0, 3.0, 2), line.ahead("bob", 2.0, 0.0, 3), line.ahead("ann", 0.0, 3.0, 2, unit=60.0)
    (3.0, 2.0, 120.0)
    """

    def __init__(self, jobs: Iterable[tuple[str, float, float, int, float, float]]) -> None:
        tags: dict[str, float] = {}
        shares: dict[str, float] = {}
        own: dict[str, list[tuple[float, float]]] = {}
        turns: dict[str, list[tuple[float, int]]] = {}
        for owner, owner_tag, tag, order, weight, share in jobs:
            if owner not in tags:
                tags[owner], shares[owner], own[owner], turns[owner] = owner_tag, 0.0, [], []
            own[owner].append((tag, weight))
            turns[owner].append((tag, order))
            shares[owner] += share
        owners = _Sums((tags[owner], share) for owner, share in shares.items())
        #: by owner: the sums of the owner's jobs, their turns, and the owner's part of all slots
        self._own = {
            owner: (_Sums(own[owner]), sorted(turns[owner]), max(share, 1e-9))
            for owner, share in shares.items()
        }
        self._no_owner: tuple[_Sums, list[tuple[float, int]], float] = (_Sums(()), [], 1e-9)
        self._before: Callable[[float], float] = functools.cache(owners.before)

    def ahead(self, owner: str, owner_tag: float, tag: float, order: int, unit: float = 0.0) -> float:
        """About how many slot-seconds of other jobs are due before the next unit of a job with these tags.

        Each job of the same owner with a lower tag has one unit dealt before, which is taken to need *unit*
        slot-seconds, as units of this job do (0: unknown). Meanwhile other owners get their shares.
        """
        own, turns, part = self._own.get(owner, self._no_owner)
        ahead = own.before(tag) + self._before(owner_tag) / part
        return max(ahead, bisect_left(turns, (tag, order)) * unit / part) if unit else ahead
