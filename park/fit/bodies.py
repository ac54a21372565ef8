"""The bodies of `Fit` and `Uncertainty`: they run in a slot process and talk to the fabric through their environment."""

from __future__ import annotations

from typing import Any

import numpy as np

from park.body.seeds import mix
from park.errors import InvalidRequest
from park.fit.arrays import Array
from park.fit.environment import Env
from park.fit.methods.checkpoint import CHECKPOINT_SECONDS, Checkpointer, MethodState
from park.fit.methods.controls import ControlledBody, ControlRequests
from park.fit.methods.monitor import MethodOutcome, ModelFailed
from park.fit.methods.optimise import optimise
from park.fit.methods.other_maxima import unvisited_maximum
from park.fit.methods.starts import OneStart, starting_points
from park.fit.problem.assembly import Assembly
from park.fit.problem.client_values import compare
from park.fit.results.build_result import build_result
from park.fit.results.numbers_file import keep_numbers
from park.fit.results.result import FitResult
from park.model import Improvement, Log, Progress


class FitBody(ControlledBody):
    """The body of `Fit`: one method from one start, or from many in parallel."""

    def __init__(
        self,
        assembly: Assembly,
        method: str,
        options: dict[str, Any],
        start: Any = None,
        starts: int = 1,
        seed: int = 0,
        checkpoint: float = CHECKPOINT_SECONDS,
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
        """Fits, and returns the best point with its standard errors."""
        return self.assembly.objective.own_generators.kept(self._fitted)

    def _fitted(self) -> FitResult:
        compare(self.assembly, self.env)
        x0 = self.assembly.start if self.start is None else self.assembly.vector(self.start)
        keeper, asked = Checkpointer(self.env, self.checkpoint), self.asked
        asked.samples = keeper.extended
        if self.starts > 1:
            found = self._many(x0, keeper)
        else:
            if self.draws and self.options.get("init", "auto") == "auto":
                x0 = best_fit_point(self.assembly, x0, self.env, self.seed, keeper, asked)
            found = optimise(self.assembly, self.method, self.options, x0, self.env, self.seed, keeper, asked)
        if self.draws:
            look_elsewhere(self.assembly, found, self.env, self.seed)
        asked.over = True
        return with_remark(build_result(self.assembly, self.method, found, self.env, self.seed), self.env)

    def _many(self, x0: Array, keeper: Checkpointer) -> MethodOutcome:
        objective = self.assembly.objective
        points = starting_points(objective, x0, self.starts, self.seed)
        seeds = np.random.SeedSequence([self.seed, 1]).generate_state(self.starts).tolist()
        one = OneStart(self.assembly, self.method, self.options)
        at = keeper.of("starts") or MethodState("starts", state=(None, None, []))
        best: MethodOutcome | None
        failure: ModelFailed | None
        (best, failure, *kept), rows = at.state, at.rows
        #: nllf and point at the end of each start; nan where the model failed, or an older checkpoint does not have them
        ends: list[list[float]] = kept[0] if kept else [[np.nan] * (1 + x0.size) for _ in rows]
        # In waves, each twice as large as the last: a map reports at its end, and a stop takes effect between maps.
        waves = [slice(4 * (2**n - 1), 4 * (2 ** (n + 1) - 1)) for n in range(self.starts.bit_length())]
        units = list(zip(seeds, points, strict=True))
        for wave in waves:
            if len(rows) == self.starts or (rows and self.env.should_stop):
                break
            if wave.start < len(rows):
                continue  # an earlier run has evaluated this wave
            for found in self.env.map(one, units[wave]):
                if isinstance(found, ModelFailed):
                    failure = failure or found
                    ends.append([np.nan] * (1 + x0.size))
                else:
                    ends.append([found.value, *found.x.tolist()])
                    if best is None or found.value < best.value:
                        best = found
                        named = dict(zip(objective.names, found.x.tolist(), strict=True))
                        self.env.publish(Improvement(found.value, named, len(rows) + 1))
                rows.append([best.value if best is not None else np.inf])
            quality = objective.quality(rows[-1][0])
            self.env.publish(Progress(len(rows), self.starts, "starts", quality))
            keeper.keep(MethodState("starts", rows=rows, state=(best, failure, ends)))
            self.env.ready()
            if best is not None:
                at_best = best.x, best.value
                self.asked.answer(self.method, len(rows), objective.names, [best.x], [best.value], *at_best)
        if best is None:
            assert failure is not None
            raise failure
        return MethodOutcome(best.x, best.value, best.steps, np.array(rows), starts=np.array(ends))


class UncertaintyBody(ControlledBody):
    """The body of `Uncertainty`: bumps' DREAM, from a point, a fit of its own, or the end of an *earlier* sampling."""

    draws = True

    def __init__(
        self,
        assembly: Assembly,
        options: dict[str, Any],
        start: Any = None,
        seed: int = 0,
        checkpoint: float = CHECKPOINT_SECONDS,
        earlier: Any = None,
    ) -> None:
        self.assembly = assembly
        self.options = options
        self.start = start
        self.seed = seed
        self.checkpoint = checkpoint
        self.earlier = earlier

    def run(self) -> FitResult:
        """Samples, and returns the draws and the best point."""
        return self.assembly.objective.own_generators.kept(self._sampled)

    def _sampled(self) -> FitResult:
        compare(self.assembly, self.env)
        assembly, env, seed = self.assembly, self.env, self.seed
        keeper, asked = Checkpointer(env, self.checkpoint), self.asked
        asked.samples = keeper.extended
        state = None
        if self.earlier is not None:
            check_earlier(assembly, self.earlier)
            x0, state = self.earlier.x, self.earlier.state
            seed = mix(seed, state.total_generations)  # otherwise it would repeat its first random numbers
        elif self.start is not None:
            x0 = assembly.vector(self.start)
        else:
            x0 = best_fit_point(assembly, assembly.start, env, seed, keeper, asked)
        found = optimise(assembly, "dream", self.options, x0, env, seed, keeper, asked, state)
        look_elsewhere(assembly, found, env, self.seed)
        asked.over = True
        return with_remark(build_result(assembly, "dream", found, env, self.seed), env)


def with_remark(result: FitResult, env: Env) -> FitResult:
    """The *result*, after its numbers were kept with the job and its warnings were attached as a remark."""
    keep_numbers(result, env)
    if text := result.remark():
        env.remark(text)
    return result


def best_fit_point(
    assembly: Assembly, x0: Array, env: Env, seed: int, keeper: Checkpointer, asked: ControlRequests
) -> Array:
    """The best point of a fit from *x0*, as the start of a sampler; *x0* itself if a checkpoint of the sampler exists."""
    if keeper.of("dream") is not None:
        return x0
    return optimise(assembly, "auto", {}, x0, env, seed, keeper, asked).x


def look_elsewhere(assembly: Assembly, found: MethodOutcome, env: Env, seed: int) -> None:
    """Marks the draws *found* as incomplete if they miss a maximum that a search finds elsewhere."""
    if found.ended or env.should_stop:
        return
    draws = np.array(found.state.draw(vars=list(range(found.x.size))).points, dtype=np.float64)
    try:
        found.ended = unvisited_maximum(assembly, found.x, draws, env, seed)
    except Exception as error:  # a failed search must not lose the draws
        env.publish(Log(f"the search for other maxima failed: {error!r}", "warning"))


def check_earlier(assembly: Assembly, earlier: Any) -> None:
    """Raises InvalidRequest if *earlier* is not a sampling of these parameters."""
    if not isinstance(earlier, FitResult) or earlier.draws is None:
        raise InvalidRequest(
            "resume= takes the result of an earlier Uncertainty, with its draws; start= takes any point to begin at"
        )
    if earlier.names != assembly.names:
        raise InvalidRequest(
            f"the earlier result has the parameters {', '.join(earlier.names)}, not {', '.join(assembly.names)}"
        )
    limits = (
        np.array([earlier.low, earlier.high]),
        np.array([assembly.objective.low, assembly.objective.high]),
    )
    for name, before, now in zip(earlier.names, limits[0].T, limits[1].T, strict=True):
        if not np.array_equal(before, now):
            raise InvalidRequest(
                f"the earlier run sampled {name} between {before[0]:g} and {before[1]:g}, and its limits are {now[0]:g} "
                f"and {now[1]:g} now: its draws belong to another problem; use Uncertainty(assembly, start=earlier)"
            )
