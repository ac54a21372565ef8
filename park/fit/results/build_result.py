"""Builds the result of a fit from the outcome of its method: standard errors, test of convergence, warnings, curves.

A failure here must not lose the outcome of the search: if errors or curves cannot be computed, the result comes without
them and says why.
"""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import numpy as np

from park.body.payload import dumps
from park.fit.arrays import Array
from park.fit.environment import Env
from park.fit.methods.monitor import MethodOutcome
from park.fit.numerics.convergence import judge_convergence
from park.fit.numerics.covariance import Curvature, curvature
from park.fit.numerics.intervals import widened
from park.fit.problem.assembly import Assembly
from park.fit.problem.objective import Objective
from park.fit.results.residual_trend import trends
from park.fit.results.result import Estimate, FitResult
from park.fit.results.result_curves import ResultCurves, make_result_curves
from park.model import Log

#: A value counts as at a limit within this part of its standard error.
_AT_LIMIT_SIGMAS = 1e-3
#: A parameter cannot move on a constraint if its error there is below this part of its conditional standard error.
_STILL_SIGMAS = 1e-6
#: Relative error of a derivative above which the result warns of it.
_ROUGH_DERIVATIVE_ERROR = 0.05
#: Ratio of a standard error to its value above which the result looks for a plateau of the likelihood.
_WIDE_ERROR_RATIO = 100.0
#: Reduction of chi-squared, per scatter of the residuals, below which a model describes none of the data.
_UNEXPLAINED_CHISQ = 0.05
#: Reduced chi-squared, and its excess over 1 in standard deviations, above which the result warns of a poor fit.
_POOR_CHISQ, _POOR_SIGMAS = 4.0, 6.0


def build_result(assembly: Assembly, method: str, found: MethodOutcome, env: Env, seed: int) -> FitResult:
    """The result of the outcome *found*."""
    objective, x = assembly.objective, found.x
    remarks = _Remarks(env)
    draws = _draws_of(found)
    if draws is not None and found.ended:
        remarks.failed(found.ended)
    local = _curvature(objective, found, draws is None, remarks)
    cov, dx = _covariance_and_errors(objective, local, draws)
    if draws is None:
        if local is not None and not env.should_stop:
            _test_convergence(objective, found, local, remarks)
        _warn_of_errors(objective, dx, local, remarks)
        with remarks.guard("the test for a plateau"):
            _warn_of_plateau(objective, x, dx, local, remarks)
    at_limit = _at_limit(objective, x, dx, local, remarks)
    others: tuple[Estimate, ...] = ()
    with remarks.guard("the computed parameters"):
        others = _others(objective, x, cov, draws)
    student = None if local is None else local.student
    portrait = make_result_curves(
        assembly, x, cov if draws is not None else widened(cov, student), draws, env
    )
    chisq, statistic = goodness(objective, x, found.value, local)
    _warn_of_shape(objective, chisq, statistic, local if draws is None else None, remarks)
    for note in (*found.notes, *_trends(portrait, remarks), *portrait.notes, *objective.notes):
        remarks.add(note)
    return FitResult(
        names=objective.names,
        x=x,
        dx=dx,
        cov=cov,
        chisq=float(chisq),
        nllf=float(found.value),
        dof=objective.dof,
        method=method,
        seed=seed,
        low=objective.low,
        high=objective.high,
        draws=draws,
        others=others,
        curves=portrait.curves,
        files=portrait.files,
        convergence=found.convergence,
        steps=found.steps,
        stopped=env.should_stop,
        converged=remarks.converged and not env.should_stop,
        message=remarks.text(stopped=env.should_stop),
        at_limit=at_limit,
        statistic=statistic,
        units=dict(objective.units),
        student=student,
        rhat=found.rhat,
        ess=found.ess,
        starts=found.starts,
        pickled_state=None if draws is None else dumps(found.state, "the state of DREAM"),
    )


def _draws_of(found: MethodOutcome) -> Array | None:
    """The draws of a sampler, shape (n, k); None after an optimiser."""
    if found.state is None or not hasattr(found.state, "draw"):
        return None
    return np.array(found.state.draw(vars=list(range(found.x.size))).points, dtype=np.float64)


def _curvature(
    objective: Objective, found: MethodOutcome, grave: bool, remarks: _Remarks
) -> Curvature | None:
    """The curvature at the best point, from the method or computed here; None if the model fails."""
    if found.local is not None:
        return found.local
    with remarks.guard("the errors", grave=grave):
        return curvature(objective, found.x)
    return None


def _covariance_and_errors(
    objective: Objective, local: Curvature | None, draws: Array | None
) -> tuple[Array, Array]:
    """The covariance (k, k) and the standard errors (k,), from *draws* (n, k) or from the curvature."""
    k = len(objective.names)
    unknown = np.full((k, k), np.inf)
    if draws is not None:
        return (np.atleast_2d(np.cov(draws.T)) if len(draws) > 1 else unknown), _half68(draws)
    cov = local.cov if local is not None else unknown
    return cov, np.sqrt(np.diag(cov))


