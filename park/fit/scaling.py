"""Coordinates in which every parameter has a size of about one, whatever its unit and its offset.

bumps' methods measure steps, spreads and tolerances by the size of a value, |x|. That is right where a value is near
its own natural size, and wrong for a time in seconds since 1970, for a phase near zero, and in a unit that is far
too small or too large. So they run on ``u`` with ``x = centre + scale * u``. The centre is where the run starts. The scale
is the width of the limits where both are finite, else the parameter's natural scale: the step that changes the
residuals by about their own size.

`Whitened` coordinates turn the axes as well: ``x = centre + factor @ u`` with ``factor @ factor.T`` the covariance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from park.fit.data import Array
from park.fit.derivatives import natural_scale
from park.fit.objective import Objective


@dataclass(frozen=True)
class Coordinates:
    """``x = centre + scale * u``, within the limits *low* and *high* of x; all of shape (k,)."""

    centre: Array
    scale: Array
    low: Array
    high: Array

    def x(self, u: Any) -> Array:
        """The parameters at *u*, shape (k,) or (n, k). Rounding moves none that is inside across its limits."""
        x: Array = self.centre + self.scale * u
        nearest = np.minimum(np.maximum(x, self.low), self.high)
        if (x != nearest).any():
            low, high = self.limits
            x = np.where((low <= u) & (u <= high), nearest, x)
        return x

    def u(self, x: Any) -> Array:
        """The coordinates of the parameters *x*, shape (k,) or (n, k)."""
        u: Array = (np.asarray(x, dtype=np.float64) - self.centre) / self.scale
        return u

    @property
    def limits(self) -> tuple[Array, Array]:
        """The limits of u, each of shape (k,)."""
        return self.u(self.low), self.u(self.high)

    def covariance(self, matrix: Array) -> Array:
        """The covariance (k, k) of u, from that of x."""
        return matrix / np.outer(self.scale, self.scale)


class Whitened(Coordinates):
    """``x = centre + factor @ u``: u has no limits, covariance one, and no correlations.

    *factor* is the lower triangle (k, k) of Cholesky's decomposition of the covariance. A box in x is none in u, so
    the limits are honoured by an infinite nllf outside.
    """

    def __init__(self, centre: Array, factor: Array, low: Array, high: Array) -> None:
        super().__init__(centre, np.ones(centre.size), low, high)
        object.__setattr__(self, "factor", factor)

    factor: Array

    def x(self, u: Any) -> Array:
        x: Array = self.centre + np.asarray(u, dtype=np.float64) @ self.factor.T
        return x

    def u(self, x: Any) -> Array:
        from scipy.linalg import solve_triangular

        away = np.asarray(x, dtype=np.float64) - self.centre
        u: Array = solve_triangular(self.factor, away.T, lower=True).T
        return u

    @property
    def limits(self) -> tuple[Array, Array]:
        return np.full(self.centre.size, -np.inf), np.full(self.centre.size, np.inf)

    def covariance(self, matrix: Array) -> Array:
        from scipy.linalg import solve_triangular

        half = solve_triangular(self.factor, matrix, lower=True)
        result: Array = solve_triangular(self.factor, half.T, lower=True)
        return result


def scaled(objective: Objective, x0: Array, limits: bool = True) -> Coordinates:
    """Coordinates about *x0*. Without *limits* the scale is the natural one of all parameters."""
    scale = objective.high - objective.low
    if not (limits and np.isfinite(scale).all()):
        natural = natural_scale(objective, x0)
        scale = np.where(np.isfinite(scale), scale, natural) if limits else natural
    return Coordinates(x0.copy(), scale, objective.low, objective.high)


def whitened(objective: Objective, x0: Array, covariance: Array) -> Whitened | None:
    """Coordinates about *x0* in which *covariance* is one; None where it is not well determined.

    It is so where each deviation is finite, positive and narrower than the limits.
    """
    with np.errstate(all="ignore"):
        deviation = np.sqrt(np.diag(covariance))
        known = np.isfinite(deviation) & (deviation > 0) & (deviation < objective.high - objective.low)
        if not (known.all() and np.isfinite(covariance).all()):
            return None
        try:
            factor = np.linalg.cholesky(covariance / np.outer(deviation, deviation))
        except np.linalg.LinAlgError:
            return None
    return Whitened(x0.copy(), deviation[:, None] * factor, objective.low, objective.high)
