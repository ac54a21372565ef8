"""Densities of draws: they are smooth, keep to limits, and their contours hold what they say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from park.fit.plotting import kernel_density

RNG = np.random.default_rng(12)
NORMAL = RNG.normal(3.0, 0.5, 8000)
FREE = np.array([[-np.inf, np.inf]] * 2)


def test_of_a_normal_distribution() -> None:
    x, density = kernel_density.smooth(NORMAL, -np.inf, np.inf, len(NORMAL))
    exact = np.exp(-0.5 * ((x - 3) / 0.5) ** 2) / 0.5 / np.sqrt(2 * np.pi)
    assert np.abs(density - exact).max() < 0.06 * exact.max()
    assert np.sum(np.diff(np.sign(np.diff(density))) != 0) <= 3  # one peak, and hardly a wiggle


def test_nothing_is_beyond_a_limit_nor_missing_at_it() -> None:
    draws = RNG.exponential(1.0, 20_000)
    x, density = kernel_density.smooth(draws, 0.0, np.inf, len(draws))
    assert x[0] > 0
    assert density[0] == pytest.approx(1.0, abs=0.1)
    assert density.argmax() < 20


@pytest.mark.parametrize("share", [0.3, 0.5])
def test_two_far_peaks_keep_their_width(share: float) -> None:
    count = int(share * 8000)
    both = np.concatenate([RNG.normal(-20, 1, count), RNG.normal(20, 1, 8000 - count)])
    x, density = kernel_density.smooth(both, -np.inf, np.inf, len(both))
    right = np.where(x > 0, density, 0)
    assert right.sum() / density.sum() == pytest.approx(1 - share, abs=0.01)
    assert np.sqrt(np.sum(right * (x - 20) ** 2) / right.sum()) == pytest.approx(1, abs=0.15)


def test_a_stray_draw_does_not_stretch_the_picture() -> None:
    x, _ = kernel_density.smooth(np.append(NORMAL, 1e6), -np.inf, np.inf, 8000)
    assert x[-1] < 10


@pytest.mark.parametrize("offset", [0.0, 5e9])
@pytest.mark.parametrize("size", [1e-12, 1.0, 1e12])
def test_units_do_not_matter(size: float, offset: float) -> None:
    plain = kernel_density.smooth(NORMAL, -np.inf, np.inf, 8000)[1]
    given = offset * size + NORMAL * size
    again = kernel_density.smooth(given, -np.inf, np.inf, 8000)[1] * size
    assert np.abs(again - plain).max() < 0.02 * plain.max()


@pytest.mark.parametrize("correlation", [0.0, -0.9, 0.99])
def test_contours_hold_what_they_say(correlation: float) -> None:
    u, other = RNG.normal(size=(2, 20_000))
    v = correlation * u + np.sqrt(1 - correlation**2) * other
    x, y, density = kernel_density.smooth2(u, v, FREE, len(u))
    slope = (y[0, 1] - y[0, 0]) / (x[0, 1] - x[0, 0])
    places = [
        np.rint((draws - at[0]) / (at[1] - at[0])).astype(int).clip(0, len(at) - 1)
        for draws, at in ((v - slope * u, y[:, 0] - slope * x[:, 0]), (u, x[0]))
    ]
    outer, inner = kernel_density.levels(density, (0.95, 0.68))
    assert 0 < outer < inner < density.max()
    heights = density[places[0], places[1]]
    assert np.mean(heights >= outer) == pytest.approx(0.95, abs=0.02)
    assert np.mean(heights >= inner) == pytest.approx(0.68, abs=0.04)
    assert np.corrcoef(u, v)[0, 1] == pytest.approx(_correlation(x, y, density), abs=0.04)


def _correlation(x: Any, y: Any, density: Any) -> float:
    cov = np.cov(np.array([x.ravel(), y.ravel()]), aweights=density.ravel())
    return float(cov[0, 1] / np.sqrt(cov[0, 0] * cov[1, 1]))


def test_nothing_is_beyond_limits_of_two() -> None:
    u, v = np.random.default_rng(2).exponential(1.0, (2, 5000))  # the same points in any order of the tests
    x, y, density = kernel_density.smooth2(u, v, np.array([[0.0, np.inf]] * 2), 5000)
    assert min(x.min(), y.min()) > 0
    assert density[:4, :4].mean() > 0.8 * density.max()
