"""Fits that run again go on from where they were: steps are counted on, and what comes out is as if nothing had been."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import park
from park.fit import Fit, FitResult, Uncertainty
from park.fit.bodies import FitBody, UncertaintyBody
from park.fit.methods.checkpoint import Checkpointer, MethodState
from park.model import Log, Progress
from tests.support.fabric import Fabric, slots_of, until
from tests.support.fits import SETTINGS, Env, assembly
from tests.support.mortal import ABSCISSA, Interrupted, Mortal, Y, agree, interrupted, run, slow

#: sharp: the end is not reached before the fit is interrupted
LONG: dict[str, dict[str, Any]] = SETTINGS | {
    "amoeba": {"xtol": 0, "ftol": 0, "steps": 150},
    "de": {"xtol": 0, "ftol": 0, "steps": 60},
    "lm": {},
    "newton": {"ftol": 0, "xtol": 0},
}
#: the step in which the fit is interrupted, twice
CUT = {"amoeba": 40, "lm": 2, "newton": 3, "de": 20, "pt": 90, "dream": 60}


@pytest.mark.parametrize(
    "method", ["amoeba", "lm", "newton", "de", "pt", pytest.param("dream", marks=pytest.mark.heavy)]
)
def test_every_method_goes_on_and_counts_on(method: str) -> None:
    start = {"height": 4, "time": 2} if method == "newton" else None

    def make() -> FitBody:
        return FitBody(assembly(), method, LONG[method], start, 1, 1, checkpoint=0)

    alone = run(make(), Env())
    result, envs = interrupted(make, CUT[method], CUT[method])
    told = [m for env in envs for m in env.of(Progress)]
    done, total = [m.done for m in told], told[0].total
    if method == "dream":  # samples of its chains, after those of the burn-in
        chains, burn = next(filter(None, done)), LONG[method]["burn"]
        assert chains >= 20
        assert done == [min(max(0, n + 1 - burn) * chains, total) for n in range(len(done))]
    else:
        assert done == [min(n + 1, total) for n in range(len(done))], "steps are counted on"
    assert {m.units for m in told} == {"samples" if method == "dream" else "steps"}
    assert result.steps == len(done) == len(result.convergence)
    assert 2 * CUT[method] < result.steps or method in ("lm", "newton")
    if method not in ("lm", "newton"):  # which end where they will
        assert abs(result.steps - alone.steps) <= 20, "in all, no more than one run"
    assert result.nllf <= alone.nllf + 0.5
    values = result.convergence[:, 0]
    assert (np.diff(values) <= 0).all(), "the best is never lost"


@pytest.mark.heavy
def test_what_a_sampler_draws_is_the_posterior_all_the_same() -> None:
    best = run(FitBody(assembly(), "lm", {}), Env())

    def make() -> UncertaintyBody:
        return UncertaintyBody(
            assembly(), {"samples": 12_000, "burn": 100, "max_samples": 12_000}, best.x, 1, checkpoint=0
        )

    alone = run(make(), Env())
    result, envs = interrupted(make, 150, 250)  # generations, of 500
    assert [env.of(Progress)[0].done for env in envs] == [0, 51 * 30, 301 * 30]
    assert abs(result.steps - alone.steps) <= 20
    agree(result, alone)


def test_a_sampler_that_fits_first_goes_on_in_the_phase_that_it_was_in() -> None:
    def make() -> UncertaintyBody:
        return UncertaintyBody(
            assembly(), {"samples": 1000, "burn": 50, "max_samples": 1000}, None, 1, checkpoint=0
        )

    env = Env()
    run(make(), env)
    fitted = [m.units for m in env.of(Progress)].count("steps")
    result, envs = interrupted(make, 3, fitted + 20)
    firsts = [env.of(Progress)[0] for env in envs]
    assert [m.done for m in firsts[:2]] == [1, 4]
    assert {m.units for m in envs[2].of(Progress)} == {"samples"}, "it does not fit again"
    assert firsts[2].note.startswith(("burn-in 4", "burn-in 5")), (
        "nor does it begin to sample again: it has had some 25 of 50 generations"
    )
    assert firsts[2].total == envs[2].of(Progress)[-1].total == 1000
    assert result.draws is not None


def test_starts_that_have_ended_are_not_run_again() -> None:
    def make() -> FitBody:
        return FitBody(assembly(), "amoeba", {}, None, 20, 1)

    alone = run(make(), Env())
    first = Mortal(life=1)  # a safe point follows each wave
    with pytest.raises(Interrupted):
        run(make(), first)
    second = Mortal(first)
    result = run(make(), second)
    assert first.mapped + second.mapped == 20
    assert result.nllf == pytest.approx(alone.nllf)


def test_checkpoints_are_as_far_apart_as_was_said() -> None:
    now = 100.0
    env = Env()
    keeper = Checkpointer(env, 60.0, lambda: now)
    for _ in range(200):
        now += 1.0
        keeper.offer(lambda: MethodState("de"))
    assert env.checkpoints == 3


class Strange(Env):
    """Its checkpoint cannot be read, nor can one be made."""

    @property
    def restored(self) -> Any:
        raise park.InvalidRequest("it is of another release")

    def checkpoint(self, state: Any, wait: float, /) -> bool:
        self.checkpoints += 1
        raise park.InvalidRequest("it is too large")


def test_a_fit_whose_checkpoint_is_of_no_use_begins_anew_and_says_so() -> None:
    env = Strange()
    result = run(FitBody(assembly(), "amoeba", {}, None, 1, 1, checkpoint=0), env)
    assert result.steps == len(env.of(Progress))
    assert [m.text for m in env.of(Log)] == [
        "the fit begins anew: it is of another release",
        "the fit goes on without checkpoints: it is too large",
    ]
    assert env.checkpoints == 1


def test_a_length_of_time_is_needed() -> None:
    with pytest.raises(park.InvalidRequest, match="checkpoint='soon' is no length of time"):
        Fit(assembly(), checkpoint="soon")


# -- real processes ------------------------------------------------------------------------------------


OPTIONS: dict[str, Any] = {"samples": 4000, "max_samples": 4000, "burn": 50, "start": [2.0, 1.0], "seed": 5}


def is_posterior(result: FitResult) -> None:
    """Of a line it is known: normal about the least squares."""
    design = np.stack([ABSCISSA, np.ones(20)], axis=1)
    mean = np.linalg.lstsq(design, Y, rcond=None)[0]
    deviation = 0.1 * np.sqrt(np.diag(np.linalg.inv(design.T @ design)))
    assert result.draws is not None
    assert len(result.draws) >= 1500
    assert (result.draws.mean(axis=0) - mean) / deviation == pytest.approx(0, abs=0.25)
    assert result.draws.std(axis=0) == pytest.approx(deviation, rel=0.2)


def reached(job: park.Job, samples: float) -> float:
    until(lambda: job.progress.done >= samples, why=lambda: repr(job))
    return job.progress.done


class Samples:
    """The samples that a job tells of."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_progress(self, message: Progress) -> None:
        assert message.units == "samples"
        self.seen.append(message.done)


