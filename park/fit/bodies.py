"""The bodies of `Fit` and `Uncertainty`: they run in a slot process and talk to the fabric through their environment."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from park.errors import InvalidRequest
from park.fit.arrival import compare, place
from park.fit.asked import Asked, Steered
from park.fit.assembly import Assembly
from park.fit.conclusion import conclude
from park.fit.data import Array
from park.fit.derivatives import natural_scale
from park.fit.drivers import optimise
from park.fit.env import Env
from park.fit.objective import Objective
from park.fit.result import FitResult
from park.fit.resume import INTERVAL, Keeper, Saved
from park.fit.watch import Found, ModelFailed
from park.kernel.env import mix
from park.model import Improvement, Progress


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

    def remark(self, text: str, /) -> None:
        pass

    def ready(self) -> None:
        self._env.ready()


class OneStart:
    """One of many starts: a unit that runs the whole method from one point."""

    def __init__(self, assembly: Assembly, method: str, options: dict[str, Any]) -> None:
        self.assembly = assembly
        self.method = method
        self.options = options
        self.place = place()

    def prepare(self, env: Env) -> None:
        """Keeps the environment, for its safe points."""
        self.env = env
        if self.place != place():  # the driver has compared it there
            compare(self.assembly, env)

    def run(self, given: tuple[int, Array]) -> Found | ModelFailed:
        """From (seed, point) to what was found there; a start that fails is no reason for others to."""
        seed, x0 = given
        try:
            found = optimise(self.assembly, self.method, self.options, x0, _Alone(self.env), seed)
        except ModelFailed as error:
            return error
        found.state = found.local = found.verdict = (
            None  # they travel badly, and are worked out again for the best
        )
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
        compare(self.assembly, self.env)
        x0 = self.assembly.start if self.start is None else self.assembly.vector(self.start)
        keeper, asked = Keeper(self.env, self.checkpoint), self.asked
        asked.samples = keeper.extended
        if self.starts > 1:
            found = self._many(x0, keeper)
        else:
            if self.draws and self.options.get("init", "auto") == "auto":
                x0 = fitted(self.assembly, x0, self.env, self.seed, keeper, asked)
            found = optimise(self.assembly, self.method, self.options, x0, self.env, self.seed, keeper, asked)
        asked.over = True
        return told(conclude(self.assembly, self.method, found, self.env, self.seed), self.env)

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
            quality = objective.quality(rows[-1][0])
            self.env.publish(Progress(len(rows), self.starts, "starts", quality))
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
    """The body of `Uncertainty`: bumps' DREAM, from a point, a fit of its own, or the end of an *earlier* sampling."""

    draws = True

    def __init__(
        self,
        assembly: Assembly,
        options: dict[str, Any],
        start: Any = None,
        seed: int = 0,
        checkpoint: float = INTERVAL,
        earlier: Any = None,
    ) -> None:
        self.assembly = assembly
        self.options = options
        self.start = start
        self.seed = seed
        self.checkpoint = checkpoint
        self.earlier = earlier

    def run(self) -> FitResult:
        """Samples, and returns draws with the best point."""
        compare(self.assembly, self.env)
        assembly, env, seed = self.assembly, self.env, self.seed
        keeper, asked = Keeper(env, self.checkpoint), self.asked
        asked.samples = keeper.extended
        state = None
        if self.earlier is not None:
            check_earlier(assembly, self.earlier)
            x0, state = self.earlier.x, self.earlier.state
            seed = mix(seed, state.total_generations)  # else it would draw again what it drew first
        elif self.start is not None:
            x0 = assembly.vector(self.start)
        else:
            x0 = fitted(assembly, assembly.start, env, seed, keeper, asked)
        found = optimise(assembly, "dream", self.options, x0, env, seed, keeper, asked, state)
        asked.over = True
        return told(conclude(assembly, "dream", found, env, self.seed), env)


def told(result: FitResult, env: Env) -> FitResult:
    """The *result*, after whoever looks at its job was told what may be wrong with it."""
    if text := result.remark():
        env.remark(text)
    return result


def fitted(assembly: Assembly, x0: Array, env: Env, seed: int, keeper: Keeper, asked: Asked) -> Array:
    """The best point from *x0*, from which a sampler starts; *x0* itself if the *keeper* says that it has started."""
    if keeper.of("dream") is not None:
        return x0
    return optimise(assembly, "auto", {}, x0, env, seed, keeper, asked).x


def check_earlier(assembly: Assembly, earlier: Any) -> None:
    """Raises InvalidRequest where *earlier* is no sampling of these parameters."""
    if not isinstance(earlier, FitResult) or earlier.draws is None:
        raise InvalidRequest(
            "resume= takes the result of an earlier Uncertainty, with its draws; start= takes any point to begin at"
        )
    if earlier.names != assembly.names:
        raise InvalidRequest(
            f"the earlier result has the parameters {', '.join(earlier.names)}, not {', '.join(assembly.names)}"
        )


def starting_points(objective: Objective, x0: Array, count: int, seed: int) -> list[Array]:
    """*count* points to start from: *x0*, then random ones.

    Uniform between finite limits. With one limit the distance to it is spread, with none
    the value is spread about that of *x0* by its natural scale.
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
