"""The band that holds the fit with a probability of 95 %: from draws, or from the covariance.

A band says where the true curve lies, not where the next measurement will. It is made for everything that is
drawn at once, as one row of m values, so that each parameter vector is evaluated once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from statistics import NormalDist

import numpy as np

from park.fit.data import Array

#: Its quantiles.
LOW, HIGH = 0.025, 0.975
#: So many curves are drawn at most, and quantiles of fewer than FEWEST are not worth their evaluations.
MOST, FEWEST = 400, 100
#: Draws times values that are held at once: 32 MB. A larger band comes from the draws' covariance.
HELD = 4_000_000
#: The step of a derivative, in standard deviations: far above a model's rounding, well below its curvature.
STEP = 0.05


def chosen(draws: Array | None, size: int) -> Array:
    """Draws (n, k) whose curves of *size* values make a band; none where there are too few, or too many values."""
    if draws is None or len(draws) < FEWEST or FEWEST * size > HELD:
        return np.empty((0, 0))
    count = min(MOST, len(draws), HELD // max(size, 1))
    found: Array = draws[np.linspace(0, len(draws) - 1, count).astype(int)]
    return found


def of_curves(rows: Iterable[Array | None]) -> tuple[Array, Array] | None:
    """The lower and the upper bound, each of shape (m,), of the curves in *rows*.

    None among them stands for a draw at which the model failed; where most did there is no band.
    """
    given = list(rows)
    curves = [row for row in given if row is not None]
    if 2 * len(curves) < len(given):
        return None
    low, high = np.quantile(np.array(curves), (LOW, HIGH), axis=0, overwrite_input=True)
    return low, high


def propagated(
    evaluate: Callable[[Array], Array], x: Array, middle: Array, limits: tuple[Array, Array], cov: Array
) -> tuple[Array, Array] | None:
    """The bounds of ``evaluate(x)``, which is *middle*, by linear propagation of *cov* (k, k).

    One evaluation for each principal axis of the errors, in units of the errors. None where the covariance
    says nothing.
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
        step = _inside(x, STEP * axis, *limits)
        with np.errstate(all="ignore"):
            variance += ((evaluate(x + step) - middle) / STEP) ** 2
    half = NormalDist().inv_cdf(HIGH) * np.sqrt(variance)
    return middle - half, middle + half


def _inside(x: Array, step: Array, low: Array, high: Array) -> Array:
    """The step, or its opposite, whichever stays within the limits; else what the limits leave of it."""
    for tried in (step, -step):
        if ((low <= x + tried) & (x + tried <= high)).all():
            return tried
    return np.clip(x + step, low, high) - x
