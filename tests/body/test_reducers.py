"""Objects arrive as they were sent: compiled libraries, models of sasmodels, modules that were loaded by their path."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import park
from park.body import importable, payload
from park.body.causes import hint
from park.core.server import ServerProxy

CC = shutil.which("cc")
needs_cc = pytest.mark.skipif(CC is None, reason="there is no C compiler (cc)")


@pytest.fixture(scope="module")
def service() -> Iterator[ServerProxy]:
    with park.local_service as service:
        yield service


# -- C libraries ---------------------------------------------------------------------------------


class Decay:
    """A body that keeps the path of its C library, and opens it where it arrives."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def prepare(self, env: Any) -> None:
        self.library = ctypes.CDLL(str(self.path))
        self.library.decay.restype = ctypes.c_double
        self.library.decay.argtypes = [ctypes.c_double]

    def run(self, t: float) -> float:
        return float(self.library.decay(t))


@pytest.fixture
def library(tmp_path: Path) -> Path:
    source, path = tmp_path / "decay.c", tmp_path / "libdecay.so"
    source.write_text("#include <math.h>\ndouble decay(double t) { return exp(-t / 3.0); }\n")
    subprocess.run([str(CC), "-shared", "-fPIC", str(source), "-o", str(path), "-lm"], check=True)
    return path


@needs_cc
def test_a_body_opens_its_library_where_it_runs(service: ServerProxy, library: Path) -> None:
    assert service.wait(service.start(Decay(library), [0.0, 3.0])) == [1.0, float(np.exp(-1.0))]


@needs_cc
def test_a_library_that_is_missing_is_named_with_the_class_that_opens_it(
    service: ServerProxy, library: Path
) -> None:
    body = Decay(library)
    library.unlink()
    with pytest.raises(park.JobFailed) as caught:
        service.wait(service.start(body, [0.0]))
    cause = str(caught.value).splitlines()[0]
    assert str(library) in cause
    assert f"on {platform.node()}, where Decay.prepare opens it: only its path has travelled" in cause


@needs_cc
def test_an_open_library_travels_with_its_file(service: ServerProxy, library: Path) -> None:
    blob = payload.dumps(opened(library))
    library.unlink()
    held = payload.loads(blob)  # from here on it needs no file
    for one in (held, payload.loads(payload.dumps(held))):
        assert one.decay(3.0) == float(np.exp(-1.0))  # takes and returns doubles as it was told
        assert one._name == str(library)
    assert service.wait(service.start(held.decay, [0.0, 3.0])) == [1.0, float(np.exp(-1.0))]


@needs_cc
def test_a_library_that_was_compiled_anew_is_the_new_one(service: ServerProxy, library: Path) -> None:
    """Also in a process that has opened the old one, under the same path."""
    old = payload.dumps(opened(library))
    assert service.wait(service.start(opened(library).decay, [0.0])) == [1.0]
    source = library.with_suffix(".c")
    source.write_text("double decay(double t) { return 7; }\n")
    library.unlink()
    subprocess.run([str(CC), "-shared", "-fPIC", str(source), "-o", str(library)], check=True)
    new = ctypes.CDLL(str(library.rename(library.with_name("libnew.so"))))
    new.decay.restype, new.decay.argtypes = ctypes.c_double, [ctypes.c_double]
    new._name = str(library)
    library.with_name("libnew.so").rename(library)
    for _ in range(2):
        assert service.wait(service.start(new.decay, [0.0])) == [7.0]
        assert payload.loads(old).decay(0.0) == 1.0


class DecayModel:
    """A model that holds its open C library."""

    def __init__(self, library: Any) -> None:
        self.library = library

    def __call__(self, t: Any, height: float) -> Any:
        return np.array([height * self.library.decay(one) for one in t])


@needs_cc
def test_a_model_that_holds_a_library_is_fitted_without_its_file(service: ServerProxy, library: Path) -> None:
    from park.fit import Assembly, Fit, Model

    t = np.linspace(0, 5, 20)
    fitted = Assembly((Model(DecayModel(opened(library)), height=(0, 9)), (t, 4 * np.exp(-t / 3), 0.1)))
    fit = Fit(fitted, method="lm", after=service.start(time.sleep, [0.1]))
    library.unlink()
    assert fit.wait(60).x == pytest.approx([4.0])


