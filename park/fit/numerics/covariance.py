"""The covariance of the parameters at the end of a fit.

For least squares it is the inverse of J'J, from an accurate Jacobian J (`park.fit.numerics.derivatives`) and its QR
decomposition, with columns scaled to length one. The NIST reference problems need this: their parameters differ by ten
decades.

The variance of unknown errors is SS/(n - k) for one part, as in textbooks. With several parts, k is divided among
them: each part has its leverage, the trace of its block of the hat matrix J (J'J)^-1 J'. Parts without common
parameters therefore have the errors that each would have alone.

For any other likelihood the covariance is the inverse of the second derivatives of nllf.

A fit that ends on a constraint can move only along it: the covariance is that of the free directions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from park.fit.arrays import Array
from park.fit.numerics.derivatives import EPS, Derivative, difference_steps
from park.fit.numerics.fences import fenced_minimum
from park.fit.numerics.least_squares import Triangles
from park.fit.numerics.profile_check import ProfileCheck, check_profile, conditional_errors
from park.fit.numerics.second_derivatives import LONG_STEP_RISE, SHORT_STEP_RISE, second_derivatives
from park.fit.problem.objective import Inequality, Objective

#: Residuals below this part of the spread of data without dy count as zero in the test of convergence.
EXACT_SPREAD_RATIO = 1e-4
#: A singular value below this part of the largest one is rounding noise.
_SINGULAR_RATIO = 3e-10
#: Columns count as strongly correlated below this smallest singular value, relative to their length.
_CORRELATED_SINGULAR_VALUE = 1e-4
_LEVERAGE_ROUNDS = 20
#: Lengths of the long steps for a model that is not smooth, in conditional standard errors. The longer ones are for
#: parameters along which short steps change nothing.
_LONG_STEP_SIGMAS = (1.0, 4.0)
#: Relative error of a derivative by long steps from which on a parameter without a slope is on a plateau.
_PLATEAU_DERIVATIVE_ERROR = 0.5
_NOT_SMOOTH = "the model is not smooth: the errors come from derivatives by steps of about {}"


@dataclass(frozen=True)
class Curvature:
    """The quadratic approximation of nllf about a point, and the covariance that follows from it.

    *gradient* (k,) is the gradient; factor' factor, with *factor* (m, k), are the second derivatives. *cov* (k, k) has
    infinite variances for parameters that the data do not determine. *ends* are the constraints on which the point
    lies. *student* (k,) are the degrees of freedom of each standard error, infinite if dy is known. *error* (k,) is
    the relative error of the derivatives. *chisq* is the sum of squared residuals over the variances of the errors.
    *definite* is False at a saddle. *held* (k,) marks parameters that a slope holds at a limit (`_held`). *alone* (k,) are
    the conditional standard errors, of parameters that move alone. *below* (k,) is a point with a lower nllf, if one was
    found, *flat* says that nllf hardly rises along a parameter at any distance, and *note* tells why the covariance holds
    only roughly.
    """

    gradient: Array
    factor: Array
    cov: Array
    ends: tuple[Inequality, ...] = ()
    student: Array | None = None
    error: Array | None = None
    chisq: float = np.nan
    definite: bool = True
    held: NDArray[np.bool_] | None = None
    alone: Array | None = None
    below: Array | None = None
    flat: bool = False
    note: str = ""


def covariance(objective: Objective, x: Array) -> Array:
    """The covariance of the parameters at *x*, shape (k, k)."""
    return curvature(objective, x).cov


def curvature(objective: Objective, x: Array) -> Curvature:
    """The gradient, second derivatives and covariance at *x*."""
    objective.recognise(x)
    with np.errstate(all="ignore"):
        return _of_squares(objective, x) if objective.squares else _of_likelihood(objective, x)


def _of_squares(objective: Objective, x: Array) -> Curvature:
    residuals = objective.free_residuals(x)
    steps = difference_steps(objective, fenced=False)
    derivative = steps.jacobian(x, residuals, accurate=True)
    if _correlated(derivative.matrix):
        del derivative  # two Jacobians of a million points may not fit into memory
        derivative = steps.jacobian(x, residuals, longest=True)
    local, weights = _from_jacobian(objective, x, residuals, derivative)
    noise = max(EPS * w * g.magnitude for g, w in zip(objective.groups, weights, strict=True))

    def nllf(point: Array) -> float:
        return half_squares(steps.function(point))  # infinite where the model fails

    def half_squares(found: Array) -> float:
        return 0.5 * float(sum(w * w * float(found[g.rows] @ found[g.rows]) for g, w in weighted))

    def by_long_steps(sizes: Array) -> Curvature:
        return _from_jacobian(objective, x, residuals, steps.secants(x, residuals, sizes))[0]

    weighted = list(zip(objective.groups, weights, strict=True))
    return _checked(
        objective, x, half_squares(residuals), local, nllf, noise * residuals.size**0.5, by_long_steps
    )


def _from_jacobian(
    objective: Objective, x: Array, residuals: Array, derivative: Derivative
) -> tuple[Curvature, Array]:
    """The curvature from the *derivative* of the *residuals* at *x*, and the weight of each group of residuals."""
    k = x.size
    infinite = np.full((k, k), np.inf)
    if not (np.isfinite(derivative.matrix).all() and np.isfinite(residuals).all()):
        unknown = Curvature(np.full(k, np.nan), np.zeros((k, k)), infinite, error=derivative.error)
        return unknown, np.zeros(len(objective.groups))
    triangles = Triangles(objective.groups, residuals, derivative.matrix)
    likely = np.array(
        [(g.emphasis / g.variance(residuals, EXACT_SPREAD_RATIO)) ** 0.5 for g in objective.groups]
    )
    length, factor = triangles.joined(likely)
    gradient = factor[0] * length
    names, normals = _held_by(objective, x, gradient, factor)
    variances, left = _variances(objective, residuals, triangles)
    weights = np.array([(g.emphasis / v) ** 0.5 for g, v in zip(objective.groups, variances, strict=True)])
    student = np.full(k, np.inf)
    if np.isnan(weights).all():  # no degree of freedom is left
        cov, chisq, alone = infinite, np.nan, np.full(k, np.inf)
    else:
        weights[np.isnan(weights)] = (
            0.0  # a part that its parameters fit exactly carries no information on errors
        )
        length, weighted = triangles.joined(weights)
        cov, chisq, alone = _inverse(weighted, normals), length**2, 1 / _norms(weighted)
        if objective.unknown:
            student = _students(triangles, weights, cov, left)
    local = Curvature(gradient, factor, cov, names, student, derivative.error, chisq, alone=alone)
    return local, weights


def _checked(
    objective: Objective,
    x: Array,
    value: float,
    local: Curvature,
    nllf: Callable[[Array], float],
    noise: float,
    by_long_steps: Callable[[Array], Curvature],
) -> Curvature:
    """The curvature *local* at *x*, or the one *by_long_steps* if that predicts the rise of nllf better, with a note.

    *value* is *nllf* at *x*, and *noise* its rounding noise. The long steps (k,) change nllf as one conditional standard
    error does.
    """
    alone = local.alone
    if local.ends or alone is None or not (np.isfinite(noise) and np.isfinite(local.gradient).all()):
        return local
    low, high = objective.low, objective.high

    def check_of(local: Curvature, alone: Array, sigmas: float = 1.0) -> ProfileCheck:
        """The check at a distance of some *sigmas*, over which nllf rises by their square."""
        # the error of a parameter that is held includes its slope
        slope = local.gradient if local.held is None else np.where(local.held, 0.0, local.gradient)
        unit = sigmas**2
        return check_profile(
            lambda point: nllf(point) / unit, x, value / unit, slope / unit,
            sigmas * alone, unit * local.cov, low, high, noise / unit,
        )  # fmt: skip

    check, note = check_of(local, alone), ""
    blind = np.isinf(np.diag(local.cov))
    if check.rough or blind.any():
        alone = conditional_errors(nllf, x, value, alone, low, high)
        for sigmas in _LONG_STEP_SIGMAS if blind.any() else _LONG_STEP_SIGMAS[:1]:
            other = by_long_steps(sigmas * alone)
            second = check_of(other, alone, sigmas)
            lost = np.isinf(np.diag(other.cov))
            found = blind & ~lost
            # at the edge of a plateau only one side has a slope, so the second difference is as large as the first
            slopes = other.error is None or bool((other.error[found] < _PLATEAU_DERIVATIVE_ERROR).all())
            if second.kept and slopes and (lost <= blind).all() and (check.rough or found.any()):
                local, check = other, second
                steps = "one standard error" if sigmas == 1 else f"{sigmas:g} standard errors"
                note = _NOT_SMOOTH.format(steps)
                break
    no_slope = check.steep or _has_no_slope(local, high - low)
    if objective.squares and (no_slope or check.kinked):
        for curved, remark in _by_second_derivatives(objective, nllf, x, no_slope):
            second = check_of(curved, alone if curved.alone is None else curved.alone)
            if second.kept:
                local, check, note = replace(curved, student=local.student, chisq=local.chisq), second, remark
                break
    names = ", ".join(name for name, each in zip(objective.names, check.bent, strict=True) if each)
    if names:
        note = (
            f"the likelihood is not quadratic within one standard error of {names}, and errors are approximate: "
            "Uncertainty gives intervals"
        )
    below = check.lowest if check.drop > 0 else None
    return replace(local, below=below, flat=bool(check.flat.any()), note=note)


def _by_second_derivatives(
    objective: Objective, nllf: Callable[[Array], float], x: Array, short: bool
) -> Iterator[tuple[Curvature, str]]:
    """The curvature at a minimum *x* from second differences of *nllf*, by *short* steps and by long ones, with a note.

    Residuals may have no slope there, as a**2 at zero, or a slope that jumps, as that of abs(a). A minimum that a slope
    holds at a limit is not theirs.
    """
    steps = [(SHORT_STEP_RISE, "")] if short else []
    for rise, note in (*steps, (LONG_STEP_RISE, _NOT_SMOOTH.format("one standard error"))):
        found = _from_differences(objective, nllf, x, rise)
        held = found.held is None or bool(found.held.any())
        if found.definite and not held and np.isfinite(found.cov).all():
            yield found, note


def _has_no_slope(local: Curvature, wide: Array) -> bool:
    """Whether the residuals have no slope along a parameter, or one that is noise, or too small to tell between limits.

    *wide* (k,) is the distance of the limits.
    """
    noise = local.error is not None and bool((~(local.error < _PLATEAU_DERIVATIVE_ERROR)).any())
    return noise or bool((np.sqrt(np.diag(local.cov)) > np.minimum(wide, np.finfo(float).max)).any())


def _correlated(matrix: Array) -> bool:
    """Whether columns are so strongly correlated that rounding of differences affects the standard errors."""
    if not np.isfinite(matrix).all():
        return False
    product = matrix.T @ matrix
    norms = np.sqrt(np.diag(product))
    norms[norms == 0] = 1.0
    return bool(np.linalg.eigvalsh(product / np.outer(norms, norms))[0] < _CORRELATED_SINGULAR_VALUE**2)


def _variances(
    objective: Objective, residuals: Array, triangles: Triangles
) -> tuple[list[float], list[float]]:
    """The variance of the errors of each group, nan without a degree of freedom, and the degrees of freedom."""
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
            1.0 if g.known else (max(s / m, (EPS * g.magnitude) ** 2) if m > 1e-6 * g.points else np.nan)
            for g, s, m in zip(groups, squares, left, strict=True)
        ]
        if np.allclose(variances, before, rtol=1e-10, atol=0, equal_nan=True):
            break
        lost = [np.isnan(v) for v in variances]
        if any(lost):
            return [np.nan if gone else v for gone, v in zip(lost, variances, strict=True)], left
    return variances, left


def _students(triangles: Triangles, weights: Array, cov: Array, left: list[float]) -> Array:
    """Degrees of freedom of each standard error (k,), by the Welch-Satterthwaite equation.

    The variance of a parameter is a sum over the groups of residuals. The variance of each group is known, or
    estimated with *left* degrees of freedom.
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
    """The inverse of factor' factor in the directions orthogonal to *normals*; infinite where it is singular."""
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
    lost = singular <= singular.max(initial=0.0) * _SINGULAR_RATIO
    kept = rows[~lost] / singular[~lost, None]
    cov: Array = (kept.T @ kept) / np.outer(norms, norms)
    undetermined = blind | (np.abs(rows[lost]) > 1e-6).any(axis=0)
    cov[undetermined, undetermined] = np.inf
    return cov


