"""The test of convergence at the end of every optimiser that was not stopped, independent of the method.

`park.fit.methods.dream` judges chains.

A fit has converged if no further step would lower the negative log likelihood (nllf). The quadratic approximation about the
point predicts the gain of a step to its minimum within the limits. If the prediction exceeds `NLLF_TOLERANCE`, the
test takes a few steps of least squares or sequential quadratic programming, and their gain counts. A gain of 0.01 in
nllf is 0.02 in chi-squared, or a seventh of a standard error.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from park.fit.arrays import Array
from park.fit.numerics.constrained import minimise_constrained, moved_inside
from park.fit.numerics.covariance import EXACT_SPREAD_RATIO, Curvature, curvature
from park.fit.numerics.derivatives import natural_scale
from park.fit.numerics.fences import fenced_minimum
from park.fit.numerics.least_squares import Stopped, least_squares
from park.fit.numerics.no_effect import has_effect
from park.fit.problem.objective import Objective

#: Largest gain in nllf that further steps may have after a fit that has converged.
NLLF_TOLERANCE = 0.01
#: Largest predicted gain in nllf that steps do not reach: narrow bent valleys predict more than steps gain.
_MAX_UNREACHED_GAIN = 0.02
#: Relative error of a derivative above which its slope is not used.
_ROUGH_DERIVATIVE_ERROR = 0.05
#: Relative error above which a derivative is noise.
_NOISE_DERIVATIVE_ERROR = 0.5
#: Effect of a parameter, in standard errors, below which it counts as none.
_NO_EFFECT_SIGMAS = 1e-4
#: Parts of the step to the minimum of the quadratic that are tried where there are constraints.
_STEP_PARTS = (1.0, 0.3, 0.1, 0.03, 0.01)
#: Number of further steps in the test.
FURTHER_STEPS = 5


class ConvergenceVerdict(NamedTuple):
    """Whether a fit has converged, the *reasons* if not, and the best point (k,) of the test.

    *promise* is the predicted gain in nllf, if that was enough for the verdict.
    """

    converged: bool
    reasons: tuple[str, ...]
    best: Array
    promise: float = math.inf


def judge_convergence(objective: Objective, x: Array, value: float, local: Curvature) -> ConvergenceVerdict:
    """Tests the point *x* (k,). *value* is nllf and *local* the curvature there."""
    if not math.isfinite(value):
        return ConvergenceVerdict(False, ("the model has no finite value at the best point",), x)
    with np.errstate(all="ignore"):
        reasons = _without_slope(objective, x, local)
        if reasons:
            return ConvergenceVerdict(False, reasons, x)
        lower = 0.0 if local.below is None else _value(objective, x) - _value(objective, local.below)
        promise = max(predicted_gain(objective, x, local), lower)
        if promise <= NLLF_TOLERANCE and local.definite:
            return ConvergenceVerdict(True, (), x, promise)
        best, gain = improved(objective, x, FURTHER_STEPS)
        below, drop = at_minimum(objective, x, local)
        if drop > max(gain, NLLF_TOLERANCE):
            reason = f"the minimum of the quadratic about the best point lowers the negative log likelihood by {drop:.3g}"
            return ConvergenceVerdict(False, (reason,), below)
        if local.below is not None and lower > max(gain, NLLF_TOLERANCE):
            reason = f"a point within one standard error lowers the negative log likelihood by {lower:.3g}"
            return ConvergenceVerdict(False, (reason,), local.below)
        if gain > NLLF_TOLERANCE:
            steps = f"{FURTHER_STEPS} further steps lower the negative log likelihood by {gain:.3g}"
            return ConvergenceVerdict(False, (f"{steps} (chi-squared by {2 * gain:.3g})",), best)
        if not (np.isfinite(local.gradient).all() and np.isfinite(local.factor).all()):
            return ConvergenceVerdict(False, ("the model has no finite derivatives at the best point",), x)
        promise = _unreached_gain(objective, best)
    if promise > _MAX_UNREACHED_GAIN:
        reason = f"the slope at the end promises {promise:.3g} in the negative log likelihood, and steps do not get it"
        return ConvergenceVerdict(False, (reason,), best)
    if not local.definite:
        return ConvergenceVerdict(
            False, ("the best point is a saddle of the likelihood, not its minimum",), x
        )
    return ConvergenceVerdict(True, (), x)


def at_minimum(objective: Objective, x: Array, local: Curvature) -> tuple[Array, float]:
    """The minimum of the quadratic about *x*, and its gain in nllf.

    Steps of least squares may stop in the noise of a rough model, while the accurate derivatives still show a slope.
    """
    step, _ = _minimum(objective, x, local)
    if objective.inequalities:  # they are linear over a short part of the step
        scale = 1 / np.maximum(np.linalg.norm(local.factor, axis=0), 1e-300)
        points = [moved_inside(objective, x + part * step, scale) for part in _STEP_PARTS]
    else:
        points = [np.clip(x + step, objective.low, objective.high)]
    value, below = min(((_trial(objective, point), point) for point in points), key=lambda pair: pair[0])
    gain = _value(objective, x) - value
    return (below, gain) if gain > 0 else (x, 0.0)


def _trial(objective: Objective, x: Array) -> float:
    """nllf at *x*; infinity if the model raises there, which says nothing about the point under test."""
    try:
        return _value(objective, x)
    except Exception as error:
        objective.failed(error)
        return math.inf


def _unreached_gain(objective: Objective, x: Array) -> float:
    """The predicted gain in nllf at *x*; zero if the model is too rough for a prediction."""
    local = curvature(objective, x)
    rough = local.error is not None and bool(np.max(local.error) > _ROUGH_DERIVATIVE_ERROR)
    gain = predicted_gain(objective, x, local)
    return gain if math.isfinite(gain) and not rough else 0.0


def _without_slope(objective: Objective, x: Array, local: Curvature) -> tuple[str, ...]:
    """Sentences about the parameters whose derivatives are noise at the end, and about those on a plateau.

    A parameter is on a plateau if a step of its natural scale at the start changes nothing, nllf has no slope along it, and
    it changes the model elsewhere. A parameter that changes nothing anywhere leaves the fit of the others right.
    """
    deviation = np.diag(local.cov)
    none = np.zeros(deviation.size, dtype=bool)
    noise = none if local.error is None else ~(local.error < _NOISE_DERIVATIVE_ERROR)
    blind = ~np.isfinite(deviation)
    if not (noise | blind).any() or not np.isfinite(local.factor).all():
        return ()
    scale = natural_scale(objective, objective.start)
    effect = np.maximum(np.linalg.norm(local.factor, axis=0), np.abs(local.gradient)) * scale
    flat = blind & ~(effect >= _NO_EFFECT_SIGMAS)
    idle = np.array([each and not has_effect(objective, x, j, scale[j]) for j, each in enumerate(flat)])
    plateau = flat if idle.all() else flat & ~idle

    def named(chosen: Array) -> str:
        return ", ".join(name for name, each in zip(objective.names, chosen, strict=True) if each)

    reasons = []
    if plateau.any():
        reasons.append(
            f"the model does not change with {named(plateau)} at the best point: the fit is on a plateau, or the data do "
            "not depend on it, or the model rounds it (then fix it at one value after the other, and compare the fits)"
        )
    if (noise & ~flat).any():
        reasons.append(f"the model is so rough that its derivatives by {named(noise & ~flat)} are noise")
    return tuple(reasons)


def predicted_gain(objective: Objective, x: Array, local: Curvature) -> float:
    """The gain in nllf at the minimum of the quadratic about *x* within the limits; infinity if it is unknown."""
    return _minimum(objective, x, local)[1]


def _minimum(objective: Objective, x: Array, local: Curvature) -> tuple[Array, float]:
    """The step (k,) to the minimum of the quadratic about *x* within the limits, and its predicted gain in nllf."""
    gradient, factor = local.gradient, local.factor
    unknown = np.zeros(x.size), math.inf
    if not (np.isfinite(gradient).all() and np.isfinite(factor).all()):
        return unknown
    norms = np.linalg.norm(factor, axis=0)
    if np.any((norms == 0) & (gradient != 0)):
        return unknown
    if objective.inequalities:
        least = fenced_minimum(objective, x, gradient, factor)
        return least.step, least.gain
    norms[norms == 0] = 1.0
    # the quadratic as least squares: |F p + f|^2 / 2 with F'f = gradient
    inverse = np.linalg.pinv(factor / norms, rcond=1e-12)
    target = inverse.T @ (gradient / norms)
    low = (objective.low - x) * norms - 1e-300
    high = (objective.high - x) * norms + 1e-300
    step = -(inverse @ target)
    if np.all((low <= step) & (step <= high)):
        return step / norms, 0.5 * float(target @ target)
    from scipy.optimize import lsq_linear

    found = lsq_linear(
        factor / norms, -target, bounds=(np.minimum(low, 0.0), np.maximum(high, 1e-300)), tol=1e-14
    )
    gain = 0.5 * float(target @ target) - float(found.cost)
    return (found.x / norms, gain) if math.isfinite(gain) else unknown


def improved(
    objective: Objective, x: Array, steps: int, should_stop: Callable[[], bool] = lambda: False
) -> tuple[Array, float]:
    """The best point after *steps* steps from *x*, and their gain in nllf; *x* itself if they gain nothing.

    It ends early once *should_stop* is true. Exceptions of the model are raised, because a test that cannot run has not
    been passed.
    """
    taken = 0

    def iteration(point: Array, value: float) -> None:
        nonlocal taken
        taken += 1
        if taken > steps or should_stop():
            raise Stopped

    if objective.squares and not objective.inequalities:
        best = least_squares(objective, x, iteration, xtol=1e-12, ftol=1e-12, gtol=1e-12)
    else:
        best = minimise_constrained(objective, x, iteration, rounds=1)
    gain = _value(objective, x) - _value(objective, best)
    return (best, gain) if gain > 0 else (x, 0.0)


def _value(objective: Objective, x: Array) -> float:
    """nllf at *x*, with a lower bound on unknown errors, so that a nearly exact fit gains nothing further."""
    if not (objective.squares and objective.unknown):
        return objective.nllf(x)
    residuals = objective.residuals(x)
    return sum(g.nllf(residuals, EXACT_SPREAD_RATIO) for g in objective.groups)