def opened(library: Path) -> Any:
    body = Decay(library)
    body.prepare(None)
    return body.library


@needs_cc
def test_what_functions_take_travels_too(library: Path) -> None:
    types = (
        ctypes.POINTER(ctypes.c_double),
        ctypes.c_double * 4,
        np.ctypeslib.ndpointer(float, 1, flags="C_CONTIGUOUS"),
        ctypes.c_int,
    )
    function = opened(library).decay
    function.argtypes = types
    again = payload.loads(payload.dumps(function))
    assert again.argtypes[:2] == list(types[:2]) or again.argtypes[:2] == types[:2]
    assert again.argtypes[2]._ndim_ == 1
    assert (again.argtypes[3], again.restype) == (ctypes.c_int, ctypes.c_double)


@pytest.mark.skipif(sys.platform != "linux", reason="the C library has another name there")
def test_a_library_of_the_system_travels_by_name() -> None:
    system = ctypes.CDLL("libm.so.6")
    system.cos.restype, system.cos.argtypes = ctypes.c_double, [ctypes.c_double]
    blob = payload.dumps(system)
    assert len(blob) < 1000
    assert payload.loads(blob).cos(0.0) == 1.0
    with pytest.raises(park.ParkError, match=rf"libm\.so\.9 cannot be opened on {platform.node()}"):
        payload.loads(blob.replace(b"libm.so.6", b"libm.so.9"))


@needs_cc
def test_an_address_does_not_travel() -> None:
    number = ctypes.c_double(1.0)
    with pytest.raises(park.NotPicklable, match="an address stays in its process"):
        payload.dumps({"at": ctypes.pointer(number)})
    callback = ctypes.CFUNCTYPE(ctypes.c_int)(lambda: 3)
    with pytest.raises(park.NotPicklable, match="an address stays in its process"):
        payload.dumps(callback)


def test_a_file_that_is_missing_is_named_with_what_to_do(service: ServerProxy, tmp_path: Path) -> None:
    def count(path: str) -> int:
        with open(path) as file:
            return len(file.read())

    (tmp_path / "table.txt").write_text("12345")
    assert service.wait(service.start(count, [str(tmp_path / "table.txt")])) == [5]
    with pytest.raises(park.JobFailed, match=r"other\.txt' on .*: only its path has travelled"):
        service.wait(service.start(count, [str(tmp_path / "other.txt")]))


def test_other_errors_get_no_hint() -> None:
    for error in (
        OSError(28, "No space left on device"),
        PermissionError(13, "Permission denied", "x"),
        ValueError(),
    ):
        assert hint(error) == ""


# -- modules -------------------------------------------------------------------------------------


def loaded(name: str, path: Path) -> ModuleType:
    """The module of a file, under a name of one's own, as plug-ins are loaded."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


PLUGIN = """
import dataclasses
FACTOR = 3
def scaled(x):
    return FACTOR * x
@dataclasses.dataclass
class Line:
    slope: float
    def __call__(self, x):
        return scaled(self.slope * x)
