"""Quantiles of Student's t distribution, and values with standard errors as text."""

from __future__ import annotations

from statistics import NormalDist
from typing import Any

import numpy as np

from park.fit.arrays import Array


def widened(cov: Array, dof: Array | None) -> Array:
    """The covariance (k, k) of a normal distribution with the same 95 % intervals as Student's t with *dof* (k,)."""
    factor = np.ones(len(cov)) * quantile(0.975, dof) / quantile(0.975, None)
    result: Array = cov * np.outer(factor, factor)
    return result


def format_value(value: float, error: float) -> str:
    """A value with its standard error in the last two digits.

    >>> uncertain(238.94213, 2.7070)
    '238.9(2.7)'
    >>> uncertain(5.5015643e-4, 7.2668e-6)
    '5.502(73)e-4'
    """
    decimals = error_decimals(error)
    if decimals is None or not np.isfinite(value):
        return f"{value:.6g}" if error == 0 else f"{value:.6g}({error:g})"
    power = int(np.floor(np.log10(max(abs(value), error))))
    if -4 < power < 7 and decimals > -6:
        power = 0
    decimals += power
    scaled, small = value / 10.0**power, error / 10.0**power
    tail = f"e{power}" if power else ""
    if decimals <= 0:
        return f"{scaled:.0f}({small:.0f}){tail}"
    inside = f"{small:.{decimals}f}" if small >= 0.995 else f"{round(small * 10**decimals)}"
    return f"{scaled:.{decimals}f}({inside}){tail}"


def quantile(p: float, dof: Array | None) -> Any:
    """The quantile *p* of Student's t with *dof* (k,) degrees of freedom; normal where they are infinite or None."""
    normal = NormalDist().inv_cdf(p)
    if dof is None or np.isinf(dof).all():
        return normal
    from scipy.special import stdtrit

    finite = np.where(np.isfinite(dof), dof, 1e9)
    return np.where(np.isfinite(dof), stdtrit(finite, p), normal)


def error_decimals(error: float) -> int | None:
    """The number of decimals that show two digits of an error; None for errors that are not finite and positive."""
    return None if not np.isfinite(error) or error <= 0 else 1 - int(np.floor(np.log10(error)))
