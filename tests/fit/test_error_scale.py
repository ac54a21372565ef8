"""Standard errors of models whose shortest differences say nothing about a standard error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from park.fit import Assembly, Data, FitResult, Model, Parameter
from park.fit.numerics.covariance import curvature
from park.fit.numerics.profile_check import ProfileCheck, check_profile
from tests.support.inline import fit

pytest.importorskip("bumps")
from bumps.curve import PoissonCurve
from bumps.fitproblem import FitProblem

Array = np.ndarray[Any, Any]
X = np.linspace(0, 5, 25)
DY = np.full(25, 0.2)
START = np.array([2.0, 1.0])
#: Covariance of the slope and offset of a line through X.
LINE = np.linalg.inv((design := np.column_stack([X, np.ones(25)]) / DY[:, None]).T @ design)


def rippled(strength: float, first: float, second: float) -> Callable[[Array, float, float], Array]:
    def ripple(x: Array, a: float, b: float) -> Array:
        wave: Array = a * x + b + strength * np.sin(first * a + second * b)
        return wave

    return ripple


def stepped(width: float) -> Callable[[Array, float, float], Array]:
    def steps(x: Array, a: float, b: float) -> Array:
        stairs: Array = np.round(a / width) * width * x + np.round(b / width) * width
        return stairs

    return steps


def errors_of(model: Callable[..., Array], seed: int = 0) -> Array:
    y = START[0] * X + START[1] + np.random.default_rng(seed).normal(0, 0.2, 25)
    best = LINE @ (np.column_stack([X, np.ones(25)]).T @ (y / 0.04))
    assembly = Assembly((Model(model, a=(0, 5), b=(-5, 5)), Data(X, y, DY)))
    local = curvature(assembly.objective, best)
    result: Array = np.sqrt(np.diag(local.cov)) / np.sqrt(np.diag(LINE))
    return result


@settings(max_examples=25, deadline=None)
@given(st.floats(-5, -3), st.floats(3, 9), st.floats(2, 9), st.integers(0, 100))
def test_a_fast_ripple_leaves_the_errors(strength: float, first: float, second: float, seed: int) -> None:
    found = errors_of(rippled(10**strength, 10**first, 10**second), seed)
    assert found == pytest.approx(1, abs=0.45)


@settings(max_examples=10, deadline=None)
@given(st.floats(-6, -2.5), st.integers(0, 100))
def test_a_stepped_model_has_the_errors_of_its_slope(width: float, seed: int) -> None:
    assert errors_of(stepped(10**width), seed) == pytest.approx(1, abs=0.45)


@pytest.mark.parametrize("method", ["auto", "amoeba"])
def test_a_result_says_that_long_steps_were_taken(method: str) -> None:
    y = START[0] * X + START[1] + np.random.default_rng(1).normal(0, 0.2, 25)
    found = fit(Assembly((Model(stepped(1e-3), a=(0, 5), b=(-5, 5)), Data(X, y, DY))), method)
    assert found.converged
    assert "steps of about one standard error" in found.message
    assert found.dx == pytest.approx(np.sqrt(np.diag(LINE)), rel=0.2)


def test_counts_of_a_stepped_model() -> None:
    """Given Poisson's likelihood, the errors are those of second differences over a standard error."""
    counts = np.random.default_rng(3).poisson(30 + 4 * X)

    def errors(model: Callable[..., Array]) -> Array:
        curve = PoissonCurve(model, X, counts, a=4.0, b=30.0)
        curve.a.range(0, 50)
        curve.b.range(0, 500)
        found = fit(FitProblem(curve), "amoeba")
        assert found.converged
        return found.dx

    assert errors(stepped(1e-3)) == pytest.approx(errors(lambda x, a, b: a * x + b), rel=0.2)


def test_a_smooth_model_that_is_not_quadratic_keeps_its_errors() -> None:
    """Given errors as large as the bend of the likelihood, the fit says so, and its errors are those of its slopes."""
    x = np.array([1.0, 2.0, 3.0])
    model = Model(lambda x, a: np.exp(a * x), a=(-20, 20))
    found = fit(Assembly((model, Data(x, np.exp(-0.3 * x), np.ones(3)))))
    slopes = x * np.exp(-0.3 * x)
    assert found.dx == pytest.approx((slopes @ slopes) ** -0.5, rel=1e-3)
    assert "not quadratic within one standard error of a" in found.message


