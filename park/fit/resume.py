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
from park.fit.scaling import Coordinates
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
    #: of a sampler: samples beyond those of the request, which it was asked for, and which it draws until its chains mix;
    #: and how many of both its state is made for
    extended: int = 0
    more: int = 0
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


def going_on(
    saved: Saved, state: Any, options: dict[str, Any], coordinates: Coordinates
) -> tuple[dict[str, Any], Any]:
    """The options, and the *state* in *coordinates*, with which one of bumps' optimizers goes on from *saved*."""
    method = saved.method
    if method == "pt":
        burn = options["burn"]
        more = max(1, options["steps"] - max(0, saved.step - burn))
        return {**options, "burn": max(0, burn - saved.step), "steps": more}, None
    options = {**options, "steps": max(2, options["steps"] - saved.step)}
    if method == "amoeba":
        options["radius"] = _radius(coordinates.u(state), options["radius"])
    if method != "de":
        return options, None
    for name in ("point", "population_points"):
        state[name] = [coordinates.u(x).tolist() for x in state[name]]
    return options, state


def _radius(simplex: Array, most: float) -> float:
    """How wide the simplex is."""
    radius = float(np.max(np.ptp(simplex, axis=0)))
    return min(most, radius) if radius > 0 else most
