"""A bumps problem in other coordinates: bumps' methods see u, the model sees x."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from park.fit.data import Array
from park.fit.objective import Objective
from park.fit.scaling import Coordinates


class Shadow:
    """What bumps' methods ask of a problem, in *coordinates*. The problem of the *objective* stays as it is.

    *evaluate* takes x to nllf, *covariance* takes x to its covariance (k, k). It begins at *x0*.
    """

    def __init__(
        self,
        objective: Objective,
        coordinates: Coordinates,
        evaluate: Callable[[Array], float],
        covariance: Callable[[Array], Array],
        x0: Array,
    ) -> None:
        self._problem = objective.problem()
        self._names = objective.names
        self._coordinates = coordinates
        self._evaluate = evaluate
        self._covariance = covariance
        self.setp(coordinates.u(x0))

    def __getattr__(self, name: str) -> Any:
        """What has no coordinates: its name, and derived, visible and integer variables."""
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
        """The point that is evaluated for *u*, shape (k,) or (n, k)."""
        return u

    def likelihood(self, value: Any, u: Any) -> Any:
        """The negative log likelihood of the model, where `nllf` has the *value* at *u*; or of (n,) values at (n, k)."""
        return value

    def nllf(self, u: Any = None) -> float:
        return self._evaluate(self._coordinates.x(self._point if u is None else u))

    def cov(self, u: Any) -> Array:
        return self._coordinates.covariance(self._covariance(self._coordinates.x(u)))

    def randomize(self, n: int) -> Array:
        """*n* random points, shape (n, k), as bumps draws them; without two limits within a scale of the point.

        bumps spreads a parameter that has not two limits by its value. A parameter with a distribution keeps that.
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


class Fenced(Shadow):
    """A problem for a method that knows no limits, and takes the size of the likelihood for that of its changes.

    Outside the limits it is as high as at the nearest point inside, and higher by the square of the distance. Its level
    does not depend on units, and a point without a value is one that is higher than all before.
    """

    def __init__(
        self,
        objective: Objective,
        coordinates: Coordinates,
        evaluate: Callable[[Array], float],
        covariance: Callable[[Array], Array],
        x0: Array,
    ) -> None:
        super().__init__(objective, coordinates, evaluate, covariance, x0)
        self._low, self._high = coordinates.limits
        first = evaluate(x0)
        level = float(objective.points) if objective.squares else 1.0
        known = objective.squares and not objective.unknown
        #: the likelihood at the start as the method takes it: about the curvature in natural coordinates
        self._size = max(first, 1.0) if known and np.isfinite(first) else level
        self._offset = self._size - first if np.isfinite(first) else 0.0
        self._worst = self._size

    def inside(self, u: Any) -> Any:
        """The nearest point within the limits."""
        inside: Array = np.clip(u, self._low, self._high)
        return inside

    def nllf(self, u: Any = None) -> float:
        u = self._point if u is None else u
        value = super().nllf(self.inside(u)) + self._offset
        if not np.isfinite(value):
            return 2 * self._worst
        value += float(self._outside(u))
        self._worst = max(self._worst, value)
        return value

    def likelihood(self, value: Any, u: Any) -> Any:
        return np.asarray(value, dtype=np.float64) - self._offset - self._outside(u)

    def _outside(self, u: Any) -> Any:
        away = np.asarray(u, dtype=np.float64) - self.inside(u)
        return self._size * np.square(away).sum(axis=-1)
