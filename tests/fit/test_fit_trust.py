"""Numbers that a fit reports against theory and other libraries.

Likelihoods that are no sum of squares, priors, limits and constraints, fits that have not converged, unknown errors, size.
A method may refuse in words what it cannot do, and newton may say that it has not converged. All else has to be right.
"""

from __future__ import annotations

import inspect
import json
import math
import pickle
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from scipy.linalg import null_space
from scipy.optimize import curve_fit, minimize, minimize_scalar

from park.errors import InvalidRequest, ParkError
from park.fit import Assembly, Data, Fit, FitResult, Model, Parameter
from park.fit.numerics.covariance import curvature
from tests.support.inline import fit, sample

pytest.importorskip("bumps")
from bumps.curve import Curve, PoissonCurve
from bumps.fitproblem import FitProblem

DEFAULT = inspect.signature(Fit).parameters["method"].default
#: Methods that end at a minimum, not near it.
OPTIMIZERS = [
    *("auto", "lm", "amoeba"),
    *(pytest.param(method, marks=pytest.mark.heavy) for method in ("de", "newton")),
]
#: The most standard errors by which a converged fit may be off: 0.01 in the likelihood.
NEAR = 0.15
Array = np.ndarray[Any, Any]


def errors(cov: Array) -> Array:
    return np.sqrt(np.diag(cov))


def attempt(assembly: Any, method: str, **given: Any) -> FitResult | None:
    """The result; None where the method refuses and names others, or where newton says that it has not got there."""
    if method in (DEFAULT, "amoeba", "de"):
        found = fit(assembly, method, **given)
    else:
        try:
            found = fit(assembly, method, **given)
        except InvalidRequest as refusal:
            words = str(refusal)
        else:
            words = ""
        if words:
            assert any(f"'{name}'" in words for name in ("amoeba", "de", DEFAULT)), words
            return None
    if method == "newton" and not found.converged:
        assert found.message
        return None
    return found


def agrees(found: FitResult, x: Any, dx: Any, near: float = 1e-2, rel: float = 5e-3) -> None:
    """*found* is the minimum *x* to a small part of its errors, and these are *dx*."""
    x, dx = np.asarray(x, float), np.asarray(dx, float)
    if found.method == "newton":  # it stops where little is left to gain
        near, rel = NEAR, 5e-2
    assert (found.x - x) / dx == pytest.approx(0, abs=near)
    assert found.dx == pytest.approx(dx, rel=rel)


class TestLikelihoods:
    """Errors are those of the curvature of nllf where it is not half the sum of squared residuals."""

    def counted(self) -> tuple[FitProblem, Array, Array, Array]:
        """Few counts about exp(a + b t): the curvature is the same, seen or expected."""
        t = np.linspace(-1, 1, 25)
        y = np.random.default_rng(21).poisson(np.exp(1.1 + 0.9 * t)).astype(float)
        curve = PoissonCurve(lambda t, a, b: np.exp(a + b * t), t, y, a=0.4, b=0.2)
        curve.a.range(-3, 4)
        curve.b.range(-3, 3)
        design = np.stack([np.ones_like(t), t], axis=1)
        x = np.zeros(2)
        for _ in range(50):  # Fisher's scoring
            mean = np.exp(design @ x)
            x = x + np.linalg.solve(design.T @ (mean[:, None] * design), design.T @ (y - mean))
        mean = np.exp(design @ x)
        cov = np.linalg.inv(design.T @ (mean[:, None] * design))
        with np.errstate(all="ignore"):
            deviance = 2 * np.sum(np.where(y > 0, y * np.log(y / mean), 0) - y + mean)
        return FitProblem(curve), x, cov, deviance / (y.size - 2)

    @pytest.mark.parametrize("method", OPTIMIZERS)
    def test_counts_have_fishers_errors(self, method: str) -> None:
        problem, x, cov, deviance = self.counted()
        if (found := attempt(problem, method)) is not None:
            agrees(found, x, errors(cov))
            assert found.cov[0, 1] == pytest.approx(cov[0, 1], rel=1e-2)
            assert found.converged
            assert found.chisq == pytest.approx(deviance, rel=1e-3)
            assert found.statistic == "deviance per degree of freedom"

    def test_a_rate_without_counts_in_most_bins(self) -> None:
        y = np.zeros(60)
        y[[3, 20, 21, 44]] = [1, 2, 1, 1]
        curve = PoissonCurve(lambda t, rate: rate + 0 * t, np.arange(60.0), y, rate=1.0)
        curve.rate.range(0, 20)
        found = fit(FitProblem(curve))
        assert found.x == pytest.approx([5 / 60], rel=1e-3)
        assert found.dx == pytest.approx([math.sqrt(5) / 60], rel=1e-2)

    @pytest.mark.parametrize("method", ["auto", "amoeba", "de", "newton"])
    def test_no_counts_at_all_are_a_minimum_at_the_limit(self, method: str) -> None:
        """nllf is a straight line there: no second derivative, and the slope holds the rate at its limit."""
        t = np.linspace(1.0, 2.0, 32)
        curve = PoissonCurve(lambda t, rate: rate * t, t, np.zeros(t.size), rate=2.0)
        curve.rate.range(0, 30)
        found = fit(FitProblem(curve), method)
        assert found.converged, found.message
        assert found.x == pytest.approx([0], abs=1e-6)
        assert found.at_limit == ("rate",)
        assert found.dx == pytest.approx([0.5 / t.sum()], rel=1e-3)
        assert "rises by 1/2" in found.message

    @pytest.mark.parametrize("method", ["auto", "amoeba", "de"])
    @pytest.mark.parametrize("counts", [0, 3])
    def test_limits_far_wider_than_the_counts_tell(self, counts: int, method: str) -> None:
        t = np.linspace(0, 3, 30)
        y = np.zeros(30)
        y[:counts] = 1.0
        curve = PoissonCurve(lambda t, a, b: a * np.exp(-t) + b, t, y, a=1.0, b=1.0)
        curve.a.range(0, 1e4)
        curve.b.range(0, 1e3)
        found = fit(FitProblem(curve), method)
        fall = np.exp(-t)
        best = minimize_scalar(  # the background is zero
            lambda a: a * fall.sum() - np.sum(y * np.log(a * fall)), bounds=(1e-9, 20), method="bounded"
        )
        assert found.converged, found.message
        assert found.nllf == pytest.approx(best.fun, abs=0.02)
        assert found.x[found.names.index("b")] == pytest.approx(0, abs=2e-3)

    def test_a_background_without_counts_leaves_the_errors_of_the_signal(self) -> None:
        t = np.arange(16.0)
        y = np.where(t < 8, np.random.default_rng(5).poisson(40.0, t.size), 0).astype(float)
        curve = PoissonCurve(lambda t, signal, dark: signal * (t < 8) + dark, t, y, signal=9.0, dark=0.5)
        curve.signal.range(0, 500)
        curve.dark.range(0, 50)
        found = fit(FitProblem(curve))
        assert found.converged, found.message
        assert found.x == pytest.approx([0, y.sum() / 8], abs=2e-3)
        assert found.dx == pytest.approx([0.5 / 8, math.sqrt(y.sum()) / 8], rel=1e-2)
        assert found.at_limit == ("dark",)

    @pytest.mark.heavy
    def test_a_sample_of_counts_agrees(self) -> None:
        problem, x, cov, _ = self.counted()
        found = sample(problem, x, samples=4000)
        assert found.dx == pytest.approx(errors(cov), rel=0.15)

    @pytest.mark.parametrize("method", OPTIMIZERS)
    def test_a_likelihood_of_ones_own(self, method: str) -> None:
        """Student's with 4 degrees of freedom, of a location: its curvature is a sum over points."""
        y = np.concatenate([np.random.default_rng(4).standard_t(4, size=30) + 7.0, [19.0]])

        class Robust(Curve):
            def nllf(self) -> float:
                z = self.residuals()
                return float(2.5 * np.sum(np.log1p(z * z / 4)))

        curve = Robust(lambda t, at: at + 0 * t, np.arange(31.0), y, np.ones(31), at=5.0)
        curve.at.range(-20, 40)
        exact = minimize_scalar(
            lambda at: np.sum(np.log1p((y - at) ** 2 / 4)), bracket=(6, 7, 8), tol=1e-13
        ).x
        z = y - exact
        second = np.sum(5 * (4 - z * z) / (4 + z * z) ** 2)
        if (found := attempt(FitProblem(curve), method)) is not None:
            agrees(found, [exact], [second**-0.5])

    @pytest.mark.parametrize("method", OPTIMIZERS)
    def test_a_penalty_counts_in_the_errors(self, method: str) -> None:
        """A ridge that a model adds to its nllf: no residual tells of it."""
        t = np.linspace(0, 1, 12)
        y = 1.5 - 0.7 * t + 0.2 * np.random.default_rng(8).normal(size=12)

        class Ridge(Curve):
            def nllf(self) -> float:
                return float(super().nllf() + 30.0 * (self.slope.value + 0.2) ** 2)

        curve = Ridge(lambda t, level, slope: level + slope * t, t, y, np.full(12, 0.2), level=1, slope=0)
        curve.level.range(-5, 5)
        curve.slope.range(-5, 5)
        design = np.stack([np.ones(12), t], axis=1) / 0.2
        curvature = design.T @ design + np.diag([0, 60.0])
        x = np.linalg.solve(curvature, design.T @ (y / 0.2) + [0, 60.0 * -0.2])
        if (found := attempt(FitProblem(curve), method)) is not None:
            agrees(found, x, errors(np.linalg.inv(curvature)))


