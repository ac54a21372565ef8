"""The physics of the demonstration, against what is known of it."""

from __future__ import annotations

from math import pi

import numpy as np
import pytest

from park.demo.micelles import MOLAR, charged_spheres, ellipsoid, measured, micelles

Q = np.array([0.01, 0.03, 0.06, 0.09, 0.12, 0.2, 0.3])


def test_uncharged_spheres_are_hard_spheres() -> None:
    """The Percus-Yevick compressibility: S(0) = (1 - eta)^4 / (1 + 2 eta)^2."""
    density = 0.2 / (pi / 6 * 40.0**3)
    found = charged_spheres(np.array([1e-4]), 40.0, density, 1e-4, 1e-5)
    assert found == pytest.approx(0.8**4 / 1.4**2, rel=1e-5)


@pytest.mark.parametrize(
    ("radius", "fraction", "charge", "salt", "expected"),
    [
        # from an independent implementation in C of the closed formulas of Hayter and Penfold
        (23, 0.1, 20, 0.008, [0.070619, 0.107805, 0.401640, 1.329742, 1.008493, 1.036956, 1.010007]),
        (23, 0.1, 5, 0.2, [0.438840, 0.483360, 0.647723, 0.912564, 1.084700, 0.966043, 1.003361]),
        (20, 0.02, 15, 0.0, [0.095753, 0.269541, 1.135022, 0.997356, 0.978475, 0.994501, 1.000483]),
    ],
)
def test_charged_spheres_agree_with_the_closed_formulas(
    radius: float, fraction: float, charge: float, salt: float, expected: list[float]
) -> None:
    density = fraction / (4 / 3 * pi * radius**3)
    found = charged_spheres(Q, 2.0 * radius, density, charge, salt * MOLAR)
    assert found == pytest.approx(np.array(expected), rel=1e-4)


def test_a_spheroid_with_equal_axes_is_a_sphere() -> None:
    mean, square = ellipsoid(Q, 20.0, 20.0)
    x = 20 * Q
    assert mean == pytest.approx(3 * (np.sin(x) - x * np.cos(x)) / x**3)
    assert square == pytest.approx(mean**2)


def test_the_model_describes_the_measured_curve() -> None:
    q, intensity, error, _ = measured()
    assert q.shape == (97,)
    theory = micelles(q, 97.82, 0.338, 15.0, 5.54, 4.629, 0.0655)
    assert np.sum(((theory - intensity) / error) ** 2) / (97 - 6) < 1


def test_the_whole_space_between_the_demonstration_s_limits_is_finite() -> None:
    q = measured()[0]
    low = np.array([40, 0.05, 8, 1, 2, 0])
    high = np.array([160, 0.95, 20, 12, 8, 0.3])
    points = np.random.default_rng(1).uniform(low, high, (100, 6))
    assert all(np.all(np.isfinite(micelles(q, *point))) for point in points)
