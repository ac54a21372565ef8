"""Numerical derivatives whose steps do not depend on units and offsets of the parameters.

A fit must not change when an axis is shifted or a unit is changed. A difference step is therefore chosen by its effect: it
changes the residuals by about the cube root of their rounding noise, relative to the spread of the data. At this step the
two errors of a central difference balance: rounding (noise / change) and curvature (change squared).

The step of a parameter is found once, by trials from a first guess. Each Jacobian then updates it. Every central difference
also gives a second difference. If this is not small compared with the first difference, the step is too long, or the
model is noisy (single precision, an integral by sampling). The accurate Jacobian then tries other steps, keeps the one
with the smallest second difference, and estimates the error of the derivative from the disagreement of two steps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from park.fit.arrays import Array
from park.fit.problem.objective import Group, Objective

EPS = float(np.finfo(np.float64).eps)
#: A step is kept while its effect is within this factor of the desired effect.
_EFFECT_FACTOR = 10.0
#: Ratio of second to first difference above which other steps are tried.
_MAX_CURVATURE_RATIO = 1e-3
#: Ratio of second to first difference above which a difference is noise.
_NOISE_RATIO = 0.5
#: Number of trials of longer or shorter steps, each 8 times the last; more for differences that are noise.
_OTHER_STEP_TRIALS, _LONGER_STEP_TRIALS = 6, 20
#: Relative deviation of a model from its tangent that is allowed over one natural scale.
_MAX_TANGENT_DEVIATION = 0.5
#: Number of trials of a step; a parameter without an effect uses all of them.
_STEP_TRIALS = 40


class Derivative(NamedTuple):
    """A Jacobian (n, k), and the relative error of each column (k,), estimated from two steps."""

    matrix: Array
    error: Array


class Steps:
    """The difference steps of the parameters, shape (k,), which are updated during a fit.

    *function* maps (k,) to (n,). *change* measures a difference of two of its values; a step of the right length
    measures 1. No step crosses the limits *low* and *high* (k,). *minimised* says that the function is one number, whose
    slope vanishes at its minimum: there the second difference tells how long a step is.
    """

    def __init__(
        self,
        function: Callable[[Array], Array],
        change: Callable[[Array], float],
        low: Array,
        high: Array,
        minimised: bool = False,
    ) -> None:
        self.function = function
        self.change = change
        self._minimised = minimised
        self._low = low
        self._high = high
        self.size = np.full(low.size, np.nan)
        self.way = np.ones(low.size)
        self._last: tuple[Array, float] | None = None
        self._first: tuple[Array, Array] | None = None

    def calibrate(self, x: Array, value: Array) -> Array:
        """Finds the step of each parameter at *x*, and returns the change per unit step (k,).

        *value* is the function at *x*.
        """
        slopes = np.zeros(x.size)
        columns = np.zeros((value.size, x.size), order="F")
        for j in range(x.size):
            self.size[j], slopes[j] = self._calibrated(x, value, j)
            if self._last is not None:
                columns[:, j] = self._last[0] / self._last[1]
        self._first = x.copy(), columns
        return slopes

    def first(self, x: Array) -> Array | None:
        """The derivatives (n, k) from the one-sided differences of `calibrate`; None if *x* was not its last point."""
        known, self._first = self._first, None
        return known[1] if known is not None and np.array_equal(known[0], x) else None

    def jacobian(self, x: Array, value: Array, accurate: bool = False, longest: bool = False) -> Derivative:
        """The derivatives at *x* by central differences. *value* is the function at *x*.

        *accurate* tries other steps for columns with a large second difference. *longest* lengthens each step while
        its second difference falls, which reduces the effect of rounding.
        """
        matrix = np.empty((value.size, x.size), order="F")
        error = np.zeros(x.size)
        for j in range(x.size):
            if np.isnan(self.size[j]):
                self.size[j], _ = self._calibrated(x, value, j)
            matrix[:, j], error[j] = self._column(x, value, j, accurate, longest)
        return Derivative(matrix, error)

    def secants(self, x: Array, value: Array, sizes: Array) -> Derivative:
        """The derivatives at *x* by central differences with steps of the given *sizes* (k,)."""
        matrix = np.empty((value.size, x.size), order="F")
        error = np.zeros(x.size)
        for j, size in enumerate(sizes):
            step = max(float(size), self._floor(x, j))
            matrix[:, j], _, error[j] = self._difference(x, value, j, step)
        return Derivative(matrix, error)

    def _tried(self, x: Array, value: Array, j: int, step: float, both: bool) -> float:
        """The larger change by *step* upward or downward: one of them may be lost in rounding.

        The step downward is tried only with *both*, or if the step upward has no effect.
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
        """The distance, at most *most*, over which the function is nearly linear in parameter *j* at *x*."""
        way = self.way[j]
        room = self._high[j] - x[j] if way > 0 else x[j] - self._low[j]
        reach, step = min(most, room), min(float(self.size[j]), room)
        if not (0 < reach < np.inf and 0 < step < reach):
            return min(most, wide)
        slope = way * self._first[1][:, j] if self._first is not None else np.zeros_like(value)
        if not self.change(slope * step) > 0:
            return min(most, wide)
        for _ in range(_STEP_TRIALS):
            straight = reach * slope
            bend = self.change(self._at(x, j, x[j] + way * reach) - value - straight) / self.change(straight)
            if bend <= _MAX_TANGENT_DEVIATION or reach <= step:
                return float(reach if reach < room else min(most, wide))
            reach = max(reach * min(max(0.5 * _MAX_TANGENT_DEVIATION / bend, 1 / 64), 0.5), step)
        return float(reach)

    def _guess(self, x: Array, j: int) -> float:
        wide = self._high[j] - self._low[j]
        if np.isfinite(self.size[j]):
            return float(self.size[j])
        return float(1e-6 * wide if np.isfinite(wide) else 2.0**-26 * (abs(x[j]) or 1.0))

    def _floor(self, x: Array, j: int) -> float:
        return float(4 * np.spacing(abs(x[j])))

    def _calibrated(self, x: Array, value: Array, j: int) -> tuple[float, float]:
        """The step of parameter *j*, and its change per unit step."""
        room = max(self._high[j] - x[j], x[j] - self._low[j])
        step = min(max(self._guess(x, j), self._floor(x, j)), room)
        low, high, best = 0.0, np.inf, (step, 0.0)
        largest, level, last = 0.0, False, None
        for _ in range(_STEP_TRIALS):
            change = self._tried(x, value, j, step, level)
            if 1 / _EFFECT_FACTOR <= change <= _EFFECT_FACTOR:
                wanted = min(max(step / change, self._floor(x, j)), room)
                return wanted, change / step
            if change < 1:
                low = step
                if change >= 2 * largest:
                    largest, best, last = change, (step, change / step), self._last
                elif largest > 1e-6 and not level:
                    # longer steps upward have no further effect, as in a decay that is over: try downward too
                    level, low = True, 0.0
                if step >= room:
                    break
                # a change below the noise does not determine the next step
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

    def _difference(
        self, x: Array, value: Array, j: int, step: float, second_too: bool = True
    ) -> tuple[Array, float, float]:
        """The derivative by *step*, the change of the step, and the ratio of second to first difference.

        Without *second_too* the ratio is zero, which saves its computation.
        """
        second_too = second_too or self._minimised
        up, down = x[j] + step, x[j] - step
        if up > self._high[j] or down < self._low[j]:
            # at a limit: three points on one side, of the same order
            way = step if self._high[j] - x[j] >= x[j] - self._low[j] else -step
            room = self._high[j] - x[j] if way > 0 else x[j] - self._low[j]
            way = np.copysign(min(step, room / 2), way)
            near, far = x[j] + way, x[j] + 2 * way
            one, two = self._at(x, j, near) - value, self._at(x, j, far) - value
            first, second = (4 * one - two) / 2, two - 2 * one if second_too else None
            width = near - x[j]
        else:
            over, under = self._at(x, j, up), self._at(x, j, down)
            first, second = (over - under) / 2, over + under - 2 * value if second_too else None
            width = (up - down) / 2
        change = self.change(first)
        if width == 0:
            return np.zeros_like(first), 0.0, 0.0
        curved = self.change(second) if second is not None else 0.0
        ratio = curved / change if change > 0 else 0.0
        first /= width
        return first, max(change, curved / 2) if self._minimised else change, ratio

    def _column(self, x: Array, value: Array, j: int, accurate: bool, longest: bool) -> tuple[Array, float]:
        """The derivative with respect to parameter *j*, and its estimated relative error."""
        step = float(max(self.size[j], self._floor(x, j)))
        second_too = accurate or longest
        column, change, curved = self._difference(x, value, j, step, second_too)
        if not 1e-3 < change < 1e3 and self.size[j] > 0:
            self.size[j], _ = self._calibrated(x, value, j)
            step = float(self.size[j])
            column, change, curved = self._difference(x, value, j, step, second_too)
        elif not 1 / _EFFECT_FACTOR < change < _EFFECT_FACTOR and change > 0:
            room = max(self._high[j] - x[j], x[j] - self._low[j])
            self.size[j] = min(max(step / change, self._floor(x, j)), room)
        if not np.isfinite(change):
            column, change, curved = self._finite(x, value, j, step)
        if longest or (accurate and not curved < _MAX_CURVATURE_RATIO):
            return self._refined(x, value, j, step, column, curved, longest)
        return column, curved**2

    def _finite(self, x: Array, value: Array, j: int, step: float) -> tuple[Array, float, float]:
        """The difference by the longest step with finite values; zero if there is none."""
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
        """The derivative with the smallest second difference among longer and shorter steps.

        While differences are noise, longer steps are tried until they show a slope.
        """
        best, best_curved, error = column, curved, np.inf
        room = max(self._high[j] - x[j], x[j] - self._low[j])
        for factor in (8.0, 1 / 8):
            trial, previous = step, column
            for n in range(_LONGER_STEP_TRIALS):
                noise = factor > 1 and best_curved > _NOISE_RATIO
                trial = trial * factor
                if not self._floor(x, j) <= trial <= room or not (longest or noise or n < _OTHER_STEP_TRIALS):
                    break
                other, change, other_curved = self._difference(x, value, j, trial)
                if noise and not other_curved < best_curved:
                    continue
                if not np.isfinite(other_curved) or other_curved >= best_curved or change == 0:
                    break
                norm = self.change(other)
                error = self.change(other - previous) / norm if norm > 0 else 0.0
                best, best_curved, previous = other, other_curved, other
                self.size[j] = trial
                if best_curved < _MAX_CURVATURE_RATIO and not longest:
                    return best, min(error, best_curved)
        return best, min(error, best_curved)


