"""bumps' optimisers, run on an objective function and monitored step by step.

They run in scaled coordinates (`park.fit.methods.scaling`), so that neither units nor offsets matter. Reports, checkpoints
and results are in the user's units.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from park.fit.arrays import Array
from park.fit.methods.checkpoint import restart_options
from park.fit.methods.monitor import (
    Evaluations,
    MethodOutcome,
    MethodRun,
    ModelFailed,
    Monitor,
    step_progress,
)
from park.fit.methods.options import METHODS
from park.fit.methods.scaled_problem import PenalisedProblem, ScaledProblem
from park.fit.methods.scaling import Scaling, scaled
from park.fit.numerics.convergence import at_minimum, judge_convergence
from park.fit.numerics.covariance import covariance, curvature
from park.fit.numerics.derivatives import natural_scale
from park.fit.problem.objective import Objective

#: A method restarts at its best point, rescaled there, until a run lowers nllf by no more than this.
RESTART_GAIN_NLLF = 1e-3
#: Predicted gain in nllf that is not worth a step: a thousandth of a standard error.
_NEGLIGIBLE_GAIN_NLLF = 1e-6
#: Predicted gain in nllf of a step of a fiftieth of a standard error: after so short a step the errors from before it
#: still hold.
_SAME_CURVATURE_GAIN_NLLF = 2e-4
#: Limits wider than this multiple of the natural scale are too wide for methods that draw points between them.
WIDE_LIMITS_RATIO = 1e6


class Optimizer:
    """A run of one of bumps' optimisers from *x0*, or from its checkpoint.

    It restarts at its best point while that helps and steps are left.
    """

    def __init__(self, run: MethodRun, method: str, options: dict[str, Any], x0: Array) -> None:
        from bumps import fitters

        self.fitclass = next(f for f in fitters.FITTERS if f.id == method)
        self.objective = run.objective
        self.method = method
        self.options = {**METHODS[method], **options}
        self.env = run.env
        self.evaluations = run.evaluations
        #: the checkpoint of an earlier process
        self.saved = run.saved(method)
        self.state = self.saved.state if self.saved is not None else None
        total: float = self.fitclass.max_steps(_Sized(x0.size), self.options)
        self.monitor = Monitor(run, method, step_progress(total))
        self.at = self.monitor.at
        self.x0 = x0
        self.x = x0 if self.at.point is None else self.at.point
        self.value = self.at.value

    def run(self) -> MethodOutcome:
        """The outcome of all restarts."""
        while True:
            before = self.value
            fitter = self._once()
            done, steps = self.at.step, self.options["steps"]
            found = MethodOutcome(self.x, self.value, done, self.monitor.convergence)
            found.ended = _ended(self.method, fitter, done, steps)
            if self.env.should_stop:
                return found
            again = before - self.value > RESTART_GAIN_NLLF and done < steps
            if self.method == "newton":
                if again and math.isinf(before):
                    self._last_step(found)
                again = again and (found.verdict is None or found.verdict.promise > RESTART_GAIN_NLLF)
            else:
                self._test(found)
                again = again and self.method == "amoeba" and not found.ended
                again = again and found.verdict is not None and not found.verdict.converged
            if not again:
                break
        if self.method in ("de", "pt") and found.verdict is not None and not found.verdict.converged:
            wide = wide_limits(self.objective, self.x0)
            found.ended = "; ".join(each for each in (found.ended, wide) if each)
        if self.objective.inequalities and self.method in ("amoeba", "newton"):
            found.ended = "; ".join(each for each in (found.ended, _EDGE.format(self.method)) if each)
        return found

    def _last_step(self, found: MethodOutcome) -> None:
        """Tests *found*, and takes the step to the minimum that accurate derivatives predict, if it leads down.

        newton's differences are rougher, and it ends a little before the minimum. A second run would cost far more.
        """
        self._test(found)
        if found.local is None or found.verdict is None or found.verdict.promise <= _NEGLIGIBLE_GAIN_NLLF:
            return
        below, drop = at_minimum(self.objective, found.x, found.local)
        if drop > 0:
            promise = found.verdict.promise
            self.x, self.value = below, self.evaluations(below)
            self.monitor.update(self.value, self.x)
            found.x, found.value = self.x, self.value
            found.steps, found.convergence = self.at.step, self.monitor.convergence
            if promise > _SAME_CURVATURE_GAIN_NLLF:
                self._test(found)

    def _test(self, found: MethodOutcome) -> None:
        """Adds the test of convergence to *found*: a simplex may have collapsed. The result does not repeat the test."""
        try:
            found.local = curvature(self.objective, found.x)
            found.verdict = judge_convergence(self.objective, found.x, found.value, found.local)
        except Exception:  # the result repeats the test and reports its failure
            found.local = found.verdict = None

    def _once(self) -> Any:
        """Runs the method once from its current point, and returns bumps' fitter."""
        from bumps import fitters

        # newton ignores limits, and takes its difference steps as parts of one unit. A simplex that restarts is near a
        # minimum, and a part of wide limits would be too large a first step there.
        near = self.method == "newton" or (self.method == "amoeba" and self.at.step > 0)
        coordinates = scaled(self.objective, self.x, limits=not near)
        kind = PenalisedProblem if near else ScaledProblem
        shadow = kind(self.objective, coordinates, self.evaluations, self._covariance, self.x)
        options, state = self._going_on(coordinates)
        with quiet_run(self.evaluations), _unmoved_points():
            driver = fitters.FitDriver(
                self.fitclass,
                problem=shadow,
                monitors=[BumpsMonitor(self.monitor, coordinates, shadow)],
                abort_test=lambda: self.env.should_stop,
                mapper=lambda points: self.evaluations.mapped(coordinates.x(points)),
                **options,
            )
            u, value = driver.fit(fit_state=state)
        self.x, self.value = coordinates.x(shadow.inside(u)), shadow.likelihood(float(value), u)
        if self.at.point is not None and not self.value <= self.at.value:
            self.x, self.value = (
                self.at.point,
                self.at.value,
            )  # de returns the best point of its last population
        return driver.fitter

    def _covariance(self, x: Array) -> Array:
        return covariance(self.objective, x)

    def _going_on(self, coordinates: Scaling) -> tuple[dict[str, Any], Any]:
        """Options and state with which bumps starts or restarts the method."""
        options, state = dict(self.options), None
        if self.saved is not None:
            options, state = restart_options(self.saved, self.state, options, coordinates)
            self.saved = None
        elif self.at.step:
            options["steps"] -= self.at.step
        if self.method == "de" and options["xtol"]:
            # bumps stops when the population is narrow. Wide limits need a second criterion: equal values.
            narrow = f"Rx({options['xtol']!r}, scaled=False)"
            options["stop"] = f"{narrow} & Rf({options['ftol']!r}, scaled=False)"
        return options, state


