"""One run of a method. Optimizers and samplers are bumps' own, but for least squares and what follows from it."""

from __future__ import annotations

import random
from typing import Any

import numpy as np

from park.fit.asked import Asked
from park.fit.assembly import Assembly
from park.fit.constrained import minimise
from park.fit.convergence import judge
from park.fit.covariance import curvature
from park.fit.data import Array
from park.fit.env import Env
from park.fit.leastsq import Stopped, least_squares
from park.fit.methods import METHODS, POPULATION
from park.fit.objective import Objective
from park.fit.optimizers import run_bumps
from park.fit.resume import Keeper
from park.fit.watch import Evaluate, Evaluations, Found, Monitor
from park.kernel.env import mix
from park.model import Log


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
    if method in ("auto", "lm"):
        steps = {**METHODS[method], **options}["steps"]
        monitor = Monitor(env, objective.names, lambda: steps, evaluations, method, keeper, asked)
        x0 = x0 if monitor.at.point is None else monitor.at.point
        local = _local(objective, {**METHODS["lm"], **options}, x0, env, monitor, evaluations)
        found = local if method == "lm" else _checked(objective, local, x0, env, monitor, evaluations)
    else:
        found = run_bumps(objective, method, options, x0, env, evaluations, keeper, asked)
    evaluations.conclude()
    return found


def _local(
    objective: Objective,
    options: dict[str, Any],
    x0: Array,
    env: Env,
    monitor: Monitor,
    evaluations: Evaluations,
) -> Found:
    """Least squares from *x0*; with conditions between parameters, or another likelihood, quadratic programming."""
    options = dict(options)
    steps = options.pop("steps")

    def iteration(x: Array) -> None:
        monitor.update(evaluations(x), x)
        if env.should_stop or monitor.at.step > steps:
            raise Stopped

    evaluations(x0)
    evaluations.verify()
    with np.errstate(all="ignore"):
        if objective.squares and not objective.inequalities:
            x = least_squares(objective, x0, iteration, **options)
        else:
            x = minimise(objective, x0, iteration)
    return Found(x, evaluations(x), monitor.at.step, monitor.convergence)


def _checked(
    objective: Objective, found: Found, x0: Array, env: Env, monitor: Monitor, evaluations: Evaluations
) -> Found:
    """The point *found*, if it stands the test; else the best of it and of simplex searches with least squares after."""
    tried = [found]
    for start in (found.x, x0):
        verdict = judge(objective, found.x, found.value, curvature(objective, found.x))
        if verdict.converged or env.should_stop:
            break
        reasons = "; ".join(verdict.reasons)
        env.publish(Log(f"not converged ({reasons}): a simplex search goes on from {start.tolist()}"))
        simplex = run_bumps(
            objective, "amoeba", {}, start, env, Evaluations(evaluations.function, env), None, None
        )
        tried.append(simplex)
        if env.should_stop:
            break
        tried.append(_local(objective, METHODS["lm"], simplex.x, env, monitor, evaluations))
        found = min(tried, key=lambda each: each.value)
    best = min(tried, key=lambda each: each.value)
    return Found(best.x, best.value, monitor.at.step, monitor.convergence)
