"""Evaluations and iterations, watched: what every driver does besides its method.

bumps turns whatever a model raises into an infinity. Here the first traceback is kept, so that a model that
fails everywhere ends the fit with its own words, and one that fails somewhere leaves a line in the log.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from park.errors import ParkError
from park.fit.arrival import compare, place
from park.fit.asked import Asked
from park.fit.assembly import Assembly
from park.fit.convergence import Verdict
from park.fit.covariance import Curvature
from park.fit.data import Array
from park.fit.env import Env
from park.fit.objective import Objective
from park.fit.problem_holes import without_value
from park.fit.resume import Keeper, Saved
from park.kernel.answers import hint
from park.model import Improvement, Log, Progress


class ModelFailed(ParkError, RuntimeError):
    """Raised when a model had no value anywhere. Its note is the first traceback of the model."""

    #: it needs no traceback of the fit
    complete = True


@dataclass(frozen=True, slots=True)
class Broken:
    """Comes back from a point where the model raised."""

    traceback: str


class Evaluate:
    """The function of population methods: a point to its likelihood, or to `Broken`. Travels to the slots."""

    def __init__(self, assembly: Assembly) -> None:
        self.assembly = assembly
        self.place = place()
        self._compared = True

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._compared = self.place == place()  # the driver has done it there

    def __call__(self, x: Any) -> float | Broken:
        if not self._compared:
            compare(self.assembly)
            self._compared = True
        objective = self.assembly.objective
        try:
            return objective.nllf(np.asarray(x, dtype=np.float64))
        except Exception as error:
            return Broken(_story(error))


def _story(error: Exception) -> str:
    """The traceback from the model on, without the frames of PARK and bumps."""
    told = traceback.TracebackException.from_exception(error)
    bumps = getattr(sys.modules.get("bumps"), "__file__", None) or __file__
    own = tuple(os.path.dirname(file) + os.sep for file in (__file__, bumps))
    frames = [frame for frame in told.stack if not frame.filename.startswith(own)]
    told.stack = traceback.StackSummary.from_list(frames or told.stack)
    return "".join(told.format()).rstrip() + hint(error)


class Evaluations:
    """Evaluates, here or through a *mapper*, and tells a broken model from a bad point.

    A point where the model raises or is not finite counts as infinitely bad. When none was finite
    `verify` raises, with the first traceback.
    """

    def __init__(
        self,
        function: Callable[[Array], float | Broken],
        env: Env,
        mapper: Callable[[Any], Sequence[float | Broken]] | None = None,
    ) -> None:
        self.function = function
        self._env = env
        self._mapper = mapper or (lambda points: [function(point) for point in points])
        self.count = 0
        self.finite = 0
        #: at how many points the model raised, and the traceback of the first
        self.raised = 0
        self.first_error = ""
        #: how many of them a method has evaluated itself
        self._elsewhere = 0
        self._first: Array | None = None

    def __call__(self, x: Any) -> float:
        x = np.array(x, dtype=np.float64)
        self._begin(x)
        return self._value(self.function(x))

    def count_one(self, x: Array, value: float) -> float:
        """Counts a *value* that the method itself has found at *x*."""
        self._begin(x)
        return self._value(value)

    def mapped(self, points: Any) -> list[float]:
        """A population in the order of its points. They are copied: bumps uses its array again."""
        copied = np.array(points, dtype=np.float64)
        self._begin(copied[0] if len(copied) else None)
        return [self._value(value) for value in self._mapper(copied)]

    def _begin(self, x: Array | None) -> None:
        if self._first is None:
            self._first = x

    def _value(self, value: float | Broken) -> float:
        self.count += 1
        if isinstance(value, Broken):
            self._tell(value.traceback)
            return float("inf")
        self.finite += bool(np.isfinite(value))
        return float(value)

    def failed(self, error: Exception) -> None:
        """A model has raised at a point that a method has evaluated itself."""
        self._elsewhere += 1
        self._tell(_story(error))

    def _tell(self, story: str) -> None:
        self.raised += 1
        if self.first_error:
            return
        self.first_error = story
        assembly = getattr(self.function, "assembly", None)
        if assembly is None or not assembly.objective.failure_told:  # a job may fit, and then sample
            self._env.publish(Log(f"the model raised at a point:\n{story}", "warning"))
        if assembly is not None:
            assembly.objective.failure_told = True

    def verify(self) -> None:
        """Raises ModelFailed if nothing finite was ever seen."""
        if self.finite or not self.count:
            return
        points = f"all {self.count} points" if self.count > 1 else "the start"
        if not self.first_error:
            holes = self._holes()
            raise ModelFailed(
                f"the model is not finite at {points}{f': at the first, {holes}' if holes else ''}"
            )
        failure = ModelFailed(f"the model raised at {points}: {self.first_error.strip().splitlines()[-1]}")
        failure.add_note(self.first_error)
        raise failure

    def _holes(self) -> str:
        """At which points of the data the model has no value, at the first point that was evaluated."""
        assembly = getattr(self.function, "assembly", None)
        return (
            without_value(assembly.objective, self._first)
            if assembly is not None and self._first is not None
            else ""
        )

    def conclude(self) -> None:
        """The method has ended: raises as `verify` does, and says at how many points the model raised."""
        self.verify()
        if self.raised:
            last = self.first_error.rstrip().rpartition("\n")[2]
            of = f"{self.raised:,}" if self._elsewhere else f"{self.raised:,} of {self.count:,}"
            points = "point" if of == "1" else "points"
            self._env.publish(Log(f"the model raised at {of} {points}; the first: {last}", "warning"))


class Monitor:
    """Once an iteration it reports, gives the fabric its safe point, and the *keeper* what it may keep.

    It counts on from what the keeper has saved of the *method*, and answers what was *asked*. *progress* says how far
    the method is after so many steps.
    """

    def __init__(
        self,
        env: Env,
        objective: Objective,
        progress: Callable[[int], Progress],
        evaluations: Evaluations,
        method: str,
        keeper: Keeper | None = None,
        asked: Asked | None = None,
    ) -> None:
        self._env = env
        self._objective = objective
        self._progress = progress
        self._evaluations = evaluations
        self._keeper = keeper
        self._asked = asked
        #: where the method is
        self.at = (keeper.of(method) if keeper is not None else None) or Saved(method)
        self.at.state = None

    def update(
        self,
        value: float,
        point: Any,
        population: Any = None,
        points: Callable[[], Any] | None = None,
        state: Callable[[], Any] = lambda: None,
    ) -> None:
        """One more iteration: its best *value* at *point*, and all values of its *population*.

        *points* makes the points of the population, *state* makes what the method needs to go on from here.
        """
        self._evaluations.verify()
        self._env.ready()
        at = self.at
        at.step += 1
        if value < at.value:
            at.value, at.point = float(value), np.array(point, dtype=np.float64)
            named = dict(zip(self._objective.names, at.point.tolist(), strict=True))
            self._env.publish(Improvement(at.value, named, at.step))
        row = [at.value]
        if population is not None and len(population) > 1:
            ordered = np.sort(np.asarray(population, dtype=np.float64))
            places = np.round(np.array([0, 0.2, 0.5, 0.8, 1]) * (ordered.size - 1)).astype(int)
            row += ordered[places].tolist()
        at.rows.append(row)
        self._env.publish(self._told(self._progress(at.step)))
        if self._asked is not None:
            at.extended = self._asked.samples
            if self._asked.wanted:
                best = point if at.point is None else at.point
                values = [value] if population is None else population
                where = [point] if points is None else points()
                self._asked.answer(at.method, at.step, self._objective.names, where, values, best, at.value)
        if self._keeper is not None:
            self._keeper.offer(lambda: replace(at, state=state()))

    def _told(self, progress: Progress) -> Progress:
        """With the quality of the best point."""
        words = (progress.note, self._objective.quality(self.at.value))
        return replace(progress, note=", ".join(filter(None, words)))

    @property
    def convergence(self) -> Array:
        """The rows, cut to the shortest: a method's first row may lack its population."""
        width = min((len(row) for row in self.at.rows), default=1)
        return np.array([row[:width] for row in self.at.rows]).reshape(-1, width)


def steps_of(most: float) -> Callable[[int], Progress]:
    """How far a method is that takes *most* steps."""
    return lambda step: Progress(min(step, most), most, "steps")


@dataclass(slots=True)
class Found:
    """Where a method ended."""

    x: Array
    value: float
    steps: int = 0
    convergence: Array = field(default_factory=lambda: np.empty((0, 1)))
    #: of a sampler: bumps' ``MCMCDraw``, in the user's units
    state: Any = None
    #: the likelihood about the point, and whether it stands the test, where the method has asked already
    local: Curvature | None = None
    verdict: Verdict | None = None
    #: why the method ended before its own rule said so: "it took its last of 1,000 steps"; "" if the rule was met
    ended: str = ""
    #: what else is to be said of how it went, a sentence each
    notes: tuple[str, ...] = ()
    #: of a sampler: of each parameter, shape (k,)
    rhat: Array | None = None
    ess: Array | None = None
