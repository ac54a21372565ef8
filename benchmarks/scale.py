"""The sizes of all measurements, and the words that all benchmarks share."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass

#: Slots and the peers' workers.
SLOTS = 2

#: One system's measurement, or one round's: row -> column -> number.
Rows = dict[str, dict[str, float]]
#: All rounds': row -> column -> one number a round.
Values = Mapping[str, Mapping[str, list[float]]]


@dataclass(frozen=True, slots=True)
class Scale:
    """The counts of one size of measurement."""

    #: calls in turn, and beside a busy thread
    calls: int = 500
    busy_calls: int = 200
    #: no-op units of the throughput
    units: int = 200_000
    #: of the fit-like run, and the points of each
    generations: int = 100
    points: int = 50
    #: how often a point's numpy expression is evaluated, so that it takes 1 ms; 0: not calibrated yet
    repeats: int = 0
    #: seconds for which shares are counted, and urgent jobs
    sharing: float = 60.0
    urgent: int = 25
    #: seconds for which the table changes under this number of mirrors
    mirror: int = 20
    mirrors: int = 50
    #: units while clients do not read, of which three in ten thousand have a megabyte as their result
    memory: int = 1_000_000
    #: bytes of one long payload
    payload: int = 50 << 20
    #: bytes of one long body
    body: int = 200_000_000
    #: cold starts in a round
    starts: int = 3
    #: chunks that the dispatcher deals
    decisions: int = 3000
    #: jobs in the home of a broker that comes back
    jobs: int = 10_000


QUICK = Scale(
    calls=20,
    busy_calls=3,
    units=2000,
    generations=3,
    points=10,
    starts=1,
    decisions=200,
    jobs=50,
    sharing=1.0,
    mirror=1,
    mirrors=5,
    memory=2000,
    payload=3 << 20,
    body=2 << 20,
    urgent=2,
)


@dataclass(frozen=True, slots=True)
class Mark:
    """A figure to reach: *column* of *row* at most (or at least) *bound*."""

    row: str
    column: str
    bound: float
    at_least: bool = False

    def judge(self, values: Values) -> tuple[float | None, bool]:
        """The median over the rounds (None: not measured), and whether it is met."""
        measured = values.get(self.row, {}).get(self.column)
        if not measured:
            return None, False
        median = statistics.median(measured)
        return median, median >= self.bound if self.at_least else median <= self.bound
