"""The covariance of the parameters at the end of a fit.

Of least squares it is the inverse of J'J, with a J whose steps were looked at (`park.fit.derivatives`), by the
triangle of its QR decomposition; columns are scaled to one before anything is inverted. That is what certified
standard errors need: their problems span ten decades between parameters.

The squared size of unknown errors is SS/(n - k) for one part, as in textbooks. With several parts k is shared out:
each part counts its own leverage, the trace of its block of the hat matrix J (J'J)^-1 J'. So parts without common
parameters have the errors that each would have alone.

Any other likelihood has the inverse of its second derivatives.

A fit that ends on a condition between parameters can move along it only: the errors are those of the free
directions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from park.fit.constrained import normal_of
from park.fit.data import Array
from park.fit.derivatives import EPS, steps_of
from park.fit.leastsq import Triangles
from park.fit.objective import Inequality, Objective

#: Data of unknown errors that are met to this part of their spread are met exactly, as far as convergence goes.
MET = 1e-4
#: A direction whose effect is this part of the largest one is lost in the rounding of differences.
_SINGULAR = 3e-10
#: Correlated columns: their smallest singular value below this part of their length.
_CLOSE = 1e-4
_LEVERAGE_ROUNDS = 20


@dataclass(frozen=True)
class Curvature:
    """The likelihood about a point: its gradient and second derivatives, and the errors that follow.

    *gradient* (k,) and *factor* (m, k) with factor' factor the second derivatives. *cov* (k, k) has infinite
    variances for what the data do not determine. *ends* are the conditions on which the point lies. *student* (k,)
    are the degrees of freedom of each error, infinite where the size of the data's errors is known. *error* (k,) is
    the relative error of the derivatives. *chisq* is the sum of squares over the sizes of the errors. *definite* is
    False at a saddle.
    """

    gradient: Array
    factor: Array
    cov: Array
    ends: tuple[Inequality, ...] = ()
    student: Array | None = None
    error: Array | None = None
    chisq: float = np.nan
    definite: bool = True


def covariance(objective: Objective, x: Array) -> Array:
    """The covariance of the parameters at *x*, shape (k, k)."""
    return curvature(objective, x).cov


def curvature(objective: Objective, x: Array) -> Curvature:
    """The gradient, second derivatives and covariance at *x*."""
    with np.errstate(all="ignore"):
        return _of_squares(objective, x) if objective.squares else _of_likelihood(objective, x)


def _of_squares(objective: Objective, x: Array) -> Curvature:
    k = x.size
    residuals = objective.free_residuals(x)
    steps = steps_of(objective, fenced=False)
    derivative = steps.jacobian(x, residuals, accurate=True)
    if _correlated(derivative.matrix):
        derivative = steps.jacobian(x, residuals, longest=True)
    infinite = np.full((k, k), np.inf)
    if not (np.isfinite(derivative.matrix).all() and np.isfinite(residuals).all()):
        return Curvature(np.full(k, np.nan), np.zeros((k, k)), infinite, error=derivative.error)
    triangles = Triangles(objective.groups, residuals, derivative.matrix)
    likely = np.array([(g.emphasis / g.variance(residuals, MET)) ** 0.5 for g in objective.groups])
    length, factor = triangles.joined(likely)
    gradient = factor[0] * length
    ends = active(objective, x, gradient, factor)
    normals = np.array([normal for _, normal in ends]).reshape(-1, k)
    variances, left = _variances(objective, residuals, triangles)
    weights = np.array([(g.emphasis / v) ** 0.5 for g, v in zip(objective.groups, variances, strict=True)])
    student = np.full(k, np.inf)
    if np.isnan(weights).all():  # no degree of freedom is left
        cov, chisq = infinite, np.nan
    else:
        weights[np.isnan(weights)] = 0.0  # a part that its parameters meet exactly says nothing about errors
        length, weighted = triangles.joined(weights)
        cov, chisq = _inverse(weighted, normals), length**2
        if objective.unknown:
            student = _students(triangles, weights, cov, left)
    names = tuple(inequality for inequality, _ in ends)
    return Curvature(gradient, factor, cov, names, student, derivative.error, chisq)


def _correlated(matrix: Array) -> bool:
    """Whether the columns lie so near to each other that the rounding of differences shows in the errors."""
    if not np.isfinite(matrix).all():
        return False
    product = matrix.T @ matrix
    norms = np.sqrt(np.diag(product))
    norms[norms == 0] = 1.0
    return bool(np.linalg.eigvalsh(product / np.outer(norms, norms))[0] < _CLOSE**2)


def _variances(
    objective: Objective, residuals: Array, triangles: Triangles
) -> tuple[list[float], list[float]]:
    """The squared size of each group's errors, nan where no degree of freedom is left, and these degrees."""
    groups = objective.groups
    squares = [float(residuals[g.rows] @ residuals[g.rows]) for g in groups]
    variances = [g.variance(residuals) for g in groups]
    left = [np.inf if g.known else float(g.points) for g in groups]
    if all(g.known for g in groups):
        return variances, left
    for _ in range(_LEVERAGE_ROUNDS):
        weights = np.array([(g.emphasis / v) ** 0.5 for g, v in zip(groups, variances, strict=True)])
        _, factor = triangles.joined(weights)
        inverse = np.linalg.pinv(factor / _norms(factor), rcond=1e-12)
        before = variances
        for n, g in enumerate(groups):
            if not g.known:
                rows = triangles.parts[n][:, 1:] * weights[n] / _norms(factor)
                left[n] = g.points - float(np.sum(np.square(rows @ inverse)))
        variances = [
            1.0 if g.known else (max(s / m, (EPS * g.spread) ** 2) if m > 1e-6 * g.points else np.nan)
            for g, s, m in zip(groups, squares, left, strict=True)
        ]
        if np.allclose(variances, before, rtol=1e-10, atol=0, equal_nan=True):
            break
        lost = [np.isnan(v) for v in variances]
        if any(lost):
            return [np.nan if gone else v for gone, v in zip(lost, variances, strict=True)], left
    return variances, left