def _free_directions(normals: Array, k: int) -> Array:
    """An orthonormal basis (k, m) of the directions orthogonal to the *normals* (c, k)."""
    if not normals.size:
        return np.eye(k)
    unit = normals / np.linalg.norm(normals, axis=1)[:, None]
    _, singular, rows = np.linalg.svd(unit, full_matrices=True)
    rank = int(np.sum(singular > 1e-10))
    free: Array = rows[rank:].T
    return free


def _held_by(
    objective: Objective, x: Array, gradient: Array, factor: Array
) -> tuple[tuple[Inequality, ...], Array]:
    """The constraints on which *x* lies and that hold the minimum there, and the normals (c, k) of their sides."""
    if not objective.inequalities or not np.isfinite(gradient).all():
        return (), np.empty((0, x.size))
    holding = fenced_minimum(objective, x, gradient, factor).holding
    sides = [(side.inequality, side.normal) for side in holding if side.inequality is not None]
    normals = np.array([normal for _, normal in sides]).reshape(-1, x.size)
    return tuple(dict.fromkeys(inequality for inequality, _ in sides)), normals


def _of_likelihood(objective: Objective, x: Array) -> Curvature:
    def by_long_steps(_: Array) -> Curvature:
        return _from_differences(objective, objective.free_nllf, x, LONG_STEP_RISE)

    local = _from_differences(objective, objective.free_nllf, x, SHORT_STEP_RISE)
    steps = difference_steps(objective, fenced=False)

    def nllf(point: Array) -> float:
        return float(steps.function(point)[0])  # infinite where the model fails

    value = nllf(x)
    return _checked(objective, x, value, local, nllf, 10 * EPS * abs(value), by_long_steps)


