"""The result of what a method found: errors, the test at its end, intervals, curves.

The fit itself is over here, so nothing may lose it. Where errors or pictures fail the result comes without them and
says why.
"""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import numpy as np

from park.fit.assembly import Assembly
from park.fit.convergence import judge
from park.fit.covariance import Curvature, curvature
from park.fit.data import Array
from park.fit.env import Env
from park.fit.objective import Objective
from park.fit.portrait import portray
from park.fit.result import Estimate, FitResult, widened
from park.fit.watch import Found
from park.model import Log
from park.payload import dumps

#: A value is at a limit within this part of its standard error.
_AT_LIMIT = 1e-3
#: A derivative whose two steps disagree by more than this is said to be uncertain.
_UNCERTAIN = 0.05


def conclude(assembly: Assembly, method: str, found: Found, env: Env, seed: int) -> FitResult:
    """The result of what was *found*."""
    objective = assembly.objective
    x, k = found.x, found.x.size
    remarks = _Remarks(env)
    draws: Array | None = None
    if found.state is not None and hasattr(found.state, "draw"):
        draws = np.array(found.state.draw(vars=list(range(k))).points, dtype=np.float64)
        if found.ended:
            remarks.failed(found.ended)
    local = found.local
    if local is None:
        with remarks.guard("the errors", grave=draws is None):
            local = curvature(objective, x)
    if draws is not None:
        cov = np.atleast_2d(np.cov(draws.T)) if len(draws) > 1 else np.full((k, k), np.inf)
        dx = _half68(draws)
    else:
        cov = local.cov if local is not None else np.full((k, k), np.inf)
        dx = np.sqrt(np.diag(cov))
        if local is not None and not env.should_stop:
            with remarks.guard("the test of convergence", grave=True):
                verdict = found.verdict or judge(objective, x, found.value, local)
                if not verdict.converged:
                    remarks.failed(*([found.ended] if found.ended else []), *verdict.reasons)
        _tell_errors(objective, dx, local, remarks)
    at_limit = _at_limit(objective, x, dx, local, remarks)
    others: tuple[Estimate, ...] = ()
    with remarks.guard("the computed parameters"):
        others = _others(objective, x, cov, draws)
    student = None if local is None else local.student
    portrait = portray(assembly, x, cov if draws is not None else widened(cov, student), draws, env)
    chisq, statistic = goodness(objective, x, found.value, local)
    for note in (*found.notes, *portrait.notes, *objective.notes):
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
        pickled_state=None if draws is None else dumps(found.state, "the state of DREAM"),
    )


class _Remarks:
    """The sentences of a result, the gravest first."""

    def __init__(self, env: Env) -> None:
        self._env = env
        self._grave: list[str] = []
        self._others: list[str] = []

    @property
    def converged(self) -> bool:
        """No sentence says that the fit has not converged."""
        return not self._grave

    def failed(self, *reasons: str) -> None:
        """The fit has not converged."""
        self._grave += reasons

    def add(self, sentence: str) -> None:
        """Something to know beside it."""
        self._others.append(sentence)

    @contextmanager
    def guard(self, what: str, grave: bool = False) -> Iterator[None]:
        """A failure in the block costs *what*, and not the fit. A *grave* one leaves its convergence open."""
        try:
            yield
        except Exception as error:
            cause = traceback.format_exception_only(error)[-1].strip()
            (self.failed if grave else self.add)(f"{what} could not be worked out: {cause}")
            self._env.publish(Log(f"{what} could not be worked out:\n{traceback.format_exc()}", "warning"))

    def text(self, stopped: bool) -> str:
        """All of it, as sentences."""
        ended = ["it was stopped before its end"] if stopped else []
        return "; ".join([*ended, *self._grave, *self._others])


def _tell_errors(objective: Objective, dx: Array, local: Curvature | None, remarks: _Remarks) -> None:
    """The parameters that the data do not determine, or whose derivatives are rough."""
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
            if error > _UNCERTAIN
        ]
        if rough:
            remarks.add(f"the model is not smooth, and errors are rough: {', '.join(rough)}")


def _at_limit(
    objective: Objective, x: Array, dx: Array, local: Curvature | None, remarks: _Remarks
) -> tuple[str, ...]:
    """The names of parameters that ended at a limit or on a condition."""
    wide = objective.high - objective.low
    with np.errstate(all="ignore"):
        near = np.where(np.isfinite(wide), np.fmin(_AT_LIMIT * dx, 1e-3 * wide), _AT_LIMIT * dx)
        near = np.where(np.isfinite(near), near, 0.0)
        below, above = x - objective.low <= near, objective.high - x <= near
    limits = np.where(below, objective.low, objective.high)
    ended = {n: limits[i] for i, n in enumerate(objective.names) if below[i] or above[i]}
    names = list(ended)
    if ended:
        remarks.add(", ".join(f"{name} ended at its limit {limit:.6g}" for name, limit in ended.items()))
    ends = () if local is None else local.ends
    if ends:
        remarks.add(f"the fit ended on {' and '.join(end.text for end in ends)}")
    names += [name for end in ends for name in end.names if name not in names]
    return tuple(names)


def goodness(objective: Objective, x: Array, nllf: float, local: Curvature | None) -> tuple[float, str]:
    """The number that tells how well the data are met at *x*, and the words for it."""
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
        residuals = objective.residuals(x)
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
    """Computed parameters with errors, from the draws or by propagation; and the fixed ones."""
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
            errors = dict(zip(names, np.sqrt(variance).tolist(), strict=True))
    return tuple(
        Estimate(name, value, errors.get(name, 0.0), "computed" if name in errors else "fixed")
        for name, value in values.items()
    )


def _slope(computed: Callable[[Array], Array], objective: Objective, x: Array, cov: Array) -> Array:
    """The derivatives of the computed parameters (m, k) by steps of a thousandth of each standard error."""
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
