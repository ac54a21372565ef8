"""bumps' optimizers and its sampler DREAM, run on an objective and watched step by step."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from park.fit.asked import Asked
from park.fit.covariance import covariance
from park.fit.data import Array
from park.fit.env import Env
from park.fit.methods import METHODS
from park.fit.objective import Objective
from park.fit.resume import Keeper, crossover_of, further, going_on
from park.fit.watch import Evaluations, Found, ModelFailed, Monitor
from park.model import Log


def run_bumps(
    objective: Objective,
    method: str,
    options: dict[str, Any],
    x0: Array,
    env: Env,
    evaluations: Evaluations,
    keeper: Keeper | None,
    asked: Asked | None,
) -> Found:
    """Runs one of bumps' methods from *x0*, or from what the *keeper* has of it."""
    from bumps import fitters
    from bumps.dream import core

    original = objective.problem()
    # A shadow: bumps evaluates through it, and the given one stays as it is.
    problem = object.__new__(type(original))
    problem.__dict__.update(original.__dict__)
    problem.nllf = evaluations
    problem.cov = lambda x: covariance(objective, np.asarray(x, dtype=np.float64))
    problem.setp(x0)
    fitclass = next(f for f in fitters.FITTERS if f.id == method)
    given = {**METHODS[method], **options}
    saved, state = keeper.of(method) if keeper is not None else None, None
    if saved is not None:
        options, x0, state = going_on(saved, options, objective, x0)
        problem.setp(x0)

    def samples() -> int:
        return asked.samples if asked is not None and method == "dream" else 0

    def total() -> float:
        more = {"samples": given["samples"] + samples()} if method == "dream" else {}
        steps: float = fitclass.max_steps(problem, {**given, **more})
        return steps

    monitor = Monitor(env, objective.names, total, evaluations, method, keeper, asked)
    at = monitor.at
    # DREAM prints what it does about outliers; that belongs into the log of the job, not on somebody's terminal.
    core.print = lambda *words: env.publish(Log(" ".join(map(str, words))))
    failure: Exception | None = None
    with np.errstate(all="ignore"), warnings.catch_warnings():
        # DREAM says so after short runs and keeps the second half of its draws.
        warnings.filterwarnings("ignore", message="Did not converge!")
        try:
            while True:
                if state is not None and method == "dream":
                    core.Dream.CR = crossover_of(state)
                driver = fitters.FitDriver(
                    fitclass,
                    problem=problem,
                    monitors=[monitor],
                    abort_test=lambda: env.should_stop,
                    mapper=evaluations.mapped,
                    **options,
                )
                x, value = driver.fit(fit_state=state)
                if env.should_stop or samples() == at.begun:
                    break
                at.begun = samples()
                options, state = further(given, at.begun), driver.fitter.state
        except Exception as error:
            failure = error
        finally:
            vars(core).pop("print", None)
            core.Dream.CR = None
    if failure is not None:
        if not isinstance(failure, ModelFailed):
            evaluations.verify()  # pt, for one, trips over a model without values
        raise failure
    if at.point is not None and not value <= at.value:
        x, value = at.point, at.value  # de ends with its last best, not with its best
    x = np.array(x, dtype=np.float64)
    return Found(x, float(value), at.step, monitor.convergence, driver.fitter.state)