def _from_differences(
    objective: Objective, nllf: Callable[[Array], float], x: Array, rise: float
) -> Curvature:
    """The curvature at *x* from second differences of *nllf* by steps along which it rises by *rise*."""
    gradient, hessian = second_derivatives(nllf, x, objective.low, objective.high, rise)
    k = x.size
    if not np.isfinite(hessian).all():
        return Curvature(gradient, np.zeros((k, k)), np.full((k, k), np.inf), definite=False)
    held, reach = _held(objective, x, gradient, np.diag(hessian))
    hessian[held] = hessian[:, held] = 0.0
    hessian[held, held] = reach[held] ** -2
    norms = np.sqrt(np.abs(np.diag(hessian)))
    norms[norms == 0] = 1.0
    values, vectors = np.linalg.eigh(hessian / np.outer(norms, norms))
    definite = bool(values.min(initial=0.0) > -1e-6 * max(values.max(initial=0.0), 1e-300))
    values = np.where(values < 1e-9 * values.max(initial=0.0), 0.0, values)
    factor = (np.sqrt(values) * vectors).T * norms
    names, normals = _held_by(objective, x, gradient, factor)
    cov, alone = _inverse(factor, normals), 1 / _norms(factor)
    return Curvature(gradient, factor, cov, names, definite=definite, held=held, alone=alone)


#: A value counts as at a limit within this part of the distance at which nllf rises by 1/2. The test of convergence asks
#: no more.
_HELD_PART = 0.02


def _held(objective: Objective, x: Array, gradient: Array, second: Array) -> tuple[NDArray[np.bool_], Array]:
    """The parameters that a slope of nllf holds at a limit, and the distances (k,) at which nllf rises by 1/2.

    There the *gradient* (k,) points outward, and over that distance it tells more than the *second* derivatives (k,), which
    need not be positive: counts of zero have none. Such a point is a minimum, and the distance is the standard error.
    """
    slope = np.abs(gradient)
    reach = 1 / (slope + np.sqrt(np.square(gradient) + np.maximum(second, 0.0)))
    near = _HELD_PART * np.where(np.isfinite(reach), reach, 0.0)
    outward = ((x - objective.low <= near) & (gradient > 0)) | ((objective.high - x <= near) & (gradient < 0))
    held: NDArray[np.bool_] = outward & (np.square(gradient) > second) & np.isfinite(reach)
    return held, reach
