"""What a result shows, says and saves."""

from __future__ import annotations

import gzip
import json
import math
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_fit_drivers import TRUE, X, assembly, decay, fit, sample

from park.errors import InvalidRequest
from park.fit.assembly import Assembly
from park.fit.model import Model
from park.fit.result import FitResult, uncertain


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
        assert uncertain(value, error) == text

    def test_the_table(self, fitted: FitResult) -> None:
        lines = repr(fitted).splitlines()
        assert lines[0].startswith("<FitResult amoeba: reduced chi-squared ")
        assert "80 points, 78 degrees of freedom" in lines[0]
        assert lines[1].split() == ["parameter", "value", "68", "%", "interval", "95", "%", "interval"]
        assert [line.split()[0] for line in lines[2:]] == ["height", "time", "floor", "rate"]
        assert lines[4].split() == ["floor", "0.4", "fixed"]
        assert lines[5].endswith("computed")


class TestSave:
    def test_files_of_a_fit(self, fitted: FitResult, tmp_path: Path) -> None:
        written = fitted.save(tmp_path / "new" / "folder")
        names = sorted(path.name for path in (tmp_path / "new" / "folder").iterdir())
        assert names == sorted(path.name for path in written)
        assert {"fit.par", "fit.err", "fit.out", "fit.json", "fit-1.dat", "fit-2.dat", "fit-fit.png"} <= set(
            names
        )
        assert not any(name.endswith(".mc.gz") for name in names)

    def test_par_is_read_by_bumps(self, fitted: FitResult, tmp_path: Path) -> None:
        from bumps.fitproblem import load_pars

        fitted.save(tmp_path, "decay")
        model = Model(decay, height=(0, 10), time=(0.1, 10), floor=0.4)
        problem = Assembly((model, (X, X))).problem()
        load_pars(problem, tmp_path / "decay.par")
        assert problem.getp() == pytest.approx(fitted.x, rel=1e-14)

    def test_json(self, result: FitResult, tmp_path: Path) -> None:
        result.save(tmp_path)
        summary = json.loads((tmp_path / "fit.json").read_text())
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

    def test_a_sample_is_read_by_bumps(self, sampled: FitResult, tmp_path: Path) -> None:
        from bumps.dream.state import load_state

        sampled.save(tmp_path, "decay")
        for what in ("chain", "point", "stats"):
            with gzip.open(tmp_path / f"decay-{what}.mc.gz", "rt") as file:
                assert file.readline().startswith("#")
        state = load_state(str(tmp_path / "decay"))
        assert state.Nvar == 3
        errors = json.loads((tmp_path / "decay-err.json").read_text())
        assert set(errors) == set(sampled.names)
        assert errors["time"]["median"] == pytest.approx(sampled["time"].value, rel=1e-3)

    def test_data_with_fit(self, fitted: FitResult, tmp_path: Path) -> None:
        fitted.save(tmp_path)
        x, y, dy, theory = np.loadtxt(tmp_path / "fit-1.dat").T
        assert x == pytest.approx(X)
        assert y == pytest.approx(decay(X, *TRUE))
        assert dy == pytest.approx(0.05)
        assert theory == pytest.approx(fitted.curves[0].theory)


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
        command = [sys.executable, "-W", "error", "-c", code, str(tmp_path / "result"), str(tmp_path / "p")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.stdout.strip() == "False", done.stderr

    @pytest.mark.parametrize("view", [None, "linear", "log", "logx", "loglog"])
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
