"""Evaluations and iterations of a method: counting, failures, progress reports, checkpoints.

bumps turns every exception of a model into an infinite value. Here the first traceback is kept. A model that fails at all
points ends the fit with this traceback; a model that fails at some points leaves a warning in the log.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from park.body.causes import hint
from park.errors import ParkError
from park.fit.arrays import Array, quiet
from park.fit.environment import Env
from park.fit.methods.checkpoint import Checkpointer, MethodState
from park.fit.methods.controls import ControlRequests
from park.fit.numerics.convergence import ConvergenceVerdict
from park.fit.numerics.covariance import Curvature
from park.fit.problem.assembly import Assembly
from park.fit.problem.bumps_undefined import without_value
from park.fit.problem.client_values import compare, process_identity
from park.fit.problem.objective import Objective
from park.model import Improvement, Log, Progress

#: Parts of the sorted values of a population that a row of convergence shows.
_POPULATION_QUANTILES = (0.0, 0.2, 0.5, 0.8, 1.0)

#: Python sorts a population of at most this size faster than numpy.
_SMALL_POPULATION = 100


class ModelFailed(ParkError, RuntimeError):
    """Raised when a model had no finite value at any point. Its note is the first traceback of the model."""

    #: it needs no traceback of the fit
    complete = True


@dataclass(frozen=True, slots=True)
class FailedEvaluation:
    """The result of an evaluation in which the model raised."""

    traceback: str


class Evaluate:
    """Evaluates a point (k,) for population methods.

    The negative log likelihood, or `FailedEvaluation`. Sent to the slots.
    """

    #: each evaluation leaves the generators of models as they were
    keeps_own_generators = True

    def __init__(self, assembly: Assembly) -> None:
        self.assembly = assembly
        self.place = process_identity()
        self._compared = True

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._compared = self.place == process_identity()  # the body of the job has compared the values there

    def __call__(self, x: Any) -> float | FailedEvaluation:
        if not self._compared:
            compare(self.assembly)
            self._compared = True
        objective = self.assembly.objective
        try:
            return objective.nllf(np.asarray(x, dtype=np.float64))
        except Exception as error:
            return FailedEvaluation(_traceback_of(error))


def _traceback_of(error: Exception) -> str:
    """The traceback of a model, without the frames of PARK and bumps."""
    told = traceback.TracebackException.from_exception(error)
    bumps = getattr(sys.modules.get("bumps"), "__file__", None) or __file__
    fit_layer = os.path.dirname(os.path.dirname(__file__))
    own = tuple(folder + os.sep for folder in (fit_layer, os.path.dirname(bumps)))
    frames = [frame for frame in told.stack if not frame.filename.startswith(own)]
    told.stack = traceback.StackSummary.from_list(frames or told.stack)
    return "".join(told.format()).rstrip() + hint(error)


class Evaluations:
    """Evaluates points, here or through a *mapper*, and counts failures.

    A point at which the model raises, or is not finite, has the value infinity. If no point was finite, `verify`
    raises with the first traceback.
    """

    def __init__(
        self,
        function: Callable[[Array], float | FailedEvaluation],
        env: Env,
        mapper: Callable[[Any], Sequence[float | FailedEvaluation]] | None = None,
    ) -> None:
        self.function = function
        self._env = env
        self._mapper = mapper or (lambda points: [function(point) for point in points])
        self.count = 0
        self.finite = 0
        #: the number of points at which the model raised, and the first traceback
        self.raised = 0
        self.first_error = ""
        #: the number of these points that a method has evaluated itself
        self._elsewhere = 0
        self._first: Array | None = None

    def __call__(self, x: Any) -> float:
        x = np.asarray(x, dtype=np.float64)
        self._begin(x)
        return self._value(self.function(x))

    def count_one(self, x: Array, value: float) -> float:
        """Counts a *value* that the method has evaluated itself at *x*."""
        self._begin(x)
        return self._value(value)

    def mapped(self, points: Any) -> list[float]:
        """The values of a population (n, k), in its order. The points are copied, because bumps reuses its array."""
        copied = np.array(points, dtype=np.float64)
        self._begin(copied[0] if len(copied) else None)
        return [self._value(value) for value in self._mapper(copied)]

    def _begin(self, x: Array | None) -> None:
        if self._first is None and x is not None:
            self._first = x.copy()

    def _value(self, value: float | FailedEvaluation) -> float:
        self.count += 1
        if isinstance(value, FailedEvaluation):
            self._tell(value.traceback)
            return float("inf")
        self.finite += math.isfinite(value)
        return float(value)

    def failed(self, error: Exception) -> None:
        """Counts a point that a method has evaluated itself, and at which the model raised *error*."""
        self._elsewhere += 1
        self._tell(_traceback_of(error))

    def _tell(self, story: str) -> None:
        self.raised += 1
        if self.first_error:
            return
        self.first_error = story
        assembly = getattr(self.function, "assembly", None)
        if (
            assembly is None or not assembly.objective.failure_told
        ):  # a job that fits and then samples reports once
            self._env.publish(Log(f"the model raised at a point:\n{story}", "warning"))
        if assembly is not None:
            assembly.objective.failure_told = True

    def verify(self) -> None:
        """Raises ModelFailed if no evaluation was finite."""
        if self.finite or not self.count:
            return
        points = f"all {self.count} points" if self.count > 1 else "the start"
        if not self.first_error:
            holes = self._holes()
            raise ModelFailed(
                f"the model is not finite at {points}{f': at the first, {holes}' if holes else ''}{self._rates()}"
            )
        failure = ModelFailed(f"the model raised at {points}: {self.first_error.strip().splitlines()[-1]}")
        failure.add_note(self.first_error)
        raise failure

    def _rates(self) -> str:
        """A remark if the model has values at the first point and its likelihood has none; "" otherwise."""
        assembly = getattr(self.function, "assembly", None)
        with quiet(), contextlib.suppress(Exception):  # there may be no residuals
            if assembly is not None and np.isfinite(assembly.objective.free_residuals(self._first)).all():
                return ": its values are finite, but their likelihood is not; counts need a rate above zero at each point"
        return ""

    def _holes(self) -> str:
        """The points of the data at which the model has no value for the first parameters evaluated, as text."""
        assembly = getattr(self.function, "assembly", None)
        return (
            without_value(assembly.objective, self._first)
            if assembly is not None and self._first is not None
            else ""
        )

    def conclude(self) -> None:
        """Ends the count: raises as `verify` does, and logs the number of points at which the model raised."""
        self.verify()
        if self.raised:
            last = self.first_error.rstrip().rpartition("\n")[2]
            of = f"{self.raised:,}" if self._elsewhere else f"{self.raised:,} of {self.count:,}"
            points = "point" if of == "1" else "points"
            self._env.publish(Log(f"the model raised at {of} {points}; the first: {last}", "warning"))


@dataclass(frozen=True, slots=True)
class MethodRun:
    """The surroundings of a run: its *objective*, the fabric in *env*, and its *evaluations*.

    *keeper* stores its checkpoints, and *asked* holds the requests to it (None: without checkpoints, without requests).
    """

    objective: Objective
    env: Env
    evaluations: Evaluations
    keeper: Checkpointer | None = None
    asked: ControlRequests | None = None

    def saved(self, method: str) -> MethodState | None:
        """The checkpoint of an earlier run of the *method*."""
        return self.keeper.of(method) if self.keeper is not None else None


class Monitor:
    """Reports each iteration of a *method*, gives the fabric a safe point, and offers a checkpoint to the keeper.

    The step count continues from the checkpoint of an earlier run. Requests to the run are answered. *progress* maps a
    number of steps to a `Progress`.
    """

    def __init__(self, run: MethodRun, method: str, progress: Callable[[int], Progress]) -> None:
        self._env = run.env
        self._objective = run.objective
        self._progress = progress
        self._evaluations = run.evaluations
        self._keeper = run.keeper
        self._asked = run.asked
        #: the current state of the method
        self.at = run.saved(method) or MethodState(method)
        self.at.state = None
        #: chi-squared of the best point, in words
        self._quality = run.objective.quality(self.at.value)

    def update(
        self,
        value: float,
        point: Any,
        population: Any = None,
        points: Callable[[], Any] | None = None,
        state: Callable[[], Any] = lambda: None,
    ) -> None:
        """Records one iteration: its best *value* at *point*, and the values (n,) of its *population*.

        *points* returns the points (n, k) of the population, and *state* the state from which the method can continue.
        *point*, too, may be a function that returns it.
        """
        self._evaluations.verify()
        self._env.ready()
        at = self.at
        at.step += 1
        if value < at.value:
            at.value, at.point = float(value), np.array(_known(point), dtype=np.float64)
            named = dict(zip(self._objective.names, at.point.tolist(), strict=True))
            self._env.publish(Improvement(at.value, named, at.step))
            self._quality = self._objective.quality(at.value)
        row = [at.value]
        if population is not None and len(population) > 1:
            ordered = _sorted(population)
            row += [ordered[round(part * (len(ordered) - 1))] for part in _POPULATION_QUANTILES]
        at.rows.append(row)
        self._env.publish(self._told(self._progress(at.step)))
        if self._asked is not None:
            at.extended = self._asked.samples
            if self._asked.wanted:
                best = _known(point) if at.point is None else at.point
                values = [value] if population is None else population
                where = [_known(point)] if points is None else points()
                self._asked.answer(at.method, at.step, self._objective.names, where, values, best, at.value)
        if self._keeper is not None:
            self._keeper.offer(lambda: replace(at, state=state()))

    def _told(self, progress: Progress) -> Progress:
        """The *progress* with chi-squared of the best point in its note."""
        note = ", ".join(filter(None, (progress.note, self._quality)))
        return Progress(progress.done, progress.total, progress.units, note)

    @property
    def convergence(self) -> Array:
        """The convergence rows (steps, columns), cut to the shortest row: a first row may lack its population."""
        width = min((len(row) for row in self.at.rows), default=1)
        return np.array([row[:width] for row in self.at.rows]).reshape(-1, width)


def _known(point: Any) -> Any:
    return point() if callable(point) else point


def _sorted(population: Any) -> list[float]:
    """The values of a population in ascending order, nan last."""
    values: list[float] = np.asarray(population, dtype=np.float64).tolist()
    if len(values) > _SMALL_POPULATION or any(value != value for value in values):
        ordered: list[float] = np.sort(values).tolist()
        return ordered
    return sorted(values)


def step_progress(most: float) -> Callable[[int], Progress]:
    """The progress of a method that takes at most *most* steps, as a function of the step."""
    return lambda step: Progress(min(step, most), most, "steps")


@dataclass(slots=True)
class MethodOutcome:
    """The outcome of a method: its best point, and figures about its run."""

    x: Array
    value: float
    steps: int = 0
    convergence: Array = field(default_factory=lambda: np.empty((0, 1)))
    #: bumps' ``MCMCDraw`` in the user's units; None unless the method samples
    state: Any = None
    #: curvature and test of convergence at *x*, if the method has computed them
    local: Curvature | None = None
    verdict: ConvergenceVerdict | None = None
    #: the reason for an early end, such as "it took its last of 1,000 steps"; "" if the method met its own criterion
    ended: str = ""
    #: further remarks about the run, a sentence each
    notes: tuple[str, ...] = ()
    #: split R-hat and effective sample size of each parameter, shape (k,); None unless the method samples
    rhat: Array | None = None
    ess: Array | None = None
    #: nllf and point (k,) at the end of each of several starts, shape (starts, 1 + k)
    starts: Array | None = None
