"""Densities of draws: they are smooth, keep to limits, and their contours hold what they say."""

from __future__ import annotations

import numpy as np
import pytest

from park.fit import densities

RNG = np.random.default_rng(12)
NORMAL = RNG.normal(3.0, 0.5, 8000)
FREE = np.array([[-np.inf, np.inf]] * 2)


def test_of_a_normal_distribution() -> None:
    x, density = densities.smooth(NORMAL, -np.inf, np.inf, len(NORMAL))
    exact = np.exp(-0.5 * ((x - 3) / 0.5) ** 2) / 0.5 / np.sqrt(2 * np.pi)
    assert np.abs(density - exact).max() < 0.06 * exact.max()
    assert np.sum(np.diff(np.sign(np.diff(density))) != 0) <= 3  # one peak, and hardly a wiggle


def test_nothing_is_beyond_a_limit_nor_missing_at_it() -> None:
    draws = RNG.exponential(1.0, 20_000)
    x, density = densities.smooth(draws, 0.0, np.inf, len(draws))
    assert x[0] > 0
    assert density[0] == pytest.approx(1.0, abs=0.1)
    assert density.argmax() < 20


def test_two_far_peaks_stay_two() -> None:
    both = np.concatenate([RNG.normal(-20, 1, 4000), RNG.normal(20, 1, 4000)])
    _, density = densities.smooth(both, -np.inf, np.inf, len(both))
    assert density[len(density) // 2] < 0.05 * density.max()


def test_a_stray_draw_does_not_stretch_the_picture() -> None:
    x, _ = densities.smooth(np.append(NORMAL, 1e6), -np.inf, np.inf, 8000)
    assert x[-1] < 10


@pytest.mark.parametrize("offset", [0.0, 5e9])
@pytest.mark.parametrize("size", [1e-12, 1.0, 1e12])
def test_units_do_not_matter(size: float, offset: float) -> None:
    plain = densities.smooth(NORMAL, -np.inf, np.inf, 8000)[1]
    given = offset * size + NORMAL * size
    again = densities.smooth(given, -np.inf, np.inf, 8000)[1] * size
    assert np.abs(again - plain).max() < 0.02 * plain.max()


@pytest.mark.parametrize("correlation", [0.0, -0.9, 0.99])
def test_contours_hold_what_they_say(correlation: float) -> None:
    u, other = RNG.normal(size=(2, 20_000))
    v = correlation * u + np.sqrt(1 - correlation**2) * other
    x, y, density = densities.smooth2(u, v, FREE, len(u))
    outer, inner = densities.levels(density, (0.95, 0.68))
    assert 0 < outer < inner < density.max()
    rows, columns = (
        np.rint((draws - at[0]) / (at[1] - at[0])).astype(int).clip(0, len(at) - 1)
        for draws, at in ((v, y), (u, x))
    )
    at = density[rows, columns]
    assert (np.mean(at >= outer), np.mean(at >= inner)) == (
        pytest.approx(0.95, abs=0.02),
        pytest.approx(0.68, abs=0.04),
    )
