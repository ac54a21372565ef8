"""Minima where the slope of the model jumps, as that of abs(a) at zero: there is no derivative, but there is an error."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from park.fit import Assembly, Data, FitResult, Model
from tests.support.inline import fit

X = np.linspace(0, 1, 50)
DY = 0.05
#: scatter without a component along a line
SCATTER = DY * np.random.default_rng(3).normal(size=X.size)
SCATTER = SCATTER - np.polyval(np.polyfit(X, SCATTER, 1), X)


def fitted(method: str, slope: float, kink: float) -> FitResult:
    """The fit of a line whose slope is abs(a - kink), which cannot be negative, to a line with another *slope*."""

    def line(x: Any, a: float, b: float) -> Any:
        return b + abs(a - kink) * x

    model = Model(line, a=(kink - 3, kink + 2), b=(0, 5))
    return fit(Assembly((model, Data(X, 2 + slope * X + SCATTER, dy=DY))), method)


def half_width(slope: float) -> float:
    """Half the width of the range of a in which nllf, minimised over b, exceeds its minimum by at most 1/2."""
    steps = np.linspace(0, 0.1, 20_001)
    away = 2 + slope * X + SCATTER - steps[:, None] * X
    away -= away.mean(axis=1, keepdims=True)
    nllf = np.sum(np.square(away), axis=1) / (2 * DY**2)
    return float(steps[np.argmax(nllf > nllf[0] + 0.5)])


@pytest.mark.parametrize("method", ["auto", "lm", "amoeba", "newton", "de"])
@settings(max_examples=4, deadline=None)
@given(slope=st.floats(-0.6, -0.01), kink=st.floats(-5, 5))
def test_the_error_of_a_minimum_at_a_kink(method: str, slope: float, kink: float) -> None:
    result = fitted(method, slope, kink)
    right = half_width(slope)
    if result.converged:
        assert abs(result["a"].value - kink) < 0.2 * right
        assert result["a"].stderr == pytest.approx(right, rel=0.15)
        assert "one standard error" in result.message or "far above 1" in result.message
    else:
        assert result.message


@pytest.mark.parametrize("method", ["auto", "lm", "amoeba"])
def test_a_fit_at_a_kink_can_converge(method: str) -> None:
    assert fitted(method, -0.05, 0.0).converged


def test_a_parameter_that_the_model_rounds_is_not_blamed_on_its_limits() -> None:
    def line(x: Any, n: float, b: float) -> Any:
        return b * np.round(n) * x

    # the start, 1.5, is where rounding jumps
    model = Model(line, n=(-3, 6), b=(0.5, 1.5))
    result = fit(Assembly((model, Data(X, 3 * X + SCATTER, dy=DY))), "de", steps=50)
    assert not result.converged
    assert "rounds it" in result.message
    assert "limits" not in result.message


def test_a_smooth_model_far_from_its_data_keeps_the_errors_of_its_jacobian() -> None:
    """Its second derivatives times large residuals change the rise of nllf at all distances alike: that is no kink."""

    def wave(x: Any, a: float, w: float) -> Any:
        return a * np.sin(w * x)

    y = np.sin(20 * X) - 0.8 * np.sin(24 * X)
    result = fit(Assembly((Model(wave, a=(0, 5), w=(15, 25)), Data(X, y))), "lm")
    a, w = result.x
    design = np.stack([np.sin(w * X), a * X * np.cos(w * X)], axis=1)
    scatter = np.sum(np.square(wave(X, a, w) - y)) / (X.size - 2)
    assert result.dx == pytest.approx(np.sqrt(np.diag(np.linalg.inv(design.T @ design)) * scatter), rel=1e-4)
