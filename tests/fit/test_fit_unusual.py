"""Fits of unusual problems: penalties that begin late, mixed likelihoods, limits of computed parameters, rough models."""

from __future__ import annotations

import decimal
from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize

from park.errors import InvalidRequest
from park.fit import Assembly, Data, Model, Parameter
from park.fit.bodies import check_earlier
from tests.support.inline import fit, sample

pytest.importorskip("bumps")
from bumps.curve import Curve, PoissonCurve
from bumps.fitproblem import FitProblem
from bumps.parameter import Parameter as BumpsParameter

Array = np.ndarray[Any, Any]
X = np.linspace(0, 10, 40)


def line(x: Array, a: float, b: float) -> Array:
    return a * x + b


def decay(x: Array, height: float, rate: float) -> Array:
    return height * np.exp(-rate * x)


def minimum(nllf: Any, start: list[float]) -> Array:
    """The minimum of a function, by a simplex that restarts."""
    x = np.array(start)
    for _ in range(3):
        options = {"xatol": 1e-11, "fatol": 1e-14, "maxiter": 20_000, "maxfev": 20_000}
        x = minimize(nllf, x, method="Nelder-Mead", options=options).x
    return x


class TestLikelihoods:
    class Penalised(Curve):  # type: ignore[misc]
        def nllf(self) -> float:
            return float(super().nllf() + 50 * max(0.0, self.a.value - 1.8) ** 2)

    @pytest.mark.parametrize("method", ["auto", "lm", "amoeba"])
    def test_a_penalty_that_begins_after_the_start(self, method: str) -> None:
        y = 2 * X + 1 + np.random.default_rng(2).normal(0, 0.5, X.size)
        curve = self.Penalised(line, X, y, np.full(X.size, 0.5), a=1.0, b=0.0)
        curve.a.range(-5, 5)
        curve.b.range(-5, 5)
        design = np.vstack([np.column_stack([X, np.ones(X.size)]) / 0.5, [10.0, 0.0]])
        right = np.linalg.lstsq(design, np.append(y / 0.5, 18.0), rcond=None)[0]
        errors = np.sqrt(np.diag(np.linalg.inv(design.T @ design)))
        found = fit(FitProblem(curve), method)
        assert right[0] > 1.8
        assert found.converged
        assert found.x == pytest.approx(right, abs=0.02 * errors.min())
        assert found.dx == pytest.approx(errors, rel=1e-3)

    @pytest.mark.parametrize("unit", [1.0, 1e-3])
    def test_counts_beside_data_without_errors(self, unit: float) -> None:
        rng = np.random.default_rng(6)
        counts, y = rng.poisson(decay(X, 30, 0.3)), decay(X, 5, 0.3) + rng.normal(0, 0.5, X.size)
        one = PoissonCurve(decay, X, counts, height=20, rate=0.3)
        one.height.range(1, 100)
        one.rate.range(0.01, 5)
        two = Curve(lambda x, height, rate: unit * decay(x, height, rate), X, unit * y, height=3, name="g")
        two.height.range(0, 50)
        two.rate = one.rate

        def nllf(p: Array) -> float:
            rate = decay(X, p[0], p[1])
            scatter = np.sum((decay(X, p[2], p[1]) - y) ** 2)
            return float(np.sum(rate - counts * np.log(rate)) + X.size / 2 * np.log(scatter))

        found = fit(FitProblem([one, two]))
        assert found.x == pytest.approx(minimum(nllf, [30, 0.3, 5]), rel=1e-4)
        assert found.statistic == "deviance per degree of freedom"
        assert 0.5 < found.chisq < 1.5

    def test_the_deviance_of_a_model_with_a_weight(self) -> None:
        counts = np.random.default_rng(1).poisson(decay(X, 30, 0.3))

        def weighed(weight: float) -> Any:
            curve = PoissonCurve(decay, X, counts, height=20, rate=0.3)
            curve.height.range(1, 100)
            curve.rate.range(0.01, 5)
            return fit(FitProblem([curve], weights=[weight]))

        one, half = weighed(1.0), weighed(0.5)
        assert half.x == pytest.approx(one.x, rel=1e-4)
        assert half.dx == pytest.approx(2 * one.dx, rel=1e-3)
        assert half.chisq == pytest.approx(one.chisq / 4)

    def test_no_count_at_all_ends_at_the_limit(self) -> None:
        curve = PoissonCurve(lambda x, rate: rate + 0 * x, X, np.zeros(X.size), rate=1.0)
        curve.rate.range(1e-6, 10)
        found = fit(FitProblem(curve))
        assert found.converged
        assert found.at_limit == ("rate",)

    def test_as_many_parameters_as_points_of_a_curve_without_errors(self) -> None:
        def problem(points: int) -> Any:
            curve = Curve(line, X[:points], 2 * X[:points] + np.sin(9 * X[:points]), a=0, b=0)
            curve.a.range(-9, 9)
            curve.b.range(-9, 9)
            return FitProblem(curve)

        with pytest.warns(UserWarning, match="more data points"):
            full = problem(2)
        assert np.isinf(fit(full).dx).all()
        with pytest.raises(InvalidRequest, match="dy"):
            sample(full)
        assert fit(problem(20)).statistic == "residual variance (dy unknown)"


