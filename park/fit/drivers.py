"""What runs in the slot process: the bodies of `Fit` and `Uncertainty`.

A body talks to the fabric through its environment only (`Env`): it maps evaluations, reports each iteration,
and asks whether to stop. Optimizers and samplers are bumps' own, but for least squares.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from park.fit.asked import Asked, Steered
from park.fit.assembly import Assembly
from park.fit.data import Array
from park.fit.env import Env
from park.fit.leastsq import Stopped, covariance, jacobian, least_squares, scales
from park.fit.methods import METHODS, POPULATION
from park.fit.objective import Objective
from park.fit.result import Estimate, FitResult
from park.fit.resume import INTERVAL, Keeper, Saved, crossover_of, further, going_on
from park.fit.watch import Evaluate, Evaluations, ModelFailed, Monitor
from park.kernel.env import mix
from park.model import Improvement, Log, Progress
from park.payload import dumps


@dataclass(slots=True)
class Found:
    """Where a method ended."""

    x: Array
    value: float
    steps: int = 0
    convergence: Array = field(default_factory=lambda: np.empty((0, 1)))
    state: Any = None


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
        found = _bumps(objective, method, options, x0, env, evaluations, keeper, asked)
    evaluations.verify()
    return found


def _bumps(
    objective: Objective,
    method: str,
    options: dict[str, Any],
    x0: Array,
    env: Env,
    evaluations: Evaluations,
    keeper: Keeper | None,
    asked: Asked | None,
) -> Found:
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


class _Alone:
    """The environment of one start among many: it reports nothing, and evaluates where it is."""

    def __init__(self, env: Env) -> None:
        self._env = env

    @property
    def should_stop(self) -> bool:
        return self._env.should_stop

    def map(self, fn: Any, inputs: Iterable[Any], /) -> Iterator[Any]:
        return map(fn, inputs)

    def mapper(self, fn: Any, /) -> Callable[[Any], Sequence[Any]]:
        return lambda points: [fn(point) for point in points]

    restored = None

    def checkpoint(self, state: Any, wait: float, /) -> bool:
        return False

    def publish(self, message: Any, /) -> None:
        pass

    def ready(self) -> None:
        self._env.ready()


class OneStart:
    """One of many starts: a unit that runs the whole method from one point."""

    def __init__(self, assembly: Assembly, method: str, options: dict[str, Any]) -> None:
        self.assembly = assembly
        self.method = method
        self.options = options

    def prepare(self, env: Env) -> None:
        """Keeps the environment, for its safe points."""
        self.env = env

    def run(self, given: tuple[int, Array]) -> Found | ModelFailed:
        """From (seed, point) to what was found there; a start that fails is no reason for others to."""
        seed, x0 = given
        try:
            found = optimise(self.assembly, self.method, self.options, x0, _Alone(self.env), seed)
        except ModelFailed as error:
            return error
        found.state = None
        return found


class FitBody(Steered):
    """The body of `Fit`: one method from one start, or from many in parallel."""

    def __init__(
        self,
        assembly: Assembly,
        method: str,
        options: dict[str, Any],
        start: Any = None,
        starts: int = 1,
        seed: int = 0,
        checkpoint: float = INTERVAL,
    ) -> None:
        self.assembly = assembly
        self.method = method
        self.options = options
        self.start = start
        self.starts = starts
        self.seed = seed
        self.checkpoint = checkpoint
        self.draws = method == "dream" and starts == 1

    def run(self) -> FitResult:
        """Fits, and returns the best point with its errors."""
        x0 = self.assembly.start if self.start is None else self.assembly.vector(self.start)
        keeper = Keeper(self.env, self.checkpoint)
        self.asked.samples = keeper.extended
        if self.starts == 1:
            found = optimise(
                self.assembly,
                self.method,
                self.options,
                x0,
                self.env,
                self.seed,
                keeper=keeper,
                asked=self.asked,
            )
        else:
            found = self._many(x0, keeper)
        self.asked.over = True
        return conclude(self.assembly, self.method, found, self.env, self.seed)

    def _many(self, x0: Array, keeper: Keeper) -> Found:
        objective = self.assembly.objective
        points = starting_points(objective, x0, self.starts, self.seed)
        seeds = np.random.SeedSequence([self.seed, 1]).generate_state(self.starts).tolist()
        one = OneStart(self.assembly, self.method, self.options)
        at = keeper.of("starts") or Saved("starts", state=(None, None))
        best: Found | None
        failure: ModelFailed | None
        (best, failure), rows = at.state, at.rows
        # In waves, each twice the one before: a map tells nothing before its end, and a stop waits for it.
        waves = [slice(4 * (2**n - 1), 4 * (2 ** (n + 1) - 1)) for n in range(self.starts.bit_length())]
        units = list(zip(seeds, points, strict=True))
        for wave in waves:
            if len(rows) == self.starts or (rows and self.env.should_stop):
                break
            if wave.start < len(rows):
                continue  # an earlier run has had it
            for found in self.env.map(one, units[wave]):
                if isinstance(found, ModelFailed):
                    failure = failure or found
                elif best is None or found.value < best.value:
                    best = found
                    named = dict(zip(objective.names, found.x.tolist(), strict=True))
                    self.env.publish(Improvement(found.value, named, len(rows) + 1))
                rows.append([best.value if best is not None else np.inf])
            self.env.publish(Progress(len(rows), self.starts, "starts"))
            keeper.keep(Saved("starts", rows=rows, state=(best, failure)))
            self.env.ready()
            if best is not None:
                at_best = best.x, best.value
                self.asked.answer(self.method, len(rows), objective.names, [best.x], [best.value], *at_best)
        if best is None:
            assert failure is not None
            raise failure
        return Found(best.x, best.value, best.steps, np.array(rows))


class UncertaintyBody(Steered):
    """The body of `Uncertainty`: bumps' DREAM, from a fit or from a fit of its own."""

    draws = True

    def __init__(
        self,
        assembly: Assembly,
        options: dict[str, Any],
        start: Any = None,
        seed: int = 0,
        checkpoint: float = INTERVAL,
    ) -> None:
        self.assembly = assembly
        self.options = options
        self.start = start
        self.seed = seed
        self.checkpoint = checkpoint

    def run(self) -> FitResult:
        """Samples, and returns draws with the best point."""
        assembly, env = self.assembly, self.env
        keeper, asked = Keeper(env, self.checkpoint), self.asked
        asked.samples = keeper.extended
        saved = keeper.of("dream")
        if saved is not None and saved.point is not None:
            x0 = saved.point
        elif self.start is None:
            x0 = optimise(
                assembly, "amoeba", {}, assembly.start, env, self.seed, keeper=keeper, asked=asked
            ).x
        else:
            x0 = assembly.vector(self.start)
        options = dict(self.options)
        if "init" not in options and saved is None:  # a population as wide as the errors needs less burning
            options["init"] = "cov" if self._narrow(x0) else "eps"
        found = optimise(assembly, "dream", options, x0, env, self.seed, True, keeper, asked)
        asked.over = True
        found.value = assembly.objective.nllf(found.x)
        return conclude(assembly, "dream", found, env, self.seed)

    def _narrow(self, x0: Array) -> bool:
        objective = self.assembly.objective
        deviation = np.sqrt(np.diag(covariance(objective, x0)))
        with np.errstate(all="ignore"):
            known = np.isfinite(deviation) & (deviation > 0) & (deviation < objective.high - objective.low)
        return bool(np.all(known))


def starting_points(objective: Objective, x0: Array, count: int, seed: int) -> list[Array]:
    """*count* points to start from: *x0*, then random ones.

    Uniform between finite limits. With one limit the distance to it, with none the value itself is
    spread about that of *x0*.
    """
    rng = np.random.default_rng(seed)
    low, high = objective.low, objective.high
    points = [x0]
    for _ in range(count - 1):
        uniform, normal = rng.random(x0.size), rng.normal(size=x0.size)
        with np.errstate(all="ignore"):
            free = x0 + scales(x0) * normal
            above = low + np.where(x0 > low, x0 - low, 1.0) * np.exp(normal)
            below = high - np.where(x0 < high, high - x0, 1.0) * np.exp(normal)
            between = low + uniform * (high - low)
        bounded = np.where(np.isfinite(low), np.where(np.isfinite(high), between, above), below)
        point = np.where(np.isfinite(low) | np.isfinite(high), bounded, free)
        points.append(np.clip(point, low, high))
    return points


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
