"""Curves: how data and fit of every shape become lines or images, their bands, and their size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from park.fit.curves import error_bands
from park.fit.curves.curve import Curve, nothing
from park.fit.curves.downsampling import thinned
from park.fit.plotting.curve_panels import MAX_LINE_POINTS
from park.fit.plotting.image_panels import MAX_SIDE_PIXELS, coarse
from park.fit.problem.assembly import Assembly
from park.fit.problem.data import Data
from park.fit.problem.model import Model
from park.fit.results import result_curves
from park.fit.results.result import FitResult
from tests.support.fits import Env, fit

T = np.linspace(0, 4, 9)


def curve(x: Any, y: Any, theory: Any = None, dy: Any = None, **more: Any) -> Curve:
    y = np.asarray(y)
    theory = y - 0.5 if theory is None else theory
    return Curve("a part", np.asarray(x), y, dy, theory, np.ravel(theory - y), **more)


def line(x: Any, slope: float, offset: float) -> Any:
    return slope * x + offset


class TestLines:
    def test_sorted_whatever_the_order_of_the_points(self) -> None:
        order = np.random.default_rng(3).permutation(T.size)
        (drawn,) = curve(T[order], T[order] ** 2, dy=0.1 + T[order]).lines()
        assert drawn.x.tolist() == T.tolist()
        assert drawn.y.tolist() == (T**2).tolist()
        assert drawn.dy is not None
        assert drawn.dy.tolist() == (0.1 + T).tolist()

    @pytest.mark.parametrize("axis", [0, 1])
    def test_several_curves_over_one_x(self, axis: int) -> None:
        y = np.array([T, -T])
        lines = curve(T, y if axis == 0 else y.T, labels=("t (s)", "U (V)", "left", "right")).lines()
        assert [one.label for one in lines] == ["left", "right"]
        assert [one.y.tolist() for one in lines] == y.tolist()

    def test_complex_values_are_two_lines(self) -> None:
        given = curve(
            T, T + 2j * T, theory=T + 1j * T, dy=np.full(T.size, 0.1 + 0.2j), low=T - 1j, high=T + 1j
        )
        real, imaginary = given.lines()
        assert (real.label, imaginary.label) == ("real part", "imaginary part")
        assert imaginary.y.tolist() == (2 * T).tolist()
        assert (real.dy.tolist(), imaginary.dy.tolist()) == ([0.1] * 9, [0.2] * 9)
        assert (real.low.tolist(), imaginary.high.tolist()) == (T.tolist(), [1.0] * 9)
        assert given.differences() == pytest.approx(1j * T / 0.2)

    def test_pieces_are_lines_of_their_own(self) -> None:
        x = np.concatenate([T, T[:4]])
        lines = curve(x, 2 * x, pieces=(("++", 9), ("+-", 4))).lines()
        assert [(one.label, one.x.size) for one in lines] == [("++", 9), ("+-", 4)]

    def test_masked_points_are_left_out(self) -> None:
        mask = T > 3
        (drawn,) = curve(T, T, mask=mask).lines()
        assert drawn.x.max() == 3
        assert np.isnan(curve(T, T, mask=mask).differences()).tolist() == mask.tolist()

    @pytest.mark.parametrize("axis", [0, -1])
    def test_few_values_of_one_coordinate_are_lines_along_the_other(self, axis: int) -> None:
        time, warmth = (a.ravel() for a in np.meshgrid(T, [20.0, 40.0]))
        given = curve(np.stack([time, warmth], axis), time * warmth, labels=("t (s)", "T (C)", "y"))
        assert [one.label for one in given.lines()] == ["T (C) = 20", "T (C) = 40"]
        assert given.lines()[1].x.tolist() == T.tolist()
        assert (given.against, given.value) == ("t (s)", "y")

    def test_more_coordinates_than_a_picture_has(self) -> None:
        (drawn,) = curve(np.ones((3, 9)), T).lines()
        assert drawn.x.tolist() == list(range(1, 10))

    def test_nothing_known(self) -> None:
        assert nothing("a part").lines() == []
        assert nothing("a part").pixels() is None


class TestPixels:
    Y = np.arange(20 * 30.0).reshape(20, 30)

    def test_of_an_array(self) -> None:
        mask = self.Y == 31
        image = curve(np.zeros(30), self.Y, dy=np.full((20, 30), 0.25), mask=mask).pixels()
        assert image is not None
        assert np.isnan(image.data[1, 1])
        assert image.data[2, 3] == self.Y[2, 3]
        assert np.nanmax(np.abs(image.residuals - 2)) == 0
        assert (image.across[[0, -1]].tolist(), image.up[[0, -1]].tolist()) == ([0.5, 30.5], [0.5, 20.5])

    @pytest.mark.parametrize("swapped", [False, True])
    def test_with_coordinates(self, swapped: bool) -> None:
        v, u = np.meshgrid(np.linspace(-2, 2, 20), np.geomspace(1, 10, 30), indexing="ij")
        x, labels = ([v, u], ("v", "u", "z")) if swapped else ([u, v], ("u", "v", "z"))
        image = curve(x, self.Y, labels=labels).pixels()
        assert image is not None
        assert image.labels == ("u", "v", "z")
        assert np.sqrt(image.across[3] * image.across[4]) == pytest.approx(u[0, 3], rel=0.01)
        assert image.up[0] < -2 < image.up[1]

    @pytest.mark.parametrize("keep", [1.0, 0.8])
    def test_of_scattered_points_on_a_grid(self, keep: float) -> None:
        rows, columns = np.indices(self.Y.shape)
        chosen = np.random.default_rng(1).permutation(self.Y.size)[: int(keep * self.Y.size)]
        x = np.array([columns.ravel()[chosen] * 0.1, rows.ravel()[chosen] * 5.0])
        image = curve(x, self.Y.ravel()[chosen]).pixels()
        assert image is not None
        assert image.data.shape == self.Y.shape
        seen = np.isfinite(image.data)
        assert seen.sum() == chosen.size
        assert image.data[seen].tolist() == self.Y[seen].tolist()

    def test_of_points_anywhere(self) -> None:
        u, v = np.random.default_rng(2).random((2, 2500))
        image = curve([u, v], u + v).pixels()
        assert image is not None
        assert 45 <= image.data.shape[0] <= 55
        middle = (image.across[1:] + image.across[:-1]) / 2, (image.up[1:] + image.up[:-1]) / 2
        assert np.nanmax(np.abs(image.data - middle[0] - middle[1][:, None])) < 0.04

    def test_a_stack_of_images_is_one(self) -> None:
        image = curve(np.zeros(30), np.array([self.Y, -self.Y])).pixels()
        assert image is not None
        assert image.data.shape == (40, 30)


def straight(n: int = 40, dy: Any = 0.2, low: float = -9.0) -> tuple[Assembly, Any]:
    x = np.linspace(0, 10, n)
    noise = np.random.default_rng(8).normal(size=n)
    model = Model(line, slope=(low, 9.0), offset=(-9.0, 9.0))
    return Assembly((model, Data(x, line(x, 0.7, 2.0) + 0.2 * noise, dy))), x


class TestBands:
    def test_of_a_straight_line_are_exact(self) -> None:
        assembly, x = straight()
        result = fit(assembly, "lm")
        design = np.column_stack([x, np.ones_like(x)])
        half = 1.959964 * np.sqrt(np.einsum("ij,jk,ik->i", design, result.cov, design))
        (found,) = result.curves
        assert found.low is not None
        assert found.high is not None
        assert found.high - found.theory == pytest.approx(half, rel=1e-5)
        assert found.theory - found.low == pytest.approx(half, rel=1e-5)

    def test_of_draws_agree(self) -> None:
        assembly, _ = straight()
        result = fit(assembly, "lm")
        draws = np.random.default_rng(6).multivariate_normal(result.x, result.cov, 4000)
        (drawn,) = result_curves.make_result_curves(assembly, result.x, result.cov, draws, Env()).curves
        (exact,) = result.curves
        assert drawn.high - drawn.low == pytest.approx(exact.high - exact.low, rel=0.2)
        assert np.all((drawn.low < drawn.theory) & (drawn.theory < drawn.high))

    def test_do_not_depend_on_units(self) -> None:
        """Parameters of 1e-12 and 1e9 in one covariance."""
        result = fit(straight()[0], "lm")
        scale = np.array([1e12, 1e-9])
        limits = np.full(2, -np.inf), np.full(2, np.inf)

        def evaluate(point: Any) -> Any:
            return line(T, *(point * scale))

        cov = result.cov / np.outer(scale, scale)
        low, high = error_bands.propagated(evaluate, result.x / scale, line(T, *result.x), limits, cov)
        plain = error_bands.propagated(
            lambda point: line(T, *point), result.x, line(T, *result.x), limits, result.cov
        )
        assert (low, high) == (pytest.approx(plain[0]), pytest.approx(plain[1]))

    def test_stay_within_the_limits(self) -> None:
        asked = []

        def evaluate(point: Any) -> Any:
            asked.append(point)
            return T * point[0] + point[1]

        limits = np.array([1.0, 0.0]), np.array([2.0, 5.0])
        x, cov = np.array([1.0, 5.0]), np.diag([0.04, 0.09])
        low, high = error_bands.propagated(evaluate, x, T + 5, limits, cov)
        assert all(((limits[0] <= point) & (point <= limits[1])).all() for point in asked)
        assert (high - low) / 2 == pytest.approx(1.959964 * np.sqrt(0.04 * T**2 + 0.09))

    @pytest.mark.parametrize("cov", [np.full((1, 1), np.inf), np.full((1, 1), np.nan), np.zeros((1, 1))])
    def test_errors_that_say_nothing(self, cov: Any) -> None:
        limits = np.array([-1.0]), np.array([1.0])
        assert error_bands.propagated(lambda point: T * point, np.zeros(1), 0 * T, limits, cov) is None

    def test_no_more_curves_than_memory_allows(self) -> None:
        draws = np.zeros((5000, 3))
        assert len(error_bands.chosen(draws, 1000)) == error_bands.MAX_BAND_DRAWS
        assert len(error_bands.chosen(draws, error_bands.MAX_HELD_VALUES // 150)) == 150
        assert (
            len(error_bands.chosen(draws, error_bands.MAX_HELD_VALUES // error_bands.MIN_BAND_DRAWS + 1)) == 0
        )
        assert len(error_bands.chosen(draws[:50], 10)) == 0

    def test_draws_at_which_the_model_fails_do_not_count(self) -> None:
        rows = [None if n % 3 == 0 else np.full(4, float(n % 100)) for n in range(300)]
        low, high = error_bands.of_curves(rows)
        assert (low[0], high[3]) == pytest.approx((2, 97), abs=1)
        assert error_bands.of_curves([None, None, np.zeros(4)]) is None

    @pytest.mark.parametrize("slow", [0.0, np.inf])
    def test_slow_models_are_drawn_on_all_slots(self, slow: float, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(result_curves, "SLOW_EVALUATION_SECONDS", slow)
        assembly, _ = straight()
        draws = np.random.default_rng(6).normal([0.7, 2.0], 0.01, (500, 2))
        env = Env()
        (found,) = result_curves.make_result_curves(
            assembly, np.array([0.7, 2.0]), np.eye(2), draws, env
        ).curves
        assert env.mapped == (0 if slow else error_bands.MAX_BAND_DRAWS - 1)
        assert np.ptp([found.low[0], found.high[0]]) == pytest.approx(2 * 1.96 * 0.01, rel=0.2)

    def test_a_fit_that_was_stopped_draws_no_more(self) -> None:
        assembly, x = straight()
        draws = np.full((500, 2), np.nan)
        env = Env(stop_after=0)
        (found,) = result_curves.make_result_curves(
            assembly, np.array([0.7, 2.0]), np.eye(2), draws, env
        ).curves
        assert found.high - found.theory == pytest.approx(1.959964 * np.sqrt(1 + x**2))

    def test_without_dy_they_are_those_of_student(self) -> None:
        assembly, x = straight(n=5, dy=None)
        result = fit(assembly, "lm")
        design = np.column_stack([x, np.ones_like(x)])
        half = 3.182446 * np.sqrt(np.einsum("ij,jk,ik->i", design, result.cov, design))
        assert result.curves[0].high - result.curves[0].theory == pytest.approx(half, rel=1e-4)

    def test_images_have_none_and_cost_nothing(self) -> None:
        spot = Model(lambda x, height: height * np.outer(x, x), height=(0.0, 4.0))
        side = np.linspace(0, 1, 30)
        calls = 0

        def counted(x: Any, slope: float, offset: float) -> Any:
            nonlocal calls
            calls += 1
            return line(x, slope, offset)

        curves = fit(Assembly((spot, (side, np.outer(side, side), 0.1))), "lm").curves
        assert curves[0].low is None
        two = Assembly(
            (spot, (side, np.outer(side, side), 0.1)),
            (Model(counted, slope=(0, 2), offset=(-1, 1)), (T, T, 0.1)),
        )
        found = fit(two, "lm").curves
        assert (found[0].low is None, found[1].low is None) == (True, False)
        calls = 0
        result_curves.make_result_curves(two, np.ones(3), np.eye(3), None, Env())
        assert calls == 1 + 3  # the curve, and one for each parameter

    def test_that_fails_leaves_the_fit(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def broken(*_: Any) -> Any:
            raise MemoryError

        monkeypatch.setattr(error_bands, "propagated", broken)
        result = fit(straight()[0], "lm")
        assert result.curves[0].low is None
        assert "the curves have no 95 % band: MemoryError" in result.message


class TestSize:
    @pytest.mark.parametrize(
        ("given", "points"),
        [
            (curve(np.arange(1000.0), np.arange(1000.0), dy=np.ones(1000)), 250),
            (curve(np.arange(500.0), np.ones((2, 500)), labels=("x", "y", "a", "b")), 250),
            (curve(np.zeros(40), np.ones((60, 40))), 600),
            (curve(np.indices((60, 40)), np.ones((60, 40)), mask=np.eye(60, 40) > 0), 600),
            (curve(np.ones((2, 60, 40)), np.ones((60, 40))), 600),
            (curve(np.arange(90.0), np.arange(90.0), pieces=(("a", 50), ("b", 40))), 23),
            (curve(np.arange(100.0), 1j * np.arange(100)), 25),
        ],
    )
    def test_thinned(self, given: Curve, points: int) -> None:
        thin = thinned(given, 4)
        assert thin.y.size == points
        assert thin.nbytes() < 0.45 * given.nbytes()
        assert (thin.pixels() is None) == (given.pixels() is None)
        assert [one.label for one in thin.lines()] == [one.label for one in given.lines()]
        assert thin.dy is None or thin.dy.shape == thin.y.shape

    def test_a_result_has_a_limit(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(result_curves, "MAX_CURVE_BYTES", 20_000)
        result = fit(straight(n=1500)[0], "lm")
        (found,) = result.curves
        assert found.nbytes() <= 20_000
        assert found.low is not None
        factor = -(-1500 // found.y.size)
        assert result.message == (
            f"the curves are too large to travel with the result: they hold one of every {factor} points"
        )

    def test_large_data_are_drawn_thinned(self) -> None:
        x = np.linspace(0, 10, 200_000)
        y = line(x, 1, 0)
        y[77_777] = 60.0
        spike = curve(x, np.zeros_like(x), theory=y, low=y - 1, high=y + 1)
        figure = drawn(spike)
        top = figure.axes[0]
        sizes = [len(shown.get_xdata()) for axes in figure.axes for shown in axes.get_lines()]
        assert max(sizes) <= 2 * MAX_LINE_POINTS
        assert max(np.max(shown.get_ydata()) for shown in top.get_lines()) == 60.0

    def test_large_images_are_drawn_coarse(self) -> None:
        figure = drawn(curve(np.zeros(1300), np.ones((600, 1300))))
        (mesh, *_) = figure.axes[0].collections
        assert max(mesh.get_array().shape) <= MAX_SIDE_PIXELS

    def test_coarse_residuals_scatter_as_fine_ones(self) -> None:
        noise = np.random.default_rng(1).normal(size=(600, 1300))
        image = curve(np.zeros(1300), noise, theory=0 * noise, dy=np.ones(noise.shape)).pixels()
        seen = coarse(image, True)
        assert seen.residuals.shape == (200, 434)
        assert np.std(seen.residuals) == pytest.approx(1, abs=0.02)
        assert np.std(coarse(image, False).residuals) == pytest.approx(1 / 3, abs=0.01)
        assert (seen.across[-1], seen.up[-1]) == (1300.5, 600.5)


def drawn(given: Curve) -> Any:
    empty = np.empty(0)
    result = FitResult(
        (), empty, empty, np.empty((0, 0)), 1.0, 1.0, 1, "lm", 1, empty, empty, curves=(given,)
    )
    return result.plot.fit()


@pytest.mark.parametrize(
    "make",
    [
        lambda: curve(T, np.zeros(9)),
        lambda: curve(T, np.full(9, -3.0), dy=np.ones(9)),
        lambda: curve(T, np.full(9, 3.0), theory=np.full(9, np.nan)),
        lambda: curve(np.zeros(9), T),
        lambda: curve([1.0], [2.0], dy=np.array([0.1])),
        lambda: curve(T, T, mask=np.ones(9, dtype=bool)),
        lambda: curve(np.geomspace(1e-12, 1e12, 9), np.geomspace(1e-30, 1e30, 9)),
        lambda: curve(np.zeros(20), np.full((20, 20), np.nan)),
        lambda: curve(np.zeros(20), np.zeros((20, 20))),
        lambda: curve(np.zeros(20), np.geomspace(1, 1e9, 400).reshape(20, 20), dy=np.ones((20, 20))),
        lambda: nothing("x" * 200),
    ],
)
@pytest.mark.parametrize("view", [None, "loglog", "q4"])
def test_odd_data_are_drawn(make: Callable[[], Curve], view: str | None) -> None:
    from matplotlib.figure import Figure

    from park.fit.plotting import curve_panels

    figure = Figure()
    curve_panels.draw(figure, figure.add_gridspec(1, 1)[0], make(), view, "title")
    figure.canvas.draw()
