"""The starts of a fit: points, and the unit that fits from one of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, MutableMapping, Sequence
from typing import Any

import numpy as np

from park.fit.arrays import Array
from park.fit.environment import Env
from park.fit.methods.monitor import MethodOutcome, ModelFailed
from park.fit.methods.optimise import optimise
from park.fit.numerics.derivatives import natural_scale
from park.fit.problem.assembly import Assembly
from park.fit.problem.client_values import compare, process_identity
from park.fit.problem.objective import Objective


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
    should_checkpoint = False

    @property
    def store(self) -> MutableMapping[str, bytes]:
        return self._env.store

    def checkpoint(self, state: Any, wait: float, /) -> bool:
        return False

    def publish(self, message: Any, /) -> None:
        pass

    def remark(self, text: str, /) -> None:
        pass

    def ready(self) -> None:
        self._env.ready()


class LocalUnit:
    """A unit that works on an assembly in its own process, and compares it there with the client's."""

    #: each evaluation leaves the generators of models as they were
    keeps_own_generators = True

    def __init__(self, assembly: Assembly) -> None:
        self.assembly = assembly
        self.place = process_identity()

    def prepare(self, env: Env) -> None:
        """Keeps the environment, for its safe points."""
        self.env = env
        if self.place != process_identity():  # the driver has compared it there
            compare(self.assembly, env)


class OneStart(LocalUnit):
    """One of many starts: a unit that runs the whole method from one point."""

    def __init__(self, assembly: Assembly, method: str, options: dict[str, Any]) -> None:
        super().__init__(assembly)
        self.method = method
        self.options = options

    def run(self, given: tuple[int, Array]) -> MethodOutcome | ModelFailed:
        """Runs the method from (seed, point). A failure is returned, so that the other starts go on."""
        seed, x0 = given
        try:
            found = optimise(
                self.assembly, self.method, self.options, x0, _Alone(self.env), seed, exactly=True
            )
        except ModelFailed as error:
            return error
        found.state = found.local = found.verdict = (
            None  # they travel badly, and are worked out again for the best
        )
        return found


def starting_points(objective: Objective, x0: Array, count: int, seed: int) -> list[Array]:
    """*count* start points of shape (k,): *x0*, then random points.

    Values are uniform between two finite limits. With one limit the distance to it is multiplied by a log-normal factor;
    without limits the value is normal about that of *x0* with the natural scale as its standard deviation.
    """
    rng = np.random.default_rng(seed)
    low, high, scale = objective.low, objective.high, natural_scale(objective, x0)
    points = [x0]
    for _ in range(count - 1):
        uniform, normal = rng.random(x0.size), rng.normal(size=x0.size)
        with np.errstate(all="ignore"):
            free = x0 + scale * normal
            above = low + np.where(x0 > low, x0 - low, scale) * np.exp(normal)
            below = high - np.where(x0 < high, high - x0, scale) * np.exp(normal)
            between = low + uniform * (high - low)
        bounded = np.where(np.isfinite(low), np.where(np.isfinite(high), between, above), below)
        point = np.where(np.isfinite(low) | np.isfinite(high), bounded, free)
        points.append(np.clip(point, low, high))
    return points
