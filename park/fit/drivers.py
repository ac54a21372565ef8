"""One run of a method, and the result of what it found: errors, intervals, curves.

Optimizers and samplers are bumps' own, but for least squares.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np

from park.fit.asked import Asked
from park.fit.assembly import Assembly
from park.fit.data import Array
from park.fit.env import Env
from park.fit.leastsq import Stopped, covariance, jacobian, least_squares, scales
from park.fit.methods import METHODS, POPULATION
from park.fit.objective import Objective
from park.fit.optimizers import run_bumps
from park.fit.result import Estimate, FitResult
from park.fit.resume import Keeper
from park.fit.watch import Evaluate, Evaluations, Found, Monitor
from park.kernel.env import mix
from park.payload import dumps


def optimise(
    assembly: Assembly,
    method: str,
    options: dict[str, Any],
    x0: Array,
    env: Env,
    seed: int,
    sampling: bool = False,
    keeper: Keeper | None = None,
    asked: Asked | None = None,
) -> Found:
    """Runs one *method* from *x0*, or from where an earlier run has come to, which the *keeper* has.

    With *sampling* it works on the posterior, not on the likelihood. It answers what is *asked* meanwhile.
    """
    objective = assembly.objective
    evaluate = Evaluate(assembly, sampling)
    evaluations = Evaluations(evaluate, env, env.mapper(evaluate) if method in POPULATION else None)
    saved = keeper.of(method) if keeper is not None else None
    if saved is not None:
        seed = mix(seed, saved.step)  # else it would draw again what it drew first
    random.seed(seed)
    # bumps draws from the global generator, and seeds its compiled one from it.
    np.random.seed(seed % 2**32)
    if method == "lm":
        steps = {**METHODS["lm"], **options}["steps"]
        monitor = Monitor(env, objective.names, lambda: steps, evaluations, method, keeper, asked)
        x0 = x0 if monitor.at.point is None else monitor.at.point
        found = _lm(objective, options, x0, env, monitor, evaluations)
    else:
        found = run_bumps(objective, method, options, x0, env, evaluations, keeper, asked)
    evaluations.conclude()
    return found


def _lm(
    objective: Objective,
    options: dict[str, Any],
    x0: Array,
    env: Env,
    monitor: Monitor,
    evaluations: Evaluations,
) -> Found:
    options = {**METHODS["lm"], **options}
    steps = options.pop("steps")

    def iteration(x: Array) -> None:
        monitor.update(evaluations(x), x)
        if env.should_stop or monitor.at.step > steps:
            raise Stopped

    def residuals(x: Array) -> Array:
        try:
            return objective.residuals(x)
        except Exception:
            return np.full(objective.points, np.inf)

    evaluations(x0)
    evaluations.verify()
    with np.errstate(all="ignore"):
        x = least_squares(residuals, x0, objective.low, objective.high, iteration, **options)
    return Found(x, evaluations(x), monitor.at.step, monitor.convergence)


def conclude(assembly: Assembly, method: str, found: Found, env: Env, seed: int) -> FitResult:
    """The result of what was found: errors, intervals, curves."""
    objective = assembly.objective
    draws: Array | None = None
    if found.state is not None and hasattr(found.state, "draw"):
        draws = np.array(found.state.draw().points, dtype=np.float64)
        cov = np.atleast_2d(np.cov(draws.T)) if len(draws) > 1 else np.full((found.x.size,) * 2, np.inf)
        dx = _half68(draws)
    else:
        cov = covariance(objective, found.x)
        dx = np.sqrt(np.diag(cov))
    return FitResult(
        names=objective.names,
        x=found.x,
        dx=dx,
        cov=cov,
        chisq=objective.chisq(found.value),
        nllf=found.value,
        dof=objective.dof,
        method=method,
        seed=seed,
        low=objective.low,
        high=objective.high,
        draws=draws,
        others=_others(objective, found.x, cov, draws),
        curves=tuple(objective.curves(found.x, None if draws is None else _thinned(draws, 100))),
        convergence=found.convergence,
        steps=found.steps,
        stopped=env.should_stop,
        pickled_state=None if draws is None else dumps(found.state, "the state of DREAM"),
    )


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
            slope = jacobian(computed, x, objective.low, objective.high, scales(x))
            variance = np.einsum("ij,jk,ik->i", slope, cov, slope)
            errors = dict(zip(names, np.sqrt(variance).tolist(), strict=True))
    return tuple(
        Estimate(name, value, errors.get(name, 0.0), "computed" if name in errors else "fixed")
        for name, value in values.items()
    )