def _test_convergence(
    objective: Objective, found: MethodOutcome, local: Curvature, remarks: _Remarks
) -> None:
    """Adds the reasons why the fit has not converged, if the test fails."""
    with remarks.guard("the test of convergence", grave=True):
        verdict = found.verdict or judge_convergence(objective, found.x, found.value, local)
        if not verdict.converged:
            remarks.failed(*([found.ended] if found.ended else []), *verdict.reasons)


class _Remarks:
    """The warnings of a result, the most serious first."""

    def __init__(self, env: Env) -> None:
        self._env = env
        self._grave: list[str] = []
        self._others: list[str] = []

    @property
    def converged(self) -> bool:
        """Whether no warning says that the fit has not converged."""
        return not self._grave

    def failed(self, *reasons: str) -> None:
        """Adds reasons why the fit has not converged."""
        self._grave += reasons

    def add(self, sentence: str) -> None:
        """Adds a warning that does not concern convergence."""
        self._others.append(sentence)

    @contextmanager
    def guard(self, what: str, grave: bool = False) -> Iterator[None]:
        """Turns an exception in the block into a warning about *what*; with *grave* the fit counts as not converged."""
        try:
            yield
        except Exception as error:
            cause = traceback.format_exception_only(error)[-1].strip()
            (self.failed if grave else self.add)(f"{what} could not be worked out: {cause}")
            self._env.publish(Log(f"{what} could not be worked out:\n{traceback.format_exc()}", "warning"))

    def text(self, stopped: bool) -> str:
        """All warnings in one text."""
        ended = ["it was stopped before its end"] if stopped else []
        return "; ".join([*ended, *self._grave, *self._others])


def _warn_of_errors(objective: Objective, dx: Array, local: Curvature | None, remarks: _Remarks) -> None:
    """Warns of parameters that the data do not determine, and of rough derivatives."""
    if local is None:
        return
    lost = [name for name, error in zip(objective.names, dx, strict=True) if not np.isfinite(error)]
    if objective.unknown and np.isinf(dx).all() and np.isnan(local.chisq):
        remarks.add("no degree of freedom is left from which the size of the errors could be estimated")
    elif lost:
        remarks.add(f"the data do not determine {', '.join(lost)}")
    if local.error is not None:
        rough = [
            f"{name} to {100 * error:.0f} %"
            for name, error in zip(objective.names, local.error, strict=True)
            if error > _ROUGH_DERIVATIVE_ERROR
        ]
        if rough:
            remarks.add(f"the model is not smooth, and errors are rough: {', '.join(rough)}")


def _warn_of_plateau(
    objective: Objective, x: Array, dx: Array, local: Curvature | None, remarks: _Remarks
) -> None:
    """Warns of a point at which the model describes none of the data and standard errors exceed their values by far.

    There the gradient is nearly zero, and the fit looks converged. A value may also be zero: then nllf rises by 1/2 at
    each standard error, and the curvature has no note.
    """
    wide = np.isfinite(dx) & (dx > _WIDE_ERROR_RATIO * np.abs(x))
    rises = local is not None and not local.flat and not local.note
    if rises or not (objective.squares and wide.any()):
        return
    residuals = objective.free_residuals(x)
    for group in objective.groups:
        points = max(group.points, 1)
        explained = 1 - float(np.mean(np.square(residuals[group.rows]))) / group.magnitude**2
        if group.name != "priors" and points * explained > _UNEXPLAINED_CHISQ:
            return
    names = ", ".join(name for name, each in zip(objective.names, wide, strict=True) if each)
    remarks.add(
        "the fit ended on a plateau: the residuals are as large as the data, the gradient is nearly zero, and the standard "
        f"errors of {names} are more than {_WIDE_ERROR_RATIO:g} times the values; fit from another start (start=, "
        "starts=), or with method 'auto'"
    )


def _warn_of_shape(
    objective: Objective, chisq: float, statistic: str, local: Curvature | None, remarks: _Remarks
) -> None:
    """Warns of a reduced chi-squared far above 1: a wrong model, a wrong dy, or a local minimum.

    Otherwise warns of errors that hold only roughly.
    """
    poor = statistic == "reduced chi-squared" and chisq > _POOR_CHISQ
    if not (poor and (chisq - 1) * math.sqrt(objective.dof / 2) > _POOR_SIGMAS):
        if local is not None and local.note:
            remarks.add(local.note)
    elif remarks.converged:
        remarks.add(
            f"reduced chi-squared is {chisq:.3g}, far above 1: the model or dy is wrong, or this is a local minimum; "
            "fit from more points (starts=10) or with method 'de'"
        )


def _trends(portrait: ResultCurves, remarks: _Remarks) -> list[str]:
    """Remarks on parts without dy whose residuals are no pure scatter."""
    found: list[str] = []
    with remarks.guard("the test of the residuals"):
        found += trends(portrait.curves)
    return found