class TestPriors:
    T = np.linspace(0, 4, 30)
    Y = 2.0 * T + 0.5 + 0.3 * np.random.default_rng(17).normal(size=30)
    DESIGN = np.stack([T, np.ones(30)], axis=1) / 0.3

    def line(self, t: Any, slope: float, level: float) -> Any:
        return slope * t + level

    def known(self, mean: float, sigma: float) -> tuple[Array, Array]:
        curvature = self.DESIGN.T @ self.DESIGN + np.diag([sigma**-2, 0])
        x = np.linalg.solve(curvature, self.DESIGN.T @ (self.Y / 0.3) + [mean / sigma**2, 0])
        return x, np.linalg.inv(curvature)

    @pytest.mark.parametrize("sigma", [0.01, 0.05, 10.0])
    @pytest.mark.parametrize("method", OPTIMIZERS)
    def test_a_normal_prior(self, method: str, sigma: float) -> None:
        slope = Parameter(1.0, limits=(-5, 5), prior=(1.8, sigma))
        model = Model(self.line, slope=slope, level=Parameter(0.0, limits=(-5, 5)))
        x, cov = self.known(1.8, sigma)
        if (found := attempt(Assembly((model, (self.T, self.Y, 0.3))), method)) is not None:
            agrees(found, x, errors(cov))

    @pytest.mark.parametrize("method", OPTIMIZERS)
    def test_bumps_own_normal_prior(self, method: str) -> None:
        curve = Curve(self.line, self.T, self.Y, np.full(30, 0.3), slope=1.0, level=0.0)
        curve.slope.dev(0.05, mean=1.8)
        curve.level.range(-5, 5)
        x, cov = self.known(1.8, 0.05)
        if (found := attempt(FitProblem(curve), method)) is not None:
            names = [("slope", "level").index(name) for name in found.names]
            agrees(found, x[names], errors(cov)[names])

    @pytest.mark.parametrize("method", OPTIMIZERS)
    def test_a_soft_limit(self, method: str) -> None:
        """Beyond its range a parameter pays as for a normal prior at the range's end."""
        curve = Curve(self.line, self.T, self.Y, np.full(30, 0.3), slope=1.0, level=0.0)
        try:
            curve.slope.soft_range(0, 1.8, std=0.05)
        except TypeError:
            pytest.skip("this release of bumps has no soft limits that work")
        curve.level.range(-5, 5)
        x, cov = self.known(1.8, 0.05)
        if (found := attempt(FitProblem(curve), method)) is not None:
            names = [("slope", "level").index(name) for name in found.names]
            agrees(found, x[names], errors(cov)[names])

    @pytest.mark.heavy
    def test_a_sample_agrees(self) -> None:
        slope = Parameter(1.0, limits=(-5, 5), prior=(1.8, 0.05))
        a = Assembly((Model(self.line, slope=slope, level=(-5, 5)), (self.T, self.Y, 0.3)))
        x, cov = self.known(1.8, 0.05)
        found = sample(a, x, samples=4000)
        assert found.dx == pytest.approx(errors(cov), rel=0.15)
        assert (np.median(found.draws, axis=0) - x) / errors(cov) == pytest.approx(0, abs=0.2)


