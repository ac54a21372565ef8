"""Correlated errors: the covariance matrix of data, and the matrix that makes residuals independent.

With C = L L' (Cholesky) the residuals r become inv(L) r, whose covariance is the unit matrix. Their sum of squares is
r' inv(C) r, so that least squares becomes generalised least squares.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from park.errors import InvalidRequest
from park.fit.problem.input_arrays import read

Matrix = NDArray[np.float64]

#: largest asymmetry of a covariance, relative to the errors of the two points
_MAX_ASYMMETRY = 1e-8


def covariance_of(given: Any, points: int, parts: int) -> Matrix:
    """The covariance of *points* values of y, shape (parts * points, parts * points).

    A complex y has two *parts*: all real parts, then all imaginary parts. A matrix (points, points) then applies to each.
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

    Raises InvalidRequest unless the matrix is symmetric and positive definite.
    """
    from scipy.linalg import cholesky, solve_triangular

    deviation = _deviations(cov)
    scaled = cov / np.outer(deviation, deviation)
    skew = np.abs(scaled - scaled.T)
    if skew.max() > _MAX_ASYMMETRY:
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
