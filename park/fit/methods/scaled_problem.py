"""A bumps problem in scaled coordinates: bumps' methods use u, the model uses x."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np

from park.fit.arrays import Array
from park.fit.methods.scaling import Scaling
from park.fit.problem.objective import Objective


class ScaledProblem:
    """The interface of a bumps problem in scaled *coordinates*. The problem of the *objective* is not changed.

    *evaluate* maps x to nllf, *covariance* maps x to a covariance (k, k). *x0* is the first point.
    """

    def __init__(
        self,
        objective: Objective,
        coordinates: Scaling,
        evaluate: Callable[[Array], float],
        covariance: Callable[[Array], Array],
        x0: Array,
    ) -> None:
        self._objective = objective
        self._names = objective.names
        self._coordinates = coordinates
        self._evaluate = evaluate
        self._covariance = covariance
        self.setp(coordinates.u(x0))

    @cached_property
    def _problem(self) -> Any:
        return self._objective.problem()

    def __getattr__(self, name: str) -> Any:
        """The attributes that do not depend on coordinates: the name, and derived, visible and integer variables."""
        if name in ("name", "derive_vars", "visible_vars", "integer_vars"):
            return getattr(self._problem, name)
        raise AttributeError(name)

    def getp(self) -> Array:
        """The point, shape (k,)."""
        return self._point.copy()

    def setp(self, u: Any) -> None:
        """Moves to *u*."""
        self._point = np.array(u, dtype=np.float64)

    def bounds(self) -> Array:
        """The limits of u, shape (2, k)."""
        return np.array(self._coordinates.limits)

    def labels(self) -> list[str]:
        return list(self._names)

    def inside(self, u: Any) -> Any:
        """The point, shape (k,) or (n, k), at which the model is evaluated for *u*."""
        return u

    def likelihood(self, value: Any, u: Any) -> Any:
        """The nllf of the model for a *value* of `nllf` at *u*; also for values (n,) at points (n, k)."""
        return value

    def nllf(self, u: Any = None) -> float:
        return self._evaluate(self._coordinates.x(self._point if u is None else u))

    def cov(self, u: Any) -> Array:
        return self._coordinates.covariance(self._covariance(self._coordinates.x(u)))

    def randomize(self, n: int) -> Array:
        """*n* random points, shape (n, k), as bumps draws them.

        bumps spreads a parameter without two limits by the size of its value; here it is normal about the current
        point with one scale as its standard deviation. A parameter with a prior distribution is drawn from it.
        """
        from bumps.bounds import BoundedAbove, BoundedBelow, Unbounded

        self._problem.setp(self._coordinates.x(self._point))
        points = self._coordinates.u(self._problem.randomize(n))
        low, high = self.bounds()
        for j, parameter in enumerate(getattr(self._problem, "_parameters", ())):
            if isinstance(parameter.prior, Unbounded | BoundedAbove | BoundedBelow):
                near = self._point[j] + np.random.randn(n)
                near = np.where(near < low[j], 2 * low[j] - near, near)
                points[:, j] = np.where(near > high[j], 2 * high[j] - near, near)
        return points


class PenalisedProblem(ScaledProblem):
    """A problem for a method that ignores limits and uses the size of nllf as the scale of its changes (newton).

    Outside the limits the value is that of the nearest point inside plus a penalty, the squared distance. An offset
    makes the level independent of units. A point without a finite value is higher than all earlier points.
    """

    def __init__(
        self,
        objective: Objective,
        coordinates: Scaling,
        evaluate: Callable[[Array], float],
        covariance: Callable[[Array], Array],
        x0: Array,
    ) -> None:
        super().__init__(objective, coordinates, evaluate, covariance, x0)
        self._low, self._high = coordinates.limits
        first = evaluate(x0)
        level = float(objective.points) if objective.squares else 1.0
        known = objective.squares and not objective.unknown
        #: the value at the start for the method: about the curvature in natural scales
        self._size = max(first, 1.0) if known and np.isfinite(first) else level
        self._offset = self._size - first if np.isfinite(first) else 0.0
        self._worst = self._size

    def bounds(self) -> Array:
        """No limits of u: the penalty takes their place."""
        return np.array([np.full(self._low.size, -np.inf), np.full(self._low.size, np.inf)])

    def inside(self, u: Any) -> Any:
        """The nearest point within the limits."""
        inside: Array = np.minimum(np.maximum(u, self._low), self._high)
        return inside

    def nllf(self, u: Any = None) -> float:
        u = self._point if u is None else u
        inside = self.inside(u)
        value = super().nllf(inside) + self._offset
        if not math.isfinite(value):
            return 2 * self._worst
        away = u - inside
        value += self._size * float(away @ away)
        self._worst = max(self._worst, value)
        return value

    def likelihood(self, value: Any, u: Any) -> Any:
        return np.asarray(value, dtype=np.float64) - self._offset - self._outside(u)

    def _outside(self, u: Any) -> Any:
        away = np.asarray(u, dtype=np.float64) - self.inside(u)
        return self._size * np.square(away).sum(axis=-1)