class TestMinimaWithoutASlope:
    """At ``a**2`` = 0 residuals have no slope, and their second derivatives make the minimum and its error."""

    T = np.linspace(0, 3, 40)
    Y = -3 + 0.2 * np.random.default_rng(12).normal(size=40)

    @pytest.mark.parametrize("method", OPTIMIZERS)
    @pytest.mark.parametrize("known", [True, False])
    @pytest.mark.parametrize("low", [0.0, -10.0])
    def test_the_error_is_that_of_the_likelihood(self, low: float, known: bool, method: str) -> None:
        model = Model(lambda t, a: a**2 + 0 * t, a=Parameter(1.0, limits=(low, 10)))
        found = fit(Assembly((model, (self.T, self.Y, *((0.2,) if known else ())))), method)
        sigma2 = 0.04 if known else float(self.Y @ self.Y) / 39
        assert found.converged, found.message
        assert found.x == pytest.approx([0], abs=1e-3)
        assert found.dx == pytest.approx([(2 * -self.Y.sum() / sigma2) ** -0.5], rel=5e-2)

    def test_at_the_top_of_a_wave(self) -> None:
        model = Model(lambda t, a: np.cos(a) + 0 * t, a=(-1, 1.1))
        found = fit(Assembly((model, (self.T, self.Y + 4.2, 0.2))))
        assert found.converged
        assert found.x == pytest.approx([0], abs=1e-4)
        assert found.dx == pytest.approx([(np.sum(self.Y + 3.2) / 0.04) ** -0.5], rel=5e-2)

    @pytest.mark.parametrize("seed", [1, 3])
    def test_a_model_that_rounds_its_values_has_the_errors_of_one_that_does_not(self, seed: int) -> None:
        """Short steps change nothing there, and rounding makes the likelihood rough over a standard error."""
        t = np.linspace(0, 10, 80)
        y = 2 * t + 1 + 0.1 * np.random.default_rng(seed).normal(size=80)
        model = Model(lambda t, a, b: np.round(a * t + b, 2), a=(0, 4), b=(-4, 4))
        found = fit(Assembly((model, (t, y, 0.1))))
        design = np.stack([t, np.ones(80)], axis=1) / 0.1
        cov = np.linalg.inv(design.T @ design)
        assert (np.abs(found.x - cov @ design.T @ (y / 0.1)) < 0.5 * errors(cov)).all()
        assert found.dx == pytest.approx(errors(cov), rel=5e-2)
        assert "not smooth" in found.message

    def test_exact_data_have_errors_of_their_rounding(self) -> None:
        model = Model(lambda t, a, b: a * t + b, a=(-9, 9), b=(-9, 9))
        found = fit(Assembly((model, (self.T, np.full(40, 3.0)))))
        assert (np.abs(found.x - [0, 3]) <= 30 * found.dx).all()


