"""A search for maxima of the posterior that the chains of a sampler have not visited.

Chains that begin at one maximum seldom cross the valley to another one. They mix well, and R-hat does not show that
the intervals hold for one of several solutions: a sign that does not matter, or two terms of a sum that change places.

The search takes the minima of nllf along each parameter, and random points, and goes a few steps uphill from each. It
reports an end that is about as probable as the best point and far from all draws. It finds no maximum for certain, and
takes about a twentieth of the evaluations of the sampling.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from park.fit.arrays import Array
from park.fit.environment import Env
from park.fit.methods.monitor import Evaluate
from park.fit.methods.starts import LocalUnit, starting_points
from park.fit.numerics.convergence import improved
from park.fit.problem.assembly import Assembly
from park.fit.problem.objective import Objective
from park.model import Log

#: Steps uphill from each point, and the smallest and largest number of points.
_STEPS, _FEWEST, _MOST = 12, 2, 8
#: Share of the evaluations of the sampling that the search may take.
_SHARE = 0.05
#: Points of a scan along one parameter, and the distances at which it begins and ends without limits, in deviations.
_SCAN_POINTS, _SCAN_DEVIATIONS = 24, (5.0, 1000.0)
#: Largest difference in nllf to the best point: another maximum then holds at least about a twentieth of the draws.
_AS_PROBABLE_NLLF = 3.0
#: Difference in nllf from which another maximum counts as better than the best point.
_BETTER_NLLF = 0.5
#: Difference in nllf below which two maxima count as equal.
_EQUAL_NLLF = 0.01


class Uphill(LocalUnit):
    """A unit that goes a few steps uphill from a point, and returns the end and its nllf."""

    def run(self, point: Array) -> tuple[Array, float]:
        """The end (k,) and its nllf; infinity if the model fails there."""
        objective = self.assembly.objective

        def should_stop() -> bool:
            self.env.ready()
            return self.env.should_stop

        try:
            end, _ = improved(objective, point, _STEPS, should_stop)
            return end, objective.nllf(end)
        except Exception:
            return point, math.inf


def unvisited_maximum(assembly: Assembly, best: Array, draws: Array, env: Env, seed: int) -> str:
    """A sentence about a maximum that none of the *draws* (n, k) is near; "" if the search finds none.

    *best* (k,) is the best point of the sampling.
    """
    objective = assembly.objective
    distance = _Distance(draws)
    value = objective.nllf(best)
    cost = _STEPS * (2 * best.size + 1)
    count = min(max(int(_SHARE * len(draws) / cost), _FEWEST), _MOST)
    env.publish(Log(f"looking for maxima that the chains have not visited, from {count} points"))
    points = _scanned(assembly, best, distance, env)[: (count + 1) // 2]
    if env.should_stop:
        return ""
    points += starting_points(objective, best, 1 + count - len(points), seed)[1:]
    ends = [end for end in env.map(Uphill(assembly), points) if end[1] <= value + _AS_PROBABLE_NLLF]
    apart = [(nllf, x) for x, nllf in ends if distance.to(x) > distance.near]
    if not apart:
        return ""
    nllf, x = min(apart, key=lambda end: end[0])
    return _sentence(objective, x, best, nllf - value)


def _scanned(assembly: Assembly, best: Array, distance: _Distance, env: Env) -> list[Array]:
    """The minima of nllf along each parameter, other than *best*, that are far from all draws; the lowest first."""
    evaluate: Any = env.mapper(Evaluate(assembly))
    minima = []
    for j in range(best.size):
        if env.should_stop:
            return []
        points = _across(assembly.objective, best, j, float(distance.deviation[j]))
        row = np.array([value if isinstance(value, float) else math.inf for value in evaluate(points)])
        padded = np.concatenate([[math.inf], row, [math.inf]])
        lowest = np.isfinite(row) & (row < padded[:-2]) & (row < padded[2:])
        minima += [(value, points[n]) for n, value in enumerate(row.tolist()) if lowest[n]]
    minima = [each for each in minima if distance.to(each[1]) > distance.near]
    return [point for _, point in sorted(minima, key=lambda each: each[0])]


def _across(objective: Objective, best: Array, j: int, deviation: float) -> Array:
    """Points (n, k) along parameter *j* in order, with *best* among them.

    They are even between two limits, and otherwise at growing distances.
    """
    low, high = float(objective.low[j]), float(objective.high[j])
    if np.isfinite(high - low):
        values = np.linspace(low, high, _SCAN_POINTS + 2)[1:-1]
    else:
        away = deviation * np.geomspace(*_SCAN_DEVIATIONS, _SCAN_POINTS // 2)
        values = np.clip(best[j] + np.concatenate([-away, away]), low, high)
    points = np.repeat(best[None, :], _SCAN_POINTS + 1, axis=0)
    points[:, j] = np.sort(np.append(values, best[j]))
    return points


class _Distance:
    """The distance of a point to the nearest of the *draws* (n, k), in standard deviations along their own axes.

    *deviation* (k,) is the standard deviation of each parameter.
    """

    def __init__(self, draws: Array) -> None:
        deviation = draws.std(axis=0)
        deviation[~(deviation > 0)] = 1.0
        self.deviation = deviation
        #: a point so near belongs to the maximum that the chains have visited
        self.near = 3 + math.sqrt(deviation.size)
        scaled = draws / deviation
        values, axes = np.linalg.eigh(np.atleast_2d(np.cov(scaled.T)))
        self._axes = (axes / np.sqrt(np.maximum(values, 1e-6))) / deviation[:, None]
        self._draws = draws @ self._axes

    def to(self, x: Array) -> float:
        """The distance of *x* (k,)."""
        return float(np.sqrt(np.square(self._draws - x @ self._axes).sum(axis=1).min()))


def _sentence(objective: Objective, x: Array, best: Array, gain: float) -> str:
    away = np.abs(x - best) / np.maximum(np.abs(x) + np.abs(best), 1e-300)
    shown = [int(j) for j in np.argsort(-away, kind="stable")[:3]]
    where = ", ".join(f"{objective.names[j]} = {x[j]:.4g}" for j in sorted(shown))
    as_high = "a higher one" if gain < -_BETTER_NLLF else "another one about as high"
    apart = f"{abs(gain):.2g} {'higher' if gain > 0 else 'lower'}" if abs(gain) >= _EQUAL_NLLF else "the same"
    return (
        f"all draws are from one maximum of the likelihood, and there is {as_high} at {where}, where the negative log "
        f"likelihood is {apart}: the intervals hold for the first alone; set limits that leave one of them, or start the "
        "chains between the limits (init='lhs')"
    )
