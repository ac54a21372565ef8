"""A result's plots, texts and files."""

from __future__ import annotations

import gzip
import json
import math
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.contour import ContourSet

from park.errors import InvalidRequest
from park.fit.numerics.intervals import format_value
from park.fit.plotting.plots import Plots
from park.fit.problem.assembly import Assembly
from park.fit.problem.data import Data
from park.fit.problem.model import Model
from park.fit.problem.parameter import Parameter
from park.fit.results.result import FitResult
from tests.support.fits import TRUE, X, assembly, decay, fit, sample


@pytest.fixture(scope="module")
def fitted() -> FitResult:
    model = Model(decay, height=(0, 10), time=(0.1, 10), floor=0.4)
    other = Model(lambda x, rate: x * rate, rate="1/time")
    return fit(Assembly((model, (X, decay(X, *TRUE), 0.05)), (other, (X, X / 1.5, 0.1))), "amoeba")


@pytest.fixture(scope="module")
def sampled() -> FitResult:
    return sample(assembly(), samples=6000, burn=50)


@pytest.fixture(params=["fitted", "sampled"])
def result(request: pytest.FixtureRequest) -> FitResult:
    found: FitResult = request.getfixturevalue(request.param)
    return found


class TestNumbers:
    def test_parameters_by_name(self, fitted: FitResult) -> None:
        assert fitted["height"].value == fitted.x[0]
        assert fitted["height"].stderr == fitted.dx[0]
        assert (fitted["floor"].value, fitted["floor"].stderr, fitted["floor"].kind) == (0.4, 0.0, "fixed")
        assert fitted["rate"].value == pytest.approx(1 / fitted["time"].value)
        assert fitted["rate"].kind == "computed"
        assert list(fitted) == ["height", "time", "floor", "rate"]
        with pytest.raises(KeyError, match="no parameter 'depth'; there are height, time"):
            fitted["depth"]

    def test_intervals_of_a_fit_are_normal(self, fitted: FitResult) -> None:
        low, high = fitted.intervals(0.954499736)["time"]
        assert (low, high) == pytest.approx((fitted.x[1] - 2 * fitted.dx[1], fitted.x[1] + 2 * fitted.dx[1]))

    def test_intervals_of_a_sample_are_its_quantiles(self, sampled: FitResult) -> None:
        assert sampled.draws is not None
        low, high = sampled.intervals(0.9)["time"]
        share = np.mean((low <= sampled.draws[:, 1]) & (sampled.draws[:, 1] <= high))
        assert share == pytest.approx(0.9, abs=0.01)
        assert sampled.intervals()["time"] == sampled.intervals(0.68)["time"]
        assert low < sampled["time"].value < high

    @pytest.mark.parametrize("p", [0, 1, -0.5, 68, math.nan, "0.68", None, True])
    def test_no_such_interval(self, fitted: FitResult, p: Any) -> None:
        with pytest.raises(InvalidRequest, match="between 0 and 1"):
            fitted.intervals(p)

    def test_pickles(self, result: FitResult) -> None:
        again = pickle.loads(pickle.dumps(result))
        assert again.x.tolist() == result.x.tolist()
        assert repr(again) == repr(result)

    def test_a_client_needs_no_bumps_to_read_it(self, sampled: FitResult, tmp_path: Path) -> None:
        (tmp_path / "result").write_bytes(pickle.dumps(sampled))
        code = (
            "import pickle, sys; result = pickle.load(open(sys.argv[1], 'rb')); repr(result)\n"
            "print([m for m in ('bumps', 'scipy', 'matplotlib') if m in sys.modules])"
        )
        command = [sys.executable, "-c", code, str(tmp_path / "result")]
        assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "[]"


class TestText:
    @pytest.mark.parametrize(
        ("value", "error", "text"),
        [
            (238.94213, 2.707, "238.9(2.7)"),
            (238.94213, 0.02707, "238.942(27)"),
            (5.5015643e-4, 7.2668e-6, "5.502(73)e-4"),
            (-0.00123, 0.01, "-0.001(10)"),
            (123456789.0, 1234.0, "1.234568(12)e8"),
            (5.0, 12.0, "5(12)"),
            (0.4, 0.0, "0.4"),
            (1.0, math.inf, "1(inf)"),
            (1.0, math.nan, "1(nan)"),
            (math.nan, 1.0, "nan(1)"),
            (0.0, 0.05, "0.000(50)"),
        ],
    )
    def test_a_value_and_its_error(self, value: float, error: float, text: str) -> None:
        assert format_value(value, error) == text

    def test_the_table(self, fitted: FitResult) -> None:
        lines = repr(fitted).splitlines()
        assert lines[0].startswith("<FitResult amoeba: reduced chi-squared ")
        assert "80 points, 78 degrees of freedom" in lines[0]
        assert lines[1].split() == ["parameter", "value", "68", "%", "interval", "95", "%", "interval"]
        assert [line.split()[0] for line in lines[2:]] == ["height", "time", "floor", "rate"]
        assert lines[4].split() == ["floor", "0.4", "fixed"]
        assert lines[5].endswith("computed")


