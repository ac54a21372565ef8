"""DREAM draws until its chains have mixed, or says that they have not; runs that have ended go on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

import park
from park.errors import InvalidRequest
from park.fit import Assembly, FitResult, Model, Parameter, Uncertainty
from park.fit.bodies import FitBody, UncertaintyBody
from park.fit.methods.dream import MixingVerdict, Sampler
from park.fit.methods.options import chains_of, check_method
from park.model import Log, Progress
from tests.support.quick import NOISE, POWERS, Quick, X, cubic

DESIGN = np.vander(X, POWERS, increasing=True) / 0.2
SIGMA = np.sqrt(np.diag(np.linalg.inv(DESIGN.T @ DESIGN)))


def waves() -> Assembly:
    """A likelihood with many maxima, from which no step leads into the next."""
    x = np.linspace(0, 20, 60)
    data = np.sin(2.2 * x) + 0.3 * np.random.default_rng(1).normal(size=x.size)
    return Assembly((Model(lambda x, a: np.sin(a * x), a=(0.5, 4.0)), (x, data, 0.3)))


def centred() -> Assembly:
    """A straight line whose parameters have nothing to do with each other."""
    model = Model(lambda x, a, b: a + b * (x - 3), a=(-100.0, 100.0), b=(-100.0, 100.0))
    return Assembly((model, (X, X + NOISE, 0.2)))


def sample(
    assembly: Assembly, start: Any = None, env: Any = None, earlier: Any = None, **options: Any
) -> FitResult:
    body = UncertaintyBody(assembly, options, start, 3, earlier=earlier)
    body.prepare(env or Quick())
    return body.run()


@pytest.fixture(scope="module")
def short() -> FitResult:
    """One that was too short."""
    return sample(cubic(), samples=1200, max_samples=1200, burn=20)


class TestMixing:
    def test_it_draws_on_until_the_chains_have_mixed(self) -> None:
        env = Quick()
        result = sample(cubic(), env=env, samples=1500)
        assert result.converged
        assert result.message == ""
        assert result.draws is not None
        assert len(result.draws) > 1500
        assert result.rhat is not None
        assert result.ess is not None
        assert result.rhat.max() <= 1.05
        assert result.ess.min() >= 400
        assert result.dx == pytest.approx(SIGMA, rel=0.1)
        assert env.of(Progress)[-1].fraction == 1

    def test_one_that_has_not_mixed_says_so(self, short: FitResult) -> None:
        assert not short.converged
        assert short.draws is not None
        assert len(short.draws) <= 1200
        assert "have not mixed after 1,200 samples (R-hat is" in short.message
        assert "at most 1.05 is good; the effective sample size is" in short.message
        assert "the intervals are not to be trusted" in short.message
        assert "NOT CONVERGED" in repr(short)

    @pytest.mark.parametrize(
        ("rhat", "effective", "drawn"), [(1.1, 0.05, 10_000), (1.3, 0.05, 2_000), (1.1, 0.03, 2_000)]
    )
    def test_chains_that_are_about_to_mix_may_draw_more(
        self, monkeypatch: pytest.MonkeyPatch, rhat: float, effective: float, drawn: int
    ) -> None:
        def judged(sampler: Sampler) -> MixingVerdict:
            k = sampler.x0.size
            return MixingVerdict(1.0, np.full(k, rhat), np.full(k, effective * sampler._drawn), 1.0)

        monkeypatch.setattr(Sampler, "_judge", judged)
        result = sample(cubic(), samples=200, burn=0)
        assert f"not mixed after {drawn:,} samples" in result.message

    def test_the_bounds_are_the_users(self) -> None:
        result = sample(cubic(), samples=800, burn=20, rhat=2.0, ess=20)
        assert result.converged

    def test_chains_that_are_stuck_are_said(self) -> None:
        options = {"samples": 3000, "max_samples": 3000, "init": "lhs", "burn": 50, "outliers": "none"}
        result = sample(waves(), start=[1.0], **options)
        assert not result.converged
        assert "the chains hardly move: there may be several maxima" in result.message

    def test_chains_that_are_left_out_are_said(self) -> None:
        result = sample(waves(), start=[1.0], samples=3000, max_samples=3000, init="lhs", burn=50)
        assert "stayed where the likelihood is far lower" in result.message

    def test_a_stop_in_the_middle_is_no_convergence(self) -> None:
        result = sample(cubic(), env=Quick(stop_after=40), samples=5000)
        assert result.stopped
        assert not result.converged
        assert "stopped" in result.message

    def test_samples_that_are_left_out_are_counted(self) -> None:
        result = sample(centred(), start=[90.0, -90.0], samples=4000, max_samples=4000, init="eps", burn=0)
        assert result.draws is not None
        assert f"{len(result.draws):,} of 4,000 samples count" in result.message
        assert "the first half is left out" in result.message

    def test_thinned_ones_too(self) -> None:
        result = sample(cubic(), samples=2000, max_samples=2000, burn=10, thin=5, trim=False)
        assert result.draws is not None
        assert len(result.draws) == 400
        assert "400 of 2,000 samples count: one of 5 generations is kept (thin=5)" in result.message

    def test_a_fit_comes_first_unless_the_population_is_spread(self) -> None:
        env, spread = Quick(), Quick()
        for each, init in ((env, "auto"), (spread, "lhs")):
            body = FitBody(cubic(), "dream", {"samples": 400, "max_samples": 400, "init": init}, None, 1, 3)
            body.prepare(each)
            body.run()
        assert {m.units for m in env.of(Progress)} == {"steps", "samples"}
        assert {m.units for m in spread.of(Progress)} == {"samples"}


def modulus(**limits: Any) -> Assembly:
    """A slope whose sign does not matter."""
    model = Model(lambda x, a, b: abs(a) * x + b, a=Parameter(1.0, **limits), b=(-100.0, 100.0))
    return Assembly((model, (X, 2 * X + NOISE, 0.2)))


class TestOtherMaxima:
    OPTIONS: ClassVar[dict[str, Any]] = {"samples": 1000, "burn": 50, "ess": 50, "rhat": 1.2}

    def test_chains_from_one_maximum_do_not_hide_another(self) -> None:
        result = sample(modulus(limits=(-7, 9)), **self.OPTIONS)
        assert not result.converged
        assert "all draws are from one maximum of the likelihood" in result.message
        assert "another one about as high at a = -2.0" in result.message
        assert "negative log likelihood is the same" in result.message
        assert "init='lhs'" in result.message

    def test_also_without_limits(self) -> None:
        assert "at a = -2.0" in sample(modulus(), **self.OPTIONS).message

    def test_draws_from_both_are_complete(self) -> None:
        result = sample(modulus(limits=(-7, 9)), init="lhs", pop=-20, **self.OPTIONS)
        assert "maximum" not in result.message
        assert result.draws is not None
        assert 0.2 < np.mean(result.draws[:, 0] > 0) < 0.8

    def test_limits_that_leave_one_are_enough(self) -> None:
        result = sample(modulus(limits=(0, 9)), **self.OPTIONS)
        assert result.converged
        assert result.message == ""

    def test_a_search_that_fails_costs_no_draws(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("park.fit.methods.other_maxima.starting_points", None)
        env = Quick()
        result = sample(modulus(limits=(0, 9)), env=env, **self.OPTIONS)
        assert result.draws is not None
        assert any("the search for other maxima failed" in log.text for log in env.of(Log))


class TestChains:
    @pytest.mark.parametrize(
        ("pop", "parameters", "chains"),
        [(0, 1, 10), (0, 3, 30), (0, 6, 40), (0, 33, 66), (10, 6, 60), (2.5, 3, 8), (-20, 7, 20)],
    )
    def test_how_many(self, pop: float, parameters: int, chains: int) -> None:
        assert chains_of(pop, parameters) == chains

    def test_four_are_enough(self) -> None:
        env = Quick()
        result = sample(cubic(), env=env, samples=400, max_samples=400, burn=10, pop=-4)
        assert result.state.Npop == 4

    @pytest.mark.parametrize(
        ("method", "options", "says"),
        [
            ("dream", {"pop": -3}, "pop=-3 gives fewer than the 4 chains"),
            ("dream", {"pop": -4.5}, "a negative number is the number of all chains, a whole one"),
            ("dream", {"rhat": 1}, "it must be above 1"),
            ("dream", {"max_samples": 1.5}, "a whole number"),
            ("de", {"pop": -20}, "it must be positive"),
            ("de", {"pop": 0.5}, "gives 2 members, and differential evolution needs 4"),
        ],
    )
    def test_too_few_are_refused(self, method: str, options: dict[str, Any], says: str) -> None:
        with pytest.raises(InvalidRequest, match=says):
            check_method(method, options, cubic().objective)


class TestGoingOn:
    def test_the_draws_of_both_runs_count(self, short: FitResult) -> None:
        result = sample(cubic(), earlier=short, samples=6000, max_samples=6000)
        assert result.draws is not None
        assert len(result.draws) == 7200
        assert result.rhat is not None
        assert short.rhat is not None
        assert result.rhat.max() < short.rhat.max()
        assert result.ess.min() > short.ess.min()
        assert result.nllf <= short.nllf
        earlier, later = short.state.chains()[1], result.state.chains()[1]
        assert later[: len(earlier)] == pytest.approx(earlier, rel=1e-9)

    def test_it_draws_other_numbers_than_before(self, short: FitResult) -> None:
        body = UncertaintyBody(cubic(), {"samples": 1200, "max_samples": 1200}, None, 3, earlier=short)
        body.prepare(Quick())
        chains = body.run().state.chains()[1]
        first, second = chains[: len(chains) // 2], chains[len(chains) // 2 :]
        assert np.isclose(first, second).mean() < 0.01  # a chain may keep one coordinate for long

    def test_another_posterior_is_refused(self, short: FitResult) -> None:
        with pytest.raises(InvalidRequest, match="the earlier run sampled something else"):
            sample(cubic(data=1.01), earlier=short, samples=1000)

    @pytest.mark.parametrize(
        ("make", "says"),
        [
            (lambda short: Uncertainty(waves(), resume=short), "has the parameters c0, c1, c2, c3, not a"),
            (
                lambda short: Uncertainty(cubic(), resume=[1, 2, 3, 4]),
                "resume= takes the result of an earlier",
            ),
            (lambda short: Uncertainty(cubic(), short, resume=short), "leave start and pop out"),
        ],
    )
    def test_what_cannot_be(self, short: FitResult, make: Any, says: str) -> None:
        with pytest.raises(InvalidRequest, match=says):
            make(short)

    def test_on_the_fabric(self) -> None:
        with park.local_service:
            first = Uncertainty(cubic(), samples=600, max_samples=600, burn=10, seed=4)
            more = Uncertainty(cubic(), resume=first, samples=600, max_samples=600)
            result = more.wait(60)
            assert len(result.state.chains()[2].ravel()) == len(first.result.state.chains()[2].ravel()) + 800
            assert not first.extend(500), "it has ended"


SCRIPT = """
import numpy as np, sys
sys.path[:0] = sys.argv[1:]
import park
from tests.support.quick import cubic
from park.fit import Uncertainty, Fit
options = dict(samples=400, max_samples=400, burn=20)
with park.local_service:
    first, again, other = (Uncertainty(cubic(), seed=seed, **options).wait(300) for seed in (7, 7, 8))
    fits = [Fit(cubic(), method="dream", seed=7, **options).wait(300) for _ in range(2)]
assert (first.draws == again.draws).all() and (fits[0].draws == fits[1].draws).all()
assert not (first.draws == other.draws).all()
"""


@pytest.mark.heavy
@pytest.mark.timeout(1800)
def test_equal_seeds_draw_equal_numbers_with_numba_too(tmp_path: Path) -> None:
    """numba, which bumps' DREAM compiles its steps with where it is installed, has generators of its own."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(tmp_path)]
    subprocess.run([*pip, "numba", "llvmlite"], check=True, timeout=300)
    root = str(Path(__file__).parents[2])
    for disabled in ("0", "1"):
        environment = {
            **os.environ,
            "PYTHONPATH": f"{tmp_path}:{root}",
            "NUMBA_DISABLE_JIT": disabled,
            "NUMBA_CACHE_DIR": str(tmp_path / "cache"),
            "PARK_SLOTS": "2",
        }
        script = [sys.executable, "-c", "import numba\n" + SCRIPT]
        done = subprocess.run(
            script, env=environment, capture_output=True, text=True, timeout=800, cwd=tmp_path
        )
        assert done.returncode == 0, done.stderr