"""


@pytest.fixture
def plugin(tmp_path: Path) -> Iterator[ModuleType]:
    (tmp_path / "decays.py").write_text(PLUGIN)
    yield loaded("decays_of_mine", tmp_path / "decays.py")
    del sys.modules["decays_of_mine"]


def test_a_module_loaded_by_its_path_travels_by_value(
    service: ServerProxy, plugin: ModuleType, tmp_path: Path
) -> None:
    (tmp_path / "decays.py").unlink()
    assert service.wait(service.start(plugin.scaled, [2])) == [6]
    assert service.wait(service.start(plugin.Line(5.0), [2])) == [30.0]
    assert service.wait(service.start(lambda x: plugin.Line(x)(1), [4])) == [12]
    plugin.FACTOR = 4  # as it is now, not as the file says
    assert service.wait(service.start(plugin.scaled, [2])) == [8]


def test_results_of_its_classes_come_back_as_such(service: ServerProxy, plugin: ModuleType) -> None:
    (line,) = service.wait(service.start(lambda slope: plugin.Line(slope), [2.5]))
    assert isinstance(line, plugin.Line)


def test_which_modules_are_importable(plugin: ModuleType, tmp_path: Path) -> None:
    for known in (os, os.path, np, np.random, park, payload, sys, ctypes, sys.modules[__name__]):
        assert importable.is_importable(known), known
    assert not importable.is_importable(plugin)
    assert importable.is_importable(ModuleType("made_by_hand"))
    (tmp_path / "json.py").write_text("def dumps(x): return 'mine'")
    before = sys.modules["json"]
    try:
        assert not importable.is_importable(loaded("json", tmp_path / "json.py"))
    finally:
        sys.modules["json"] = before
    assert importable.is_importable(before)


def test_a_module_in_a_package_is_looked_for_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "shapes_pkg"
    package.mkdir()
    for name in ("__init__", "sphere"):
        (package / f"{name}.py").write_text("size = 1\ndef volume(r): return size * r ** 3\n")
    monkeypatch.syspath_prepend(tmp_path)
    sphere = importlib.import_module("shapes_pkg.sphere")
    try:
        assert importable.is_importable(sphere)
        other = loaded("shapes_pkg.cube", package / "sphere.py")
        assert not importable.is_importable(other)
        assert payload.loads(payload.dumps(other.volume))(2) == 8
        monkeypatch.undo()
        assert not importable.is_importable(sphere)
    finally:
        for name in ("shapes_pkg", "shapes_pkg.sphere", "shapes_pkg.cube"):
            sys.modules.pop(name, None)


def test_nothing_stays_registered(plugin: ModuleType) -> None:
    import cloudpickle

    before = cloudpickle.list_registry_pickle_by_value()
    payload.dumps(plugin.scaled)
    assert cloudpickle.list_registry_pickle_by_value() == before


# -- sasmodels -----------------------------------------------------------------------------------


@pytest.fixture
def sas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """sasmodels, with an empty cache of compiled models."""
    pytest.importorskip("sasmodels", reason="sasmodels is not installed")
    monkeypatch.setenv("SAS_OPENCL", "none")
    from sasmodels import kerneldll

    monkeypatch.setattr(kerneldll, "SAS_DLL_PATH", str(tmp_path / "compiled"))
    return kerneldll


def experiment(name: str, dtype: str | None = None) -> Any:
    """A measurement of a model that was evaluated."""
    from sasmodels.bumps_model import Experiment, Model
    from sasmodels.core import load_model
    from sasmodels.data import empty_data1D

    data = empty_data1D(np.logspace(-3, -0.7, 30))
    made = Experiment(data=data, model=Model(load_model(name, dtype=dtype)))
    data.y = made.theory() * 1.05
    data.dy = 0.03 * data.y
    made = Experiment(data=data, model=made.model)
    made.theory()
    return made


def arrived(made: Any) -> Any:
    copy = payload.loads(payload.dumps(made))
    copy.update()
    return copy


@pytest.mark.heavy
@needs_cc
@pytest.mark.parametrize("dtype", ["single", "double", "quad"])
def test_a_compiled_model_keeps_its_precision(sas: Any, dtype: str) -> None:
    made = experiment("ellipsoid", dtype)
    copy = arrived(made)
    assert copy.model.sasmodel.dtype == made.model.sasmodel.dtype
    np.testing.assert_array_equal(copy.theory(), made.theory())


@pytest.mark.heavy
@needs_cc
@pytest.mark.parametrize("name", ["ellipsoid", "sphere@hardsphere", "sphere+lamellar"])
def test_a_model_is_compiled_where_its_library_is_missing(sas: Any, tmp_path: Path, name: str) -> None:
    made = experiment(name, "single")
    libraries = sorted(os.listdir(tmp_path / "compiled"))
    blob = payload.dumps(made)
    shutil.rmtree(tmp_path / "compiled")
    copy = payload.loads(blob)
    copy.update()
    np.testing.assert_array_equal(copy.theory(), made.theory())
    assert sorted(os.listdir(tmp_path / "compiled")) == libraries
    (tmp_path / "compiled" / libraries[0]).write_bytes(
        b""
    )  # of a compiler that was killed, or of another machine
    copy = payload.loads(blob)
    copy.update()
    np.testing.assert_array_equal(copy.theory(), made.theory())


MODEL = """
name = "shell_of_mine"; title = ""; description = ""
parameters = [["radius", "Ang", 40, [0, 1000], "", ""]]
{body}
"""
BODIES = {
    "c": 'Iq = "return radius*exp(-q*radius/7.0);"',
    "python": "from numpy import exp\nWIDTH = 7\ndef Iq(q, radius): return radius * exp(-q * radius / WIDTH)\n"
    "Iq.vectorized = True",
}


@pytest.mark.heavy
@needs_cc
@pytest.mark.parametrize("language", sorted(BODIES))
def test_a_model_of_ones_own_file_travels_with_its_source(sas: Any, tmp_path: Path, language: str) -> None:
    file = tmp_path / "shell_of_mine.py"
    file.write_text(MODEL.format(body=BODIES[language]))
    made = experiment(str(file))
    blob = payload.dumps(made)
    file.unlink()
    shutil.rmtree(tmp_path / "compiled", ignore_errors=True)
    copy = payload.loads(payload.dumps(payload.loads(blob)))  # a driver sends it on
    copy.update()
    np.testing.assert_array_equal(copy.theory(), made.theory())


@pytest.mark.heavy
@needs_cc
def test_a_fit_in_single_precision_runs_without_the_clients_library(
    sas: Any, service: ServerProxy, tmp_path: Path
) -> None:
    """Its job sees the client's value again, though it compiles the model anew."""
    from bumps.fitproblem import FitProblem

    from park.fit import Fit

    made = experiment("ellipsoid", "single")
    made.model.radius_polar.range(10, 60)
    fit = Fit(FitProblem(made), method="lm", after=service.start(time.sleep, [0.2]))
    shutil.rmtree(tmp_path / "compiled")
    assert fit.wait(100).x.size == 1


