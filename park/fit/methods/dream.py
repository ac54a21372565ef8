"""DREAM: bumps' sampler of the posterior, which continues until its chains have mixed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from park.errors import InvalidRequest
from park.fit.arrays import Array
from park.fit.methods.bumps_optimizers import quiet_run, wide_limits
from park.fit.methods.monitor import Evaluations, MethodOutcome, MethodRun, Monitor
from park.fit.methods.options import METHODS, chains_of
from park.fit.methods.scaled_problem import ScaledProblem
from park.fit.methods.scaling import Scaling, WhitenedScaling, scaled, whitened
from park.fit.numerics.covariance import covariance
from park.fit.numerics.mixing import ess, rhat
from park.fit.problem.objective import Objective
from park.model import Log, Progress

#: Default limit of samples, as a multiple of the request, for chains that have not mixed.
SAMPLE_LIMIT_FACTOR = 10
#: The same for chains that are about to mix: their R-hat is at most `PROMISING_RHAT`, and the effective sample size
#: would suffice at that limit.
LONG_SAMPLE_LIMIT_FACTOR, PROMISING_RHAT = 50, 1.2
#: Largest number of values of these further draws together (32 MB), because they travel with the result.
MAX_LONG_DRAW_VALUES = 4_000_000
#: Chains count as stuck if each has at most this number of effective draws after this number of generations.
STUCK_EFFECTIVE_DRAWS, STUCK_GENERATIONS = 4, 200
#: Smallest and largest factor by which the number of samples grows in one round.
SAMPLE_GROWTH_RANGE = (1.3, 2.0)


@dataclass(frozen=True)
class MixingVerdict:
    """R-hat and effective sample size (k,) of the last *portion* of the draws."""

    portion: float
    rhat: Array
    ess: Array
    #: R-hat of log p, which shows chains that are still in burn-in
    depth: float

    def good(self, bound: float, least: float) -> bool:
        """Whether each R-hat is at most *bound* and each effective sample size at least *least*."""
        return bool(self.worst <= bound and np.min(self.ess) >= least)

    @property
    def worst(self) -> float:
        """The largest R-hat; infinite if one is unknown."""
        worst = float(np.max([*self.rhat, self.depth]))
        return worst if math.isfinite(worst) else math.inf


def run_dream(run: MethodRun, options: dict[str, Any], x0: Array, earlier: Any = None) -> MethodOutcome:
    """Samples from *x0*, or from a checkpoint, until the chains have mixed or the limit of samples is reached.

    *earlier*, an ``MCMCDraw``, holds the chains of a run that has ended: they continue.
    """
    sampler = Sampler(run, options, x0, earlier)
    with quiet_run(run.evaluations):
        while sampler.draw() and not run.env.should_stop:
            pass
    return sampler.found()


class Sampler:
    """One sampling of the posterior, in rounds. Each round may be followed by a longer one."""

    def __init__(self, run: MethodRun, options: dict[str, Any], x0: Array, earlier: Any) -> None:
        self.objective = run.objective
        self.options = {**METHODS["dream"], **options}
        self.x0 = x0
        self.env = run.env
        self.evaluations = run.evaluations
        self.asked = run.asked
        saved = run.saved("dream")
        #: the draws so far, in the user's units
        self.state: Any = earlier if saved is None else saved.state
        #: True if the state belongs to an interrupted round
        self.amid = saved is not None and saved.state is not None
        self.monitor = Monitor(run, "dream", self._progress)
        self.at = self.monitor.at
        #: samples of the earlier run
        self.before = 0
        self.chains = chains_of(self.options["pop"], len(run.objective.names))
        if earlier is not None:
            self.chains, self.options["thin"] = earlier.Npop, earlier.thinning
            self.before = min(earlier.generation, earlier.Ngen) * self.chains
            self.options["burn"] = 0
            if not self.amid:
                self._check_posterior()

    def _check_posterior(self) -> None:
        """Raises InvalidRequest if the earlier chains have sampled another posterior."""
        points, logp = self.state._last_gen()
        values = np.array(self.evaluations.mapped(points))
        with np.errstate(all="ignore"):
            same = (values == -logp) | (np.abs(values + logp) <= 1e-6 * (1 + np.abs(logp)))
        if not same.all():
            worst = int(np.argmax(~same))
            raise InvalidRequest(
                f"the earlier run sampled something else: model, data or priors have changed. At the last point of its "
                f"chain {worst + 1} the negative log likelihood was {-logp[worst]:.10g}, and is {values[worst]:.10g} now. "
                f"Sample anew: Uncertainty(assembly, start=earlier)"
            )

    @property
    def _wanted(self) -> int:
        """All samples to draw: those of the request, of controls, and those added until the chains mix."""
        asked = self.at.extended if self.asked is None else self.asked.samples
        return self._requested + asked + self.at.more

    @property
    def _requested(self) -> int:
        """Samples of the request and of the earlier run."""
        samples: int = self.options["samples"]
        return self.before + samples

    def _progress(self, step: int) -> Progress:
        """Samples drawn and to draw; during burn-in no sample counts."""
        burn, wanted = self.options["burn"], self._wanted - self.before
        note = "until mixed" if self.at.more else ""
        if step < burn:
            note = f"burn-in {step / burn:.0%}"
        return Progress(min(max(0, step - burn) * self.chains, wanted), wanted, "samples", note)

    def draw(self) -> bool:
        """Draws one round. True if another round is needed."""
        if not self.amid:
            self.at.begun = self._wanted - self._requested
        self.amid = False
        began = self._requested + self.at.begun
        self._round()
        self.verdict = self._judge()
        if self._wanted > began:
            return True
        if self.verdict.good(self.options["rhat"], self.options["ess"]):
            return False
        most = self.options["max_samples"] or self._default_limit(began)
        least = began - self._requested - self.at.more  # samples of controls do not count towards the limit
        more = min(int(began * self._growth()), self.before + most + least)
        if more - began < self.chains:
            return False
        self.at.more += more - began
        return True

    def _default_limit(self, began: int) -> int:
        """The limit of samples, after *began* of them: it is higher where more samples are sure to help."""
        samples: int = self.options["samples"]
        limit = SAMPLE_LIMIT_FACTOR * samples
        longer = min(LONG_SAMPLE_LIMIT_FACTOR * samples, MAX_LONG_DRAW_VALUES // self.x0.size)
        with np.errstate(all="ignore"):
            needed = began * self.options["ess"] / float(np.min(self.verdict.ess))
        promising = self.verdict.worst <= PROMISING_RHAT and needed <= self.before + longer
        return max(limit, longer) if promising else limit

    def _growth(self) -> float:
        """The factor by which the next round is longer than the draws so far."""
        short = self.options["ess"] / float(np.min(self.verdict.ess))
        return (
            min(max(1.1 * short, SAMPLE_GROWTH_RANGE[0]), SAMPLE_GROWTH_RANGE[1])
            if np.isfinite(short)
            else SAMPLE_GROWTH_RANGE[1]
        )

    def _round(self) -> None:
        from bumps.dream import core

        from park.fit.methods.dream_state import GENERATIONS_PER_ROUND, Chains, crossover_of, empty, moved

        options, chains = self.options, self.chains
        coordinates, init = self._coordinates()
        samples = self._requested + self.at.begun
        if self.state is None:
            population = self._population(coordinates, init)
            state = empty(samples, chains, len(self.x0), options["thin"])
        else:
            population = np.zeros((chains, len(self.x0)))  # only its shape counts
            state = moved(self.state, coordinates.u, Chains)
            state._good_chains = slice(None)  # all go on

        def tell(state: Any, points: Array, logp: Array) -> None:
            best, value = state.best()
            best = points[0] if best is None else best
            self.monitor.update(
                -value,
                coordinates.x(best),
                -logp,
                lambda: coordinates.x(points),
                lambda: moved(state, coordinates.x),
            )

        dream = core.Dream(
            model=_Model(self.objective, coordinates, self.evaluations),
            population=population[None, :, :],
            draws=chains * math.ceil(samples / chains),
            burn=0 if self.at.begun else chains * options["burn"],
            thinning=options["thin"],
            monitor=tell,
            alpha=options["alpha"],
            outlier_test=options["outliers"],
            CR=crossover_of(self.state),
            DE_pairs=min(core.Dream.DE_pairs, (chains - 1) // 2),
        )
        assert dream.DE_steps == GENERATIONS_PER_ROUND
        self.state = moved(self._sample(dream, state), coordinates.x)

    def _sample(self, dream: Any, state: Any) -> Any:
        """The state after the run of *dream*. bumps prints its treatment of outliers; the lines go into the job's log."""
        from bumps.dream import core

        core.print = lambda *words: self.env.publish(Log(" ".join(map(str, words))))
        try:
            return dream.sample(state=state, abort_test=lambda: self.env.should_stop)
        finally:
            vars(core).pop("print", None)

    def _coordinates(self) -> tuple[Scaling, str]:
        """The coordinates of the next round, and the way in which a first population is made."""
        from park.fit.methods.dream_state import drawn

        init = self.options["init"]
        if self.state is not None:
            points, _ = drawn(self.state, 0.5)
            points = points.reshape(-1, points.shape[2])
            matrix = np.atleast_2d(np.cov(points.T))
            return whitened(self.objective, points[-1], matrix) or scaled(self.objective, points[-1]), init
        if init not in ("auto", "cov"):
            return scaled(self.objective, self.x0), init
        try:
            found = whitened(self.objective, self.x0, covariance(self.objective, self.x0))
        except Exception:  # the model fails; the evaluations report that
            found = None
        if found is not None:
            return found, "cov"
        if init == "cov":
            self.env.publish(
                Log(
                    "the data do not determine the covariance at the start: the chains start close to it",
                    "warning",
                )
            )
        return scaled(self.objective, self.x0), "eps"

    def _population(self, coordinates: Scaling, init: str) -> Array:
        """The first point of each chain, inside the limits, in scaled coordinates (chains, k)."""
        from bumps import initpop

        shadow = ScaledProblem(
            self.objective, coordinates, self.evaluations, lambda x: covariance(self.objective, x), self.x0
        )
        u: Array = initpop.generate(shadow, init=init, pop=-self.chains)
        if isinstance(coordinates, WhitenedScaling):
            x = initpop.reflect(coordinates.x(u), self.objective.low, self.objective.high)
            u = coordinates.u(x)
        return u

    def _judge(self) -> MixingVerdict:
        """The verdict on all generations, or on the second half if only that has mixed."""
        verdicts = []
        for portion in (1.0, 0.5) if self.options["trim"] else (1.0,):
            verdict = judge_mixing(self.state, portion, self.options["outliers"])
            if verdict.good(self.options["rhat"], self.options["ess"]):
                return verdict
            verdicts.append(verdict)
        best = min(verdicts, key=lambda v: np.nan_to_num(max(np.max(v.rhat), v.depth), nan=np.inf))
        return judge_mixing(self.state, best.portion, self.options["outliers"])

    def found(self) -> MethodOutcome:
        """The outcome: best point, draws, and remarks about them."""
        x, value = self.at.point, self.at.value
        if x is None:
            x, value = self.x0, math.inf
        return MethodOutcome(
            x,
            value,
            self.at.step,
            self.monitor.convergence,
            self.state,
            ended=self._ended(),
            notes=self._notes(),
            rhat=self.verdict.rhat,
            ess=self.verdict.ess,
        )

    def _ended(self) -> str:
        """The reason why the chains have not mixed; "" if they have."""
        names, verdict = self.objective.names, self.verdict
        bound, least = self.options["rhat"], self.options["ess"]
        if verdict.good(bound, least):
            return ""
        said = []
        apart = _worst(names, verdict.rhat, lambda value: not value <= bound, "{:.2f}")
        if apart:
            said.append(f"R-hat is {apart}, and at most {bound:g} is good")
        elif not verdict.depth <= bound:
            said.append(f"R-hat of the likelihood is {verdict.depth:.2f}, and at most {bound:g} is good")
        few = _worst(names, -verdict.ess, lambda value: not -value >= least, "{:.0f}", -1)
        if few:
            said.append(f"the effective sample size is {few}, and at least {least:g} is good")
        return (
            f"the chains have not mixed after {self._drawn:,} samples ({'; '.join(said)}): {self._remedy()}"
        )

    @property
    def _drawn(self) -> int:
        """The number of samples in the buffers."""
        drawn: int = min(self.state.generation, self.state.Ngen) * self.chains
        return drawn

    def _remedy(self) -> str:
        stuck = self._drawn >= STUCK_GENERATIONS * self.chains and bool(
            np.min(self.verdict.ess) <= STUCK_EFFECTIVE_DRAWS * self.chains
        )
        why = (
            "the chains hardly move: there may be several maxima, or a narrow bent valley; " if stuck else ""
        )
        if self.options["init"] in ("lhs", "random") and (wide := wide_limits(self.objective, self.x0)):
            why += f"{wide}; "
        more = "draw more (samples=, max_samples=), or go on from here (Uncertainty with resume=)"
        return f"{why}the intervals are not to be trusted; {more}"

    def _notes(self) -> tuple[str, ...]:
        """The number of samples that are left out, and the reasons."""
        good = self.state._good_chains
        left = 0 if isinstance(good, slice) else self.chains - len(good)
        thin = self.options["thin"]
        reasons = []
        if thin > 1:
            reasons.append(f"one of {thin} generations is kept (thin={thin})")
        if self.verdict.portion < 1:
            reasons.append("the first half is left out, from before the chains had settled")
        if left:
            chains = "one chain" if left == 1 else f"{left} chains"
            reasons.append(
                f"{chains} of {self.chains} stayed where the likelihood is far lower, and is left out"
            )
        if not reasons:
            return ()
        from park.fit.methods.dream_state import drawn

        points, _ = drawn(self.state, self.verdict.portion)
        return (f"{len(points) * points.shape[1]:,} of {self._drawn:,} samples count: {'; '.join(reasons)}",)