def _at_limit(
    objective: Objective, x: Array, dx: Array, local: Curvature | None, remarks: _Remarks
) -> tuple[str, ...]:
    """The names of parameters that ended at a limit or on a constraint."""
    wide = objective.high - objective.low
    with np.errstate(all="ignore"):
        near = np.where(np.isfinite(wide), np.fmin(_AT_LIMIT_SIGMAS * dx, 1e-3 * wide), _AT_LIMIT_SIGMAS * dx)
        near = np.where(np.isfinite(near), near, 0.0)
        below, above = x - objective.low <= near, objective.high - x <= near
        held = np.zeros(x.size, dtype=bool) if local is None or local.held is None else local.held
        below |= held & (x - objective.low < objective.high - x)
        above |= held & ~below
    limits = np.where(below, objective.low, objective.high)
    ended = {n: limits[i] for i, n in enumerate(objective.names) if below[i] or above[i]}
    names = list(ended)
    if ended:
        remarks.add(", ".join(f"{name} ended at its limit {limit:.6g}" for name, limit in ended.items()))
    if (held & np.isfinite(dx)).any():
        names_held = ", ".join(name for name, each in zip(objective.names, held, strict=True) if each)
        remarks.add(
            f"the error of {names_held} is the distance at which the negative log likelihood rises by 1/2"
        )
    ends = () if local is None else local.ends
    if ends and local is not None and local.alone is not None:
        still = [
            n for n, each in zip(objective.names, dx <= _STILL_SIGMAS * local.alone, strict=True) if each
        ]
        where = (
            f", where {' and '.join(still)} cannot move and {'have' if still[1:] else 'has'} no error"
            * bool(still)
        )
        remarks.add(f"the fit ended on {' and '.join(end.text for end in ends)}{where}")
        names += [name for end in ends for name in end.names] + still
    return tuple(dict.fromkeys(names))


def goodness(objective: Objective, x: Array, nllf: float, local: Curvature | None) -> tuple[float, str]:
    """The figure for the goodness of fit at *x*, and its name."""
    dof = objective.dof
    if not objective.squares:
        deviance = None
        with suppress(Exception):
            deviance = objective.deviance(x)
        if deviance is not None:
            return (deviance / dof if dof > 0 else math.nan), "deviance per degree of freedom"
        return (2 * nllf / dof if dof > 0 else math.nan), "2 nllf per degree of freedom"
    if dof <= 0:
        return math.nan, "reduced chi-squared"
    if not objective.unknown:
        return 2 * nllf / dof, "reduced chi-squared"
    if len(objective.unknown) == len(objective.groups) == 1:
        residuals = objective.residuals(x) / objective.groups[0].emphasis ** 0.5
        return float(residuals @ residuals) / dof, "residual variance (dy unknown)"
    chisq = math.nan if local is None else local.chisq / dof
    return chisq, "reduced chi-squared (unknown dy estimated)"


def _half68(draws: Array) -> Array:
    low, high = np.quantile(draws, (0.158655, 0.841345), axis=0)
    half: Array = (high - low) / 2
    return half


def _thinned(draws: Array, count: int) -> Array:
    thinned: Array = draws[np.linspace(0, len(draws) - 1, min(count, len(draws))).astype(int)]
    return thinned


def _others(objective: Objective, x: Array, cov: Array, draws: Array | None) -> tuple[Estimate, ...]:
    """The computed parameters with errors, from the draws or by linear propagation, and the fixed parameters."""
    values = objective.others(x)
    names = [name for name in values if not objective.is_fixed(name)]
    errors: dict[str, float] = {}

    def computed(point: Array) -> Array:
        others = objective.others(point)
        return np.array([others[name] for name in names])

    if names and draws is not None:
        table = np.array([computed(row) for row in _thinned(draws, 2000)])
        errors = dict(zip(names, _half68(table).tolist(), strict=True))
        values |= dict(zip(names, np.median(table, axis=0).tolist(), strict=True))
    elif names:
        with np.errstate(all="ignore"):
            slope = _slope(computed, objective, x, cov)
            variance = np.einsum("ij,jk,ik->i", slope, cov, slope)
            # rounding leaves a negative zero at a limit
            errors = dict(zip(names, np.sqrt(np.maximum(variance, 0.0)).tolist(), strict=True))
    return tuple(
        Estimate(name, value, errors.get(name, 0.0), "computed" if name in errors else "fixed")
        for name, value in values.items()
    )


def _slope(computed: Callable[[Array], Array], objective: Objective, x: Array, cov: Array) -> Array:
    """The derivatives (m, k) of the computed parameters by steps of a thousandth of each standard error."""
    dx = np.sqrt(np.diag(cov))
    wide = objective.high - objective.low
    size = np.where(np.isfinite(dx) & (dx > 0), 1e-3 * dx, np.where(np.isfinite(wide), 1e-6 * wide, 1e-6))
    columns = []
    for j in range(x.size):
        up, down = x.copy(), x.copy()
        step = max(float(size[j]), float(4 * np.spacing(abs(x[j]))))
        up[j], down[j] = min(x[j] + step, objective.high[j]), max(x[j] - step, objective.low[j])
        columns.append((computed(up) - computed(down)) / (up[j] - down[j]))
    return np.stack(columns, axis=1)