@pytest.mark.heavy
def test_a_local_sampler_is_killed_twice_and_samples_on() -> None:
    samples = Samples()
    with park.local_service:
        err = Uncertainty(slow(0.0002), checkpoint=0.1, monitor=samples, **OPTIONS)
        for _ in range(2):
            at = reached(err, (samples.seen or [0])[-1] + 1200)
            for pid in slots_of(os.getpid()):
                os.kill(pid, signal.SIGKILL)
            until(lambda at=at: samples.seen[-1] > at, why=lambda: repr(err))  # type: ignore[misc]
        result = err.wait(60)
    lives = [b for a, b in zip(samples.seen, samples.seen[1:], strict=False) if b < a]
    assert min([*lives, 1200]) >= 400, "it begins again"
    assert abs(result.steps - 251) <= 20
    is_posterior(result)


@pytest.mark.heavy
def test_a_sampler_goes_on_when_its_kernel_and_the_broker_were_killed(tmp_path: Path) -> None:
    with Fabric(tmp_path) as fabric:
        kernel = fabric.start_kernel(slots=2)
        service = fabric.connect()
        samples = Samples()
        err = Uncertainty(slow(0.0005), checkpoint=0.1, monitor=samples, service=service, **OPTIONS)
        at = reached(err, 600)
        kernel.kill()
        fabric.broker.kill()
        seen = len(samples.seen)
        fabric.start_broker()
        fabric.start_kernel(slots=2)
        result = err.wait(60)
        # the first may be what the broker had kept of the stream: less new than the checkpoint
        assert samples.seen[seen + 1] > at - 1200
        assert abs(result.steps - 251) <= 20
        is_posterior(result)