def _worst(names: Any, values: Array, bad: Callable[[float], bool], form: str, sign: int = 1) -> str:
    """The three largest of the *bad* values with their names, as text."""
    order = np.argsort(-np.nan_to_num(values, nan=np.inf))
    chosen = [n for n in order if bad(float(values[n]))]
    texts = [f"{form.format(sign * values[n])} ({names[n]})" for n in chosen[:3]]
    if len(chosen) > 3:
        texts.append(f"and of {len(chosen) - 3} more")
    return ", ".join(texts)


def judge_mixing(state: Any, portion: float, outliers: str) -> MixingVerdict:
    """The verdict on the last *portion* of the draws, without outlier chains."""
    from park.fit.methods.dream_state import drawn

    state.portion = portion
    state.mark_outliers(outliers, portion)
    points, logp = drawn(state, portion)
    return MixingVerdict(portion, rhat(points), ess(points), float(rhat(logp[:, :, None])[0]))


class _Model:
    """The density that DREAM samples: maps points in scaled *coordinates* to log p."""

    def __init__(self, objective: Objective, coordinates: Scaling, evaluations: Evaluations) -> None:
        self.labels = list(objective.names)
        self.bounds = np.array(coordinates.limits)
        self._objective = objective
        self._coordinates = coordinates
        self._evaluations = evaluations

    def map(self, population: Array) -> Array:
        """Log p of each point, shape (m,). Points outside the limits are not evaluated and get -inf."""
        x = self._coordinates.x(population)
        inside = ((self._objective.low <= x) & (x <= self._objective.high)).all(axis=1)
        values = np.full(len(x), np.inf)
        if inside.any():
            values[inside] = self._evaluations.mapped(x[inside])
        return -values
