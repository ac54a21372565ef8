"""Checkpoints of a fit: the state of its method, from which a later run continues.

DREAM continues its chains and draws, and differential evolution its population. Nelder-Mead builds a new simplex of the
same width about its best point; the other methods start at their best point. All methods continue to count their steps.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from park.errors import InvalidRequest, ParkError
from park.fit.arrays import Array
from park.fit.environment import Env
from park.fit.methods.scaling import Scaling
from park.model import Log

#: Seconds between two checkpoints of a fit, unless the request says otherwise.
CHECKPOINT_SECONDS = 60.0


@dataclass(slots=True)
class MethodState:
    """The state of a *method* after *step* steps.

    Best nllf and point (k,), rows of its convergence, and its own *state*.
    """

    method: str
    step: int = 0
    value: float = math.inf
    point: Array | None = None
    rows: list[list[float]] = field(default_factory=list)
    state: Any = None
    #: samples of a sampler beyond the request: *extended* by controls, *more* until its chains mix; *begun* is the sum
    #: of both that the buffers of *state* are made for
    extended: int = 0
    more: int = 0
    begun: int = 0


class Checkpointer:
    """Writes a checkpoint every *interval* seconds; *saved* is the last checkpoint of an earlier run, or None."""

    def __init__(
        self, env: Env, interval: float = CHECKPOINT_SECONDS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._env = env
        self._interval = interval
        self._clock = clock
        self._due = clock() + interval
        self.saved: MethodState | None = None
        try:
            self.saved = env.restored
        except ParkError as error:
            env.publish(Log(f"the fit begins anew: {error}", "warning"))

    @property
    def extended(self) -> int:
        """Samples beyond the request that an earlier run was asked for by controls."""
        return self.saved.extended if self.saved is not None else 0

    def of(self, method: str) -> MethodState | None:
        """The state of *method* at the end of an earlier run; None if that run was in another method."""
        return self.saved if self.saved is not None and self.saved.method == method else None

    def offer(self, make: Callable[[], MethodState]) -> None:
        """Writes the checkpoint that *make* returns, if one is due or the kernel leaves."""
        if self._clock() >= self._due or self._env.should_checkpoint:
            self.keep(make())

    def keep(self, saved: MethodState) -> None:
        """Writes the checkpoint now."""
        self._due = self._clock() + self._interval
        try:
            self._env.checkpoint(saved, 0)
        except InvalidRequest as error:
            self._due = math.inf
            self._env.publish(Log(f"the fit goes on without checkpoints: {error}", "warning"))


def restart_options(
    saved: MethodState, state: Any, options: dict[str, Any], coordinates: Scaling
) -> tuple[dict[str, Any], Any]:
    """The options, and the *state* in scaled *coordinates*, with which a bumps optimiser continues from *saved*."""
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
    """The width of a simplex (k + 1, k) in scaled coordinates, at most *most*."""
    radius = float(np.max(np.ptp(simplex, axis=0)))
    return min(most, radius) if radius > 0 else most