def _students(triangles: Triangles, weights: Array, cov: Array, left: list[float]) -> Array:
    """Degrees of freedom of each parameter's error (k,), by Welch and Satterthwaite.

    Its variance is a sum over the groups of residuals, of which each has a size that is known, or estimated with the
    degrees of freedom that are *left* to it.
    """
    shares = np.array(
        [
            np.square(part[:, 1:] * w @ cov).sum(axis=0)
            for part, w in zip(triangles.parts, weights, strict=True)
        ]
    )
    inverse = np.array([0.0 if np.isinf(m) else 1 / max(m, 1e-6) for m in left])
    students = np.square(shares.sum(axis=0)) / (inverse @ np.square(shares))
    result: Array = np.where(np.isfinite(students), students, np.inf)
    return result


def _norms(matrix: Array) -> Array:
    norms: Array = np.linalg.norm(matrix, axis=0)
    norms[norms == 0] = 1.0
    return norms


def _inverse(factor: Array, normals: Array) -> Array:
    """The inverse of factor' factor in the directions that *normals* leave free; infinite where it is singular."""
    k = factor.shape[1]
    norms = np.linalg.norm(factor, axis=0)
    blind = ~(norms > 0)
    norms[blind] = 1.0
    free = _free_directions(normals * (1 / norms) if normals.size else normals, k)
    if free.shape[1] == 0:
        return np.zeros((k, k))
    _, singular, rows = np.linalg.svd((factor / norms) @ free, full_matrices=True)
    rows = rows @ free.T
    singular = np.concatenate([singular, np.zeros(free.shape[1] - singular.size)])[: free.shape[1]]
    lost = singular <= singular.max(initial=0.0) * _SINGULAR
    kept = rows[~lost] / singular[~lost, None]
    cov: Array = (kept.T @ kept) / np.outer(norms, norms)
    undetermined = blind | (np.abs(rows[lost]) > 1e-6).any(axis=0)
    cov[undetermined, undetermined] = np.inf
    return cov


def _free_directions(normals: Array, k: int) -> Array:
    """An orthonormal basis (k, m) of the directions at right angles to the *normals* (c, k)."""
    if not normals.size:
        return np.eye(k)
    unit = normals / np.linalg.norm(normals, axis=1)[:, None]
    _, singular, rows = np.linalg.svd(unit, full_matrices=True)
    rank = int(np.sum(singular > 1e-10))
    free: Array = rows[rank:].T
    return free


def _of_likelihood(objective: Objective, x: Array) -> Curvature:
    gradient, hessian = second_derivatives(objective.free_nllf, x, objective.low, objective.high)
    k = x.size
    if not np.isfinite(hessian).all():
        return Curvature(gradient, np.zeros((k, k)), np.full((k, k), np.inf), definite=False)
    norms = np.sqrt(np.abs(np.diag(hessian)))
    norms[norms == 0] = 1.0
    values, vectors = np.linalg.eigh(hessian / np.outer(norms, norms))
    definite = bool(values.min(initial=0.0) > -1e-6 * max(values.max(initial=0.0), 1e-300))
    values = np.where(values < 1e-9 * values.max(initial=0.0), 0.0, values)
    factor = (np.sqrt(values) * vectors).T * norms
    ends = active(objective, x, gradient, factor)
    normals = np.array([normal for _, normal in ends]).reshape(-1, k)
    names = tuple(inequality for inequality, _ in ends)
    return Curvature(gradient, factor, _inverse(factor, normals), names, definite=definite)