class TestConditions:
    @pytest.mark.parametrize("method", ["auto", "lm"])
    def test_limits_of_a_computed_parameter_of_bumps(self, method: str) -> None:
        rng = np.random.default_rng(3)
        y = decay(X, 5, 0.5) + rng.normal(0, 0.1, X.size)
        curve = Curve(decay, X, y, np.full(X.size, 0.1), height=4, rate=0.4)
        curve.height.range(0, 20)
        curve.rate.range(0.01, 5)
        product = BumpsParameter(1.0, name="product", limits=(0, 2.2))
        product.equals(curve.height * curve.rate)
        other = Curve(lambda x, z: z + 0 * x, [0.0, 1.0], [2.6, 2.6], [10.0, 10.0], z=product)

        def nllf(height: float) -> float:  # along the condition
            return float(np.sum(((decay(X, height, 2.2 / height) - y) / 0.1) ** 2))

        heights = np.linspace(4, 6, 200_001)
        rough = heights[np.argmin([nllf(h) for h in heights[::1000]]) * 1000]
        right = minimum(lambda p: nllf(p[0]), [rough])[0]
        found = fit(FitProblem([curve, other]), method)
        assert found.converged
        assert found["height"].value == pytest.approx(right, rel=1e-5)
        assert found["height"].value * found["rate"].value <= 2.2
        assert np.isfinite(found.dx).all()
        assert set(found.at_limit) == {"height", "rate"}

    def test_an_equation_is_no_constraint(self) -> None:
        curve = Curve(line, X, X, np.ones(X.size), a=1, b=1)
        curve.a.range(0, 2)
        curve.b.range(0, 2)
        with pytest.raises(InvalidRequest, match=r"constraint 1 of the problem is False, .*equals"):
            Assembly(FitProblem(curve, constraints=[curve.a == curve.b]))

    def test_a_computed_parameter_at_its_limit_has_no_error(self) -> None:
        y = decay(X, 5, 0.5)
        model = Model(
            lambda x, height, rate, product: decay(x, height, rate) + 0 * product,
            height=(0, 8),
            rate=(0.01, 1),
            product=Parameter(expression="height * rate", limits=(-np.inf, 2.2)),
        )
        assert fit(Assembly((model, (X, y, 0.1))))["product"].stderr == pytest.approx(0, abs=1e-6)


