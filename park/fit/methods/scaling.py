"""Scaled coordinates, in which every parameter has a size of about one.

bumps' methods measure steps, spreads and tolerances by the size of a value, |x|. This fails for a time in seconds
since 1970, for a phase near zero, and for units that are far too small or too large. The methods therefore run on u, with
``x = centre + scale * u``. The centre is the start of the run. The scale is the width of the limits if both are finite, and
otherwise the natural scale of the parameter: the step that changes the residuals by about their own size.

`WhitenedScaling` also rotates the axes: ``x = centre + factor @ u``, where ``factor @ factor.T`` is the covariance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from park.fit.arrays import Array
from park.fit.numerics.derivatives import natural_scale
from park.fit.problem.objective import Objective


@dataclass(frozen=True)
class Scaling:
    """``x = centre + scale * u``, within the limits *low* and *high* of x; all of shape (k,)."""

    centre: Array
    scale: Array
    low: Array
    high: Array

    def x(self, u: Any) -> Array:
        """The parameters at *u*, shape (k,) or (n, k). Rounding does not move a point inside the limits across them."""
        x: Array = self.centre + self.scale * u
        nearest = np.minimum(np.maximum(x, self.low), self.high)
        if x.tobytes() != nearest.tobytes():  # mostly equal, and bytes are compared faster than numbers
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
        """The covariance (k, k) in u of a covariance in x."""
        return matrix / np.outer(self.scale, self.scale)


class WhitenedScaling(Scaling):
    """``x = centre + factor @ u``: in u the covariance is the unit matrix.

    *factor* (k, k) is the lower Cholesky factor of the covariance. Limits of x are not limits of u: outside them nllf is
    infinite.
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


def scaled(objective: Objective, x0: Array, limits: bool = True) -> Scaling:
    """The scaling about *x0*. Without *limits* all parameters have their natural scale."""
    scale = objective.high - objective.low
    if not (limits and np.isfinite(scale).all()):
        natural = natural_scale(objective, x0)
        scale = np.where(np.isfinite(scale), scale, natural) if limits else natural
    return Scaling(x0.copy(), scale, objective.low, objective.high)


def whitened(objective: Objective, x0: Array, covariance: Array) -> WhitenedScaling | None:
    """The scaling about *x0* in which *covariance* becomes the unit matrix; None if it is not well determined.

    A covariance is well determined if each standard deviation is finite, positive and narrower than the limits.
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
    return WhitenedScaling(x0.copy(), deviation[:, None] * factor, objective.low, objective.high)
