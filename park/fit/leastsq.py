"""Levenberg-Marquardt with central differences, and standard errors to match.

The derivative is the central difference with a step of cbrt(eps) of each parameter, exact to some ten digits
where a forward difference has seven; columns are scaled to one before anything is inverted. That is what
certified standard errors need: their problems span ten decades between parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from park.fit.data import Array
from park.fit.objective import Objective

_STEP = float(np.finfo(np.float64).eps ** (1 / 3))


class Stopped(Exception):
    """Raised inside the optimizer to end it with the best so far."""


def jacobian(function: Callable[[Array], Array], x: Array, low: Array, high: Array, scale: Array) -> Array:
    """Derivatives of *function* (n values) at *x*, shape (n, k). It is not called outside the limits."""
    columns = []
    for j in range(x.size):
        step = _STEP * (abs(x[j]) or scale[j])
        up, down = x.copy(), x.copy()
        up[j], down[j] = min(x[j] + step, high[j]), max(x[j] - step, low[j])
        columns.append((function(up) - function(down)) / (up[j] - down[j]))
    return np.stack(columns, axis=1)


def scales(start: Array) -> Array:
    """The sizes of the parameters, from where a fit starts."""
    return np.where(start == 0, 1.0, np.abs(start))


def covariance(objective: Objective, x: Array) -> Array:
    """The covariance of the parameters at *x*, shape (k, k).

    Where a part has no dy it is scaled by the reduced chi-squared. Parameters that the data do not
    determine get an infinite variance.
    """
    k = x.size
    if not objective.has_residuals:
        from bumps import lsqerror

        hessian = lsqerror.hessian(objective.problem(), x)
        return np.asarray(lsqerror.hessian_cov(hessian), dtype=np.float64)
    matrix = jacobian(objective.residuals, x, objective.low, objective.high, scales(objective.start))
    if objective.scaled:
        residuals = objective.residuals(x)
        chisq = objective.chisq(0.5 * float(residuals @ residuals))
        data = objective.points - objective.priors
        with np.errstate(all="ignore"):
            matrix[:data] /= np.sqrt(chisq)
            if not np.isfinite(matrix[:data]).all():  # an exact fit, or no degree of freedom left
                return np.zeros((k, k)) if chisq == 0 else np.full((k, k), np.inf)
    if not np.isfinite(matrix).all():
        return np.full((k, k), np.inf)
    norms = np.linalg.norm(matrix, axis=0)
    blind = norms == 0
    norms[blind] = 1.0
    _, singular, rows = np.linalg.svd(matrix / norms, full_matrices=True)
    singular = np.concatenate([singular, np.zeros(k - singular.size)])
    lost = singular <= singular.max(initial=0.0) * k * np.finfo(np.float64).eps
    rows_kept = rows[~lost] / singular[~lost, None]
    result: Array = (rows_kept.T @ rows_kept) / np.outer(norms, norms)
    undetermined = blind | (np.abs(rows[lost]) > 1e-6).any(axis=0)
    result[undetermined, undetermined] = np.inf
    return result


def least_squares(
    residuals: Callable[[Array], Array],
    start: Array,
    low: Array,
    high: Array,
    iteration: Callable[[Array], None],
    **options: Any,
) -> Array:
    """Minimises the sum of squares of *residuals* from *start* and returns the best point.

    scipy's MINPACK where there are no limits; with limits its trust-region method, then MINPACK from there as
    long as it stays inside. *iteration* is called with the point at each derivative, and may raise `Stopped`.
    """
    from scipy import optimize

    scale = scales(start)
    best = start.copy()
    lowest = np.inf

    def function(x: Array) -> Array:
        nonlocal best, lowest
        if np.any(x < low) or np.any(x > high):
            raise Stopped
        values = residuals(x)
        squares = float(values @ values)
        if squares < lowest:
            best, lowest = x.copy(), squares
        return values  # both methods step back from what is not finite

    def derivative(x: Array) -> Array:
        iteration(x)
        matrix = jacobian(function, x, low, high, scale)
        matrix[~np.isfinite(matrix)] = 0.0  # the edge of where the model has values
        return matrix

    def solve(method: str, x: Array, **more: Any) -> None:
        optimize.least_squares(
            function, x, jac=derivative, method=method, x_scale=scale, max_nfev=1_000_000, **options, **more
        )

    free = not (np.isfinite(low).any() or np.isfinite(high).any())
    few = function(start).size < start.size
    try:
        if not free or few:
            solve("trf", np.clip(start, low, high), bounds=(low, high))
        if not few:
            solve("lm", best.copy())
    except Stopped:
        pass
    return best
