"""DREAM: bumps' sampler of the posterior, which draws on until its chains have mixed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from park.errors import InvalidRequest
from park.fit.asked import Asked
from park.fit.covariance import covariance
from park.fit.data import Array
from park.fit.diagnostics import ess, rhat
from park.fit.env import Env
from park.fit.methods import METHODS, chains_of
from park.fit.objective import Objective
from park.fit.optimizers import quietly, wide_limits
from park.fit.resume import Keeper
from park.fit.scaling import Coordinates, Whitened, scaled, whitened
from park.fit.shadow import Shadow
from park.fit.watch import Evaluations, Found, Monitor
from park.model import Log, Progress

#: While chains have not mixed, samples are drawn up to so many times those of the request, where nothing else was said.
LIMIT = 10
#: Chains are stuck that have no more than so many effective draws each, after so many generations.
STUCK, LONG = 4, 200
#: How much more is drawn at once, as a factor, while chains have not mixed.
GROWTH = (1.3, 2.0)


@dataclass(frozen=True)
class Verdict:
    """How well the chains have mixed: R-hat and effective sample size of each parameter, and of the last *portion*."""

    portion: float
    rhat: Array
    ess: Array
    #: R-hat of log p, which tells of chains that have not come down yet
    depth: float

    def good(self, bound: float, least: float) -> bool:
        """Whether each R-hat is at most *bound*, and each sample at least so large."""
        worst = max(float(np.max(self.rhat)), self.depth)  # nan is not good
        return bool(np.isfinite(worst) and worst <= bound and np.min(self.ess) >= least)


def run_dream(
    objective: Objective,
    options: dict[str, Any],
    x0: Array,
    env: Env,
    evaluations: Evaluations,
    keeper: Keeper | None = None,
    asked: Asked | None = None,
    earlier: Any = None,
) -> Found:
    """Samples from *x0*, or from what the *keeper* has, until the chains have mixed or the limit of samples is reached.

    *earlier* are the draws of a run that has ended, a ``MCMCDraw``: it goes on from there.
    """
    sampler = Sampler(objective, options, x0, env, evaluations, keeper, asked, earlier)
    with quietly(evaluations):
        while sampler.draw() and not env.should_stop:
            pass
    return sampler.found()


class Sampler:
    """One sampling of the posterior of an *objective*, round by round."""

    def __init__(
        self,
        objective: Objective,
        options: dict[str, Any],
        x0: Array,
        env: Env,
        evaluations: Evaluations,
        keeper: Keeper | None,
        asked: Asked | None,
        earlier: Any,
    ) -> None:
        self.objective = objective
        self.options = {**METHODS["dream"], **options}
        self.x0 = x0
        self.env = env
        self.evaluations = evaluations
        self.asked = asked
        saved = keeper.of("dream") if keeper is not None else None
        #: the draws so far, in the user's units
        self.state: Any = earlier if saved is None else saved.state
        #: the state is that of a round which was interrupted
        self.amid = saved is not None and saved.state is not None
        self.monitor = Monitor(env, objective, self._progress, evaluations, "dream", keeper, asked)
        self.at = self.monitor.at
        #: samples of the earlier run
        self.before = 0
        self.chains = chains_of(self.options["pop"], len(objective.names))
        if earlier is not None:
            self.chains, self.options["thin"] = earlier.Npop, earlier.thinning
            self.before = min(earlier.generation, earlier.Ngen) * self.chains
            self.options["burn"] = 0
            if not self.amid:
                self._check_posterior()

    def _check_posterior(self) -> None:
        """Raises InvalidRequest where the chains that are to go on are chains of another posterior."""
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
        """Samples in all: those of the request, those that it was asked for since, and those until the chains mix."""
        asked = self.at.extended if self.asked is None else self.asked.samples
        return self._requested + asked + self.at.more

    @property
    def _requested(self) -> int:
        """Samples of the request, with those of the earlier run."""
        samples: int = self.options["samples"]
        return self.before + samples

    def _progress(self, step: int) -> Progress:
        """Samples that are drawn, of those that are wanted; while the chains settle, none."""
        burn, wanted = self.options["burn"], self._wanted - self.before
        note = "until mixed" if self.at.more else ""
        if step < burn:
            note = f"burn-in {step / burn:.0%}"
        return Progress(min(max(0, step - burn) * self.chains, wanted), wanted, "samples", note)

    def draw(self) -> bool:
        """Draws what is wanted. True if more is wanted then."""
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
        most = self.options["max_samples"] or LIMIT * self.options["samples"]
        least = began - self._requested - self.at.more  # that it was asked for; the limit is beside it
        more = min(int(began * self._growth()), self.before + most + least)
        if more - began < self.chains:
            return False
        self.at.more += more - began
        return True

    def _growth(self) -> float:
        """The factor by which there are too few samples."""
        short = self.options["ess"] / float(np.min(self.verdict.ess))
        return min(max(1.1 * short, GROWTH[0]), GROWTH[1]) if np.isfinite(short) else GROWTH[1]

    def _round(self) -> None:
        from bumps.dream import core

        from park.fit.chains import STEPS, Chains, crossover_of, empty, moved

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
        assert dream.DE_steps == STEPS
        # It prints what it does about outliers; that belongs into the log of the job, not on somebody's terminal.
        core.print = lambda *words: self.env.publish(Log(" ".join(map(str, words))))
        try:
            state = dream.sample(state=state, abort_test=lambda: self.env.should_stop)
        finally:
            vars(core).pop("print", None)
        self.state = moved(state, coordinates.x)

    def _coordinates(self) -> tuple[Coordinates, str]:
        """The coordinates of the next round, and how its population is made if it is the first."""
        from park.fit.chains import drawn

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
        except Exception:  # the model fails; its evaluations will say so
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

    def _population(self, coordinates: Coordinates, init: str) -> Array:
        """The first members of the chains, inside the limits."""
        from bumps import initpop

        shadow = Shadow(
            self.objective, coordinates, self.evaluations, lambda x: covariance(self.objective, x), self.x0
        )
        u: Array = initpop.generate(shadow, init=init, pop=-self.chains)
        if isinstance(coordinates, Whitened):
            x = initpop.reflect(coordinates.x(u), self.objective.low, self.objective.high)
            u = coordinates.u(x)
        return u

    def _judge(self) -> Verdict:
        """Judges all generations, and the second half: the larger part that has mixed counts."""
        verdicts = []
        for portion in (1.0, 0.5) if self.options["trim"] else (1.0,):
            verdict = judge(self.state, portion, self.options["outliers"])
            if verdict.good(self.options["rhat"], self.options["ess"]):
                return verdict
            verdicts.append(verdict)
        best = min(verdicts, key=lambda v: np.nan_to_num(max(np.max(v.rhat), v.depth), nan=np.inf))
        return judge(self.state, best.portion, self.options["outliers"])

    def found(self) -> Found:
        """The best point, the draws, and what is to be said of them."""
        x, value = self.at.point, self.at.value
        if x is None:
            x, value = self.x0, math.inf
        return Found(
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
        """Why it ended without chains that have mixed; "" if they have."""
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
        """Samples that are kept, before any is left out."""
        drawn: int = min(self.state.generation, self.state.Ngen) * self.chains
        return drawn

    def _remedy(self) -> str:
        stuck = self._drawn >= LONG * self.chains and bool(np.min(self.verdict.ess) <= STUCK * self.chains)
        why = (
            "chains hardly leave their places: there may be several maxima, or a narrow bent valley; "
            if stuck
            else ""
        )
        if self.options["init"] in ("lhs", "random") and (wide := wide_limits(self.objective, self.x0)):
            why += f"{wide}; "
        more = "draw more (samples=, max_samples=), or go on from here (Uncertainty with resume=)"
        return f"{why}the intervals are not to be trusted; {more}"

    def _notes(self) -> tuple[str, ...]:
        """The samples that are left out, and why."""
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
        from park.fit.chains import drawn

        points, _ = drawn(self.state, self.verdict.portion)
        return (f"{len(points) * points.shape[1]:,} of {self._drawn:,} samples count: {'; '.join(reasons)}",)


def _worst(names: Any, values: Array, bad: Callable[[float], bool], form: str, sign: int = 1) -> str:
    """The worst three of the *bad* values with their names."""
    order = np.argsort(-np.nan_to_num(values, nan=np.inf))
    chosen = [n for n in order if bad(float(values[n]))]
    texts = [f"{form.format(sign * values[n])} ({names[n]})" for n in chosen[:3]]
    if len(chosen) > 3:
        texts.append(f"and of {len(chosen) - 3} more")
    return ", ".join(texts)


def judge(state: Any, portion: float, outliers: str) -> Verdict:
    """The verdict on the last *portion* of the draws, after chains that lie far lower than the others are left out."""
    from park.fit.chains import drawn

    state.portion = portion
    state.mark_outliers(outliers, portion)
    points, logp = drawn(state, portion)
    return Verdict(portion, rhat(points), ess(points), float(rhat(logp[:, :, None])[0]))


class _Model:
    """What DREAM samples: points in *coordinates* to log p."""

    def __init__(self, objective: Objective, coordinates: Coordinates, evaluations: Evaluations) -> None:
        self.labels = list(objective.names)
        self.bounds = np.array(coordinates.limits)
        self._objective = objective
        self._coordinates = coordinates
        self._evaluations = evaluations

    def map(self, population: Array) -> Array:
        """Log p of each point, shape (m,); -inf outside the limits, where nothing is evaluated."""
        x = self._coordinates.x(population)
        inside = ((self._objective.low <= x) & (x <= self._objective.high)).all(axis=1)
        values = np.full(len(x), np.inf)
        if inside.any():
            values[inside] = self._evaluations.mapped(x[inside])
        return -values
