"""The independent test that every method passes or fails at its end.

A fit has converged when nothing is left to gain. The quadratic about the point predicts what a step to its minimum,
within the limits, would gain. Where that is more than `TOLERANCE` a few steps are really taken, by least squares or
by sequential quadratic programming, and their gain is what counts. 0.01 in the likelihood is 0.02 in chi-squared: a
seventh of a standard error.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from park.fit.constrained import minimise
from park.fit.covariance import MET, Curvature, curvature
from park.fit.data import Array
from park.fit.derivatives import natural_scale
from park.fit.leastsq import Stopped, least_squares
from park.fit.objective import Objective

#: What a few steps may gain in the likelihood after a fit that has converged.
TOLERANCE = 0.01
#: The gain that a slope may go on promising: narrow, bent valleys promise more than any step gets.
_BROKEN_PROMISE = 0.02
#: The relative error of a derivative from which on its slope says nothing.
_ROUGH = 0.05
#: The relative error of a derivative that is none.
_NO_DERIVATIVE = 0.5
#: An effect, in standard errors, that counts as none.
_NO_EFFECT = 1e-4
#: The number of these steps.
STEPS = 5


class Verdict(NamedTuple):
    """Whether a fit has converged, with *reasons* where it has not, and the best point that was seen."""

    converged: bool
    reasons: tuple[str, ...]
    best: Array


def judge(objective: Objective, x: Array, value: float, local: Curvature) -> Verdict:
    """Tests the point *x* with the likelihood *value* and the curvature there, *local*."""
    if not math.isfinite(value):
        return Verdict(False, ("the model has no finite value at the best point",), x)
    with np.errstate(all="ignore"):
        flat = _flat(objective, local)
        if flat:
            reason = f"{', '.join(flat)} had an effect at the start and has none at the end: the fit is on a plateau"
            return Verdict(False, (reason,), x)
        if predicted_gain(objective, x, local) <= TOLERANCE and local.definite:
            return Verdict(True, (), x)
        best, gain = improved(objective, x, STEPS)
        if gain > TOLERANCE:
            steps = f"{STEPS} further steps lower the negative log likelihood by {gain:.3g}"
            return Verdict(False, (f"{steps} (chi-squared by {2 * gain:.3g})",), best)
        if not (np.isfinite(local.gradient).all() and np.isfinite(local.factor).all()):
            return Verdict(False, ("the model has no finite derivatives at the best point",), x)
        promise = 0.0 if local.ends or objective.inequalities else _promise(objective, best)
    if promise > _BROKEN_PROMISE:
        reason = f"the slope at the end promises {promise:.3g} in the negative log likelihood, and steps do not get it"
        return Verdict(False, (reason,), best)
    if not local.definite:
        return Verdict(False, ("the best point is a saddle of the likelihood, not its minimum",), x)
    return Verdict(True, (), x)


def _promise(objective: Objective, x: Array) -> float:
    """The gain that the slope at *x* promises; zero where the model is too rough to tell."""
    local = curvature(objective, x)
    rough = local.error is not None and bool(np.max(local.error) > _ROUGH)
    gain = predicted_gain(objective, x, local)
    return gain if math.isfinite(gain) and not rough else 0.0


def _flat(objective: Objective, local: Curvature) -> list[str]:
    """The parameters that have lost their effect: a step of the size that matters at the start changes nothing."""
    deviation = np.diag(local.cov)
    noise = np.zeros(deviation.size, dtype=bool) if local.error is None else ~(local.error < _NO_DERIVATIVE)
    blind = noise | ~np.isfinite(deviation)
    if not blind.any() or not np.isfinite(local.factor).all():
        return []
    effect = np.linalg.norm(local.factor, axis=0) * natural_scale(objective, objective.start)
    lost = noise | blind & (effect < _NO_EFFECT)
    return [name for name, gone in zip(objective.names, lost, strict=True) if gone] if not lost.all() else []


def predicted_gain(objective: Objective, x: Array, local: Curvature) -> float:
    """The gain in likelihood at the minimum of the quadratic about *x*, within the limits; inf where it is unknown."""
    from scipy.optimize import lsq_linear

    gradient, factor = local.gradient, local.factor
    if not (np.isfinite(gradient).all() and np.isfinite(factor).all()) or local.ends:
        return math.inf
    norms = np.linalg.norm(factor, axis=0)
    if np.any((norms == 0) & (gradient != 0)):
        return math.inf
    norms[norms == 0] = 1.0
    # the quadratic as least squares: |F p + f|^2 / 2 with F'f = gradient
    target = np.linalg.pinv((factor / norms).T, rcond=1e-12) @ (gradient / norms)
    low = (objective.low - x) * norms - 1e-300
    high = (objective.high - x) * norms + 1e-300
    found = lsq_linear(
        factor / norms, -target, bounds=(np.minimum(low, 0.0), np.maximum(high, 1e-300)), tol=1e-14
    )
    gain = 0.5 * float(target @ target) - float(found.cost)
    return gain if math.isfinite(gain) else math.inf


def improved(objective: Objective, x: Array, steps: int) -> tuple[Array, float]:
    """The best point after so many *steps* from *x*, and their gain; *x* itself where they gain nothing.

    Raises what the methods raise: a test that could not be made has not been passed.
    """
    taken = 0

    def iteration(point: Array, value: float) -> None:
        nonlocal taken
        taken += 1
        if taken > steps:
            raise Stopped

    if objective.squares and not objective.inequalities:
        best = least_squares(objective, x, iteration, xtol=1e-12, ftol=1e-12, gtol=1e-12)
    else:
        best = minimise(objective, x, iteration, rounds=1)
    gain = _value(objective, x) - _value(objective, best)
    return (best, gain) if gain > 0 else (x, 0.0)


def _value(objective: Objective, x: Array) -> float:
    """The likelihood at *x*, in which data that are met nearly exactly gain nothing further."""
    if not objective.unknown:
        return objective.nllf(x)
    residuals = objective.residuals(x)
    return sum(g.nllf(residuals, MET) for g in objective.groups)