def check_of(nllf: Callable[[Array], float], k: int) -> ProfileCheck:
    zero, unit, limits = np.zeros(k), np.eye(k), np.full(k, 9.0)
    return check_profile(nllf, zero, nllf(zero), zero, np.ones(k), unit, -limits, limits)


def test_a_lower_point_within_one_standard_error_is_found() -> None:
    def nllf(x: Array) -> float:
        return float(0.5 * x @ x - 3 * np.exp(-50 * (x[0] - 1) ** 2))

    check = check_of(nllf, 2)
    assert check.drop == pytest.approx(2.5)
    assert check.lowest == pytest.approx([1, 0])


def test_a_smooth_fit_costs_one_evaluation_for_each_parameter() -> None:
    count = 0

    def nllf(x: Array) -> float:
        nonlocal count
        count += 1
        return float(0.5 * x @ x)

    check = check_of(nllf, 4)
    assert check.far == pytest.approx([1, 1, 1, 1])
    assert count == 1 + 4


def test_a_rate_whose_decay_is_over_is_on_a_plateau() -> None:
    """Given a start at which a decay is nearly over, its tiny slope promises an error that nothing bears out."""
    x = np.linspace(0.5, 10, 40)
    y = 1 + 0.8 * np.exp(-0.3 * x) + np.random.default_rng(5).normal(0, 0.01, x.size)
    model = Model(
        lambda x, a, b, rate: a + b * np.exp(-rate * x),
        a=Parameter(1.0),
        b=Parameter(-0.8),
        rate=Parameter(35.0),
    )
    assembly = Assembly((model, Data(x, y, np.full(x.size, 0.01))))
    stuck = curvature(assembly.objective, np.array([y.mean(), -0.8, 35.0]))
    assert np.isinf(stuck.cov[2, 2]) or stuck.flat
    found = fit(assembly, "auto")
    assert found.converged
    assert found.x[2] == pytest.approx(0.3, abs=0.1)


@pytest.mark.parametrize(("lowest", "highest"), [(1.96, 9.0), (-9.0, 1.99), (1.96, 1.99)])
def test_a_model_that_fails_within_a_standard_error_keeps_its_errors(lowest: float, highest: float) -> None:
    """Given a model that raises half a standard error from the best point, the errors are those of its slopes."""

    def fragile(x: Array, a: float, b: float) -> Array:
        if not lowest < a < highest:
            raise ValueError("no value there")
        return a * x + b

    y = START[0] * X + START[1] + np.random.default_rng(1).normal(0, 0.2, 25)
    parameters = {"a": Parameter(1.975, limits=(0, 5)), "b": Parameter(1.0, limits=(-5, 5))}
    found = fit(Assembly((Model(fragile, **parameters), Data(X, y, DY))))
    assert found.converged
    assert found.dx == pytest.approx(np.sqrt(np.diag(LINE)), rel=1e-3)


def test_counts_of_a_model_that_fails_within_a_standard_error() -> None:
    counts = np.random.default_rng(3).poisson(30 + 4 * X)
    lowest, highest = -np.inf, np.inf

    def fragile(x: Array, a: float, b: float) -> Array:
        if not lowest < a < highest:
            raise ValueError("no value there")
        return a * x + b

    def fitted(start: tuple[float, float]) -> FitResult:
        curve = PoissonCurve(fragile, X, counts, a=start[0], b=start[1])
        curve.a.range(0, 50)
        curve.b.range(0, 500)
        return fit(FitProblem(curve), "auto")

    whole = fitted((4.0, 30.0))
    lowest, highest = whole.x[0] - whole.dx[0] / 2, whole.x[0] + whole.dx[0] / 2
    found = fitted((whole.x[0], whole.x[1]))
    assert found.x == pytest.approx(whole.x, abs=0.05 * whole.dx.min())
    assert found.dx == pytest.approx(whole.dx, rel=1e-3)