class TestConvergence:
    @staticmethod
    def rough(noise: float) -> Any:
        """A line with noise that depends on the parameters, as of an integral by sampling."""
        table = np.random.default_rng(0).normal(0, noise, 100_000)
        return lambda x, a, b: a * x + b + table[np.abs(a * x * 1e7 + b * 3e6).astype(int) % 100_000]

    @pytest.mark.parametrize("noise", [1e-6, 1e-4, 1e-3])
    @pytest.mark.parametrize("method", ["auto", "lm"])
    def test_a_rough_model_has_right_errors_or_says_so(self, noise: float, method: str) -> None:
        y = 2 * X + 1 + np.random.default_rng(8).normal(0, 0.5, X.size)
        design = np.column_stack([X, np.ones(X.size)]) / 0.5
        errors = np.sqrt(np.diag(np.linalg.inv(design.T @ design)))
        found = fit(Assembly((Model(self.rough(noise), a=(-9, 9), b=(-9, 9)), (X, y, 0.5))), method)
        assert found.dx == pytest.approx(errors, rel=0.1)
        assert found.converged or method == "lm"
        if found.converged:
            assert (found.x - np.linalg.lstsq(design, y / 0.5, rcond=None)[0]) / errors == pytest.approx(
                [0, 0], abs=0.2
            )

    @pytest.mark.parametrize("method", ["auto", "lm", "newton"])
    def test_no_parameter_has_an_effect(self, method: str) -> None:
        bell = Model(
            lambda x, a, c: a * np.exp(-50 * (x - c) ** 2), a=(0, 2), c=Parameter(30.0, limits=(0, 100))
        )
        found = fit(Assembly((bell, (X, 3 * np.exp(-50 * (X - 5) ** 2)))), method)
        assert not found.converged
        assert "does not change with a, c" in found.message

    @pytest.mark.parametrize("method", ["auto", "lm", "amoeba", "newton"])
    @pytest.mark.parametrize("limits", [{"limits": (0, 4)}, {}])
    def test_a_parameter_that_does_nothing_leaves_the_others_right(
        self, method: str, limits: dict[str, Any]
    ) -> None:
        model = Model(lambda x, a, b, c: a * x + b + 0 * c, a=(-9, 9), b=(-9, 9), c=Parameter(3.0, **limits))
        y = 2 * X + 1 + 0.1 * np.cos(37 * X)
        found = fit(Assembly((model, (X, y, 0.1))), method)
        design = np.stack([X, np.ones_like(X)], axis=1) / 0.1
        assert found.converged
        assert found.x[:2] == pytest.approx(np.polyfit(X, y, 1), abs=5e-3)
        assert found.dx[:2] == pytest.approx(np.sqrt(np.diag(np.linalg.inv(design.T @ design))), rel=1e-3)
        assert np.isinf(found.dx[2])
        assert "the data do not determine c" in found.message

    def test_chains_of_pt_may_stay_where_they_are(self) -> None:
        """One of the proposals with this seed is the point of its chain, which bumps takes for an error."""
        t = np.linspace(0, 10, 40)
        y = 2 * t + 1 + np.random.default_rng(0).normal(0, 0.5, 40)
        line = Model(lambda x, a, b: a * x + b, a=(-5, 10), b=(-50, 50))
        found = fit(Assembly((line, (t, y, 0.5))), "pt", steps=30, seed=8)
        assert found.x == pytest.approx(np.polyfit(t, y, 1), abs=0.1)

    def test_a_maximum_is_no_minimum(self) -> None:
        square = Model(lambda x, a: a * a * x, a=Parameter(0.0, limits=(-9, 9)))
        found = fit(Assembly((square, (X, 4 * X, 0.1))), "newton")
        assert abs(found.x[0]) == pytest.approx(2, abs=1e-3) or not found.converged


def test_one_error_for_all_may_be_any_number() -> None:
    assert Data(X, X, decimal.Decimal("0.5")).dy == pytest.approx(np.full(X.size, 0.5))


class TestSampling:
    @staticmethod
    def line(high: float) -> Assembly:
        y = 2 * X + 1 + np.random.default_rng(8).normal(0, 0.5, X.size)
        return Assembly((Model(line, a=(-9, 9), b=(-9, high)), (X, y, 0.5)))

    @pytest.mark.parametrize("high", [1.6, 20.0])
    def test_draws_between_other_limits_are_not_continued(self, high: float) -> None:
        earlier = sample(self.line(9.0), samples=200, max_samples=200, seed=1)
        with pytest.raises(InvalidRequest, match="between -9 and 9, and its limits are -9 and"):
            check_earlier(self.line(high), earlier)
        check_earlier(self.line(9.0), earlier)

    def test_the_largest_number_of_samples_is_not_below_the_first(self) -> None:
        with pytest.raises(InvalidRequest, match="max_samples=100 is below samples=1000"):
            sample(self.line(9.0), samples=1000, max_samples=100)
