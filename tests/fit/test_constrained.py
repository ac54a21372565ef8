"""Minimisation of likelihoods that are not sums of squares, and on constraints that leave no room."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from bumps.curve import PoissonCurve
from bumps.fitproblem import FitProblem
from hypothesis import given
from hypothesis import strategies as st

from park.fit.methods.optimise import optimise
from park.fit.numerics.constrained import minimise_constrained, moved_inside
from park.fit.numerics.derivatives import Steps
from park.fit.problem.assembly import Assembly
from park.fit.problem.model import Model
from park.fit.problem.parameter import Parameter
from tests.support.quick import Quick

X = np.linspace(0, 30, 31)


def fall(x: Any, height: float, rate: float, dark: float) -> Any:
    return height * np.exp(-rate * x) + dark


@pytest.mark.parametrize(("height", "dark"), [(20.0, 2.0), (4e3, 20.0), (2e5, 100.0)])
def test_a_fit_of_counts_takes_few_evaluations(height: float, dark: float) -> None:
    """The slope of a likelihood vanishes at its minimum. Steps of differences must not grow there."""
    counts = np.random.default_rng(5).poisson(fall(X, height, 0.17, dark))
    curve = PoissonCurve(fall, X, counts, height=0.7 * height, rate=0.2, dark=2 * dark)
    curve.height.range(0, 100 * height)
    curve.rate.range(0.01, 3)
    curve.dark.range(1e-9, 50 * dark)
    assembly = Assembly(FitProblem(curve))
    objective, asked = assembly.objective, []
    nllf = objective.nllf
    objective.nllf = lambda x: asked.append(x) or nllf(x)  # type: ignore[method-assign,func-returns-value]
    found = optimise(assembly, "auto", {}, assembly.start, Quick(), seed=1)
    assert found.verdict is not None
    assert found.verdict.converged
    assert len(asked) < 1_500
    # the gradient of the likelihood of counts is the sum of (1 - counts/theory) times the derivatives
    height, rate, dark = (found.x[assembly.names.index(name)] for name in ("height", "rate", "dark"))
    theory, part = fall(X, height, rate, dark), np.exp(-rate * X)
    slopes = np.stack([part, -height * X * part, np.ones_like(X)])
    sigmas = 1 / np.sqrt(np.square(slopes) @ (1 / theory))
    assert slopes @ (1 - counts / theory) * sigmas == pytest.approx(np.zeros(3), abs=1e-3)


def test_a_slope_near_the_minimum_is_right() -> None:
    """The steps were right for the slope far away, and the slope near the minimum is a million times smaller."""
    infinite = np.array([math.inf])
    steps = Steps(
        lambda x: np.exp(x) - x,
        lambda difference: abs(float(difference[0])) / 1e-4,
        -infinite,
        infinite,
        True,
    )
    for x in (3.0, 1.0, 0.1, 1e-2, 1e-4, 1e-6, 0.0):
        at = np.array([x])
        matrix = steps.jacobian(at, steps.function(at)).matrix
        assert matrix[0, 0] == pytest.approx(math.expm1(x), rel=1e-3, abs=1e-4)


def equal(scale: float = 1.0) -> Assembly:
    """A line whose coefficients must be equal, in units of *scale*."""
    model = Model(
        lambda x, a, b, fence: (a + b * x) / scale,
        a=Parameter(2 * scale, limits=(-1e3 * scale, 1e3 * scale)),
        b=Parameter(2 * scale, limits=(-1e3 * scale, 1e3 * scale)),
        fence=Parameter(expression="abs(a - b)", limits=(-math.inf, 0.0)),
    )
    return Assembly((model, (X, 3 + 2.5 * X, 0.1)))


VALUES = st.floats(-900, 900).map(lambda value: round(value, 9))


@given(VALUES, VALUES, st.sampled_from([1e-12, 1.0, 1e9]))
def test_a_point_beside_an_equation_is_moved_onto_it(a: float, b: float, scale: float) -> None:
    x = np.array([a, b]) * scale
    inside = moved_inside(equal(scale).objective, x, np.array([1.0, 2.0]) * scale)
    assert inside[0] == inside[1]
    assert min(x) - 1e-6 * scale <= inside[0] <= max(x) + 1e-6 * scale


@pytest.mark.parametrize("scale", [1e-12, 0.1, 1.0, 1e9])
def test_a_fit_follows_an_equation(scale: float) -> None:
    """The edge of ``abs(a - b) <= 0`` is all that is allowed, and no rounding may leave it."""
    found = minimise_constrained(equal(scale).objective, np.array([2.0, 2.0]) * scale, lambda x, value: None)
    right = float((1 + X) @ (3 + 2.5 * X) / ((1 + X) @ (1 + X)))
    assert found / scale == pytest.approx([right, right], rel=1e-7)


@pytest.mark.parametrize("method", ["auto", "lm"])
@pytest.mark.parametrize(
    ("fence", "start", "tangent"),
    [
        ("abs(a - 1.7*b)", (1.7, 1.0), lambda a, b: (1.7, 1.0)),
        ("abs(a + b - 6)", (3.0, 3.0), lambda a, b: (1.0, -1.0)),
        ("max(a - b, b - a)", (3.0, 3.0), lambda a, b: (1.0, 1.0)),
        ("abs(a*b - 13)", (4.0, 3.25), lambda a, b: (a, -b)),
    ],
)
def test_errors_are_those_along_an_equation(fence: str, start: Any, tangent: Any, method: str) -> None:
    """A straight or bent line of points is allowed: along it nllf has its minimum, and the errors are those there."""
    design = np.stack([np.exp(-X / 9), X / 30], axis=1) / 0.2
    y = 0.2 * design @ [4.2, 3.1] + 0.1 * np.sin(7 * X)
    a, b = (Parameter(value, limits=(-20, 20)) for value in start)
    room = Parameter(expression=fence, limits=(-math.inf, 0.0))
    model = Model(lambda x, a, b, room: 0.2 * design @ [a, b], a=a, b=b, room=room)
    assembly = Assembly((model, (X, y, 0.2)))
    found = optimise(assembly, method, {}, assembly.start, Quick(), seed=1)
    assert found.verdict is not None
    assert found.verdict.converged, found.verdict.reasons
    assert found.local is not None
    along = np.array(tangent(*found.x))
    sigma = along / np.linalg.norm(design @ along)
    assert np.sqrt(np.diag(found.local.cov)) == pytest.approx(np.abs(sigma), rel=0.02)
    assert abs((design @ found.x - y / 0.2) @ design @ sigma) < 0.2
