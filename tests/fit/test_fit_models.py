"""Models of bumps of every shape: what is drawn of them, and which files they write.

The classes here offer what refl1d's and sasmodels' experiments offer, with a physics of one line. The real ones
are fitted under ``--all``, where they are installed.
"""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import warnings
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bumps.curve import Curve as BumpsCurve
from bumps.curve import PoissonCurve
from bumps.fitproblem import FitProblem
from bumps.parameter import Parameter
from bumps.pdfwrapper import PDF

from park.fit.curves import bumps_output
from park.fit.problem.assembly import Assembly
from park.fit.results.result import FitResult
from park.fit.results.saving import write_table
from tests.support.fits import fit

Q = np.linspace(0.01, 0.2, 30)
NOISE = np.random.default_rng(11).normal(size=(4, 30))


def layer(q: Any, thickness: float, scale: float) -> Any:
    return scale * np.cos(q * thickness / 2) ** 2 * (0.01 / q) ** 4


@dataclass
class Sample:
    """The base of all models here: two parameters, and residuals of a theory."""

    name: str = "film"
    thickness: Any = field(default_factory=lambda: Parameter(48.0, name="thickness", bounds=(30, 70)))
    scale: Any = field(default_factory=lambda: Parameter(0.9, name="scale", bounds=(0.1, 3)))

    def __post_init__(self) -> None:
        self.thickness.fixed = self.scale.fixed = False

    def parameters(self) -> dict[str, Any]:
        return {"thickness": self.thickness, "scale": self.scale}

    def update(self) -> None:
        pass

    def at(self, q: Any) -> Any:
        return layer(q, self.thickness.value, self.scale.value)

    def compared(self) -> tuple[Any, Any, Any]:
        raise NotImplementedError

    def numpoints(self) -> int:
        return int(np.size(self.compared()[0]))

    def residuals(self) -> Any:
        theory, y, dy = self.compared()
        return np.ravel((y - theory) / dy)

    def nllf(self) -> float:
        return 0.5 * float(np.sum(self.residuals() ** 2))


class Probe:
    """One measured reflectivity."""

    polarized = False

    def __init__(self, n: int, q: Any = Q, name: str = "") -> None:
        self.Q, self.name = q, name
        self.dR = 0.05 * layer(q, 50, 1) + 1e-9
        self.R = layer(q, 50, 1) + self.dR * NOISE[n, : q.size]


class Several(Probe):
    """Several measurements, one after the other."""

    def __init__(self) -> None:
        self.probes = [Probe(0, Q[:12], "low"), Probe(1, Q[8:], "high")]
        self.R, self.dR = (np.hstack([getattr(p, name) for p in self.probes]) for name in ("R", "dR"))
        self.Q = np.hstack([p.Q for p in self.probes])


class Polarised:
    """Cross sections, of which one was not measured."""

    polarized = True

    def __init__(self) -> None:
        self.mm, self.mp, self.pm, self.pp = Probe(0), None, Probe(1, Q[5:]), Probe(2)

    @property
    def xs(self) -> list[Any]:
        return [self.mm, self.mp, self.pm, self.pp]


@dataclass
class Reflectometer(Sample):
    """A sample like those of refl1d: a probe, pairs (Q, R), a profile, and files."""

    probe: Any = None
    magnetic: bool = False

    @property
    def ismagnetic(self) -> bool:
        return self.magnetic

    def reflectivity(self) -> Any:
        if self.probe.polarized:
            return [None if xs is None else (xs.Q, self.at(xs.Q)) for xs in self.probe.xs]
        return self.probe.Q, self.at(self.probe.Q)

    def compared(self) -> tuple[Any, Any, Any]:
        found = self.reflectivity()
        probes, pairs = (
            ([self.probe], [found])
            if not self.probe.polarized
            else zip(*[(p, f) for p, f in zip(self.probe.xs, found, strict=True) if p], strict=True)
        )
        return (
            np.hstack([pair[1] for pair in pairs]),
            np.hstack([p.R for p in probes]),
            np.hstack([p.dR for p in probes]),
        )

    def smooth_profile(self) -> Any:
        z = np.linspace(-10, self.thickness.value + 10, 4000)
        return z, 3 * (np.tanh(z) - np.tanh(z - self.thickness.value)), np.zeros_like(z)

    def magnetic_smooth_profile(self) -> Any:
        z, rho, irho = self.smooth_profile()
        return z, rho, irho, 0.3 * rho, np.where(z > 20, 270.0, 200.0)

    def save(self, basename: str) -> None:
        z, rho, _ = self.smooth_profile()
        np.savetxt(f"{basename}-profile.dat", np.array([z, rho]).T)
        np.savetxt(f"{basename}-refl.dat", np.array(self.compared()).T)
        Path(basename).with_name("notes.txt").write_text("of one sample")


