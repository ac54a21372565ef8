"""Sequential quadratic programming, for constraints between parameters and for likelihoods that are not sums of squares.

scipy's SLSQP approximates second derivatives from gradients and follows a constraint exactly. It runs in whitened
coordinates x = x0 + B z, in which the second derivatives at x0 are the unit matrix: it starts with the correct ones,
and one unit is about one standard error. It restarts at its end point until a run gains nothing.

Outside a constraint the likelihood is that of the model, not infinity, because SLSQP evaluates points on both sides. The
result is moved inside.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from park.fit.arrays import Array
from park.fit.numerics.derivatives import difference_steps, natural_scale
from park.fit.numerics.least_squares import Stopped, Triangles, weights_of
from park.fit.numerics.sides import Fence, normal_of, sides_of
from park.fit.problem.objective import Objective

#: Largest number of runs of SLSQP, each in new coordinates, and the gain in nllf that ends them.
_MAX_SLSQP_RUNS, _SETTLED_NLLF = 12, 1e-11
#: Number of projections onto an edge, and of further moves of one parameter.
_PROJECTIONS = 4


def minimise_constrained(
    objective: Objective,
    start: Array,
    iteration: Callable[[Array, float], None],
    rounds: int = _MAX_SLSQP_RUNS,
) -> Array:
    """Minimises nllf from *start* within limits and constraints, and returns the best point, shape (k,).

    *iteration* is called with the point and its nllf at each gradient, and may raise `Stopped` to end the search.
    """
    problem = _Problem(objective, start, iteration)
    try:
        for _ in range(rounds):
            before = problem.lowest
            problem.run()
            if not before - problem.lowest > _SETTLED_NLLF * (1 + abs(before)):
                break
    except Stopped:
        pass
    return problem.best


class _Problem:
    """One minimisation: nllf, its gradient, and the best allowed point so far."""

    def __init__(self, objective: Objective, start: Array, iteration: Callable[[Array, float], None]) -> None:
        self.objective = objective
        self.iteration = iteration
        self.steps = difference_steps(objective, fenced=False)
        self.scale = natural_scale(objective, start, self.steps)
        self.best, self.lowest = start.copy(), np.inf
        self.keep(start)
        self.x = start.copy()

    def keep(self, x: Array) -> None:
        """Stores *x*, moved inside, if it is the best point so far."""
        inside = moved_inside(self.objective, x, self.scale)
        value = self.objective.nllf(inside)
        if value < self.lowest:
            self.best, self.lowest = inside, value

    def run(self) -> None:
        """One run of SLSQP in the coordinates of the best point."""
        from scipy import optimize

        objective, x0 = self.objective, self.best.copy()
        basis = self._basis(x0)

        def point(z: Array) -> Array:
            x: Array = np.clip(x0 + basis @ z, objective.low, objective.high)
            return x

        def value(z: Array) -> float:
            found = self.value(point(z))
            return found if np.isfinite(found) else 1e300

        def gradient(z: Array) -> Array:
            x = point(z)
            self.keep(x)
            self.iteration(x, self.value(x))
            found = self.gradient(x)[0]
            return basis.T @ np.where(np.isfinite(found), found, 0.0)

        with np.errstate(all="ignore"):
            found = optimize.minimize(
                value, np.zeros(x0.size), jac=gradient, method="SLSQP",
                constraints=self._conditions(x0, basis, point),
                options={"ftol": 1e-14, "maxiter": 300},
            )  # fmt: skip
        self.keep(point(found.x))

    def _conditions(self, x0: Array, basis: Array, point: Callable[[Array], Array]) -> list[dict[str, Any]]:
        """Limits and constraints in the form of SLSQP, in units of about one standard error."""
        conditions: list[dict[str, Any]] = []
        for side, limits in ((1.0, self.objective.low), (-1.0, self.objective.high)):
            rows = np.flatnonzero(np.isfinite(limits))
            if rows.size:
                unit = np.linalg.norm(basis[rows], axis=1)
                conditions.append(
                    {
                        "type": "ineq",
                        "fun": lambda z, s=side, r=rows, v=limits, u=unit: (
                            s * ((x0 + basis @ z)[r] - v[r]) / u
                        ),
                        "jac": lambda z, s=side, r=rows, u=unit: s * basis[r] / u[:, None],
                    }
                )
        for inequality in self.objective.inequalities:
            sides = sides_of(inequality, x0, self.scale)
            if len(sides) > 1:  # on an edge the slack has no derivative, and its sides have
                conditions += [_straight(side, basis) for side in sides]
                continue
            normal = normal_of(inequality, x0, self.scale)
            length = float(np.linalg.norm(basis.T @ normal)) or 1.0
            conditions.append(
                {
                    "type": "ineq",
                    "fun": lambda z, i=inequality, u=length: i.slack(point(z)) / u,
                    "jac": lambda z, i=inequality, u=length: basis.T @ normal_of(i, point(z), self.scale) / u,
                }
            )
        return conditions

    def value(self, x: Array) -> float:
        """nllf at *x*, on both sides of each constraint."""
        try:
            return self.objective.free_nllf(x)
        except Exception as error:
            self.objective.failed(error)
            return np.inf

    def gradient(self, x: Array) -> tuple[Array, Array | None]:
        """The gradient (k,) at *x*, and for sums of squares a factor (m, k) of the second derivatives."""
        objective = self.objective
        if not objective.squares:
            return self.steps.jacobian(x, np.array([self.value(x)])).matrix[0], None
        residuals = objective.free_residuals(x)
        matrix = self.steps.jacobian(x, residuals).matrix
        matrix[~np.isfinite(matrix)] = 0.0
        triangles = Triangles(objective.groups, residuals, matrix)
        length, factor = triangles.joined(weights_of(objective, residuals))
        return factor[0] * length, factor

    def _basis(self, x: Array) -> Array:
        """The matrix B (k, k) of the whitened coordinates: each column is about one standard error long."""
        _, factor = self.gradient(x)
        if factor is None:
            return np.diag(self.scale)
        norms = np.linalg.norm(factor, axis=0)
        norms = np.where(norms > 0, norms, 1 / self.scale)
        _, singular, rows = np.linalg.svd(factor / norms)
        singular = np.maximum(singular, 1e-7 * singular[0]) if singular[0] > 0 else np.ones_like(singular)
        basis: Array = (rows.T / singular) / norms[:, None]
        return basis


def _straight(side: Fence, basis: Array) -> dict[str, Any]:
    """One *side* of an edge as a condition of SLSQP."""
    row = basis.T @ side.normal
    length = float(np.linalg.norm(row)) or 1.0
    return {
        "type": "ineq",
        "fun": lambda z: (side.slack + row @ z) / length,
        "jac": lambda z: row / length,
    }


def moved_inside(objective: Objective, x: Array, scale: Array) -> Array:
    """The nearest point within limits and constraints, by a few projections; *x* itself if they fail."""
    inside = np.clip(x, objective.low, objective.high)
    for margin in (0.0, 1e-14, 1e-12, 1e-10, 1e-8, 1e-6, 1e-4):
        for _ in range(3):
            broken = [i for i in objective.inequalities if not i.slack(inside) >= 0]
            if not broken:
                return inside
            for inequality in broken:
                normal = normal_of(inequality, inside, scale) * scale
                length = float(normal @ normal)
                if length > 0:
                    lack = -inequality.slack(inside) + margin * length**0.5
                    inside = np.clip(inside + scale * normal * (lack / length), objective.low, objective.high)
    return _moved_onto_edges(objective, x, scale)


def _moved_onto_edges(objective: Objective, x: Array, scale: Array) -> Array:
    """A point on the edges of constraints that have no other point, as ``abs(a - b) <= 0``; *x* itself if there is none.

    By rounding a projection ends beside the edge. So the last steps each move one parameter.
    """
    inside = np.clip(x, objective.low, objective.high)
    for directions in (*[scale[None, :]] * _PROJECTIONS, *[np.diag(scale)] * _PROJECTIONS):
        for inequality in objective.inequalities:
            lack = -inequality.slack(inside)
            if lack > 0:
                points = [
                    np.clip(_moved(inside, side.normal, lack, along), objective.low, objective.high)
                    for side in sides_of(inequality, inside, scale)
                    for along in directions
                ]
                inside = max(points, key=inequality.slack, default=inside)
    return inside if all(i.slack(inside) >= 0 for i in objective.inequalities) else x


def _moved(x: Array, normal: Array, lack: float, along: Array) -> Array:
    """The point at which a linear slack with this *normal* is larger by *lack*, moved *along* some parameters."""
    normal = normal * along
    length = float(normal @ normal)
    return x + along * normal * (lack / length) if length > 0 else x
