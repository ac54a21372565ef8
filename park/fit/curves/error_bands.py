"""The 95 % band of a fitted curve, from draws or from the covariance.

The band holds the true curve with a probability of 95 %; it is no prediction interval for new data. All curves of a result
are one row of m values, so that each parameter vector is evaluated once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from statistics import NormalDist

import numpy as np

from park.fit.arrays import Array

#: The quantiles of a band.
LOW_QUANTILE, HIGH_QUANTILE = 0.025, 0.975
#: Largest and smallest number of draws for a band.
MAX_BAND_DRAWS, MIN_BAND_DRAWS = 400, 100
#: Largest number of draws times values in memory (32 MB); a larger band is computed from the covariance.
MAX_HELD_VALUES = 4_000_000
#: Difference step in standard deviations: far above the rounding of a model, well below its curvature.
STEP_SIGMAS = 0.05


def chosen(draws: Array | None, size: int) -> Array:
    """The draws (n, k) for a band of curves of *size* values; an empty array for too few draws or too many values."""
    if draws is None or len(draws) < MIN_BAND_DRAWS or MIN_BAND_DRAWS * size > MAX_HELD_VALUES:
        return np.empty((0, 0))
    count = min(MAX_BAND_DRAWS, len(draws), MAX_HELD_VALUES // max(size, 1))
    found: Array = draws[np.linspace(0, len(draws) - 1, count).astype(int)]
    return found


def of_curves(rows: Iterable[Array | None]) -> tuple[Array, Array] | None:
    """The lower and the upper bound, each of shape (m,), of the curves in *rows*.

    A row is None if the model failed at that draw. The result is None if the model failed at most draws.
    """
    given = list(rows)
    curves = [row for row in given if row is not None]
    if 2 * len(curves) < len(given):
        return None
    low, high = np.quantile(np.array(curves), (LOW_QUANTILE, HIGH_QUANTILE), axis=0, overwrite_input=True)
    return low, high


def propagated(
    evaluate: Callable[[Array], Array], x: Array, middle: Array, limits: tuple[Array, Array], cov: Array
) -> tuple[Array, Array] | None:
    """The bounds of ``evaluate(x)``, which is *middle* (m,), by linear propagation of *cov* (k, k).

    It takes one evaluation for each principal axis of the correlation matrix. The result is None for a covariance that
    is not finite.
    """
    deviation = np.sqrt(np.diag(cov))
    if not np.isfinite(cov).all() or not deviation.any():
        return None
    with np.errstate(all="ignore"):
        correlation = cov / np.outer(deviation, deviation)
    correlation = np.where(np.isfinite(correlation), correlation, 0.0)
    size, axes = np.linalg.eigh(correlation)
    variance = np.zeros_like(middle)
    for axis in (deviation[:, None] * axes * np.sqrt(np.maximum(size, 0.0))).T:
        step = _inside(x, STEP_SIGMAS * axis, *limits)
        with np.errstate(all="ignore"):
            variance += ((evaluate(x + step) - middle) / STEP_SIGMAS) ** 2
    half = NormalDist().inv_cdf(HIGH_QUANTILE) * np.sqrt(variance)
    return middle - half, middle + half


def _inside(x: Array, step: Array, low: Array, high: Array) -> Array:
    """The step or its opposite, whichever stays within the limits; otherwise the clipped step."""
    for tried in (step, -step):
        if ((low <= x + tried) & (x + tried <= high)).all():
            return tried
    return np.clip(x + step, low, high) - x
