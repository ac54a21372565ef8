"""Derivatives by differences. Their steps follow the problem, never the size of a value.

A fit must not change when an axis is shifted or a unit is changed. So a step is judged by its effect: it is right
when it changes the residuals by about the cube root of their rounding noise, measured against the spread of the
data. There the two errors of a central difference balance: rounding (noise / change) and curvature (change squared).

The step of a parameter is found once, by trial from a first guess, and then follows the fit: each Jacobian tells
how far its steps went. A second difference comes with every central difference. Where it is not small against the
first difference the step is too long, or the model is noisy (single precision, an integral by sampling): the
accurate Jacobian then tries other steps, keeps the one with the smallest second difference, and tells how far two
steps disagree.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from park.fit.data import Array
from park.fit.objective import Group, Objective

EPS = float(np.finfo(np.float64).eps)
#: A step is kept while the change that it makes is within this factor of the one that is wanted.
_NEAR = 10.0
#: Second over first difference, above which a central difference is looked at again.
_CURVED = 1e-3
#: Trials of longer steps, each 8 times the last.
_LONGER = 20
#: The part by which a model may differ from its tangent over its natural scale.
_BENT = 0.5
#: Trials of a step; a parameter without any effect uses them all.
_TRIALS = 40


class Derivative(NamedTuple):
    """A Jacobian (n, k), and for each parameter the relative error of its column as two steps disagree (k,)."""

    matrix: Array
    error: Array


class Steps:
    """The difference steps of the parameters, shape (k,), which follow a fit.

    *function* gives n numbers; *change* says how large a difference of two of its values is, where 1 is the change
    that a step should make. *low* and *high* (k,) are never crossed.
    """

    def __init__(
        self,
        function: Callable[[Array], Array],
        change: Callable[[Array], float],
        low: Array,
        high: Array,
    ) -> None:
        self.function = function
        self.change = change
        self._low = low
        self._high = high
        self.size = np.full(low.size, np.nan)
        self.way = np.ones(low.size)
        self._last: tuple[Array, float] | None = None
        self._first: tuple[Array, Array] | None = None

    def calibrate(self, x: Array, value: Array) -> Array:
        """Finds each step at *x*, where the function has the *value*, and returns the changes for a step of 1, (k,)."""
        slopes = np.zeros(x.size)
        columns = np.zeros((value.size, x.size), order="F")
        for j in range(x.size):
            self.size[j], slopes[j] = self._calibrated(x, value, j)
            if self._last is not None:
                columns[:, j] = self._last[0] / self._last[1]
        self._first = x.copy(), columns
        return slopes

    def first(self, x: Array) -> Array | None:
        """The derivatives at *x* by the one-sided differences of `calibrate`, if it was last called there."""
        known, self._first = self._first, None
        return known[1] if known is not None and np.array_equal(known[0], x) else None

    def jacobian(self, x: Array, value: Array, accurate: bool = False, longest: bool = False) -> Derivative:
        """The derivatives at *x*, where the function has the *value*.

        With *accurate* columns whose second difference is large are looked at again. With *longest* each step is made
        longer as long as its second difference falls: so rounding that the data do not show is left behind.
        """
        if np.isnan(self.size).any():
            self.calibrate(x, value)
        matrix = np.empty((value.size, x.size), order="F")
        error = np.zeros(x.size)
        for j in range(x.size):
            matrix[:, j], error[j] = self._column(x, value, j, accurate, longest)
        return Derivative(matrix, error)

    def _tried(self, x: Array, value: Array, j: int, step: float, both: bool) -> float:
        """The change by *step*, upward or downward: where the one is lost in rounding the other may not be.

        Upward alone is looked at where there is a change, unless *both* are to be.
        """
        largest = 0.0
        self._last = None
        for way in (1.0, -1.0):
            if self._low[j] <= x[j] + way * step <= self._high[j]:
                point = x[j] + way * step
                difference = self._at(x, j, point) - value
                change = self.change(difference)
                if change > largest:
                    largest, self.way[j] = change, way
                    self._last = (difference, point - x[j]) if np.isfinite(change) else None
                if largest > 1e-6 and not both:
                    break
        return largest

    def linear(self, x: Array, value: Array, j: int, most: float, wide: float) -> float:
        """The length, at most *most*, over which the function is nearly linear in parameter *j* at *x*."""
        way = self.way[j]
        room = self._high[j] - x[j] if way > 0 else x[j] - self._low[j]
        reach, step = min(most, room), min(float(self.size[j]), room)
        if not (0 < reach < np.inf and 0 < step < reach):
            return min(most, wide)
        slope = way * self._first[1][:, j] if self._first is not None else np.zeros_like(value)
        if not self.change(slope * step) > 0:
            return min(most, wide)
        for _ in range(_TRIALS):
            straight = reach * slope
            bend = self.change(self._at(x, j, x[j] + way * reach) - value - straight) / self.change(straight)
            if bend <= _BENT or reach <= step:
                return float(reach if reach < room else min(most, wide))
            reach = max(reach * min(max(0.5 * _BENT / bend, 1 / 64), 0.5), step)
        return float(reach)

    def _guess(self, x: Array, j: int) -> float:
        wide = self._high[j] - self._low[j]
        if np.isfinite(self.size[j]):
            return float(self.size[j])
        return float(1e-6 * wide if np.isfinite(wide) else 2.0**-26 * (abs(x[j]) or 1.0))

    def _floor(self, x: Array, j: int) -> float:
        return float(4 * np.spacing(abs(x[j])))

    def _calibrated(self, x: Array, value: Array, j: int) -> tuple[float, float]:
        """The step of parameter *j* and its change for a step of 1."""
        room = max(self._high[j] - x[j], x[j] - self._low[j])
        step = min(max(self._guess(x, j), self._floor(x, j)), room)
        low, high, best = 0.0, np.inf, (step, 0.0)
        largest, level, last = 0.0, False, None
        for _ in range(_TRIALS):
            change = self._tried(x, value, j, step, level)
            if 1 / _NEAR <= change <= _NEAR:
                wanted = min(max(step / change, self._floor(x, j)), room)
                return wanted, change / step
            if change < 1:
                low = step
                if change >= 2 * largest:
                    largest, best, last = change, (step, change / step), self._last
                elif largest > 1e-6 and not level:
                    # a decay that is over goes no further upward: longer steps tell nothing of it, the other way may
                    level, low = True, 0.0
                if step >= room:
                    break
                # below the noise a change says nothing about the next step
                following = step * (min(1 / change, 1e4) if change > 1e-6 else 1e4)
                following = min(following, room)
                if following >= high:
                    following = (low * high) ** 0.5
            else:
                high = step
                following = step / min(change, 1e4) if np.isfinite(change) else step * 1e-3
                if following <= low:
                    following = (low * high) ** 0.5
                if following < self._floor(x, j):
                    return self._floor(x, j), change / step if np.isfinite(change) else 0.0
            if high < 4 * low:
                break
            step = float(following)
            if not np.isfinite(step) or step > 1e100:
                break
        self._last = last
        return best

    def _at(self, x: Array, j: int, value: float) -> Array:
        point = x.copy()
        point[j] = value
        return self.function(point)

    def _difference(self, x: Array, value: Array, j: int, step: float) -> tuple[Array, float, float]:
        """The derivative by *step*, the change that the step makes, and the second over the first difference."""
        up, down = x[j] + step, x[j] - step
        if up > self._high[j] or down < self._low[j]:  # one side only: three points there, as exact
            way = step if self._high[j] - x[j] >= x[j] - self._low[j] else -step
            room = self._high[j] - x[j] if way > 0 else x[j] - self._low[j]
            way = np.copysign(min(step, room / 2), way)
            near, far = x[j] + way, x[j] + 2 * way
            one, two = self._at(x, j, near) - value, self._at(x, j, far) - value
            first, second = (4 * one - two) / 2, two - 2 * one
            width = near - x[j]
        else:
            over, under = self._at(x, j, up), self._at(x, j, down)
            first, second = (over - under) / 2, over + under - 2 * value
            width = (up - down) / 2
        change = self.change(first)
        if width == 0:
            return np.zeros_like(first), 0.0, 0.0
        ratio = self.change(second) / change if change > 0 else 0.0
        return first / width, change, ratio

    def _column(self, x: Array, value: Array, j: int, accurate: bool, longest: bool) -> tuple[Array, float]:
        """The derivative by parameter *j*, and an estimate of its relative error."""
        step = float(max(self.size[j], self._floor(x, j)))
        column, change, curved = self._difference(x, value, j, step)
        if not 1e-3 < change < 1e3 and self.size[j] > 0:
            self.size[j], _ = self._calibrated(x, value, j)
            step = float(self.size[j])
            column, change, curved = self._difference(x, value, j, step)
        elif not 1 / _NEAR < change < _NEAR and change > 0:
            room = max(self._high[j] - x[j], x[j] - self._low[j])
            self.size[j] = min(max(step / change, self._floor(x, j)), room)
        if not np.isfinite(change):
            column, change, curved = self._finite(x, value, j, step)
        if longest or (accurate and not curved < _CURVED):
            return self._refined(x, value, j, step, column, curved, longest)
        return column, curved**2

    def _finite(self, x: Array, value: Array, j: int, step: float) -> tuple[Array, float, float]:
        """The difference by the longest step that stays where the function has values; zero where there is none."""
        while step > self._floor(x, j):
            step /= 16
            column, change, curved = self._difference(x, value, j, step)
            if np.isfinite(change):
                self.size[j] = step
                return column, change, curved
        return np.full(value.size, np.nan), np.nan, 0.0

    def _refined(
        self, x: Array, value: Array, j: int, step: float, column: Array, curved: float, longest: bool
    ) -> tuple[Array, float]:
        """The column with the smallest second difference among longer and shorter steps."""
        best, best_curved, error = column, curved, np.inf
        room = max(self._high[j] - x[j], x[j] - self._low[j])
        for factor in (8.0, 1 / 8):
            trial, previous = step, column
            for _ in range(_LONGER if longest else 6):
                trial = trial * factor
                if not self._floor(x, j) <= trial <= room:
                    break
                other, change, other_curved = self._difference(x, value, j, trial)
                if not np.isfinite(other_curved) or other_curved >= best_curved or change == 0:
                    break
                norm = self.change(other)
                error = self.change(other - previous) / norm if norm > 0 else 0.0
                best, best_curved, previous = other, other_curved, other
                self.size[j] = trial
                if best_curved < _CURVED and not longest:
                    return best, min(error, best_curved)
        return best, min(error, best_curved)


def meter(groups: tuple[Group, ...]) -> Callable[[Array], float]:
    """A measure of differences of residuals, in which a step of the right length measures 1.

    Each *group* of residuals has its own unit, so the largest of them counts.
    """
    rows = [g.rows for g in groups]
    wanted = [
        max(
            (g.rows.stop - g.rows.start) ** 0.5 * g.spread * (EPS * g.magnitude / g.spread) ** (1 / 3), 1e-300
        )
        for g in groups
    ]

    def change(difference: Array) -> float:
        largest = 0.0
        for row, unit in zip(rows, wanted, strict=True):
            part = difference[row]
            size = float(np.sqrt(part @ part)) / unit
            if not size <= largest:
                largest = size
        return largest if largest == largest else np.inf

    return change


def steps_of(objective: Objective, fenced: bool = True) -> Steps:
    """The steps for the residuals of an *objective*, or for its likelihood where it has none.

    Where the model fails it counts as infinite.
    """

    def function(x: Array) -> Array:
        try:
            if objective.squares:
                return objective.residuals(x) if fenced else objective.free_residuals(x)
            return np.array([objective.nllf(x) if fenced else objective.free_nllf(x)])
        except Exception as error:
            objective.failed(error)
            return np.full(size, np.inf)

    size = sum(g.points for g in objective.groups) if objective.squares else 1
    change = meter(objective.groups) if objective.squares else nllf_meter(objective, objective.start)
    return Steps(function, change, objective.low, objective.high)


def nllf_meter(objective: Objective, x: Array) -> Callable[[Array], float]:
    """A measure of differences of the likelihood: 1 is far below one standard error and far above the noise."""
    value = objective.nllf(x)
    unit = max(1e-4, 1e6 * EPS * abs(value) if np.isfinite(value) else 0.0)
    return lambda difference: (
        float(np.abs(difference[0])) / unit if difference[0] == difference[0] else np.inf
    )


def natural_scale(objective: Objective, x: Array, steps: Steps | None = None) -> Array:
    """The natural size of each parameter at *x*, shape (k,).

    A step of it changes the residuals (or the likelihood, where there are none) by about their own size, or goes as far
    as the model is nearly linear, whichever is less. It is at most the width of the limits; where a parameter has no
    effect it is that width, or 1. *steps* of the objective are set for *x* as well.
    """
    wide = objective.high - objective.low
    try:
        steps = steps or steps_of(objective)
    except Exception:  # a bumps model that fails at its start; the driver says so
        return np.where(np.isfinite(wide), wide, 1.0)
    change = steps.change
    with np.errstate(all="ignore"):
        if objective.squares:
            value = steps.function(x)
            # data with dy reach at least one standard error
            ones = np.zeros(value.size)
            for group in objective.groups:
                ones[group.rows] = 1.0 if group.known else 0.0
            own = max(change(value) if np.isfinite(value).all() else 0.0, change(ones))
        else:
            value = steps.function(x)
            own = change(np.array([0.5]))
        slopes = steps.calibrate(x, value)
        scale = np.array(
            [steps.linear(x, value, j, own / slope, float(wide[j])) for j, slope in enumerate(slopes)]
        )
    scale = np.where(np.isfinite(scale) & (scale > 0), scale, np.where(np.isfinite(wide), wide, 1.0))
    result: Array = np.minimum(scale, wide)
    return result
