"""One run of a method. Optimizers and samplers are bumps' own, but for least squares and what follows from it."""

from __future__ import annotations

from typing import Any

import numpy as np

from park.fit.asked import Asked
from park.fit.assembly import Assembly
from park.fit.constrained import minimise
from park.fit.convergence import Verdict, judge
from park.fit.covariance import curvature
from park.fit.data import Array
from park.fit.env import Env
from park.fit.leastsq import Stopped, least_squares
from park.fit.methods import METHODS, POPULATION
from park.fit.objective import Objective
from park.fit.optimizers import run_bumps
from park.fit.resume import Keeper
from park.fit.sampler import run_dream
from park.fit.watch import Evaluate, Evaluations, Found, Monitor, steps_of
from park.kernel import generators
from park.kernel.env import mix
from park.model import Log


def optimise(
    assembly: Assembly,
    method: str,
    options: dict[str, Any],
    x0: Array,
    env: Env,
    seed: int,
    keeper: Keeper | None = None,
    asked: Asked | None = None,
    draws: Any = None,
) -> Found:
    """Runs one *method* from *x0*, or from where an earlier run has come to, which the *keeper* has.

    It answers what is *asked* meanwhile. DREAM goes on from the *draws* of a sampling that has ended.
    """
    objective = assembly.objective
    evaluate = Evaluate(assembly)
    evaluations = Evaluations(evaluate, env, env.mapper(evaluate) if method in POPULATION else None)
    objective.on_failure = evaluations.failed
    saved = keeper.of(method) if keeper is not None else None
    if saved is not None:
        seed = mix(seed, saved.step)  # else it would draw again what it drew first
    if method == "dream":
        import bumps.dream.core  # noqa: F401  it may load numba, which has a generator of its own
    generators.seed(seed)  # bumps draws from the global ones, and seeds its compiled one from them
    if method in ("auto", "lm"):
        steps = {**METHODS[method], **options}["steps"]
        monitor = Monitor(env, objective, steps_of(steps), evaluations, method, keeper, asked)
        x0 = x0 if monitor.at.point is None else monitor.at.point
        search = _Search(objective, {**METHODS["lm"], **options}, env, monitor, evaluations)
        found = search.run(x0, simplex=method == "auto")
    elif method == "dream":
        found = run_dream(objective, options, x0, env, evaluations, keeper, asked, draws)
    else:
        found = run_bumps(objective, method, options, x0, env, evaluations, keeper, asked)
    objective.on_failure = None
    evaluations.conclude()
    return found


#: The first radii of least squares that are tried, in natural scales, until a fit stands the test.
_RADII = (1.0, 30.0, 0.1)


class _Search:
    """Least squares from several radii, each end tested, and a simplex search where no end stands the test.

    With conditions between parameters, or another likelihood, it is quadratic programming.
    """

    def __init__(
        self,
        objective: Objective,
        options: dict[str, Any],
        env: Env,
        monitor: Monitor,
        evaluations: Evaluations,
    ) -> None:
        self._objective = objective
        self._options = dict(options)
        self._steps = self._options.pop("steps")
        self._env = env
        self._monitor = monitor
        self._evaluations = evaluations
        self._ends: list[Found] = []

    def run(self, x0: Array, simplex: bool) -> Found:
        """The best end from *x0*."""
        self._evaluations(x0)
        self._evaluations.verify()
        squares = self._objective.squares and not self._objective.inequalities
        for radius in _RADII if squares else _RADII[:1]:
            if self._ended(self._local(x0, radius)):
                return self._best()
        for start in (self._best().x, x0) if simplex else ():
            self._say(
                f"a simplex search goes on from {dict(zip(self._objective.names, start.tolist(), strict=True))}"
            )
            found = run_bumps(self._objective, "amoeba", {}, start, self._env, self._evaluations, None, None)
            if self._ended(found) or self._ended(self._local(found.x, _RADII[0])):
                break
        return self._best()

    def _local(self, x0: Array, radius: float) -> Found:
        def iteration(x: Array, value: float) -> None:
            self._monitor.update(self._evaluations.count_one(x, value), x)
            if self._env.should_stop or self._spent:
                raise Stopped

        with np.errstate(all="ignore"):
            if self._objective.squares and not self._objective.inequalities:
                x = least_squares(self._objective, x0, iteration, radius, **self._options)
            else:
                x = minimise(self._objective, x0, iteration)
        return Found(x, self._evaluations(x))

    @property
    def _spent(self) -> bool:
        return bool(self._monitor.at.step > self._steps)

    def _ended(self, found: Found) -> bool:
        """Keeps the end *found*, tested; True where the search is over."""
        found.verdict = Verdict(False, (), found.x)
        try:
            found.local = curvature(self._objective, found.x)
            if not self._env.should_stop:
                found.verdict = judge(self._objective, found.x, found.value, found.local)
        except Exception as error:  # what has been found is not lost with its test
            found.verdict = Verdict(False, (f"the test of convergence failed: {error!r}",), found.x)
        if self._spent and not found.verdict.converged:
            reasons = (f"it ran out of its {self._steps} steps", *found.verdict.reasons)
            found.verdict = found.verdict._replace(reasons=reasons)
        self._ends.append(found)
        return self._verdict.converged or self._env.should_stop or self._spent

    @property
    def _verdict(self) -> Verdict:
        verdict = self._best().verdict
        assert verdict is not None
        return verdict

    def _best(self) -> Found:
        best = min(self._ends, key=lambda end: end.value)
        best.steps, best.convergence = self._monitor.at.step, self._monitor.convergence
        return best

    def _say(self, next_step: str) -> None:
        reasons = "; ".join(self._verdict.reasons)
        self._env.publish(Log(f"least squares has not converged ({reasons}): {next_step}"))