class TestLimits:
    T = np.linspace(0, 3, 40)
    #: a parabola whose best a + b is 4.0, or thereabouts
    Y = 1.0 + 3.0 * T - 0.8 * T**2 + 0.2 * np.random.default_rng(31).normal(size=40)
    DESIGN = np.stack([np.ones(40), T, T**2], axis=1) / 0.2

    def parabola(self, t: Any, a: float, b: float, c: float, total: float = 0.0) -> Any:
        return a + t * (b + t * c)

    def bounded(self, most: float) -> tuple[Array, Array]:
        """The best with a + b at most that (scipy), and errors of the directions that are left."""
        found = minimize(
            lambda x: 0.5 * np.sum((self.DESIGN @ x - self.Y / 0.2) ** 2),
            [0.5, 0.5, 0.0],
            jac=lambda x: self.DESIGN.T @ (self.DESIGN @ x - self.Y / 0.2),
            constraints={"type": "ineq", "fun": lambda x: most - x[0] - x[1]},
            method="SLSQP",
            options={"ftol": 1e-14},
        )
        free = null_space([[1.0, 1.0, 0.0]])
        curvature = free.T @ self.DESIGN.T @ self.DESIGN @ free
        return found.x, free @ np.linalg.inv(curvature) @ free.T

    def assembly(self, most: float) -> Assembly:
        start = {"a": 0.5, "b": 0.5, "c": 0.1}
        given: dict[str, Any] = {k: Parameter(v, limits=(-20, 20)) for k, v in start.items()}
        given["total"] = Parameter(expression="a + b", limits=(-math.inf, most))
        return Assembly((Model(self.parabola, **given), (self.T, self.Y, 0.2)))

    def problem(self, most: float) -> FitProblem:
        curve = Curve(
            lambda t, a, b, c: a + t * (b + t * c), self.T, self.Y, np.full(40, 0.2), a=0.5, b=0.5, c=0.1
        )
        for parameter in (curve.a, curve.b, curve.c):
            parameter.range(-20, 20)
        return FitProblem(curve, constraints=[curve.a + curve.b <= most])

    @pytest.mark.parametrize("method", OPTIMIZERS)
    @pytest.mark.parametrize("kind", ["assembly", "problem"])
    def test_an_inequality_that_holds_the_fit(self, kind: str, method: str) -> None:
        x, cov = self.bounded(3.0)
        if (found := attempt(getattr(self, kind)(3.0), method)) is not None:
            assert found.x[0] + found.x[1] <= 3.0 + 1e-6
            agrees(found, x, errors(cov), near=0.05, rel=2e-2)
            assert found.converged
            assert found.at_limit
            assert found.chisq == pytest.approx(np.sum((self.DESIGN @ x - self.Y / 0.2) ** 2) / 37, rel=1e-3)
            if kind == "assembly":
                assert "total" in found.at_limit

    @pytest.mark.parametrize("method", OPTIMIZERS)
    @pytest.mark.parametrize("kind", ["assembly", "problem"])
    def test_an_inequality_that_does_not(self, kind: str, method: str) -> None:
        cov = np.linalg.inv(self.DESIGN.T @ self.DESIGN)
        if (found := attempt(getattr(self, kind)(9.0), method)) is not None:
            agrees(found, cov @ self.DESIGN.T @ (self.Y / 0.2), errors(cov))
            assert found.at_limit == ()
            assert found.converged

    def test_a_curved_fence(self) -> None:
        """a * b at most 2 has no flat edge; the point is scipy's."""
        curve = Curve(
            lambda t, a, b, c: a + t * (b + t * c), self.T, self.Y, np.full(40, 0.2), a=0.5, b=0.5, c=0.1
        )
        for parameter in (curve.a, curve.b, curve.c):
            parameter.range(-20, 20)
        best = min(
            minimize(
                lambda x: 0.5 * np.sum((self.DESIGN @ x - self.Y / 0.2) ** 2),
                [a, b, -0.5],
                constraints={"type": "ineq", "fun": lambda x: 2 - x[0] * x[1]},
                method="SLSQP",
                options={"ftol": 1e-14},
            ).fun
            for a, b in ((0.5, 3.5), (2.0, 0.9))  # the fence has two arms
        )
        found = fit(FitProblem(curve, constraints=[curve.a * curve.b <= 2.0]))
        assert found.x[0] * found.x[1] <= 2 + 1e-6
        assert found.nllf == pytest.approx(best, rel=1e-3)
        assert np.isfinite(found.dx).all()

    @pytest.mark.parametrize("method", OPTIMIZERS)
    @pytest.mark.parametrize("seed", [2, 5])
    def test_a_floor_that_wants_to_be_negative(self, method: str, seed: int) -> None:
        t = np.linspace(0, 6, 50)
        y = 4 * np.exp(-t / 1.2) - 0.03 + 0.06 * np.random.default_rng(seed).normal(size=50)

        def decay(t: Any, height: float, time: float, floor: float) -> Any:
            return height * np.exp(-t / time) + floor

        best, _ = curve_fit(lambda t, h, s: decay(t, h, s, 0.0), t, y, [4, 1.2], np.full(50, 0.06))
        fall = np.exp(-t / best[1])
        design = np.stack([fall, best[0] * t / best[1] ** 2 * fall, np.ones_like(t)], axis=1) / 0.06
        model = Model(decay, height=(0, 10), time=(0.1, 9.9), floor=(0, 1))
        start = {"height": 3.0, "time": 2.0, "floor": 0.2}
        if (found := attempt(Assembly((model, (t, y, 0.06))), method, start=start)) is not None:
            agrees(found, [*best, 0.0], errors(np.linalg.inv(design.T @ design)), near=0.05, rel=2e-2)
            assert found.at_limit == ("floor",)
            assert found.converged

    @pytest.mark.parametrize("wide", [1e-1, 1e-4, 1e-6, 1e-7, 1e-8, 1e-9, 1e-11])
    @pytest.mark.parametrize("part", [0.0, 0.5, 1.0])
    def test_limits_far_narrower_than_an_error_leave_it(self, wide: float, part: float) -> None:
        """Between them nllf hardly changes, and its second differences are rounding noise."""
        t = np.linspace(0, 1, 25)
        y = 2.1 * t + 1 + 0.1 * np.sin(40 * t)
        model = Model(lambda t, a, b: a * t + b, a=(2, 2 + wide), b=(-9, 9))
        right = errors(np.linalg.inv(np.array([[t @ t, t.sum()], [t.sum(), t.size]]))) * 0.1
        objective = Assembly((model, (t, y, 0.1))).objective
        x = np.array([2 + part * wide, float(np.mean(y - (2 + part * wide) * t))])
        assert errors(curvature(objective, x).cov) == pytest.approx(right, rel=1e-3)

    def test_in_a_corner_each_parameter_is_named_once(self) -> None:
        t = np.linspace(0, 6, 40)
        curve = Curve(lambda t, a, b: a + b * t, t, 1 + 2 * t, np.full(40, 0.2), a=0.5, b=0.5)
        curve.a.range(-20, 20)
        curve.b.range(-20, 20)
        found = fit(FitProblem(curve, constraints=[curve.a + curve.b <= 2.0, curve.b <= 1.5]))
        assert found.x == pytest.approx([0.5, 1.5], abs=1e-6)
        assert sorted(found.at_limit) == ["a", "b"]

    @pytest.mark.parametrize("method", OPTIMIZERS)
    @pytest.mark.parametrize(
        ("edge", "most", "corner"),
        [("max(a, b)", 1.5, [1.5, 1.5]), ("abs(a) + abs(b)", 2.5, [0.0, 2.5]), ("abs(a - b)", 0.0, None)],
    )
    def test_on_an_edge_of_a_constraint_only_free_directions_have_errors(
        self, edge: str, most: float, corner: list[float] | None, method: str
    ) -> None:
        """The same fit with what cannot move put in by hand has the same errors."""
        f = np.stack([np.exp(-self.T), 0.2 * self.T, np.cos(2 * self.T)], axis=1) / 0.2
        truth = [0.0, 9.0, 1.0] if "+" in edge else [4.0, 3.0, 1.0]
        y = 0.2 * f @ truth + 0.2 * np.random.default_rng(8).normal(size=self.T.size)
        given = {
            name: Parameter(value, limits=(-20, 20))
            for name, value in zip("abc", (0.5, 0.5, 0.2), strict=True)
        }
        given["fence"] = Parameter(expression=edge, limits=(-math.inf, most))
        model = Model(lambda t, a, b, c, fence: 0.2 * f @ np.array([a, b, c]), **given)
        if (found := attempt(Assembly((model, (self.T, y, 0.2))), method)) is None:
            return
        if method in ("amoeba", "de") and not found.converged:
            assert "'auto' follows them" in found.message or "it took its last" in found.message
            return
        free = np.array([[0, 0, 1.0]]) if corner else np.array([[1.0, 1.0, 0], [0, 0, 1.0]])
        fixed = np.array([*corner, 0.0]) if corner else np.zeros(3)
        cov = np.linalg.inv((f @ free.T).T @ (f @ free.T))
        x = fixed + free.T @ (cov @ (f @ free.T).T @ (y / 0.2 - f @ fixed))
        assert found.x == pytest.approx(x, abs=2e-3)
        assert found.dx == pytest.approx(errors(free.T @ cov @ free), rel=5e-2, abs=1e-9)
        assert "fence" in found.at_limit
        assert ("a" in found.at_limit and "a and b cannot move" in found.message) == (corner is not None)

    def test_a_notch_in_a_region_is_no_edge_that_holds(self) -> None:
        """max(a, b) >= 2 leaves out a corner: a fit ends on one of its sides, and moves freely along it."""
        given = {
            name: Parameter(value, limits=(-20, 20)) for name, value in zip("ab", (3.0, 1.0), strict=True)
        }
        given["fence"] = Parameter(expression="max(a, b)", limits=(2.0, math.inf))
        model = Model(lambda t, a, b, fence: a * np.exp(-t) + b * 0.2 * t, **given)
        found = fit(Assembly((model, (self.T, 1.2 * np.exp(-self.T) + 0.1 * self.T, 0.2))))
        f = 0.2 * self.T / 0.2
        assert found.x[0] == pytest.approx(2, abs=1e-6)
        assert found.dx == pytest.approx([0, (f @ f) ** -0.5], rel=1e-2, abs=1e-9)

    def test_a_method_that_stops_at_an_edge_names_one_that_does_not(self) -> None:
        problem = self.problem(3.0)
        assert fit(problem).converged
        stopped = fit(problem, "newton")
        assert stopped.converged or "'auto' follows them" in stopped.message

    def test_it_is_shown_wherever_the_result_is(self, tmp_path: Path) -> None:
        found = fit(self.assembly(3.0))
        assert "at limit" in repr(found)
        assert found.summary()["at_limit"] == list(found.at_limit)
        found.save(tmp_path)
        assert "at limit" in (tmp_path / "fit.err").read_text()
        assert json.loads((tmp_path / "fit.json").read_text())["at_limit"] == list(found.at_limit)


