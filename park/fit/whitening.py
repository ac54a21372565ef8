"""Data whose errors are correlated: a covariance matrix, and the residuals that it makes independent.

With C = L L' (Cholesky) the residuals r become inv(L) r. They have the unit matrix as their covariance, so
that their sum of squares is r' inv(C) r, and least squares with them is generalised least squares.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from park.errors import InvalidRequest
from park.fit.columns import read

Matrix = NDArray[np.float64]

#: how much the two halves of a matrix may differ, as a part of the errors of the two points
_ASYMMETRY = 1e-8


def covariance_of(given: Any, points: int, parts: int) -> Matrix:
    """The covariance of *points* values of y, shape (parts * points, parts * points).

    A complex y has 2 *parts*: all real parts, then all imaginary parts. One matrix (points, points) then counts
    for each of them.
    """
    column = read(given, "cov", complex_too=True)
    cov = column.values
    size = parts * points
    if np.iscomplexobj(cov):
        raise InvalidRequest(
            f"cov is complex: give the real matrix ({size}, {size}) of all real parts of y and then all imaginary parts"
        )
    if column.masked is not None:
        raise InvalidRequest("cov is masked: mask the points of y that must be left out, and give all of cov")
    if parts == 2 and cov.shape == (points, points):
        cov = np.kron(np.eye(2), cov)
    if cov.shape != (size, size):
        advice = "; for errors of single points give dy" if cov.ndim != 2 else ""
        raise InvalidRequest(f"cov has shape {cov.shape}; {size} values of y need ({size}, {size}){advice}")
    return np.asarray(cov, dtype=np.float64)


def whitening(cov: Matrix) -> Matrix:
    """The matrix inv(L) of a covariance L L', shape (n, n).

    Raises InvalidRequest for a matrix that is not symmetric and positive definite.
    """
    from scipy.linalg import cholesky, solve_triangular

    deviation = _deviations(cov)
    scaled = cov / np.outer(deviation, deviation)
    skew = np.abs(scaled - scaled.T)
    if skew.max() > _ASYMMETRY:
        i, j = (int(n) for n in np.unravel_index(skew.argmax(), skew.shape))
        raise InvalidRequest(
            f"cov is not symmetric: it is {cov[i, j]:g} at index ({i}, {j}) and {cov[j, i]:g} at index ({j}, {i})"
        )
    scaled = (scaled + scaled.T) / 2
    smallest = float(np.linalg.eigvalsh(scaled)[0])
    if smallest < len(cov) * np.finfo(np.float64).eps:
        raise InvalidRequest(
            f"cov is not positive definite (the smallest eigenvalue of its correlations is {smallest:.3g}): some "
            f"points would have no error of their own; add each point's independent variance to the diagonal"
        )
    lower = cholesky(scaled, lower=True)
    inverse: Matrix = solve_triangular(lower, np.diag(1 / deviation), lower=True)
    return inverse


def _deviations(cov: Matrix) -> Matrix:
    bad = np.flatnonzero(~np.isfinite(cov))
    if bad.size:
        i, j = (int(n) for n in np.unravel_index(bad[0], cov.shape))
        raise InvalidRequest(f"cov must be finite; it is {cov[i, j]} at index ({i}, {j})")
    variance = np.diag(cov)
    bad = np.flatnonzero(variance <= 0)
    if bad.size:
        i = int(bad[0])
        raise InvalidRequest(
            f"cov is not positive definite: the variance of y at index {i} is {variance[i]:g}; it must be positive"
        )
    return np.sqrt(variance)