#: The fence is reached at this part of a conditional standard error.
_AT_FENCE = 1e-2


def active(objective: Objective, x: Array, gradient: Array, factor: Array) -> list[tuple[Inequality, Array]]:
    """The conditions that hold the point *x* back, with the gradient (k,) of each one's slack.

    The point lies on the fence, and the minimum of the quadratic about it, *gradient* and *factor*, behind it.
    """
    if not objective.inequalities:
        return []
    norms = _norms(factor)
    inverse = np.linalg.pinv(factor / norms, rcond=1e-9)
    step = -(inverse @ (inverse.T @ (gradient / norms))) / norms
    found = []
    for inequality in objective.inequalities:
        normal = normal_of(inequality, x, 1 / norms)
        unit = float(np.linalg.norm(normal / norms))
        slack = inequality.slack(x)
        if unit > 0 and slack <= _AT_FENCE * unit and slack + normal @ step < 0:
            found.append((inequality, normal))
    return found


#: Half a second difference of the likelihood: a few hundredths of a standard error, far above its rounding.
_HALF = 1e-4


def second_derivatives(
    nllf: Callable[[Array], float], x: Array, low: Array, high: Array
) -> tuple[Array, NDArray[np.float64]]:
    """The gradient (k,) and the second derivatives (k, k) of the likelihood *nllf* at *x*.

    Within a step of a limit they are those at a point one step inside. A second pass along the axes of the first
    keeps correlated parameters exact.
    """
    value = nllf(x)
    target = max(_HALF, 1e6 * EPS * abs(value) if np.isfinite(value) else 0.0)
    sizes = np.array([_reach(nllf, x, j, low, high, value, target) for j in range(x.size)])
    room = (high - low) / 4
    sizes = np.minimum(sizes, room)
    center = np.clip(x, low + sizes, high - sizes)
    gradient, hessian = _along(nllf, center, np.diag(sizes))
    scaled = hessian * np.outer(sizes, sizes)
    if not np.isfinite(scaled).all():
        return gradient, hessian
    values, vectors = np.linalg.eigh(scaled)
    if values.min() > 1e-12 * values.max() and values.max() > 30 * values.min():
        basis = (vectors * np.sqrt(2 * target / values)) * sizes[:, None]
        reach = np.abs(basis).sum(axis=1)
        if np.all(center - reach > low) and np.all(center + reach < high):
            again = _along(nllf, center, basis)
            if np.isfinite(again[1]).all():
                return again
    return gradient, hessian


def _along(nllf: Callable[[Array], float], x: Array, basis: Array) -> tuple[Array, Array]:
    """The gradient and second derivatives at *x* by steps along the columns of *basis* (k, k)."""
    k = x.size
    value = nllf(x)
    up = np.array([nllf(x + step) for step in basis.T])
    down = np.array([nllf(x - step) for step in basis.T])
    second = np.diag(up + down - 2 * value)
    for i in range(k):
        for j in range(i):
            both = nllf(x + basis[:, i] + basis[:, j]) + nllf(x - basis[:, i] - basis[:, j])
            second[i, j] = second[j, i] = (both - up[i] - down[i] - up[j] - down[j] + 2 * value) / 2
    inverse = np.linalg.inv(basis)
    gradient: Array = inverse.T @ ((up - down) / 2)
    return gradient, inverse.T @ second @ inverse


def _reach(
    nllf: Callable[[Array], float], x: Array, j: int, low: Array, high: Array, value: float, target: float
) -> float:
    """The step of parameter *j* at which half the second difference of the likelihood is *target*."""
    room = (high[j] - low[j]) / 4
    step = 1e-4 * room if np.isfinite(room) else 2.0**-20 * (abs(x[j]) or 1.0)
    least, most = 0.0, np.inf
    noise = 8 * EPS * abs(value)
    for _ in range(60):
        center = x.copy()
        center[j] = min(max(x[j], low[j] + step), high[j] - step)
        up, down = center.copy(), center.copy()
        up[j], down[j] = center[j] + step, center[j] - step
        rise = abs(nllf(up) + nllf(down) - 2 * nllf(center)) / 2
        if target / 3 <= rise <= 3 * target:
            return step
        if rise < target:
            least = step
            if step >= room:
                return step
            following = min(step * (min((target / rise) ** 0.5, 1e3) if rise > noise else 30.0), room)
            following = following if following < most else (least * most) ** 0.5
        else:
            most = step
            following = step * max((target / rise) ** 0.5, 1e-4) if np.isfinite(rise) else step * 1e-3
            following = following if following > least else (least * most) ** 0.5
        if most < 1.5 * least or not 1e-300 < following < 1e100:
            break
        step = float(following)
    return step
