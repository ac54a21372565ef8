"""Compares the promise of a covariance with the likelihood at one standard error of each parameter.

If parameter j moves by one standard error, and the others follow to the minimum there, the negative log likelihood (nllf)
rises by 1/2. Derivatives by short steps can promise something else: the slopes of a model with a fast ripple, or of a
table without interpolation, say nothing about a standard error. So nllf is evaluated once for each parameter, on the line
on which the covariance expects the minima.

A smaller rise proves that the standard error is too small: the minimum at that distance is lower still. A larger rise
may mean that the minima lie on a curve. Then parameters are moved alone, by their conditional standard errors, over
which even a curved valley is straight. Where a rise is not the promised one, it is measured on both sides, and at shorter
distances: a promise that holds there belongs to a smooth model that is not quadratic.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from park.fit.arrays import Array

#: Least and largest ratio of a rise to the promised one that keeps the promise, and that of a likelihood which is nearly
#: quadratic: the standard error then is right within a factor of 1.4.
_LEAST_RATIO, _LARGEST_RATIO = 0.8, 1.25
_LEAST_QUADRATIC_RATIO, _LARGEST_QUADRATIC_RATIO = 0.5, 2.0
#: Ratio of a rise to the promised one above which the promise has nothing to do with nllf.
_STEEP_RATIO = 10.0
#: Least growth of the excess of a ratio over 1, from one standard error to a quarter of it, at a kink. A sharp one has 4.
_KINK_GROWTH = 2.0
#: Ratio of the rises at all distances below which nllf is flat.
_FLAT_RATIO = 0.1
#: Shorter distances, as parts of the far one, which is a standard error or the way to a limit.
_NEAR_RATIOS = (0.25, 0.05)
#: Least ratio of a promised rise to the rounding noise of nllf.
_LEAST_NOISE_RATIO = 20.0
#: Change of nllf by a standard error above which one side says nothing: the gradient may be as wrong as the covariance.
_LARGEST_SLOPE = 0.2
#: A standard error below this number of rounding units of its value cannot be checked.
_LEAST_SPACINGS = 1e3
#: Rise of nllf at a conditional standard error, its tolerance as a factor, and the number of trials to find it.
_RISE, _RISE_FACTOR, _RISE_TRIALS = 0.5, 3.0, 20


class ProfileCheck(NamedTuple):
    """The ratios of the rise of nllf to the promised one, each (k,).

    *far* is the ratio at one standard error, and *near* the ratio closest to 1 at shorter distances. *alone* and
    *alone_near* are those of parameters that move alone. A ratio is nan where it is not known: *far* is always asked for,
    the others only where they are needed. *largest* is the largest ratio at any distance, without regard to the slope at
    the minimum. *lowest* (k,) is the point with the least nllf, and *drop* the distance of nllf below that of the
    minimum.
    """

    far: Array
    near: Array
    alone: Array
    alone_near: Array
    largest: Array
    lowest: Array
    drop: float

    @property
    def rough(self) -> bool:
        """Whether derivatives by short steps are of no use."""
        small = (self.far < _LEAST_RATIO) & _unexpected(self.near)
        return bool(small.any() or (_unexpected(self.alone) & _unexpected(self.alone_near)).any())

    @property
    def steep(self) -> bool:
        """Whether nllf rises along a parameter as no slope of the residuals tells: they have second derivatives alone."""
        return bool((np.fmin(self.far, self.alone) > _STEEP_RATIO).any())

    @property
    def kinked(self) -> bool:
        """Whether nllf rises along a parameter in a straight line: the nearer, the larger is the ratio."""
        return bool(
            ((self.alone > _LARGEST_RATIO) & (self.alone_near - 1 > _KINK_GROWTH * (self.alone - 1))).any()
        )

    @property
    def bent(self) -> NDArray[np.bool_]:
        """The parameters over whose standard error the likelihood is not quadratic, shape (k,)."""
        large = np.fmin(self.far, self.alone) > _LARGEST_QUADRATIC_RATIO
        return (self.far < _LEAST_QUADRATIC_RATIO) | (large & ~np.isnan(self.alone))

    @property
    def flat(self) -> NDArray[np.bool_]:
        """The parameters along which nllf hardly rises at any distance, shape (k,): the point lies on a plateau."""
        # a slope that no distance bears out leaves ratios below zero
        return (self.largest < _FLAT_RATIO) | (np.maximum(self.far, self.near) < _FLAT_RATIO)

    @property
    def kept(self) -> bool:
        """Whether the likelihood keeps each promise."""
        return not (_unexpected(self.far) & ~(np.abs(self.alone - 1) < _LARGEST_RATIO - 1)).any()


def _unexpected(ratios: Array | float) -> NDArray[np.bool_]:
    """The ratios that are known and break the promise, shape (k,)."""
    return np.less(ratios, _LEAST_RATIO) | np.greater(ratios, _LARGEST_RATIO)


def check_profile(
    nllf: Callable[[Array], float],
    x: Array,
    value: float,
    gradient: Array,
    conditional: Array,
    cov: Array,
    low: Array,
    high: Array,
    noise: float = 0.0,
) -> ProfileCheck:
    """Checks the covariance *cov* (k, k) at the minimum *x* (k,) of *nllf* between the limits *low* and *high*.

    *value* and *gradient* (k,) are those of nllf at *x*, *conditional* (k,) are the conditional standard errors, and
    *noise* is the rounding noise of nllf.
    """
    line = _Line(nllf, x, value, gradient, low, high, noise)
    far, near, alone, alone_near, largest = np.full((5, x.size), np.nan)
    sigmas = np.sqrt(np.diag(cov))
    checked = (sigmas > _LEAST_SPACINGS * np.spacing(np.abs(x))) & (sigmas < np.inf)
    for j in np.flatnonzero(checked):
        far[j], near[j] = line.ratios(cov[:, j] / sigmas[j], farthest=_LEAST_RATIO)
        largest[j] = line.largest
    if (far > _LARGEST_RATIO).any():
        for j in np.flatnonzero(checked):
            step = np.zeros(x.size)
            step[j] = conditional[j]
            alone[j], alone_near[j] = line.ratios(step, farthest=np.inf)
    return ProfileCheck(far, near, alone, alone_near, largest, line.lowest, line.drop)


class _Line:
    """Measures the rise of nllf along lines through the minimum."""

    def __init__(
        self,
        nllf: Callable[[Array], float],
        x: Array,
        value: float,
        gradient: Array,
        low: Array,
        high: Array,
        noise: float,
    ) -> None:
        self._nllf = nllf
        self._x = x
        self._value = value
        self._gradient = gradient
        self._low = low
        self._high = high
        self._least = max((2 * _LEAST_NOISE_RATIO * noise) ** 0.5, 1e-6)
        self.lowest = x
        self.drop = 0.0
        #: the largest ratio on the last line, without regard to the slope
        self.largest = np.nan

    def ratios(self, step: Array, farthest: float) -> tuple[float, float]:
        """The ratio after *step* (k,), which promises a rise of 1/2, or at the limit before, and the best one nearer.

        The nearer ones are measured only if the first is unexpected and below *farthest*.
        """
        above, below = self._room(step), self._room(-step)
        step, room = (step, above) if above >= below else (-step, below)
        self.largest = np.nan
        if room < self._least:
            return np.nan, np.nan
        both = min(above, below) >= self._least
        far = self._ratio(step, room, False)
        if _unexpected(far) or (both and abs(float(self._gradient @ step)) > _LARGEST_SLOPE):
            room = min(above, below) if both else room
            far = self._ratio(step, room, both)
        near = np.nan
        if _unexpected(far) and (far < farthest or self.largest < _FLAT_RATIO):
            for part in _NEAR_RATIOS:
                if part * room >= self._least:
                    found = self._ratio(step, part * room, both)
                    near = found if not abs(found - 1) >= abs(near - 1) else near
        return far, near

    def _ratio(self, step: Array, part: float, both: bool) -> float:
        """The rise after a *part* of the step, over the promised one; with *both* the mean of both directions."""
        slope = part * float(self._gradient @ step)
        rises = [self._rise(way * part * step) for way in ((1, -1) if both else (1,))]
        found = [rise - way * slope for rise, way in zip(rises, (1, -1), strict=False)]
        known = [each for each in found if math.isfinite(each)]
        highest = max((abs(each) for each in rises if math.isfinite(each)), default=np.nan)
        self.largest = float(np.fmax(self.largest, highest / (part**2 / 2)))
        return sum(known) / len(known) / (part**2 / 2) if known else np.nan

    def _rise(self, step: Array) -> float:
        point = np.minimum(np.maximum(self._x + step, self._low), self._high)
        found = self._nllf(point) - self._value
        if found < -self.drop:
            self.lowest, self.drop = point, -found
        return found

    def _room(self, step: Array) -> float:
        """The part of *step*, at most 1, that leads to no limit."""
        with np.errstate(all="ignore"):
            parts = np.where(step > 0, self._high - self._x, self._low - self._x) / step
        parts[step == 0] = np.inf  # also where the value is at a limit: 0/0
        return float(parts.min(initial=1.0))


def conditional_errors(
    nllf: Callable[[Array], float], x: Array, value: float, first: Array, low: Array, high: Array
) -> Array:
    """The steps (k,) of each parameter alone at which *nllf* rises by about 1/2, from a *first* guess (k,)."""

    def rise(j: int, step: float) -> float:
        """The mean rise above and below *x*."""
        found = []
        for point in (x[j] + step, x[j] - step):
            if low[j] <= point <= high[j]:
                there = x.copy()
                there[j] = point
                found.append(nllf(there) - value)
        return float(np.mean(found)) if found else np.inf

    steps = first.copy()
    for j in range(x.size):
        for _ in range(_RISE_TRIALS):
            found = rise(j, steps[j])
            if _RISE / _RISE_FACTOR <= found <= _RISE * _RISE_FACTOR:
                break
            wanted = (_RISE / found) ** 0.5 if found > 0 else np.inf
            steps[j] *= min(max(wanted, 1 / 8), 8.0) if np.isfinite(found) else 1 / 8
    return steps
