"""Least squares: scipy's Levenberg-Marquardt and trust-region methods on residuals of any number.

Both methods use only lengths and angles of the residuals f and the Jacobian J, so that an orthogonal transformation of the
rows leaves each step unchanged. The triangle R of a QR decomposition of [f J] is such a transformation: its first column is
(\\|f\\|, 0, ...), and it has k + 1 rows instead of n. scipy gets R. Its memory and time then do not depend on n. R is
computed block by block, without loss of accuracy.

Each group of residuals has its own triangle. Groups with errors of unknown size get the weight 1/size when the triangles
are joined. For fixed sizes the problem is plain least squares. The sizes are then estimated from the scatter, and both
steps are repeated until neither changes nllf.

scipy runs in u = (x - start) / scale, with the natural scale of each parameter, so that its tolerances and its first trust
radius depend neither on the unit of a parameter nor on its zero.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from park.fit.arrays import Array
from park.fit.numerics.derivatives import Steps, difference_steps, natural_scale
from park.fit.problem.objective import Group, Objective

#: Number of rows in one QR decomposition.
_QR_BLOCK_ROWS = 16_384
#: Largest number of updates of the sizes of unknown errors, and the relative change in nllf that ends them.
_MAX_WEIGHT_UPDATES, _SETTLED_NLLF = 30, 1e-13
#: Predicted gain in nllf above which a run is followed by another run with new scales.
_STALLED_GAIN_NLLF = 1e-4
#: Largest number of runs with new scales.
_MAX_RESCALED_RUNS = 2
#: Predicted gain in nllf that ends a run: the minimum is then within 1e-8 standard errors.
_NEGLIGIBLE_GAIN_NLLF = 1e-16
#: A limit counts as reached within this part of the natural scale.
_AT_LIMIT_SCALES = 1e-9
#: scipy's own tolerances, and more evaluations than any fit takes.
_TOLERANCES, _MAX_EVALUATIONS = {"ftol": 1e-8, "xtol": 1e-8, "gtol": 1e-8}, 1_000_000
#: MINPACK's first trust radius, as a multiple of the length of its start vector.
_MINPACK_RADIUS_FACTOR = 100


class Stopped(Exception):
    """Raised inside an optimiser to end it with the best point so far."""


class Triangles:
    """The triangles of [f J] of each group of residuals at one point."""

    def __init__(self, groups: tuple[Group, ...], residuals: Array, jacobian: Array) -> None:
        self._groups = groups
        self.parts = [_triangle(residuals[g.rows], jacobian[g.rows]) for g in groups]

    def joined(self, weights: Array) -> tuple[float, Array]:
        """The length of f, and J reduced to k + 1 rows, with a weight for each group."""
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
    for start in range(0, residuals.size, _QR_BLOCK_ROWS):
        rows = slice(start, start + _QR_BLOCK_ROWS)
        block = np.column_stack([residuals[rows], jacobian[rows]])
        rest = np.concatenate([triangle, block]) if len(triangle) else block
        triangle = np.asarray(np.linalg.qr(rest, mode="r"))
    return triangle


def weights_of(objective: Objective, residuals: Array) -> Array:
    """The weight of each group of residuals: 1, or 1/size for errors of unknown size."""
    weights = [(g.emphasis / g.variance(residuals)) ** 0.5 if not g.known else 1.0 for g in objective.groups]
    return np.array(weights)


class _Compressed:
    """The reduced least-squares problem for scipy: functions of u with k + 1 values."""

    def __init__(self, objective: Objective, start: Array, iteration: Callable[[Array, float], None]) -> None:
        self.objective = objective
        self.iteration = iteration
        self.start = start
        self.steps: Steps = difference_steps(objective)
        self.scale = natural_scale(objective, start, self.steps)
        self.weights = np.ones(len(objective.groups))
        self.best, self.lowest = start.copy(), np.inf
        self.first = 1.0
        #: nllf at the last tangent, and the gain that it predicts
        self._predicted: tuple[float, _TangentGain | None] = (np.inf, None)
        self._x, self._residuals = np.full_like(start, np.nan), np.empty(0)
        self._tangent: tuple[Array, Triangles] | None = None

    def point(self, u: Array) -> Array:
        """The parameters at *u*, clipped to the limits against rounding."""
        x: Array = np.clip(
            self.start + self.scale * (u - self.first), self.objective.low, self.objective.high
        )
        return x

    def begin(self, first: float) -> Array:
        """Put the origin of u at the best point, and return that point: u has the components *first* there."""
        self.start, self.first = self.best.copy(), first
        return np.full(self.start.size, first)

    def bounds(self) -> tuple[Array, Array]:
        """The limits in u."""
        low, high = self.objective.low - self.start, self.objective.high - self.start
        return low / self.scale + self.first, high / self.scale + self.first

    def residuals(self, x: Array) -> Array:
        """The residuals at *x*; infinite if the model fails."""
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

    def residuals_at(self, x: Array) -> Array:
        """The residuals at *x*, which are known if it is the last point."""
        return self._residuals if np.array_equal(x, self._x) else self.residuals(x)

    def function(self, u: Array) -> Array:
        """The vector (length, 0, ...). Both methods shorten a step whose value is not finite."""
        residuals = self.residuals_at(self.point(u))
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
        residuals = self.residuals_at(x)
        nllf = float(sum(g.nllf(residuals) for g in self.objective.groups))
        if self._tangent is None or not np.array_equal(x, self._tangent[0]):
            self.iteration(x, nllf)
            first = self.steps.first(x)
            matrix = self.steps.jacobian(x, residuals).matrix if first is None else first
            matrix[~np.isfinite(matrix)] = 0.0  # at the edge of the region with finite values
            self._tangent = x, Triangles(self.objective.groups, residuals, matrix)
        length, jacobian = self._tangent[1].joined(self.weights)
        self._predicted = nllf, _TangentGain(self, x, residuals.size, length, jacobian)
        # if dy is far too large, the scatter is the measure
        scatter = 1.0 if self.objective.unknown else min(1.0, length**2 / residuals.size)
        if self._predicted[1].is_below(_NEGLIGIBLE_GAIN_NLLF * scatter):
            raise _NothingToGain
        return jacobian * self.scale

    def promised(self) -> float:
        """The predicted gain of the last tangent that was not reached."""
        value, gain = self._predicted
        return -np.inf if gain is None else gain.most() - (value - self.lowest)


class _TangentGain:
    """The gain in nllf that the tangent at *x* predicts within the limits."""

    def __init__(self, problem: _Compressed, x: Array, points: int, length: float, jacobian: Array) -> None:
        objective, near = problem.objective, _AT_LIMIT_SCALES * problem.scale
        gradient = jacobian[0] * length
        held = (x <= objective.low + near) & (gradient > 0)
        held |= (x >= objective.high - near) & (gradient < 0)
        norms = np.sqrt(np.einsum("ij,ij->j", jacobian, jacobian))
        free = ~held & (norms > 0)
        #: the columns of parameters that may move, with length 1
        self._columns = jacobian[:, free] / norms[free]
        # with one part of unknown errors the weight is that of the start
        single = len(problem.weights) == 1 and objective.unknown
        self._whole = 0.5 * (points if single and length else length**2)

    def is_below(self, limit: float) -> bool:
        """Whether the gain is at most *limit*. The parameter with the largest gain by itself mostly decides that
        quickly.
        """
        columns = self._columns
        if not columns.size or self._whole == 0:
            return True
        alone = self._whole * float(np.max(columns[0] ** 2))
        return not alone > limit and self.most() <= limit

    def most(self) -> float:
        """The gain of all parameters together."""
        if not self._columns.size or self._whole == 0:
            return 0.0
        along = np.linalg.qr(self._columns)[0][0]
        return self._whole * float(along @ along)


def least_squares(
    objective: Objective,
    start: Array,
    iteration: Callable[[Array, float], None],
    radius: float = 1.0,
    **options: Any,
) -> Array:
    """Minimises nllf of an *objective* of squared residuals from *start*, and returns the best point, shape (k,).

    MINPACK (Levenberg-Marquardt) runs while it stays inside the limits. If it leaves them, scipy's trust-region method,
    which respects limits, takes over, and MINPACK runs once more from its end point. *radius* bounds the first step, in
    natural scales. *iteration* is called with the point and its nllf at each Jacobian, and may raise `Stopped`.
    *options* are scipy's tolerances xtol, ftol and gtol.
    """
    problem = _Compressed(objective, start, iteration)
    if not np.isfinite(problem.residuals(start)).all():
        return start
    alone = len(objective.groups) == 1
    rescaled = 0
    for _ in range(_MAX_WEIGHT_UPDATES):
        before = problem.lowest
        problem.weights = weights_of(objective, problem.residuals_at(problem.best))
        if not _solved(problem, radius, options):
            break
        if (
            problem.promised() > _STALLED_GAIN_NLLF
            and before - problem.lowest > _STALLED_GAIN_NLLF
            and rescaled < _MAX_RESCALED_RUNS
        ):
            rescaled += 1
            problem.scale = natural_scale(objective, problem.best)  # the start is far away
        elif alone or not objective.unknown or before - problem.lowest <= _SETTLED_NLLF * (1 + abs(before)):
            break
    return problem.best


def _solved(problem: _Compressed, radius: float, options: dict[str, Any]) -> bool:
    """One run from the best point with fixed weights; False if it was stopped."""
    try:
        try:
            _levenberg_marquardt(problem, radius, options)
        except _OutsideLimits:
            _trust_region(problem, radius, options)
            _levenberg_marquardt(problem, radius, options)
    except (_OutsideLimits, _NothingToGain):
        pass
    except Stopped:
        return False
    return True


def _levenberg_marquardt(problem: _Compressed, radius: float, options: dict[str, Any]) -> None:
    """MINPACK's method from the best point. Raises `_OutsideLimits` where it leaves the limits."""
    from scipy.optimize import leastsq

    # the first radius is a multiple of the length of the start vector: about *radius* natural scales
    start = problem.begin(radius / _MINPACK_RADIUS_FACTOR)
    low, high = problem.bounds()

    def inside(u: Array) -> Array:
        if np.any(u < low) or np.any(u > high):
            raise _OutsideLimits
        return problem.function(u)

    leastsq(
        inside,
        start,
        Dfun=problem.derivative,
        diag=np.ones(start.size),
        factor=_MINPACK_RADIUS_FACTOR,
        maxfev=_MAX_EVALUATIONS,
        full_output=True,
        **{**_TOLERANCES, **options},
    )


def _trust_region(problem: _Compressed, radius: float, options: dict[str, Any]) -> None:
    """scipy's trust-region method with limits, from the best point."""
    from scipy.optimize import least_squares as solve

    start = problem.begin(radius)  # its length is the first radius
    solve(
        problem.function,
        start,
        jac=problem.derivative,
        bounds=problem.bounds(),
        x_scale=1.0,
        max_nfev=_MAX_EVALUATIONS,
        **options,
    )


class _NothingToGain(Exception):
    """Raised when the predicted gain is negligible."""


class _OutsideLimits(Exception):
    """Raised when Levenberg-Marquardt, which ignores limits, crosses one."""
