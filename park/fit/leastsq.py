"""Least squares: scipy's Levenberg-Marquardt and trust-region methods on residuals of any number.

Both methods look at the residuals f and the Jacobian J only through lengths and angles, so an orthogonal change of
the rows leaves every step as it is. The triangle R of a QR decomposition of [f J] is such a change: a first column
(\\|f\\|, 0, ...) and k further ones, k + 1 rows instead of n. scipy sees that. Its memory and time no longer depend on
n, and R is made block by block, as exact as from all rows at once.

The triangle of each group of residuals is kept by itself. Groups whose errors are of unknown size get their weight,
1/size, when the triangles are put together. With the sizes held, least squares is exact; the sizes follow the
scatter, and the two are repeated until neither moves the likelihood.

scipy works in u = (x - start) / scale with the natural scale of each parameter, so its tolerances and its first
radius do not depend on where a parameter's zero is, or on its unit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from park.fit.data import Array
from park.fit.derivatives import Steps, natural_scale, steps_of
from park.fit.objective import Group, Objective

#: Rows that are decomposed at once.
_BLOCK = 16_384
#: Changes of the sizes of unknown errors, and what they may move the likelihood at the end.
_ROUNDS, _SETTLED = 30, 1e-13
#: The likelihood that a run may leave, by its last tangent, without another run in scales that are taken anew.
_STALLED = 1e-4
#: Runs in new scales; a valley that needs more of them needs another start.
_RESCALED = 2
#: A tangent that promises no more than this ends a run: the minimum is within 1e-8 standard errors.
_DONE = 1e-16
#: A limit is reached within this part of the natural scale.
_HELD = 1e-9
#: MINPACK takes its first radius as this many lengths of its start.
_FACTOR = 100


class Stopped(Exception):
    """Raised inside the optimizer to end it with the best so far."""


class Triangles:
    """The triangles of [f J] of each group of residuals, at one point."""

    def __init__(self, groups: tuple[Group, ...], residuals: Array, jacobian: Array) -> None:
        self._groups = groups
        self.parts = [_triangle(residuals[g.rows], jacobian[g.rows]) for g in groups]

    def joined(self, weights: Array) -> tuple[float, Array]:
        """The length of f, and J in k + 1 rows whose f is (length, 0, ...), with a weight for each group."""
        rows = [part * weight for part, weight in zip(self.parts, weights, strict=True)]
        k = rows[0].shape[1] - 1
        triangle = np.zeros((k + 1, k + 1))
        found = rows[0] if len(rows) == 1 else np.linalg.qr(np.concatenate(rows), mode="r")
        triangle[: len(found)] = found
        if triangle[0, 0] < 0:
            triangle[0] *= -1
        return float(triangle[0, 0]), triangle[:, 1:]


def _triangle(residuals: Array, jacobian: Array) -> Array:
    triangle = np.empty((0, jacobian.shape[1] + 1))
    for start in range(0, residuals.size, _BLOCK):
        rows = slice(start, start + _BLOCK)
        block = np.column_stack([residuals[rows], jacobian[rows]])
        triangle = np.asarray(np.linalg.qr(np.concatenate([triangle, block]), mode="r"))
    return triangle


def weights_of(objective: Objective, residuals: Array) -> Array:
    """The weight of each group of residuals: 1, or 1/size where the errors are of unknown size."""
    weights = [(g.emphasis / g.variance(residuals)) ** 0.5 if not g.known else 1.0 for g in objective.groups]
    return np.array(weights)


class _Compressed:
    """The least-squares problem as scipy sees it: functions of u with k + 1 values."""

    def __init__(self, objective: Objective, start: Array, iteration: Callable[[Array, float], None]) -> None:
        self.objective = objective
        self.iteration = iteration
        self.start = start
        self.steps: Steps = steps_of(objective)
        self.scale = natural_scale(objective, start, self.steps)
        self.weights = np.ones(len(objective.groups))
        self.best, self.lowest = start.copy(), np.inf
        self.first = 1.0
        self._promise = (np.inf, 0.0)
        self._x, self._residuals = start, np.empty(0)
        self._tangent: tuple[Array, Triangles] | None = None

    def point(self, u: Array) -> Array:
        """The parameters at *u*; rounding does not push them over a limit."""
        x: Array = np.clip(
            self.start + self.scale * (u - self.first), self.objective.low, self.objective.high
        )
        return x

    def bounds(self) -> tuple[Array, Array]:
        """The limits in u."""
        low, high = self.objective.low - self.start, self.objective.high - self.start
        return low / self.scale + self.first, high / self.scale + self.first

    def residuals(self, x: Array) -> Array:
        """The residuals at *x*, infinite where the model fails."""
        try:
            residuals = self.objective.residuals(x)
        except Exception as error:
            self.objective.failed(error)
            return np.full(self.objective.points, np.inf)
        nllf = float(sum(g.nllf(residuals) for g in self.objective.groups))
        if nllf < self.lowest:
            self.best, self.lowest = x.copy(), nllf
        self._x, self._residuals = x.copy(), residuals
        return residuals

    def function(self, u: Array) -> Array:
        """(length, 0, ...): both methods step back where it is not finite."""
        residuals = self.residuals(self.point(u))
        squares = sum(
            float(residuals[g.rows] @ residuals[g.rows]) * weight**2
            for g, weight in zip(self.objective.groups, self.weights, strict=True)
        )
        values = np.zeros(u.size + 1)
        values[0] = np.sqrt(squares) if squares == squares else np.inf
        return values

    def derivative(self, u: Array) -> Array:
        """The Jacobian of `function`, in u."""
        x = self.point(u)
        residuals = self._residuals if np.array_equal(x, self._x) else self.residuals(x)
        nllf = float(sum(g.nllf(residuals) for g in self.objective.groups))
        if self._tangent is None or not np.array_equal(x, self._tangent[0]):
            self.iteration(x, nllf)
            first = self.steps.first(x)
            matrix = self.steps.jacobian(x, residuals).matrix if first is None else first
            matrix[~np.isfinite(matrix)] = 0.0  # the edge of where the model has values
            self._tangent = x, Triangles(self.objective.groups, residuals, matrix)
        length, jacobian = self._tangent[1].joined(self.weights)
        self._promise = nllf, self._gain(x, residuals.size, length, jacobian)
        # errors that are far too large must not hide what is left: the scatter itself is the measure then
        scatter = 1.0 if self.objective.unknown else min(1.0, length**2 / residuals.size)
        if self._promise[1] <= _DONE * scatter:
            raise _Settled
        return jacobian * self.scale

    def _gain(self, x: Array, points: int, length: float, jacobian: Array) -> float:
        """The gain in likelihood that the tangent at *x* promises within the limits."""
        gradient, near = jacobian[0] * length, _HELD * self.scale
        held = (x <= self.objective.low + near) & (gradient > 0)
        held |= (x >= self.objective.high - near) & (gradient < 0)
        free = jacobian[:, ~held & (np.abs(jacobian).max(axis=0) > 0)]
        if not free.size or length == 0:
            return 0.0
        along = np.linalg.qr(free / np.linalg.norm(free, axis=0))[0]
        gain = 0.5 * length**2 * float(along[0] @ along[0])
        if len(self.weights) == 1 and self.objective.unknown:  # the weight is that of the first point
            gain *= points / length**2
        return gain

    def promised(self) -> float:
        """The gain that the last tangent promised, and that has not come."""
        value, gain = self._promise
        return gain - (value - self.lowest)


def least_squares(
    objective: Objective,
    start: Array,
    iteration: Callable[[Array, float], None],
    radius: float = 1.0,
    **options: Any,
) -> Array:
    """Minimises the likelihood of an *objective* of squares from *start*, and returns the best point, shape (k,).

    scipy's MINPACK where there are no limits; with limits its trust-region method, then MINPACK from there as
    long as it stays inside. *radius* bounds the first step, in natural scales. *iteration* is called with the point and
    its likelihood at each derivative, and may raise `Stopped`.
    """
    problem = _Compressed(objective, start, iteration)
    if not np.isfinite(problem.residuals(start)).all():
        return start
    alone = len(objective.groups) == 1
    rescaled = 0
    for _ in range(_ROUNDS):
        before = problem.lowest
        problem.weights = weights_of(objective, objective.residuals(problem.best))
        if not _solved(problem, radius, options):
            break
        if problem.promised() > _STALLED and before - problem.lowest > _STALLED and rescaled < _RESCALED:
            rescaled += 1
            problem.scale = natural_scale(objective, problem.best)  # a long way from where it began
        elif alone or not objective.unknown or before - problem.lowest <= _SETTLED * (1 + abs(before)):
            break
    return problem.best


def _solved(problem: _Compressed, radius: float, options: dict[str, Any]) -> bool:
    """One run from the best point, with the weights as they are; False where it was stopped."""
    from scipy.optimize import least_squares as solve

    def run(method: str, function: Callable[[Array], Array], first: float, **more: Any) -> None:
        # both methods take their first radius from where they start: about one natural scale
        problem.start, problem.first = problem.best.copy(), first
        start = np.full(problem.start.size, first)
        solve(
            function,
            start,
            jac=problem.derivative,
            method=method,
            x_scale=1.0,
            max_nfev=1_000_000,
            **options,
            **more,
        )

    def inside(u: Array) -> Array:
        low, high = problem.bounds()
        if np.any(u < low) or np.any(u > high):
            raise _Outside
        return problem.function(u)

    limits = problem.objective.low, problem.objective.high
    try:
        if np.isfinite(limits).any():
            problem.start, problem.first = problem.best.copy(), radius
            run("trf", problem.function, radius, bounds=problem.bounds())
        run("lm", inside, radius / _FACTOR)
    except (_Outside, _Settled):
        pass
    except Stopped:
        return False
    return True


class _Settled(Exception):
    """Raised where the tangent promises nothing that could be seen."""


class _Outside(Exception):
    """Raised when Levenberg-Marquardt, which knows no limits, steps over one."""