@pytest.fixture(scope="module")
def saved(fitted: FitResult, sampled: FitResult, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both."""
    folder = tmp_path_factory.mktemp("saved") / "new" / "folder"
    written = fitted.save(folder)
    assert sorted(written) == sorted(folder.iterdir())
    sampled.save(folder, "decay")
    return folder


class TestSave:
    def test_files_of_a_fit(self, saved: Path) -> None:
        names = {path.name for path in saved.iterdir() if path.name.startswith("fit")}
        assert {"fit.par", "fit.err", "fit.out", "fit.json", "fit-1.dat", "fit-2.dat", "fit-fit.png"} <= set(
            names
        )
        assert not any(name.endswith(".mc.gz") for name in names)

    def test_par_is_read_by_bumps(self, fitted: FitResult, saved: Path) -> None:
        try:
            from bumps.fitproblem import load_pars
        except ImportError:  # bumps before 1.0.5
            from bumps.cli import load_best as load_pars

        model = Model(decay, height=(0, 10), time=(0.1, 10), floor=0.4)
        problem = Assembly((model, (X, X))).problem()
        load_pars(problem, saved / "fit.par")
        assert problem.getp() == pytest.approx(fitted.x, rel=1e-14)

    def test_json(self, result: FitResult, saved: Path) -> None:
        name = "fit" if result.draws is None else "decay"
        summary = json.loads((saved / f"{name}.json").read_text())
        assert summary["x"] == result.x.tolist()
        assert summary["cov"] == result.cov.tolist()
        assert summary["names"] == list(result.names)
        assert summary["parameters"]["time"]["value"] == result["time"].value
        assert summary["intervals"]["time"]["68"] == list(result.intervals(0.68)["time"])

    def test_what_is_not_finite_is_null_in_json(self) -> None:
        line = Model(lambda x, a, b: a * x + b, a=(0, 4), b=(-2, 2))
        summary = fit(Assembly((line, ([1, 2], [2, 3]))), "lm").summary()
        assert summary["chisq"] is None
        json.dumps(summary, allow_nan=False)

    def test_a_sample_is_read_by_bumps(self, sampled: FitResult, saved: Path) -> None:
        from bumps.dream.state import load_state

        for what in ("chain", "point", "stats"):
            with gzip.open(saved / f"decay-{what}.mc.gz", "rt") as file:
                assert file.readline().startswith("#")
        state = load_state(str(saved / "decay"))
        assert state.Nvar == 3
        errors = json.loads((saved / "decay-err.json").read_text())
        assert set(errors) == set(sampled.names)
        assert errors["time"]["median"] == pytest.approx(sampled["time"].value, rel=1e-3)

    def test_data_with_fit(self, fitted: FitResult, saved: Path) -> None:
        x, y, dy, theory = np.loadtxt(saved / "fit-1.dat").T
        assert x == pytest.approx(X)
        assert y == pytest.approx(decay(X, *TRUE))
        assert dy == pytest.approx(0.05)
        assert theory == pytest.approx(fitted.curves[0].theory)

    def test_an_image(self, tmp_path: Path) -> None:
        image = np.ma.masked_greater(np.outer(np.arange(1.0, 21), np.arange(1.0, 21)), 300)
        flat = Model(lambda x, a: a * np.outer(x, x), a=(0, 4))
        result = fit(Assembly((flat, (np.arange(1.0, 21), image, 0.5))), "lm")
        assert {"fit-1.dat", "fit-1.npz"} <= {path.name for path in result.save(tmp_path)}
        row, column, _, y, dy, theory = np.loadtxt(tmp_path / "fit-1.dat").T
        assert len(y) == image.count()
        assert y.tolist() == ((row + 1) * (column + 1)).tolist()
        assert set(dy) == {0.5}
        assert theory == pytest.approx(y)
        with np.load(tmp_path / "fit-1.npz") as arrays:
            assert arrays["mask"].tolist() == image.mask.tolist()
            assert arrays["fit"].shape == (20, 20)

    def test_complex_values(self, tmp_path: Path) -> None:
        from park.fit.results.saving import write_table

        wave = Model(lambda x, a: a * np.exp(1j * x), a=(0.0, 4.0))
        (curve,) = fit(Assembly((wave, (X, 2 * np.exp(1j * X), 0.1))), "lm").curves
        write_table(tmp_path / "table", curve)
        names = ["x", "yr", "yi", "dr", "di", "fr", "fi"]
        columns = dict(zip(names, np.loadtxt(tmp_path / "table").T, strict=True))
        assert columns["yi"] == pytest.approx(2 * np.sin(X))
        assert columns["fr"] == pytest.approx(2 * np.cos(X))
        assert set(columns["di"]) == {0.1}
        assert curve.high.imag - curve.low.imag == pytest.approx(
            np.abs(np.sin(X)) * np.ptp([curve.low[0].real, curve.high[0].real])
        )

    def test_an_unknown_error_is_no_number(self, tmp_path: Path) -> None:
        from park.fit.results.saving import write_table

        straight = Model(lambda x, a: a * x, a=(0.0, 4.0))
        (curve,) = fit(Assembly((straight, (X, 2 * X + 0.1 * np.sin(9 * X)))), "lm").curves
        write_table(tmp_path / "table", curve)
        assert np.isnan(np.loadtxt(tmp_path / "table")[:, 2]).all()

    def test_a_picture_that_fails_loses_nothing(
        self, fitted: FitResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(self: Plots) -> None:
            raise RuntimeError("no such font")

        monkeypatch.setattr(Plots, "marginals", broken)
        with pytest.warns(UserWarning, match=r"not saved: fit-marginals\.png: RuntimeError: no such font$"):
            written = fitted.save(tmp_path)
        names = {path.name for path in written}
        assert {"fit.par", "fit-2.dat", "fit-fit.png", "fit-correlations.png"} <= names
        assert names == {path.name for path in tmp_path.iterdir()}

    def test_a_client_without_bumps_has_the_rest(self, sampled: FitResult, tmp_path: Path) -> None:
        (tmp_path / "result").write_bytes(pickle.dumps(sampled))
        code = (
            "import pickle, sys; sys.modules['bumps'] = sys.modules['matplotlib'] = None\n"
            "print(*[path.name for path in pickle.load(open('result', 'rb')).save('saved')])"
        )
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
        assert done.stdout.split() == ["fit.par", "fit.err", "fit.out", "fit.json", "fit-1.dat"]
        assert "not saved: fit-err.json: ModuleNotFoundError" in done.stderr


@pytest.fixture(scope="module")
def many() -> FitResult:
    """Six parts with three parameters of their own each."""
    noise = np.random.default_rng(4).normal(size=(6, X.size))
    data = [Data(X, decay(X, *TRUE) + 0.1 * n, 0.1, f"run {k}", ("t (s)", "y")) for k, n in enumerate(noise)]
    parts = [(Model(decay, height=(0, 10), time=(0.1, 10), floor=(-1, 1)), one) for one in data]
    return fit(Assembly(*parts), "lm", start=[*TRUE] * 6)


class TestManyPlots:
    def test_parts_are_laid_out_in_a_square(self, many: FitResult) -> None:
        figure = many.plot.fit()
        assert len(figure.axes) == 12
        width, height = figure.get_size_inches()
        assert 0.5 < width / height < 2
        assert figure.axes[10].get_title() == f"run 5   χ²/n {np.mean(many.curves[5].residuals ** 2):.3g}"

    def test_chosen_parts(self, many: FitResult) -> None:
        figure = many.plot.fit(parts=[3, 6])
        assert [axes.get_title()[:5] for axes in figure.axes[::2]] == ["run 2", "run 5"]
        for parts in (0, 7, [1, "2"], True):
            with pytest.raises(InvalidRequest, match="numbers 1 to 6"):
                many.plot.fit(parts=parts)  # type: ignore[arg-type]

    def test_more_parts_than_a_picture_holds(self, many: FitResult) -> None:
        more = replace(many, curves=many.curves * 4)
        figure = more.plot.fit()
        assert len(figure.axes) == 40
        assert figure.get_suptitle().endswith("; the first 20 of 24 parts")

    def test_many_parameters(self, many: FitResult) -> None:
        figure = many.plot.correlations()
        assert len(figure.axes) == 2  # a map, and its colours
        assert figure.get_suptitle().startswith("correlations; the strongest:\n")
        assert len(many.plot.correlations(["part1.time", "part1.floor"]).axes) == 4
        with pytest.raises(InvalidRequest, match=r"fitted are part1\.height"):
            many.plot.correlations(["depth"])
        assert sum(axes.get_visible() for axes in many.plot.marginals().axes) == 18


@pytest.mark.parametrize("dy", [0.1, None])
@pytest.mark.parametrize("points", [5, 40])
def test_the_drawn_distribution_has_the_intervals(points: int, dy: float | None) -> None:
    from park.fit.plotting.corner import distribution

    x = np.linspace(0, 1, points)
    y = 2 * x + 0.1 * np.random.default_rng(2).normal(size=points)
    model = Model(lambda x, a, b: a * x + b, a=(-9, 9), b=(-9, 9))
    result = fit(Assembly((model, (x, y, dy))), "lm")
    at, density = distribution(result, 0)
    low, high = result.intervals(0.95)["a"]
    assert at[0] < low < high < at[-1]
    inside = (low <= at) & (at <= high)
    assert density[inside].sum() / density.sum() == pytest.approx(0.95, abs=0.02)  # tails are cut


@pytest.mark.parametrize("method", ["lm", "amoeba", "newton", "de"])
def test_numbers_of_a_result_are_plain(method: str) -> None:
    start = {"height": 4, "time": 2} if method == "newton" else None
    found = fit(assembly(), method, start=start)
    assert (type(found.chisq), type(found.nllf), type(found.dof)) == (float, float, int)
    assert "np." not in repr([found.chisq, found.nllf, found.intervals(), found.summary()])


class TestTitles:
    def test_what_keeps_one_from_trusting_it(self, fitted: FitResult) -> None:
        assert fitted.plot.fit().get_suptitle() == f"{fitted.statistic} {fitted.chisq:.4g}"
        doubtful = replace(fitted, converged=False, at_limit=("time",), statistic="deviance")
        assert doubtful.plot.fit().get_suptitle() == f"deviance {fitted.chisq:.4g}; not converged"
        assert doubtful.plot.marginals().axes[1].get_title().endswith(", at limit")
        assert replace(fitted, stopped=True).plot.correlations().get_suptitle().endswith("; stopped early")

    def test_chains_that_have_not_mixed(self, sampled: FitResult) -> None:
        doubtful = replace(sampled, converged=False, rhat=np.array([1.01, 1.8, 1.3]), ess=np.full(3, 20.0))
        title = f"{len(sampled.draws)} draws, R-hat up to 1.8, effective sample size from 20; not converged"
        assert doubtful.plot.marginals().get_suptitle() == title


@pytest.fixture(scope="module", params=[1e-5, 0.3])
def measured(request: pytest.FixtureRequest) -> FitResult:
    """A fit of parameters with units, to data of such an error."""

    def with_rate(x: Any, height: float, time: float, floor: float, rate: float) -> Any:
        return decay(x, height, time, floor) * time * rate

    model = Model(
        with_rate,
        height=Parameter(limits=(0, 10), unit="counts"),
        time=Parameter(limits=(0.1, 10), unit="s"),
        floor=(-1, 1),
        rate=Parameter(expression="1/time", unit="1/s"),
    )
    y = decay(X, *TRUE) + request.param * np.random.default_rng(4).normal(size=X.size)
    return fit(Assembly((model, Data(X, y, request.param, labels=("t (s)", "counts")))), "lm")


class TestUnits:
    def test_tables_and_pictures_show_them(self, measured: FitResult) -> None:
        labels = ["height (counts)", "time (s)", "floor"]
        assert [measured.label(name) for name in measured.names] == labels
        assert [row.split("  ")[0] for row in measured.table().splitlines()[1:]] == [*labels, "rate (1/s)"]
        assert [axes.get_xlabel() for axes in measured.plot.marginals().axes[:3]] == labels
        corner = measured.plot.correlations().axes
        assert [axes.get_xlabel() for axes in corner[-3:]] == labels
        assert [axes.get_ylabel() for axes in corner[::3]] == ["", *labels[1:]]
        assert measured.summary()["parameters"]["rate"]["unit"] == "1/s"
        assert "unit" not in measured.summary()["parameters"]["floor"]

    def test_files_of_values_have_plain_names(self, measured: FitResult, tmp_path: Path) -> None:
        measured.save(tmp_path)
        words = [line.split()[0] for line in (tmp_path / "fit.par").read_text().splitlines()]
        assert words == ["height", "time", "floor"]

    @pytest.mark.parametrize("unit", [3, None, "Å\n"])
    def test_a_unit_is_a_text(self, unit: Any) -> None:
        with pytest.raises(InvalidRequest, match="unit="):
            Parameter(1, unit=unit)


class TestLegends:
    def test_the_band_is_seen_however_narrow_it_is(self, measured: FitResult) -> None:
        figure = measured.plot.fit()
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        box = figure.axes[0].get_window_extent()
        rows = slice(int(figure.bbox.height - box.y1), int(figure.bbox.height - box.y0))
        red, green, blue = np.asarray(canvas.buffer_rgba())[rows, int(box.x0) : int(box.x1), :3].T.astype(int)
        orange = (red > 240) & (green > 120) & (green < 215) & (blue < 180) & (green > blue + 20)
        across = orange.any(axis=1).mean()
        assert across > 0.6, "along the whole curve, but where it lies on a point"

    def test_every_picture_says_what_is_drawn(self, result: FitResult) -> None:
        said = {
            "fit": {"data", "fit", "95 %"},
            "convergence": {"best"},
            "marginals": {"68 %", "95 %", "best"},
            "correlations": {"68 %", "95 %", "best"},
        }
        for name, figure in result.plot.all().items():
            legends = [axes.get_legend() for axes in figure.axes] + list(figure.legends)
            shown = {text.get_text() for legend in legends if legend for text in legend.get_texts()}
            assert said[name] <= shown
            figure.canvas.draw()

    def test_contours_look_as_their_legend_does(self, sampled: FitResult) -> None:
        figure = sampled.plot.correlations()
        drawn = [c for axes in figure.axes for c in axes.collections if isinstance(c, ContourSet)]
        assert len(drawn) == 3
        shown = {line.get_label(): line.get_linewidth() for line in figure.legends[0].get_lines()}
        for contours in drawn:
            assert [shown["95 %"], shown["68 %"]] == contours.get_linewidths()[:2].tolist()


class TestPlots:
    def test_pictures_draw(self, result: FitResult) -> None:
        figures = result.plot.all()
        assert list(figures) == ["fit", "convergence", "marginals", "correlations"]
        for figure in figures.values():
            figure.canvas.draw()
            assert figure.axes

    def test_pyplot_stays_out(self, sampled: FitResult, tmp_path: Path) -> None:
        (tmp_path / "result").write_bytes(pickle.dumps(sampled))
        code = (
            "import pickle, sys; result = pickle.load(open(sys.argv[1], 'rb'))\n"
            "for name, figure in result.plot.all().items(): figure.savefig(sys.argv[2] + name)\n"
            "print('matplotlib.pyplot' in sys.modules)"
        )
        # a matplotlib that is older than pyparsing calls it by old names
        warnings = ("-W", "error", "-W", "ignore::DeprecationWarning")
        command = [sys.executable, *warnings, "-c", code, str(tmp_path / "result"), str(tmp_path / "p")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.stdout.strip() == "False", done.stderr

    @pytest.mark.parametrize("view", [None, "linear", "log", "logx", "loglog", "q4"])
    def test_views(self, fitted: FitResult, view: str | None) -> None:
        figure = fitted.plot.fit(view)
        assert len(figure.axes) == 4
        figure.canvas.draw()

    def test_no_such_view(self, fitted: FitResult) -> None:
        with pytest.raises(InvalidRequest, match="view='cubic'"):
            fitted.plot.fit("cubic")

    def test_fits_with_nothing_to_say(self) -> None:
        line = Model(lambda x, a, b: a * x + b, a=(0, 4), b=(-2, 2))
        result = fit(Assembly((line, ([1, 2], [2, 3]))), "lm")
        for figure in result.plot.all().values():
            figure.canvas.draw()

    def test_images_and_several_coordinates(self) -> None:
        image = np.outer(np.arange(1.0, 4), np.ones(5))
        flat = Model(lambda x, a: a * image, a=(0, 4))
        plane = Model(lambda x, b: b * x[0], b=(0, 4))
        assembly = Assembly((flat, (np.ones(5), image)), (plane, (np.ones((2, 6)), np.ones(6))))
        result = fit(assembly, "lm")
        assert result.x == pytest.approx([1, 1])
        result.plot.fit().canvas.draw()
