"""One run of a method: bumps' optimisers and sampler, or least squares with a test of convergence."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from park.body import generators
from park.body.seeds import mix
from park.fit.arrays import Array
from park.fit.environment import Env
from park.fit.methods.bumps_optimizers import Optimizer
from park.fit.methods.checkpoint import Checkpointer
from park.fit.methods.controls import ControlRequests
from park.fit.methods.dream import run_dream
from park.fit.methods.monitor import Evaluate, Evaluations, MethodOutcome, MethodRun, Monitor, step_progress
from park.fit.methods.options import METHODS, POPULATION_METHODS
from park.fit.numerics.constrained import minimise_constrained
from park.fit.numerics.convergence import ConvergenceVerdict, judge_convergence
from park.fit.numerics.covariance import curvature
from park.fit.numerics.least_squares import Stopped, least_squares
from park.fit.problem.assembly import Assembly
from park.fit.problem.objective import Objective
from park.fit.problem.undefined_points import trials
from park.model import Log


def optimise(
    assembly: Assembly,
    method: str,
    options: dict[str, Any],
    x0: Array,
    env: Env,
    seed: int,
    keeper: Checkpointer | None = None,
    asked: ControlRequests | None = None,
    draws: Any = None,
    exactly: bool = False,
) -> MethodOutcome:
    """Runs one *method* from *x0*, or from the checkpoint of an earlier run in *keeper*.

    Requests in *asked* are answered during the run. With *draws*, DREAM continues the chains of a run that has ended.
    If the model has no value at *x0*, the run begins elsewhere, unless it has to begin *exactly* there.
    """
    objective = assembly.objective
    evaluate = Evaluate(assembly)
    evaluations = Evaluations(evaluate, env, env.mapper(evaluate) if method in POPULATION_METHODS else None)
    objective.on_failure = evaluations.failed
    run = MethodRun(objective, env, evaluations, keeper, asked)
    saved = run.saved(method)
    if saved is not None:
        seed = mix(seed, saved.step)  # otherwise it would repeat its first random numbers
    if method == "dream":
        import bumps.dream.core  # noqa: F401  it may load numba, which has a generator of its own
    generators.seed(seed)  # bumps uses the global generators, and seeds its compiled one from them
    value, note = math.inf, ""
    if saved is None and not exactly:
        x0, value, note = _with_value(objective, x0)
    if method in ("auto", "lm"):
        steps = {**METHODS[method], **options}["steps"]
        monitor = Monitor(run, method, step_progress(steps))
        x0 = x0 if monitor.at.point is None else monitor.at.point
        search = _Search(run, {**METHODS["lm"], **options}, monitor)
        found = search.from_point(x0, value, simplex=method == "auto")
    elif method == "dream":
        found = run_dream(run, options, x0, draws)
    else:
        found = Optimizer(run, method, options, x0).run()
    objective.on_failure = None
    evaluations.conclude()
    if note:
        found.notes = (note, *found.notes)
    return found


def _with_value(objective: Objective, x0: Array) -> tuple[Array, float, str]:
    """The start *x0*, or the best of some random points if the model has no value there; nllf; and a note in that case.

    A method learns nothing from a start without a value, as of a logarithm below zero, or of counts that have no rate.
    """

    def value(x: Array) -> float:
        try:
            found = objective.nllf(x)
        except Exception:  # the method reports a model that raises at each point
            return math.inf
        return found if math.isfinite(found) else math.inf

    lowest, best = value(x0), x0
    if lowest < math.inf:
        return best, lowest, ""
    points = trials(x0, objective.low, objective.high)
    lowest, best = min(((value(x), x) for x in points), key=lambda pair: pair[0])
    if lowest == math.inf:
        return x0, lowest, ""
    where = ", ".join(f"{name}={each:.4g}" for name, each in zip(objective.names, best, strict=True))
    return best, lowest, f"the model has no value at the start: the fit began at {where}"


#: The remedy for least squares that has not converged.
_FURTHER = "fit with method 'auto', which searches further, or from more points (starts=10)"
#: First trust radii of least squares, in natural scales, tried until a fit passes the test of convergence.
_TRUST_RADII = (1.0, 30.0, 0.1)


class _Search:
    """Least squares with several trust radii, a test of convergence after each, and a simplex search if all fail it.

    Sequential quadratic programming takes the place of least squares for constraints and for other likelihoods.
    """

    def __init__(self, run: MethodRun, options: dict[str, Any], monitor: Monitor) -> None:
        self._objective, self._env, self._evaluations = run.objective, run.env, run.evaluations
        self._options = dict(options)
        self._steps = self._options.pop("steps")
        self._monitor = monitor
        self._ends: list[MethodOutcome] = []

    def from_point(self, x0: Array, value: float, simplex: bool) -> MethodOutcome:
        """The best outcome from *x0*, where nllf is *value*, or infinity if it is not known."""
        self._evaluations.count_one(x0, value) if value < math.inf else self._evaluations(x0)
        self._evaluations.verify()
        squares = self._objective.squares and not self._objective.inequalities
        # the simplex search needs steps too: least squares creeps on a model that is not smooth
        most = self._steps - self._steps // 5 if simplex else self._steps
        for radius in _TRUST_RADII if squares else _TRUST_RADII[:1]:
            found = self._local(x0, radius, most)
            # an end along which nllf hardly rises may be a plateau: another radius may lead to the minimum
            if self._ended(found) and not (found.local is not None and found.local.flat):
                return self._best()
            if self._monitor.at.step > most or self._env.should_stop:
                break
        if self._verdict.converged or self._env.should_stop:
            return self._best()
        if not simplex:
            best, verdict = self._best(), self._verdict
            best.verdict = verdict._replace(reasons=(*verdict.reasons, _FURTHER))
            return best
        for start in (self._best().x, x0):
            self._say(
                f"a simplex search goes on from {dict(zip(self._objective.names, start.tolist(), strict=True))}"
            )
            # its steps are no steps of the search
            unseen = MethodRun(self._objective, self._env, self._evaluations)
            limit = min(self._steps, METHODS["amoeba"]["steps"])
            found = Optimizer(unseen, "amoeba", {"steps": limit}, start).run()
            if self._ended(found) or self._ended(self._local(found.x, _TRUST_RADII[0], self._steps)):
                break
        return self._best()

    def _local(self, x0: Array, radius: float, most: int) -> MethodOutcome:
        """The outcome of least squares from *x0*, which ends after step number *most* of the whole search."""

        def iteration(x: Array, value: float) -> None:
            self._monitor.update(self._evaluations.count_one(x, value), x)
            if self._env.should_stop or self._monitor.at.step > most:
                raise Stopped

        with np.errstate(all="ignore"):
            if self._objective.squares and not self._objective.inequalities:
                x = least_squares(self._objective, x0, iteration, radius, **self._options)
            else:
                x = minimise_constrained(self._objective, x0, iteration)
        return MethodOutcome(x, self._evaluations(x))

    @property
    def _spent(self) -> bool:
        return bool(self._monitor.at.step > self._steps)

    def _ended(self, found: MethodOutcome) -> bool:
        """Stores the outcome *found* with its test of convergence; True if the search is over."""
        found.verdict = ConvergenceVerdict(False, (), found.x)
        try:
            found.local = curvature(self._objective, found.x)
            if not self._env.should_stop:
                found.verdict = judge_convergence(self._objective, found.x, found.value, found.local)
        except Exception as error:  # a failed test must not lose the outcome
            found.verdict = ConvergenceVerdict(
                False, (f"the test of convergence failed: {error!r}",), found.x
            )
        if self._spent and not found.verdict.converged:
            reasons = (f"it ran out of its {self._steps} steps", *found.verdict.reasons)
            found.verdict = found.verdict._replace(reasons=reasons)
        self._ends.append(found)
        return self._verdict.converged or self._env.should_stop or self._spent

    @property
    def _verdict(self) -> ConvergenceVerdict:
        verdict = self._best().verdict
        assert verdict is not None
        return verdict

    def _best(self) -> MethodOutcome:
        best = min(self._ends, key=lambda end: end.value)
        best.steps, best.convergence = self._monitor.at.step, self._monitor.convergence
        return best

    def _say(self, next_step: str) -> None:
        reasons = "; ".join(self._verdict.reasons)
        self._env.publish(Log(f"least squares has not converged ({reasons}): {next_step}"))