def meter(groups: tuple[Group, ...]) -> Callable[[Array], float]:
    """A measure of differences of residuals, in which a step of the right length measures 1.

    Each *group* of residuals has its own unit; the largest measure of all groups counts.
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


def difference_steps(objective: Objective, fenced: bool = True) -> Steps:
    """The difference steps for the residuals of an *objective*, or for its nllf if it has no residuals.

    Points at which the model fails have infinite values.
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
    return Steps(function, change, objective.low, objective.high, minimised=not objective.squares)


def nllf_meter(objective: Objective, x: Array) -> Callable[[Array], float]:
    """A measure of differences of nllf: 1 is far below one standard error and far above the rounding noise."""
    value = objective.nllf(x)
    unit = max(1e-4, 1e6 * EPS * abs(value) if np.isfinite(value) else 0.0)
    return lambda difference: (
        float(np.abs(difference[0])) / unit if difference[0] == difference[0] else np.inf
    )


def natural_scale(objective: Objective, x: Array, steps: Steps | None = None) -> Array:
    """The natural scale of each parameter at *x*, shape (k,).

    A step of one natural scale changes the residuals (or nllf, if there are none) by about their own size, or extends
    as far as the model is nearly linear, whichever is shorter. It is at most the width of the limits. For a parameter
    without an effect it is that width, or 1. *steps*, if given, are calibrated at *x*.
    """
    wide = objective.high - objective.low
    try:
        steps = steps or difference_steps(objective)
    except Exception:  # a bumps model that fails at its start; the method reports it
        return np.where(np.isfinite(wide), wide, 1.0)
    change = steps.change
    with np.errstate(all="ignore"):
        if objective.squares:
            value = steps.function(x)
            # with dy, at least one standard error
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
