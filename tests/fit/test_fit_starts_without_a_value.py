"""Starts without a value: a logarithm below zero, or counts whose model has no rate. A method learns nothing there."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.optimize import curve_fit

from park.fit import Assembly, Data, Model, Parameter
from park.fit.methods.monitor import ModelFailed
from tests.support.inline import fit

pytest.importorskip("bumps")
from bumps.curve import PoissonCurve
from bumps.fitproblem import FitProblem


@pytest.mark.parametrize("method", ["auto", "lm", "amoeba", "newton", "de"])
@pytest.mark.parametrize("start", [(-5.0, 1.0), (-1.0, -1.0), (0.0, 0.0)])
def test_the_fit_begins_elsewhere_and_says_so(method: str, start: tuple[float, float]) -> None:
    x = np.linspace(0, 10, 40)
    y = np.log(2 + 0.8 * x) + 0.05 * np.random.default_rng(12).normal(size=40)

    def model(x: Any, a: float, b: float) -> Any:
        return np.log(a + b * x)

    limits = {"a": Parameter(start[0], limits=(-20, 20)), "b": Parameter(start[1], limits=(-5, 5))}
    result = fit(Assembly((Model(model, **limits), Data(x, y, dy=0.05))), method)
    right, cov = curve_fit(model, x, y, (2, 0.8), sigma=np.full(40, 0.05), absolute_sigma=True)
    assert result.converged
    assert np.abs(result.x - right).max() < 0.02 * np.sqrt(cov.min(initial=1, where=np.eye(2) > 0))
    assert result.dx == pytest.approx(np.sqrt(np.diag(cov)), rel=0.02)
    assert "no value at the start: the fit began at a=" in result.message


@pytest.mark.parametrize("method", ["auto", "newton"])
@pytest.mark.parametrize("a", [3.0, -5.0])
def test_counts_stay_counts(method: str, a: float) -> None:
    """bumps gives a likelihood of 1e308 where a rate is negative, at each such point the same."""
    x = np.linspace(0, 10, 40)
    counts = np.random.default_rng(5).poisson(2 + 0.8 * x)

    def problem(a: float) -> Any:
        curve = PoissonCurve(lambda x, a, b: a + b * x, x, counts, a=a, b=1.0)
        curve.a.range(-20, 20)
        curve.b.range(-5, 5)
        return FitProblem(curve)

    result = fit(Assembly(problem(a)), method)
    # Fisher's scores: the maximum of the likelihood
    rate = result.x[0] + result.x[1] * x
    inverse = np.linalg.inv(np.array([[np.sum(u * v * counts / rate**2) for u in (1, x)] for v in (1, x)]))
    score = np.array([np.sum(counts / rate - 1), np.sum(x * (counts / rate - 1))])
    assert result.converged
    assert np.abs(inverse @ score).max() < 0.03 * result.dx.min()
    assert result.dx == pytest.approx(np.sqrt(np.diag(inverse)), rel=0.01)
    assert result.statistic == "deviance per degree of freedom"


def test_a_likelihood_without_a_value_names_the_rate() -> None:
    curve = PoissonCurve(lambda x, a: np.where(x < 2, a, 0.0), np.arange(4.0), np.array([3, 2, 0, 0]), a=1.0)
    curve.a.range(0.1, 9)
    with pytest.raises(ModelFailed, match="counts need a rate above zero"):
        fit(Assembly(FitProblem(curve)))
