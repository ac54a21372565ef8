"""R-hat and effective sample sizes, against chains whose mixing is known, and against the published formulas."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from park.fit.numerics.mixing import ess, rhat


def walks(n: int, m: int, memory: float, seed: int = 1) -> Any:
    """m stationary chains of n draws, shape (n, m, 1), in which each draw keeps the part *memory* of the one before."""
    rng = np.random.default_rng(seed)
    chains = rng.normal(size=(n, m))
    for row in range(1, n):
        chains[row] = memory * chains[row - 1] + np.sqrt(1 - memory**2) * chains[row]
    return chains[:, :, None]


@pytest.mark.parametrize("memory", [0.0, 0.5, 0.9])
def test_the_sample_is_as_large_as_theory_says(memory: float) -> None:
    """Of an autoregression the integrated autocorrelation time is (1 + memory) / (1 - memory)."""
    chains = walks(4000, 8, memory)
    assert ess(chains)[0] == pytest.approx(32_000 * (1 - memory) / (1 + memory), rel=0.1)


def test_a_walk_that_turns_back_tells_more_than_independent_draws() -> None:
    """Of its mean, at least; its tails are no better known, and the smaller number counts."""
    chains = walks(2000, 4, -0.5)
    assert 8000 * 0.7 < ess(chains)[0] < 8000 * 1.5


def test_r_hat_is_that_of_the_paper() -> None:
    """By hand, for three chains of four draws: ranks, their normal scores, halves, and both spreads."""
    draws = np.array([[1.0, 7.0, 4.0], [3.0, 9.0, 8.0], [2.0, 11.0, 5.0], [6.0, 12.0, 10.0]])

    def by_hand(values: Any) -> float:
        from statistics import NormalDist, mean, variance

        halves = [list(values[:2, j]) for j in range(3)] + [list(values[2:, j]) for j in range(3)]
        ordered = sorted(v for half in halves for v in half)
        score = {
            v: NormalDist().inv_cdf(
                (mean(i + 1 for i, w in enumerate(ordered) if w == v) - 3 / 8) / (12 + 1 / 4)
            )
            for v in ordered
        }
        z = [[score[v] for v in half] for half in halves]
        between = 2 * variance(mean(half) for half in z)
        within = mean(variance(half) for half in z)
        return float(((1 / 2 * within + between / 2) / within) ** 0.5)

    expected = max(by_hand(draws), by_hand(np.abs(draws - np.median(draws))))
    assert rhat(draws[:, :, None])[0] == pytest.approx(expected, rel=1e-12)


def test_chains_that_have_mixed_come_near_one() -> None:
    assert rhat(walks(2000, 8, 0.3))[0] == pytest.approx(1, abs=0.01)


def apart(chains: Any) -> Any:
    chains[:, 0] += 3
    return chains


def wider(chains: Any) -> Any:
    chains[:, 0] *= 5
    return chains


def drifting(chains: Any) -> Any:
    return chains + np.linspace(0, 3, len(chains))[:, None, None]


def growing(chains: Any) -> Any:
    return chains * np.linspace(0.2, 2, len(chains))[:, None, None]


@pytest.mark.parametrize("spoil", [apart, wider, drifting, growing])
def test_chains_that_have_not_are_found(spoil: Any) -> None:
    good, bad = walks(1000, 6, 0.2), spoil(walks(1000, 6, 0.2))
    assert rhat(good)[0] < 1.01
    assert rhat(bad)[0] > 1.05
    assert ess(bad)[0] < 0.5 * ess(good)[0] or spoil in (wider, growing)


def test_infinite_variances_do_not_matter() -> None:
    cauchy = np.tan(np.pi * (np.random.default_rng(3).random((2000, 6, 1)) - 0.5))
    assert rhat(cauchy)[0] < 1.01
    assert ess(cauchy)[0] == pytest.approx(12_000, rel=0.1)


def test_each_parameter_has_its_own() -> None:
    both = np.concatenate([walks(500, 4, 0.0), apart(walks(500, 4, 0.0))], axis=2)
    first, second = rhat(both)
    assert first < 1.02
    assert second > 1.3


def test_units_and_offsets_do_not_matter() -> None:
    chains = walks(400, 5, 0.6)
    moved = 2.0**70 * chains - 2.0**68
    assert rhat(moved) == pytest.approx(rhat(chains), rel=1e-12)
    assert ess(moved) == pytest.approx(ess(chains), rel=1e-9)


@pytest.mark.parametrize("chains", [np.zeros((3, 4, 1)), np.ones((100, 4, 1)), np.full((100, 4, 1), np.inf)])
def test_what_says_nothing_is_nan(chains: Any) -> None:
    assert np.isnan(rhat(chains)).all()
    assert np.isnan(ess(chains)).all()
