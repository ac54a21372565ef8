"""The band that holds the fit with a probability of 95 %: from draws, or from the covariance.

A band says where the true curve lies, not where the next measurement will. It is made for everything that is
drawn at once, as one row of values, so that each parameter vector is evaluated once.
"""

from __future__ import annotations

from collections.abc import Callable
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

Evaluate = Callable[[Array], Array]


def band(
    evaluate: Evaluate, x: Array, limits: tuple[Array, Array], cov: Array, draws: Array | None
) -> tuple[Array, Array] | None:
    """The lower and the upper bound of ``evaluate(x)``, each of its shape (m,).

    From the quantiles of curves at *draws* (n, k), or by linear propagation of *cov* (k, k) where there are
    none or their curves would be too large. None where the covariance says nothing.
    """
    middle = evaluate(x)
    if draws is not None and len(draws) >= FEWEST and FEWEST * middle.size <= HELD:
        return _quantiles(evaluate, draws, middle.size)
    return _propagated(evaluate, x, middle, limits, cov)


def _quantiles(evaluate: Evaluate, draws: Array, size: int) -> tuple[Array, Array] | None:
    """Draws at which the model fails are left out, as the sampler did."""
    count = min(MOST, len(draws), HELD // max(size, 1))
    rows = []
    for draw in draws[np.linspace(0, len(draws) - 1, count).astype(int)]:
        try:
            rows.append(evaluate(draw))
        except Exception:
            continue
    if len(rows) < FEWEST / 2:
        return None
    low, high = np.quantile(np.array(rows), (LOW, HIGH), axis=0, overwrite_input=True)
    return low, high


def _propagated(
    evaluate: Evaluate, x: Array, middle: Array, limits: tuple[Array, Array], cov: Array
) -> tuple[Array, Array] | None:
    """One evaluation for each principal axis of the errors, in units of the errors."""
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