def wide_limits(objective: Objective, x0: Array) -> str:
    """A remark on limits that are too wide to draw points between, by the scales at *x0*; "" if there are none."""
    wide = objective.high - objective.low
    wide[np.isinf(wide)] = 0.0
    with np.errstate(all="ignore"):
        scale = natural_scale(objective, x0)
        # at a jump, as of a model that rounds, the least step matters: a little further it does not
        moved = np.where(wide > WIDE_LIMITS_RATIO * scale, 2 * scale, 0.0)
        aside = np.where(x0 + moved < objective.high, x0 + moved, x0 - moved)
        ratio = wide / np.maximum(scale, natural_scale(objective, aside))
    names = [name for name, each in zip(objective.names, ratio, strict=True) if each > WIDE_LIMITS_RATIO]
    if not names:
        return ""
    return (
        f"its first points lie evenly between the limits, and those of {', '.join(names)} are {ratio.max():.0e} times as "
        "wide as a step that matters: give limits as narrow as you can believe, or fit with method 'auto'"
    )


class _Sized:
    """A problem with *k* parameters, for bumps' estimate of the steps."""

    def __init__(self, k: int) -> None:
        self._k = k

    def getp(self) -> Array:
        return np.zeros(self._k)


@contextmanager
def quiet_run(evaluations: Evaluations) -> Iterator[None]:
    """Around a run: silences numpy's warnings, and reports a model without values as the cause of other errors."""
    with np.errstate(all="ignore"):
        try:
            yield
        except ModelFailed:
            raise
        except Exception:
            evaluations.verify()  # pt, for one, trips over a model without values
            raise


@contextmanager
def _unmoved_points() -> Iterator[None]:
    """Around a run: lets bumps' pt propose the point where a chain is, which its history takes for an error."""
    from bumps import partemp

    class History(partemp.History):
        def _save_point(self, step: int, i: int, T: float, E: float, P: Array) -> None:
            if not (self.buffer[i] and np.array_equal(P, self.buffer[i][-1][3])):
                super()._save_point(step, i, T, E, P)

    original, partemp.History = partemp.History, History
    try:
        yield
    finally:
        partemp.History = original


class BumpsMonitor:
    """Forwards the history of a bumps method to a `Monitor`, in the user's units."""

    def __init__(self, monitor: Monitor, coordinates: Scaling, shadow: ScaledProblem) -> None:
        self._monitor = monitor
        self._coordinates = coordinates
        self._shadow = shadow

    def config_history(self, history: Any) -> None:
        """Requests the population from bumps."""
        history.requires(time=1, value=1, point=1, step=1, population_values=1, population_points=1)

    def __call__(self, history: Any) -> None:
        shadow, x, u = self._shadow, self._coordinates.x, history.point[0]
        values: Any = getattr(history, "population_values", ())
        members = history.population_points[0] if len(values) else None
        self._monitor.update(
            shadow.likelihood(history.value[0], u),
            lambda: x(shadow.inside(u)),
            shadow.likelihood(values[0], members) if len(values) else None,
            (lambda: x(shadow.inside(members))) if len(values) else None,
            lambda: _state(self._monitor.at.method, history, self._coordinates),
        )


def _state(method: str, history: Any, coordinates: Scaling) -> Any:
    """The state from which bumps' *method* can continue, in the user's units."""
    if method == "de":
        state = history.snapshot()
        for name in ("point", "population_points"):
            state[name] = [coordinates.x(u).tolist() for u in state[name]]
        return state
    if method == "amoeba":
        return coordinates.x(history.population_points[0])
    return None


_NEWTON = {
    3: "its line search reached a point without a finite value",
    4: "it took its last of {steps:,} steps",
    5: "its steps kept their largest length: there may be no minimum",
    7: "its line search found no lower point",
    8: "its line search found no lower point",
    9: "its matrix of second derivatives has become singular",
}


_EDGE = "method {!r} steps across the edges of conditions between parameters, and may stop there: 'auto' follows them"


def _ended(method: str, fitter: Any, done: int, steps: int) -> str:
    """The reason why a method ended before its own criterion was met; "" otherwise, and for pt."""
    if method == "newton":
        return _NEWTON.get(fitter.result["status"], "").format(steps=steps)
    # amoeba ends one step before its limit.
    if method in ("amoeba", "de") and done >= steps - (method == "amoeba"):
        return f"it took its last of {steps:,} steps"
    return ""
