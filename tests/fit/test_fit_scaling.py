"""Fits do not change with units and offsets: bumps' methods run in coordinates of the problem."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from park.fit.bodies import FitBody, UncertaintyBody
from park.fit.methods.scaled_problem import PenalisedProblem, ScaledProblem
from park.fit.methods.scaling import WhitenedScaling, scaled, whitened
from park.fit.numerics.derivatives import natural_scale
from park.fit.problem.assembly import Assembly
from park.fit.problem.model import Model
from park.fit.problem.parameter import Parameter
from park.fit.results.result import FitResult
from park.model import Improvement
from tests.support.quick import Quick

TIME = np.linspace(0, 10, 40)
NOISE = np.random.default_rng(8).normal(size=TIME.size)


def line_on_peak(
    axis: float = 1.0, offset: float = 0.0, y: float = 1.0, height: float = 1.0, limits: bool = True
) -> Assembly:
    """A peak on a slope, with the axis in units of *axis* from *offset*, y in units of *y*, its height in others."""

    def peak(t: Any, h: float, c: float, w: float, s: float) -> Any:
        return h * height * np.exp(-0.5 * ((t - c) / w) ** 2) + s * (t - offset)

    def parameter(value: float, low: float, high: float, unit: float, shift: float = 0.0) -> Parameter:
        bounds = (low * unit + shift, high * unit + shift) if limits else (-math.inf, math.inf)
        return Parameter(value * unit + shift, limits=bounds)

    model = Model(
        peak,
        h=parameter(3, 0, 20, y / height),
        c=parameter(5, 2, 8, axis, offset),
        w=parameter(1, 0.2, 4, axis),
        s=parameter(0.1, -2, 2, y / axis),
    )
    values = 4 * np.exp(-0.5 * ((TIME - 5.5) / 1.3) ** 2) + 0.2 * TIME + 0.1 * NOISE
    return Assembly((model, (TIME * axis + offset, values * y, 0.1 * y)))


UNITS = [
    {"offset": 1e9},
    {"axis": 1e-12},
    {"axis": 1e12, "offset": 5e21},
    {"y": 1e-12},
    {"y": 1e12},
    {"height": 1e-12},
    {"height": 1e12},
]


def plain(
    result: FitResult, values: Any, axis: float = 1, offset: float = 0, y: float = 1, height: float = 1
) -> Any:
    """The *values* of a result without units and offset."""
    h, c, w, s = np.array(values)
    return np.array([h * height / y, (c - offset) / axis, w / axis, s * axis / y])


def fit(assembly: Assembly, method: str, seed: int = 1, **options: Any) -> FitResult:
    body = FitBody(assembly, method, options, None, 1, seed)
    body.prepare(Quick())
    return body.run()


OPTIONS: dict[str, dict[str, Any]] = {
    "amoeba": {},
    "newton": {},
    "de": {"steps": 120, "pop": 5},
    "pt": {"steps": 40, "burn": 10},
}


@pytest.mark.parametrize("limits", [True, False])
@pytest.mark.parametrize("method", OPTIONS)
def test_an_optimizer_goes_the_same_way_in_every_unit(method: str, limits: bool) -> None:
    if method == "pt" and not limits:
        return  # refused: it steps between limits
    right = fit(line_on_peak(limits=limits), method, **OPTIONS[method])
    near = 1e-3 if method in ("amoeba", "newton") else 0.15
    for units in UNITS:
        result = fit(line_on_peak(limits=limits, **units), method, **OPTIONS[method])
        shift = {k: v for k, v in units.items() if k != "y" and k != "height"}
        away = plain(result, result.x, **units) - right.x
        assert away / right.dx == pytest.approx(0, abs=near), units
        widths = plain(result, result.dx, **{**units, "offset": 0.0})
        assert widths == pytest.approx(right.dx, rel=1e-2), shift
        if method != "newton":
            assert abs(result.steps - right.steps) <= 0.15 * right.steps, units


@pytest.mark.parametrize("units", UNITS[:1] + UNITS[4:5])
def test_a_sampler_draws_the_same_posterior_in_every_unit(units: dict[str, float]) -> None:
    right = fit(line_on_peak(), "lm")
    options = {"samples": 3000, "max_samples": 3000, "burn": 30}
    for limits in (True, False):
        body = UncertaintyBody(line_on_peak(limits=limits, **units), options, None, 1)
        body.prepare(Quick())
        result = body.run()
        assert result.draws is not None
        drawn = np.array([plain(result, row, **units) for row in result.draws])
        assert (np.median(drawn, axis=0) - right.x) / right.dx == pytest.approx(0, abs=0.4)
        assert drawn.std(axis=0) / right.dx == pytest.approx(1, abs=0.25)


@pytest.mark.parametrize("method", ["amoeba", "newton", "de"])
def test_a_start_far_too_small_is_left(method: str) -> None:
    def decay(t: Any, rate: float) -> Any:
        return np.exp(-rate * t)

    model = Model(decay, rate=Parameter(1e-13))
    result = fit(Assembly((model, (TIME, decay(TIME, 0.7), 0.01))), method)
    assert result.x == pytest.approx([0.7], rel=1e-3)


def test_what_leaves_is_in_the_users_units() -> None:
    env = Quick()
    body = FitBody(line_on_peak(offset=1e9, axis=100.0), "de", {"steps": 5}, None, 1, 1, checkpoint=0)
    body.prepare(env)
    body.on_get_population({})
    body.run()
    (population,) = (m for m in env.messages if isinstance(m, dict))
    low, high = body.assembly.objective.low, body.assembly.objective.high
    assert ((low <= population["points"]) & (population["points"] <= high)).all()
    assert all(1e9 <= message.point["c"] <= 1e9 + 1000 for message in env.of(Improvement))
    assert all(1e9 <= point[1] <= 1e9 + 1000 for point in env.restored.state["population_points"][-1])


class TestCoordinates:
    def test_limits_are_kept_to_the_last_bit(self) -> None:
        objective = line_on_peak(offset=1e9 / 3, axis=0.1).objective
        coordinates = scaled(objective, objective.start)
        for limit, u in zip((objective.low, objective.high), coordinates.limits, strict=True):
            assert coordinates.x(u).tolist() == limit.tolist()
        inside = np.linspace(*coordinates.limits, 1001)
        x = coordinates.x(inside)
        assert ((objective.low <= x) & (x <= objective.high)).all()

    def test_there_and_back(self) -> None:
        objective = line_on_peak(limits=False).objective
        points = objective.start + np.random.default_rng(1).normal(size=(5, 4))
        matrix = np.diag([1.0, 4.0, 9.0, 16.0]) + 0.5
        white = whitened(objective, objective.start, matrix)
        assert white is not None
        for coordinates in (scaled(objective, objective.start), white):
            assert coordinates.x(coordinates.u(points)) == pytest.approx(points, rel=1e-12)
            assert coordinates.x(coordinates.u(points[0])) == pytest.approx(points[0], rel=1e-12)
        assert white.covariance(matrix) == pytest.approx(np.eye(4), abs=1e-12)

    @pytest.mark.parametrize("variance", [np.inf, np.nan, 0.0, 1e6])
    def test_what_is_not_determined_is_not_whitened(self, variance: float) -> None:
        objective = line_on_peak().objective
        assert whitened(objective, objective.start, np.diag([1.0, 0.1, 0.1, variance])) is None
        assert isinstance(
            whitened(objective, objective.start, np.diag([1.0, 0.1, 0.1, 0.1])), WhitenedScaling
        )


class TestShadow:
    def shadow(self, kind: type[ScaledProblem] = ScaledProblem, **units: Any) -> Any:
        objective = line_on_peak(**units).objective
        coordinates = scaled(objective, objective.start)
        return kind(objective, coordinates, objective.nllf, lambda x: np.eye(4), objective.start), objective

    def test_random_points_are_where_bumps_puts_them(self) -> None:
        shadow, _ = self.shadow()
        low, high = shadow.bounds()
        points = shadow.randomize(500)
        assert points.shape == (500, 4)
        assert ((low <= points) & (points <= high)).all()
        assert np.ptp(points, axis=0) == pytest.approx(high - low, rel=0.1)

    def test_without_limits_they_are_a_scale_away(self) -> None:
        shadow, _ = self.shadow(limits=False, offset=1e9)
        points = shadow.randomize(500)
        assert points.std(axis=0) == pytest.approx(np.ones(4), rel=0.15)

    def test_beyond_a_fence_it_rises(self) -> None:
        shadow, objective = self.shadow(PenalisedProblem)
        _, high = scaled(objective, objective.start).limits
        assert np.isinf(shadow.bounds()).all()  # it has none of its own
        at, beyond, far = (shadow.nllf(high + step) for step in (0.0, 0.1, 1.0))
        assert at < beyond < far
        inside = objective.nllf(objective.high)
        assert shadow.likelihood(far, high + 1.0) == pytest.approx(inside)
        assert shadow.inside(high + 1.0).tolist() == high.tolist()

    def test_a_point_without_a_value_is_higher_than_all_before(self) -> None:
        _, objective = self.shadow()
        values = iter([5.0, 3.0, math.inf, 80.0, math.nan])
        coordinates = scaled(objective, objective.start)
        shadow = PenalisedProblem(
            objective, coordinates, lambda x: next(values), lambda x: np.eye(4), objective.start
        )
        seen = [shadow.nllf() for _ in range(4)]
        assert seen[0] < seen[1] < math.inf
        assert seen[2] < seen[3] < math.inf


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("rate", [0.5, 2.0, 3.0])
def test_a_decay_that_is_over_has_a_scale_of_its_own_size(sign: float, rate: float) -> None:
    """Faster decays change nothing. Slower ones do, and the scale follows them, whichever way they lie."""

    def decay(t: Any, h: float, r: float) -> Any:
        return h * np.exp(-sign * r * t)

    t = np.arange(0.0, 330.0, 10.0)
    model = Model(decay, h=Parameter(-100.0), r=Parameter(sign * rate))
    objective = Assembly((model, (t, np.exp(-0.01 * t)))).objective
    scale = natural_scale(objective, objective.start)
    assert 0.01 < scale[1] < 30