class TestConvergence:
    T = np.linspace(0, 5, 40)
    Y = 3 * np.exp(-T / 1.5) + 0.4 + 0.05 * np.random.default_rng(6).normal(size=40)
    #: options with which each method ends too early
    FEW: ClassVar[dict[str, dict[str, Any]]] = {
        "lm": {"steps": 1},
        "amoeba": {"steps": 6},
        "de": {"steps": 2},
        "newton": {"steps": 1},
        "pt": {"steps": 3, "burn": 1},
        "dream": {"samples": 60, "burn": 0},
    }

    def decay(self, t: Any, height: float, time: float, floor: float) -> Any:
        return height * np.exp(-t / time) + floor

    def assembly(self) -> Assembly:
        model = Model(self.decay, height=(0, 10), time=(0.1, 10), floor=(-1, 1))
        return Assembly((model, (self.T, self.Y, 0.05)))

    def best(self) -> tuple[Array, Array]:
        x, cov = curve_fit(self.decay, self.T, self.Y, [3, 1.5, 0.4], np.full(40, 0.05), absolute_sigma=True)
        return x, errors(cov)

    @pytest.mark.parametrize("method", FEW)
    def test_out_of_steps_is_said(self, method: str) -> None:
        found = fit(self.assembly(), method, **self.FEW[method])
        assert not found.converged
        assert found.message
        assert "converged" in repr(found).lower()
        assert found.summary()["converged"] is False
        assert found.summary()["message"] == found.message

    @pytest.mark.heavy
    def test_saved_files_say_it_too(self, tmp_path: Path) -> None:
        fit(self.assembly(), "lm", steps=1).save(tmp_path)
        for suffix in ("err", "out"):
            assert "converged" in (tmp_path / f"fit.{suffix}").read_text().lower()

    @pytest.mark.parametrize(
        "method",
        [
            "auto",
            "lm",
            "amoeba",
            *(pytest.param(m, marks=pytest.mark.heavy) for m in ("de", "newton", "pt", "dream")),
        ],
    )
    def test_converged_is_true_only_at_the_minimum(self, method: str) -> None:
        """From the middle of wide limits, with the options that are there."""
        found = fit(self.assembly(), method)
        x, dx = self.best()
        off = float(np.max(np.abs(found.x - x) / dx))
        if method in ("auto", "lm", "amoeba", "de"):
            assert found.converged
        if method == "dream":
            assert np.median(found.draws, axis=0) == pytest.approx(x, abs=float(np.max(0.3 * dx)))
        elif found.converged:
            assert off < NEAR
            assert found.message == ""
        else:
            assert found.message

    @pytest.mark.parametrize("method", OPTIMIZERS[:4])
    @pytest.mark.parametrize("kind", ["exact", "misfit", "undetermined"])
    def test_no_false_alarm(self, kind: str, method: str) -> None:
        """Exact data, a model that does not describe them, a direction in which nothing changes."""
        t = np.linspace(1, 9, 20)
        line = Model(lambda t, a, b: a * t + b, a=(-9, 9), b=(-9, 8))
        if kind == "exact":
            found = fit(Assembly((line, (t, 2 * t - 1, 0.1))), method)
        elif kind == "misfit":
            found = fit(Assembly((line, (t, np.sin(3 * t) * 9, 0.01))), method)
        else:
            twice = Model(lambda t, a, b, c: (a + b) * t + c, a=(-9, 9), b=(-9, 8), c=(-3, 3))
            found = fit(Assembly((twice, (t, 2 * t - 1 + 0.1 * np.cos(9 * t), 0.1))), method)
            assert np.isinf(found.dx[:2]).all()
            assert np.isfinite(found.dx[2])
        assert found.converged, found.message

    def many(self, count: int) -> Assembly:
        rng = np.random.default_rng(40)
        shared = Parameter(limits=(0, 50))
        parts = []
        for n in range(count):
            t = np.linspace(0, 6, 35 + n)
            y = (1.5 + 0.3 * n) * np.exp(-t / 2.1) + 0.2 + 0.05 * rng.normal(size=t.size)
            parts.append((Model(self.decay, height=(0, 12), time=shared, floor=(-1, 1)), (t, y, 0.05)))
        return Assembly(*parts)

    def test_many_parameters_by_the_default_method(self) -> None:
        found = fit(self.many(12))
        assert found.converged
        assert found.chisq == pytest.approx(1, abs=0.2)
        assert abs(found["time"].value - 2.1) < 4 * found["time"].stderr

    def test_an_end_where_the_model_describes_no_data_is_said(self) -> None:
        """newton leaves a peak that lies outside the data, and ends on a plateau, or on a slope that leads there."""
        x = np.linspace(400.0, 500.0, 35)
        bell = Model(lambda x, b1, b2, b3: b1 / b2 * np.exp(-0.5 * ((x - b3) / b2) ** 2), b1=Parameter(1.0),
                     b2=Parameter(10.0), b3=Parameter(500.0))  # fmt: skip
        data = (x, 0.38 * np.exp(-0.5 * ((x - 451.5) / 4.09) ** 2))
        lost, right = fit(Assembly((bell, data)), "newton"), fit(Assembly((bell, data)))
        assert not lost.converged
        assert "on a plateau" in lost.message or "the slope at the end" in lost.message
        assert right.x[1:] == pytest.approx([4.09, 451.5], rel=1e-3)
        assert right.converged

    def test_a_chi_squared_far_above_one_is_said(self) -> None:
        x = np.linspace(0, 10, 60)
        y = np.sin(3 * x + 0.3) + 0.02 * np.random.default_rng(3).normal(size=60)
        wave = Model(lambda x, f, p: np.sin(f * x + p), f=Parameter(1.0, limits=(0.1, 10)), p=(-3, 3))
        missed = fit(Assembly((wave, (x, y, 0.02))))
        assert missed.chisq > 100
        assert "far above 1" in missed.message
        assert "starts=10" in missed.message
        met = fit(Assembly((wave, (x, y, 0.02))), start={"f": 2.95, "p": 0.3})
        assert met.chisq < 2
        assert met.message == ""

    @pytest.mark.parametrize("method", ["auto", "lm", "amoeba"])
    def test_a_test_that_fails_is_not_passed(self, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
        def judge(*_: Any) -> None:
            raise ArithmeticError("no quadratic")

        for module in ("results.build_result", "methods.optimise", "methods.bumps_optimizers"):
            monkeypatch.setattr(f"park.fit.{module}.judge_convergence", judge)
        line = Model(lambda x, a: a * x, a=Parameter(1, limits=(0, 10)))
        found = fit(Assembly((line, ([1, 2, 3], [2, 4, 6], 1))), method)
        assert found.x == pytest.approx([2.0], abs=0.1)
        assert not found.converged
        assert "no quadratic" in found.message

    def test_a_simplex_that_stalls_is_no_success(self) -> None:
        found, right = fit(self.many(6), "amoeba"), fit(self.many(6), "lm")
        off = np.max(np.abs(found.x - right.x) / right.dx)
        assert off < NEAR or not found.converged

    @pytest.mark.parametrize("start", [(9.5, 9.5, -0.9), (0.2, 0.3, 0.9), (5.0, 0.12, 0.0)])
    @pytest.mark.parametrize("method", ["auto", "lm", "amoeba", "newton"])
    def test_far_starts(self, method: str, start: Sequence[float]) -> None:
        found = fit(self.assembly(), method, start=start)
        x, dx = self.best()
        off = np.max(np.abs(found.x - x) / dx)
        # limits make local minima of their own: a fit that ends on one says so
        assert off < NEAR or not found.converged or found.at_limit
        if method == DEFAULT:
            assert off < NEAR

    @pytest.mark.heavy
    def test_chains_that_have_mixed(self) -> None:
        found = sample(self.assembly(), self.best()[0])
        assert found.converged, found.message
        assert found.rhat.shape == found.ess.shape == (3,)
        assert np.all(found.rhat < 1.1)
        assert np.all(found.ess > 100)
        assert np.all(found.ess <= len(found.draws))
        assert fit(self.assembly(), "lm").rhat is None

    @pytest.mark.heavy
    @pytest.mark.timeout(600)
    def test_intervals_of_a_crooked_posterior(self) -> None:
        """Two exponentials that can hardly be told apart: right by quadrature, or not to be trusted."""
        t = np.linspace(0.5, 9, 120)
        y = 2 * np.exp(-t / 1.6) - 4 * np.exp(-t / 9.0) + 0.1 * np.random.default_rng(2).normal(size=120)

        def pair(t: Any, a: float, s: float, b: float, u: float) -> Any:
            return a * np.exp(-t / s) + b * np.exp(-t / u)

        limits = {"a": (-10, 10), "s": (0.01, 6), "b": (-10, 10), "u": (6, 20)}
        a = Assembly((Model(pair, **limits), (t, y, 0.1)))
        found = sample(a, fit(a, "lm"))
        half = {"s": self._half(t, y, "s"), "u": self._half(t, y, "u")}
        for name, right in half.items():
            if found.converged:
                assert found[name].stderr == pytest.approx(right, rel=0.15)
        assert found.converged or found.message

    def _half(self, t: Array, y: Array, which: str) -> float:
        """Half of the 68 % interval of a time by quadrature; the heights integrate out (their limits are far away)."""
        s, u = np.linspace(0.2, 6, 233), np.linspace(6, 20, 197)
        log = np.empty((s.size, u.size))
        for i, first in enumerate(s):
            for j, second in enumerate(u):
                design = np.stack([np.exp(-t / first), np.exp(-t / second)], axis=1) / 0.1
                q, r = np.linalg.qr(design)
                projected = q.T @ (y / 0.1)
                log[i, j] = 0.5 * projected @ projected - np.log(abs(np.linalg.det(r)))
        weight = np.exp(log - log.max())
        axis, marginal = (s, weight.sum(1)) if which == "s" else (u, weight.sum(0))
        cumulated = np.cumsum(marginal) / marginal.sum()
        low, high = np.interp((0.158655, 0.841345), cumulated, axis)
        return float(high - low) / 2


class TestResidualsWithoutErrors:
    """Without dy no chi-squared tells a wrong fit: the residuals themselves do."""

    X = np.random.default_rng(3).permutation(np.linspace(0, 10, 120))

    def fitted(self, y: Array, dy: float | None = None, speed: float = 2.6) -> FitResult:
        model = Model(lambda x, a, w: a * np.sin(w * x), a=(0, 5), w=Parameter(speed, limits=(0.1, 6)))
        return fit(Assembly((model, (self.X, y) if dy is None else (self.X, y, dy))), "lm")

    def test_a_local_minimum_leaves_a_trend(self) -> None:
        y = 3 * np.sin(2.7 * self.X) + np.random.default_rng(4).normal(0, 0.1, self.X.size)
        assert "neighbours" not in self.fitted(y).message
        assert "no pure scatter" in self.fitted(y, speed=1.2).message
        assert "neighbours" not in self.fitted(y, dy=0.1, speed=1.2).message  # chi-squared tells it
        assert "neighbours" not in self.fitted(3 * np.sin(2.7 * self.X)).message  # exact but for rounding


class TestUnknownErrors:
    T = np.linspace(0, 8, 32)
    QUIET = 1.5 * T + 2 + 0.05 * np.random.default_rng(1).normal(size=32)
    LOUD = -0.5 * T + 4 + 2.0 * np.random.default_rng(2).normal(size=32)

    def line(self, t: Any, a: float, b: float) -> Any:
        return a * t + b

    def wave(self, t: Any, a: float, b: float, c: float) -> Any:
        return a + b * t + c * np.sin(t)

    def model(self) -> Model:
        return Model(self.line, a=(-20, 20), b=(-20, 21))

    @pytest.mark.parametrize("method", OPTIMIZERS)
    def test_parts_do_not_change_each_other(self, method: str) -> None:
        loud = Model(self.wave, a=(-20, 20), b=(-20, 21), c=(-5, 6))
        t = self.T[:17]
        found = attempt(Assembly((self.model(), (self.T, self.QUIET)), (loud, (t, self.LOUD[:17]))), method)
        if found is None:
            return
        first, first_cov = curve_fit(self.line, self.T, self.QUIET)
        second, second_cov = curve_fit(self.wave, t, self.LOUD[:17])
        agrees(found, [*first, *second], [*errors(first_cov), *errors(second_cov)], near=2e-2, rel=1e-2)
        assert found.converged

    @pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
    def test_one_part_is_as_curve_fit_has_it(self, scale: float) -> None:
        model = Model(self.line, a=Parameter(scale), b=Parameter(scale))
        found = fit(Assembly((model, (self.T, self.LOUD * scale))))
        x, cov = curve_fit(self.line, self.T, self.LOUD * scale, [scale, scale])
        agrees(found, x, errors(cov), rel=1e-4)
        design = np.stack([self.T, np.ones(32)], axis=1)
        rss = np.linalg.lstsq(design, self.LOUD * scale, rcond=None)[1][0]
        assert found.chisq == pytest.approx(rss / 30, rel=1e-6)
        assert found.statistic == "residual variance (dy unknown)"

    def test_a_weight_is_no_part_of_the_residual_variance(self) -> None:
        model = Model(self.line, a=(-9, 9), b=(-9, 9))
        variance = fit(Assembly((model, (self.T, self.LOUD)))).chisq
        assert fit(Assembly((model, (self.T, self.LOUD)), weights=[3])).chisq == pytest.approx(variance)
        curve = Curve(self.line, self.T, self.LOUD, a=0.0, b=0.0)
        for parameter in (curve.a, curve.b):
            parameter.range(-9, 9)
        assert fit(FitProblem([curve], weights=[3.0])).chisq == pytest.approx(variance)

    @pytest.mark.parametrize("method", OPTIMIZERS)
    def test_a_part_with_dy_keeps_it(self, method: str) -> None:
        a = Assembly((self.model(), (self.T, self.QUIET, 0.5)), (self.model(), (self.T, self.LOUD)))
        found = attempt(a, method)
        if found is None:
            return
        first, first_cov = curve_fit(
            self.line, self.T, self.QUIET, sigma=np.full(32, 0.5), absolute_sigma=True
        )
        second, second_cov = curve_fit(self.line, self.T, self.LOUD)
        agrees(found, [*first, *second], [*errors(first_cov), *errors(second_cov)], near=2e-2, rel=1e-2)

    @pytest.mark.parametrize("method", OPTIMIZERS)
    def test_a_shared_parameter_weighs_by_scatter(self, method: str) -> None:
        slope = Parameter(1.0, limits=(-20, 20))
        parts = [
            (Model(self.line, a=slope, b=(-20, 21)), (self.T, y))
            for y in (self.QUIET, self.LOUD + 2 * self.T)
        ]

        def loss(a: float) -> float:
            rest = [y - a * self.T for y in (self.QUIET, self.LOUD + 2 * self.T)]
            return sum(16 * math.log(np.sum((r - r.mean()) ** 2)) for r in rest)

        best = minimize_scalar(loss, bracket=(1.4, 1.5), tol=1e-13).x
        alone = errors(curve_fit(self.line, self.T, self.QUIET)[1])[0]
        found = attempt(Assembly(*parts), method)
        if found is None:
            return
        near = NEAR if method == "newton" else 0.02
        assert (found["a"].value - best) / alone == pytest.approx(0, abs=near)
        assert found["a"].stderr == pytest.approx(alone, rel=0.05)

    @pytest.mark.parametrize("method", OPTIMIZERS)
    def test_a_prior_weighs_the_same_in_every_unit(self, method: str) -> None:
        """The minimum of n/2 log(sum of squares) and the prior, whatever y is measured in."""
        y = 2 * self.T + 1 + 2.5 * np.random.default_rng(12).normal(size=32)

        def loss(a: float) -> float:
            rest = y - a * self.T
            return 16 * math.log(np.sum((rest - rest.mean()) ** 2)) + 0.5 * ((a - 2.6) / 0.05) ** 2

        best = minimize_scalar(loss, bracket=(2.3, 2.6), tol=1e-13).x
        free = curve_fit(self.line, self.T, y)
        sigma = (
            errors(free[1])[0] ** -2 + 0.05**-2
        ) ** -0.5  # nearly: the scatter grows a little away from its best
        for unit in (1e-6, 1.0, 1e6):
            model = Model(
                lambda t, a, b, u: u * (a * t + b),
                a=Parameter(2.0, limits=(0, 5), prior=(2.6, 0.05)),
                b=(-10, 11),
                u=unit,
            )
            found = attempt(Assembly((model, (self.T, y * unit))), method)
            if found is None:
                continue
            near = NEAR if method == "newton" else 0.02
            assert (found["a"].value - best) / sigma == pytest.approx(0, abs=near)
            assert found["a"].stderr == pytest.approx(sigma, rel=0.05)

    @pytest.mark.heavy
    def test_fit_and_uncertainty_agree(self) -> None:
        curve = Curve(self.line, self.T, self.LOUD, a=1, b=1)
        curve.a.range(-20, 20)
        curve.b.range(-20, 20)
        two = Assembly((self.model(), (self.T, self.QUIET)), (self.model(), (self.T, self.LOUD)))
        for problem in (two, FitProblem(curve)):
            self.agree(problem)

    def agree(self, problem: Any) -> None:
        found = fit(problem)
        drawn = sample(problem, found, samples=6000)
        assert drawn.dx == pytest.approx(found.dx, rel=0.2)
        assert (np.median(drawn.draws, axis=0) - found.x) / found.dx == pytest.approx(0, abs=0.2)

    def test_a_curve_of_bumps_without_dy(self) -> None:
        curve = Curve(self.line, self.T, self.LOUD, a=1, b=1)
        curve.a.range(-20, 20)
        curve.b.range(-20, 20)
        x, cov = curve_fit(self.line, self.T, self.LOUD)
        agrees(fit(FitProblem(curve)), x, errors(cov))

    @pytest.mark.parametrize("method", ["auto", "lm", "amoeba"])
    def test_as_many_parameters_as_points(self, method: str) -> None:
        a = Assembly((self.model(), ([1.0, 3.0], [2.0, 5.0])))
        found = fit(a, method)
        assert found.x == pytest.approx([1.5, 0.5], abs=1e-3)
        assert np.isinf(found.dx).all()
        with pytest.raises((ParkError, RuntimeError), match="point"):
            sample(a, found, samples=100)

    def test_one_part_without_information_beside_another(self) -> None:
        """Two points and a line of their own: no error is known there; the other part has its own."""
        a = Assembly((self.model(), ([1.0, 3.0], [2.0, 5.0])), (self.model(), (self.T, self.LOUD)))
        found = fit(a)
        x, cov = curve_fit(self.line, self.T, self.LOUD)
        assert np.isinf(found.dx[:2]).all()
        assert found.x[2:] == pytest.approx(x, abs=1e-3)
        assert found.dx[2:] == pytest.approx(errors(cov), rel=1e-2)


LARGE = """
import json, resource, sys
import numpy as np
import park
from park.fit import Assembly, Fit, Model

n = int(sys.argv[1])
park.local_service.configure(slots=1)

def waves(t, **c):
    return sum(c[f"c{k}"] * np.cos(k * t) for k in range(10))

t = np.linspace(0.0, 3.0, n)
right = {f"c{k}": 1.0 / (1 + k) for k in range(10)}
y = waves(t, **right) + np.random.default_rng(0).normal(0, 0.1, n)
with park.local_service:
    model = Model(waves, **{name: (-3.0, 3.5) for name in right})
    result = Fit(Assembly((model, (t, y, np.full(n, 0.1)))), method=sys.argv[2]).wait(timeout=100)
park.local_service.close()
children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
off = float(np.max(np.abs(result.x - list(right.values())) / result.dx))
print(json.dumps({"peak": children, "off": off, "dx": result.dx.tolist(), "converged": bool(result.converged)}))
"""


def waves(t: Array, **c: float) -> Array:
    return sum((c[f"c{n}"] * np.cos(n * t) for n in range(len(c))), np.zeros_like(t))


class TestSize:
    def large(self, points: int, method: str, tmp_path: Path) -> dict[str, Any]:
        script = tmp_path / "large.py"
        script.write_text(LARGE, encoding="utf-8")
        command = [sys.executable, str(script), str(points), method]
        done = subprocess.run(command, capture_output=True, text=True, timeout=115)
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def test_errors_of_many_points_need_no_square_matrix(self) -> None:
        """Of 60,000 points one would take 29 GB."""
        t = np.linspace(0, 1, 60_000)
        y = 2 * t + 1 + 0.1 * np.random.default_rng(3).normal(size=t.size)
        found = fit(Assembly((Model(lambda t, a, b: a * t + b, a=(0, 5), b=(0, 5)), (t, y, 0.1))))
        design = np.stack([t, np.ones_like(t)], axis=1) / 0.1
        assert found.dx == pytest.approx(errors(np.linalg.inv(design.T @ design)), rel=1e-4)

    def test_errors_need_one_jacobian_at_a_time(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("park.fit.numerics.least_squares._QR_BLOCK_ROWS", 500)
        points, k = 20_000, 10
        t = np.linspace(0, 3, points)
        model = Model(waves, **{f"c{n}": Parameter(1.0, limits=(-3, 3)) for n in range(k)})
        objective = Assembly((model, (t, np.cos(t), 0.1))).objective
        curvature(objective, objective.start)
        tracemalloc.start()
        curvature(objective, objective.start)
        columns = tracemalloc.get_traced_memory()[1] / (8 * points)
        tracemalloc.stop()
        assert columns < 2 * k

    def test_the_columns_of_data_travel_once(self) -> None:
        t = np.linspace(0, 3, 10_000)
        assert len(pickle.dumps(Data(t, t, 0.1))) < 3.1 * t.nbytes

    @pytest.mark.heavy
    @pytest.mark.timeout(240)
    @pytest.mark.parametrize("method", [DEFAULT, "lm"])
    def test_a_million_points_and_ten_parameters(self, method: str, tmp_path: Path) -> None:
        few, many = (self.large(n, method, tmp_path) for n in (1000, 1_000_000))
        assert many["off"] < 5
        assert many["converged"]
        assert np.array(many["dx"]) == pytest.approx(np.array(few["dx"]) / math.sqrt(1000), rel=2e-2)
        data = 3 * 8 * 1_000_000
        assert many["peak"] - few["peak"] < 10 * data

    @pytest.mark.parametrize("method", [pytest.param("auto", marks=pytest.mark.heavy), "lm", "amoeba"])
    def test_what_fails_after_the_last_step_loses_nothing(
        self, method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The model breaks at one of the last calls, when errors and curves are worked out."""
        # otherwise a slow machine makes fewer calls
        monkeypatch.setattr("park.fit.problem.client_values.CHEAP_EVALUATION_SECONDS", math.inf)
        t = np.linspace(0, 2, 15)
        y = 3 * np.exp(-t) + 0.1 * np.cos(40 * t)

        def assembly(function: Callable[..., Any]) -> Assembly:
            model = Model(function, height=Parameter(1.0, limits=(0, 9)), rate=Parameter(0.3, limits=(0, 9)))
            return Assembly((model, (t, y, 0.1)))

        def failing(at: float, counter: Path) -> Callable[..., Any]:
            def model(t: Any, height: float, rate: float) -> Any:
                with counter.open("a") as file:
                    file.write(".")
                if counter.stat().st_size >= at:
                    raise MemoryError("no memory for this curve")
                return height * np.exp(-rate * t)

            return model

        whole = tmp_path / "whole"
        right = fit(assembly(failing(math.inf, whole)), method)
        calls = whole.stat().st_size
        for back in range(2):
            found = fit(assembly(failing(calls - back, tmp_path / f"cut{back}")), method)
            assert found.x == pytest.approx(right.x, rel=1e-6)
            assert "no memory for this curve" in found.message
            assert "no memory for this curve" in repr(found)


class TestDataThatAreNotPlain:
    """The fit honours the errors and masks that data carry."""

    def test_masked_points_do_not_count(self) -> None:
        t = np.linspace(0, 10, 51)
        y = 0.7 * t - 2 + 0.1 * np.random.default_rng(14).normal(size=51)
        shown = np.ma.masked_inside(np.ma.array(y.copy()), 1.0, 2.5)
        shown.data[shown.mask] = 1.1  # plausible, and wrong
        keep = ~np.ma.getmaskarray(shown)
        design = np.stack([t, np.ones_like(t)], axis=1)[keep] / 0.1
        cov = np.linalg.inv(design.T @ design)
        model = Model(lambda t, a, b: a * t + b, a=(-5, 5), b=(-9, 8))
        found = fit(Assembly((model, Data(t, shown, 0.1))))
        agrees(found, cov @ design.T @ (y[keep] / 0.1), errors(cov))
        assert found.dof == keep.sum() - 2