@pytest.mark.heavy
def test_a_reflectivity_model_computes_the_same_where_it_arrives() -> None:
    names = pytest.importorskip("refl1d.names", reason="refl1d is not installed")
    from bumps.fitproblem import FitProblem

    def wave(z: Any, period: float) -> Any:
        return 2 + np.sin(2 * np.pi * z / period)

    profile = names.FunctionalProfile(80, 0, profile=wave, period=25)
    profile.period.range(10, 40)
    sample = names.SLD("substrate", rho=2.07)(0, 3) | profile | names.SLD("film", rho=5)(40, 4) | names.air
    sample[2].thickness.range(20, 60)
    probe = names.NeutronProbe(T=np.linspace(0.2, 3, 40), dT=0.01, L=4.75, dL=0.05)
    made = names.Experiment(probe=probe, sample=sample)
    np.random.seed(2)
    made.simulate_data(5)
    problem = FitProblem(made)
    value = problem.nllf()
    copy = payload.loads(payload.dumps(problem))
    for x in (problem.getp(), problem.getp() * 1.1):
        assert copy.nllf(x) == problem.nllf(x)
    assert problem.nllf(copy.getp()) != value  # the second was kept


@pytest.mark.heavy
@needs_cc
def test_a_model_that_cannot_be_compiled_says_so(
    sas: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blob = payload.dumps(experiment("ellipsoid"))
    shutil.rmtree(tmp_path / "compiled")
    monkeypatch.setattr(sas, "compiler", ["no-such-compiler"])
    with pytest.raises(
        OSError, match=r"'ellipsoid' needs the C library .*not on .*no-such-compiler.*a C compiler"
    ):
        payload.loads(blob)


@pytest.mark.heavy
@needs_cc
def test_a_model_of_a_graphics_card_becomes_a_compiled_one(sas: Any) -> None:
    from sasmodels import generate, kernelcl

    made = experiment("ellipsoid", "single")
    info = made.model.sasmodel.info
    gpu = kernelcl.GpuModel(generate.make_source(info), info, generate.F32)
    copy = payload.loads(payload.dumps(gpu))
    assert (type(copy), copy.dtype) == (sas.DllModel, generate.F32)
