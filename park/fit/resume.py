"""How a fit that runs again goes on: its method's own state, kept as a checkpoint now and then.

DREAM goes on with its chains and draws, differential evolution with its population. The simplex starts anew about its
best point, as wide as it was; the other methods start from their best point. All count their steps on.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from park.errors import InvalidRequest, ParkError
from park.fit.data import Array
from park.fit.env import Env
from park.fit.methods import METHODS
from park.fit.objective import Objective
from park.model import Log

#: Seconds between two checkpoints of a fit.
INTERVAL = 60.0


@dataclass(slots=True)
class Saved:
    """Where *method* was after *step* steps: its best *value* and *point*, what its monitor told, and its own *state*."""

    method: str
    step: int = 0
    value: float = math.inf
    point: Array | None = None
    rows: list[list[float]] = field(default_factory=list)
    state: Any = None
    #: of a sampler: samples that were asked for beyond those of the request, and how many of these its state is made for
    extended: int = 0
    begun: int = 0


class Keeper:
    """Hands in a checkpoint every *interval* seconds; *saved* is where an earlier run of the fit was."""

    def __init__(
        self, env: Env, interval: float = INTERVAL, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._env = env
        self._interval = interval
        self._clock = clock
        self._due = clock() + interval
        self.saved: Saved | None = None
        try:
            self.saved = env.restored
        except ParkError as error:
            env.publish(Log(f"the fit begins anew: {error}", "warning"))

    @property
    def extended(self) -> int:
        """Samples that an earlier run was asked for, beyond those of the request."""
        return self.saved.extended if self.saved is not None else 0

    def of(self, method: str) -> Saved | None:
        """Where *method* was, if it was this one that an earlier run had come to."""
        return self.saved if self.saved is not None and self.saved.method == method else None

    def offer(self, make: Callable[[], Saved]) -> None:
        """Keep what *make* makes, if it is time."""
        if self._clock() >= self._due:
            self.keep(make())

    def keep(self, saved: Saved) -> None:
        """Keep it now."""
        self._due = self._clock() + self._interval
        try:
            self._env.checkpoint(saved, 0)
        except InvalidRequest as error:
            self._due = math.inf
            self._env.publish(Log(f"the fit goes on without checkpoints: {error}", "warning"))


def state_of(method: str, history: Any) -> Any:
    """What bumps' *method* needs to go on, from the history that its monitors see."""
    if method == "dream":
        return history.fit_state
    if method == "de":
        return history.snapshot()
    if method == "amoeba":
        return np.array(history.population_points[0])
    return None


def going_on(
    saved: Saved, options: dict[str, Any], objective: Objective, x0: Array
) -> tuple[dict[str, Any], Array, Any]:
    """The options, the start and the state with which bumps' method goes on from *saved*."""
    method, state = saved.method, saved.state
    options = {**METHODS[method], **options}
    x0 = x0 if saved.point is None else saved.point
    if method == "dream":
        if saved.begun:
            options = further(options, saved.begun)
        options["init"] = "eps"  # it is not used, and costs nothing
        _keep_size(state)
        return options, x0, state
    if method == "pt":
        burn = options["burn"]
        options["burn"] = max(0, burn - saved.step)
        options["steps"] = max(1, options["steps"] - max(0, saved.step - burn))
        return options, x0, None
    options["steps"] = max(2, options["steps"] - saved.step)
    if method == "amoeba":
        options["radius"] = _radius(state, objective, options["radius"])
    return options, x0, state if method == "de" else None


def further(options: dict[str, Any], more: int) -> dict[str, Any]:
    """The options with which DREAM draws so many samples more than these say, from where it has come to: it has burned."""
    return {**options, "samples": options["samples"] + more, "burn": 0, "init": "eps"}


def _radius(simplex: Array, objective: Objective, most: float) -> float:
    """How wide the simplex is, in bumps' measure: parts of the range, or of the value where there is none."""
    wide = objective.high - objective.low
    size = np.where(np.isfinite(wide), wide, np.abs(simplex[0]))
    spread = np.ptp(simplex, axis=0) / np.where(size > 0, size, 1.0)
    radius = float(np.max(spread))
    return min(most, radius) if radius > 0 else most


def _keep_size(state: Any) -> None:
    """bumps fits the buffers of a state to a new run, and counts its draws from their length. Not so here."""
    kind = type(state)

    def resize(self: Any, *sizes: int) -> None:
        self.__class__ = kind

    state.__class__ = type(kind.__name__, (kind,), {"resize": resize})


def crossover_of(state: Any) -> Any:
    """DREAM's crossover with the weights that it had come to."""
    from bumps.dream.crossover import AdaptiveCrossover

    crossover = AdaptiveCrossover(state.Ncr)
    weights = np.array(state._update_CR_weight[state._update_index - 1], dtype=np.float64)
    if np.all(weights > 0) and np.isfinite(weights).all():
        crossover.weight = weights / weights.sum()
    return crossover