@dataclass
class Detector:
    """A data object like those of sasmodels."""

    qx_data: Any = None
    qy_data: Any = None
    x: Any = None
    _xunit: str = "A"


@dataclass
class Scattering(Sample):
    """An experiment like those of sasmodels: values at the places of an index into the data."""

    data_type: str = "Iq"
    two: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        side = np.linspace(-0.2, 0.2, 24)
        qy, qx = np.meshgrid(side, side, indexing="ij")
        self._data = Detector(qx.ravel(), qy.ravel()) if self.two else Detector(x=np.sort(np.append(Q, 9.0)))
        self.q = np.hypot(qx, qy).ravel() if self.two else self._data.x
        self.index = (self.q > 0.03) & (self.q < 1)
        self.q = self.q[self.index]
        self.Iq = layer(self.q, 50, 1) * (1 + 0.05 * np.random.default_rng(3).normal(size=self.q.size))
        self.dIq = 0.05 * layer(self.q, 50, 1) + 1e-9

    def theory(self) -> Any:
        return self.at(self.q)

    def compared(self) -> tuple[Any, Any, Any]:
        return self.theory(), self.Iq, self.dIq


@dataclass
class Pair(Sample):
    """Its ``theory()`` is a pair (Q, R), and its data are in an object of their own."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.data = Probe(3)

    def theory(self) -> Any:
        return self.data.Q, self.at(self.data.Q)

    def compared(self) -> tuple[Any, Any, Any]:
        return self.theory()[1], self.data.R, self.data.dR


@dataclass
class Opaque(Sample):
    """A model with a picture of its own, and nothing that can be read."""

    trouble: str = ""

    def compared(self) -> tuple[Any, Any, Any]:
        probe = Probe(0)
        return self.at(Q), probe.R, probe.dR

    def plot(self, view: str | None = None) -> None:
        from matplotlib import pyplot

        pyplot.subplot(211).plot(Q, self.at(Q))
        if self.trouble:
            raise ValueError(self.trouble)

    def save(self, basename: str) -> None:
        Path(f"{basename}-first.txt").write_text("written")
        if self.trouble:
            raise OSError("the detector\nis gone")


def found(*models: Any) -> FitResult:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return fit(Assembly(FitProblem(list(models))), "lm")


def axes_of(result: FitResult, **how: Any) -> list[Any]:
    figure = result.plot.fit(**how)
    figure.canvas.draw()
    return list(figure.axes)


class TestReflectometry:
    def test_one_probe(self) -> None:
        result = found(Reflectometer(probe=Probe(0, name="run 7")))
        (curve,) = result.curves
        assert (curve.x.tolist(), curve.y.size, curve.theory.size) == (Q.tolist(), 30, 30)
        assert curve.labels == ("Q (1/Å)", "reflectivity")
        top, bottom, profile = axes_of(result)
        assert (top.get_yscale(), bottom.get_xlabel()) == ("log", "Q (1/Å)")
        assert profile.get_xlabel() == "depth (Å)"

    def test_a_profile_has_a_band(self) -> None:
        (curve,) = found(Reflectometer(probe=Probe(0))).curves
        (profile,) = curve.profiles  # the imaginary part is zero everywhere
        assert profile.x.size == 1000
        wide = profile.high - profile.low
        assert profile.x[wide.argmax()] == pytest.approx(50, abs=1)
        assert wide[np.abs(profile.x - 20).argmin()] < 1e-9

    def test_several_measurements(self) -> None:
        result = found(Reflectometer(probe=Several()))
        (curve,) = result.curves
        assert curve.pieces == (("low", 12), ("high", 22))
        assert curve.residuals.size == 34
        names = [text.get_text() for text in axes_of(result)[0].get_legend().get_texts()]
        assert names == ["low", "high", "fit", "95 %"]

    def test_cross_sections_and_a_turning_moment(self) -> None:
        result = found(Reflectometer(probe=Polarised(), magnetic=True))
        (curve,) = result.curves
        assert curve.pieces == (("−−", 30), ("+−", 25), ("++", 30))
        assert [profile.name for profile in curve.profiles] == ["ρ", "ρM", "θM"]
        axes = axes_of(result, view="q4")
        assert axes[0].get_ylabel() == "reflectivity × x⁴"
        assert axes[-1].get_ylabel() == "angle (°)"

    def test_files(self, tmp_path: Path) -> None:
        model = Reflectometer(probe=Several())
        model.scale.fixed = True
        result = found(model)
        written = {path.name for path in result.save(tmp_path / "new", "film")}
        assert written == {path.name for path in (tmp_path / "new").iterdir()}
        models = {"film-1-refl.dat", "film-1-profile.dat", "film-1-notes.txt", "film-model0.png"}
        assert models | {"film-1.dat", "film-fit.png", "film.par"} <= written
        theory, y, _ = np.loadtxt(tmp_path / "new" / "film-1-refl.dat").T
        assert theory == pytest.approx(result.curves[0].theory)
        assert y == pytest.approx(result.curves[0].y)
        assert "# high" in (tmp_path / "new" / "film-1.dat").read_text().splitlines()

    def test_a_client_has_only_arrays(self, tmp_path: Path) -> None:
        """The classes of the models are not there when the result is read."""
        result = found(Reflectometer(probe=Polarised(), magnetic=True))
        (tmp_path / "result").write_bytes(pickle.dumps(result))
        code = (
            "import pickle, sys; result = pickle.load(open('result', 'rb')); result.plot.fit().savefig('picture')\n"
            "print([name for name in ('bumps', 'test_fit_models', 'matplotlib.pyplot') if name in sys.modules])"
        )
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
        assert done.stdout.strip() == "[]", done.stderr
        assert (tmp_path / "picture.png").stat().st_size > 10_000


class TestScattering:
    def test_of_one_dimension(self) -> None:
        result = found(Scattering())
        (curve,) = result.curves
        assert curve.x.max() == Q.max()
        assert curve.residuals.size == curve.y.size == curve.theory.size
        top, bottom = axes_of(result)
        assert (top.get_xscale(), top.get_yscale(), bottom.get_xlabel()) == ("log", "log", "q (1/Å)")

    def test_of_two_dimensions(self, tmp_path: Path) -> None:
        result = found(Scattering(two=True))
        (curve,) = result.curves
        image = curve.pixels()
        assert image is not None
        assert image.data.shape == (24, 24)
        assert np.isnan(image.data[12, 12])  # behind the beam stop
        titles = [axes.get_title().splitlines()[-1] for axes in axes_of(result)]
        assert titles == ["data", "fit", "residuals"]
        write_table(tmp_path / "table", curve)
        columns = np.array([*curve.x, curve.y, curve.dy, curve.theory])
        assert np.abs(np.loadtxt(tmp_path / "table").T / columns - 1).max() < 1e-15

    def test_of_spin_echoes(self) -> None:
        (curve,) = found(Scattering(data_type="sesans")).curves
        assert curve.labels[0] == "spin echo length (Å)"


class TestOthers:
    def test_a_pair_of_x_and_theory(self) -> None:
        (curve,) = found(Pair()).curves
        assert (curve.x.tolist(), curve.y.size, curve.dy.size) == (Q.tolist(), 30, 30)

    def test_a_list_of_pairs(self) -> None:
        class Pairs(Pair):
            def __post_init__(self) -> None:
                super().__post_init__()
                probes = Probe(0), Probe(1, Q[:12])
                self.Q, self.R = [p.Q for p in probes], [p.R for p in probes]
                self.dy = 0.05  # of all points

            def theory(self) -> Any:
                return [(self.Q[0], self.at(self.Q[0])), None, (self.Q[1], self.at(self.Q[1]))]

            def compared(self) -> tuple[Any, Any, Any]:
                return np.hstack([self.at(q) for q in self.Q]), np.hstack(self.R), self.dy

        (curve,) = found(Pairs()).curves
        assert curve.pieces == (("1", 30), ("2", 12))
        assert curve.dy.tolist() == [0.05] * 42
        assert curve.theory[30:].tolist() == curve.theory[:12].tolist()

    def test_a_finer_line_and_a_plotter_of_ones_own(self) -> None:
        def plot(x: Any, y: Any, dy: Any, fy: Any, view: Any, **_: Any) -> None:
            from matplotlib import pyplot

            pyplot.plot(x, fy - y)

        fine = np.linspace(0, 0.2, 200)[::-1]
        wave = BumpsCurve(
            lambda q, a: a * np.sin(40 * q),
            Q,
            np.sin(40 * Q),
            np.full(30, 0.1),
            plotter=plot,
            plot_x=fine,
            a=0.8,
        )
        wave.a.range(0, 3)
        result = found(wave)
        (curve,) = result.curves
        assert curve.image
        (line,) = [shown for shown in axes_of(result)[0].get_lines() if shown.get_label() == "fit"]
        assert line.get_xdata().tolist() == fine[::-1].tolist()
        assert line.get_ydata() == pytest.approx(np.sin(40 * fine[::-1]))

    def test_a_curve_of_several_values(self) -> None:
        x = np.linspace(0, 3, 20)
        both = BumpsCurve(
            lambda x, a, b: np.array([a * x, b * x**2]), x, [x, 2 * x**2], np.full((2, 20), 0.1), a=1.1, b=1.9
        )
        both.a.range(0, 3)
        both.b.range(0, 3)
        result = found(both)
        (curve,) = result.curves
        assert curve.y.shape == curve.low.shape == (2, 20)
        assert [line.label for line in curve.lines()] == ["y0", "y1"]
        assert zlib.decompress(result.files["-1.dat"]).startswith(b"# x\t y[1]\t dy[1]\t fx[1]\t y[2]")

    @pytest.mark.parametrize("dy", [0.1, np.full(20, 0.1)])
    def test_a_curve_is_saved_with_one_error_for_all_points_too(self, dy: Any, tmp_path: Path) -> None:
        """bumps cannot write the table of such a curve."""
        x = np.linspace(0, 3, 20)
        line = BumpsCurve(lambda x, a: a * x, x, 2 * x + 0.01 * np.cos(9 * x), dy, a=1.1)
        line.a.range(0, 3)
        result = found(line)
        assert not result.message
        result.save(tmp_path)
        columns = [x, line.y, np.full(20, 0.1), result.x[0] * x]
        saved = np.loadtxt(tmp_path / "fit-1.dat")
        assert saved == pytest.approx(np.stack(columns, axis=1))

    def test_counts(self) -> None:
        counts = PoissonCurve(lambda x, a: a * np.exp(-x), Q, np.full(30, 4.0), a=4.0)
        counts.a.range(1, 9)
        (curve,) = fit(Assembly(FitProblem(counts)), "amoeba").curves
        assert curve.dy.tolist() == [2.0] * 30

    def test_free_variables_are_those_of_each_model(self) -> None:
        from bumps.names import FreeVariables

        x = np.linspace(1, 2, 10)
        model = [BumpsCurve(lambda x, a: a * x, x, k * x, np.full(10, 0.1), a=1) for k in (2, 3)]
        model[1].a = model[0].a
        free = FreeVariables(names=["one", "two"], a=model[0].a)
        free.a.range(0, 9)
        result = fit(Assembly(FitProblem(model, freevars=free)), "lm")
        assert [curve.theory[0] for curve in result.curves] == pytest.approx([2, 3])
        assert [curve.low[0] for curve in result.curves] == pytest.approx([2, 3], rel=0.05)

    def test_a_density_has_nothing_to_show(self) -> None:
        density = PDF(lambda a: a**2, a=0.5)
        density.a.range(-3, 3)
        result = fit(Assembly(FitProblem(density)), "amoeba")
        assert result.message == ""
        assert "fit" not in result.plot.each()
        assert len(axes_of(result)) == 1


class TestOpaque:
    def test_its_own_picture_travels(self, tmp_path: Path) -> None:
        from matplotlib import pyplot

        models = Opaque(), Opaque()
        models[0].scale.fixed = models[1].scale.fixed = models[1].thickness.fixed = True
        result = found(*models)
        assert pyplot.get_fignums() == []
        assert [curve.image[:8] for curve in result.curves] == [b"\x89PNG\r\n\x1a\n"] * 2
        assert len(axes_of(result)) == 2
        result.save(tmp_path)
        assert (tmp_path / "fit-model1.png").read_bytes() == result.curves[1].image
        assert (tmp_path / "fit-1-first.txt").read_text() == "written"

    def test_a_users_figure_stays_the_current_one(self) -> None:
        from matplotlib import pyplot

        figure = pyplot.figure()
        try:
            found(Opaque())
            assert pyplot.gcf() is figure
            assert figure.axes == []
        finally:
            pyplot.close("all")

    def test_trouble_loses_nothing(self) -> None:
        result = found(Opaque(trouble="no beam"), Reflectometer(probe=Probe(0)))
        assert result["thickness"].value == pytest.approx(50, abs=1)
        assert "there is no picture of film: ValueError: no beam" in result.message
        assert "model 1 did not write its files: OSError: the detector is gone" in result.message
        assert result.curves[0].residuals.size == 30
        assert result.curves[1].low is not None
        assert {"-1-first.txt", "-2-refl.dat"} <= set(result.files)
        assert len(axes_of(result)) == 1 + 3

    def test_a_model_that_fails_when_it_is_read(self) -> None:
        class Fails(Scattering):
            def theory(self) -> Any:
                if sys._getframe(1).f_code.co_name == "_scattering":
                    raise RuntimeError("the kernel is gone")
                return super().theory()

        result = found(Fails(), Pair())
        assert result.message == "there is no curve of film: RuntimeError: the kernel is gone"
        assert [curve.y.size for curve in result.curves] == [0, 30]

    def test_what_is_too_large_is_left_out(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(bumps_output, "MAX_FILE_BYTES", 3000)
        monkeypatch.setattr(bumps_output, "MAX_PICTURE_BYTES", 3000)
        result = found(Reflectometer(probe=Probe(0)), Opaque())
        assert "the file -1-profile.dat of model 1 is too large to travel with the result" in result.message
        assert "there is no picture of film: ValueError: it has" in result.message
        assert set(result.files) == {"-1-notes.txt", "-1-refl.dat", "-2-first.txt"}


@pytest.mark.heavy
class TestReal:
    """The libraries themselves. They bring compilers with them, so that not everybody has them."""

    def test_refl1d(self, tmp_path: Path) -> None:
        names = pytest.importorskip("refl1d.names", reason="refl1d is not installed")
        nickel, angles = names.Material("Ni"), np.linspace(0.2, 4, 80)

        def problem(probe: Any, thickness: float) -> Any:
            film = names.silicon(0, 5) | nickel(thickness, 5) | names.air
            film[1].thickness.range(50, 150)
            return names.Experiment(sample=film, probe=probe)

        np.random.seed(7)
        probes = [names.NeutronProbe(T=angles, dT=0.01, L=5, dL=0.05, name=name) for name in ("a", "b")]
        for probe in probes:
            problem(probe, 100).simulate_data(noise=5)
        polarised = names.PolarizedNeutronProbe([probes[0], None, None, probes[1]])
        models = [problem(given, 95) for given in (probes[0], names.ProbeSet(probes), polarised)]
        result = fit(Assembly(names.FitProblem(models)), "lm")
        assert result.x == pytest.approx(100, abs=1)
        assert [curve.y.size for curve in result.curves] == [80, 160, 160]
        assert [name for name, _ in result.curves[2].pieces] == ["−−", "++"]
        assert all(curve.low is not None and curve.profiles[0].low is not None for curve in result.curves)
        written = {path.name for path in result.save(tmp_path)}
        assert {
            "fit-1-refl.dat",
            "fit-1-profile.dat",
            "fit-1-slabs.dat",
            "fit-1-expt.json",
            "fit-2-refl.dat2",
        } <= written
        json.loads((tmp_path / "fit-3-expt.json").read_text())

    def test_sasmodels(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SAS_OPENCL", "none")
        core = pytest.importorskip("sasmodels.core", reason="sasmodels is not installed")
        from sasmodels import bumps_model, data

        np.random.seed(7)
        measured = [
            data.empty_data1D(np.geomspace(3e-3, 0.2, 60), resolution=0.05),
            data.empty_data2D(np.linspace(-0.1, 0.1, 32)),
            data.empty_sesans(np.linspace(20, 2000, 30)),
        ]
        models = []
        for given in measured:
            sphere = bumps_model.Model(core.load_model("sphere"), radius=60, background=0.01)
            model = bumps_model.Experiment(data=given, model=sphere)
            if model.data_type == "sesans":
                given.y, given.dy = model.theory(), np.full(30, 1e-3)
                model.Iq, model.dIq = given.y, given.dy
            else:
                model.simulate_data(noise=3)
            sphere.radius.range(40, 80)
            models.append(model)
        result = fit(Assembly(FitProblem(models)), "lm")
        assert result.x == pytest.approx(60, abs=0.5)
        assert [curve.is_image() for curve in result.curves] == [False, True, False]
        assert result.curves[1].pixels().data.shape == (32, 32)
        assert len(axes_of(result)) == 2 + 3 + 2
        assert {"fit-3.dat", "fit-2.npz"} <= {path.name for path in result.save(tmp_path)}
