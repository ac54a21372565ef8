"""`Fit` and `Uncertainty` on the local service."""

from __future__ import annotations

import inspect
import subprocess
import sys
import threading
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path
from time import sleep
from typing import Any

import numpy as np
import pytest

import park
from park.errors import InvalidRequest, JobAborted, JobFailed
from park.fit import Assembly, Fit, FitResult, Model, Uncertainty
from park.fit.job import NOT_IN_FITS
from park.model import REQUEST_FIELDS
from tests.support.fabric import until
from tests.support.fits import TRUE, Env, X, assembly, decay, fit, sample

WAIT = 60


@pytest.fixture(autouse=True)
def service() -> Iterator[Any]:
    with park.local_service as service:
        yield service


class Monitor:
    """Keeps what a job says, and tells when it said something."""

    def __init__(self) -> None:
        self.progress: list[park.Progress] = []
        self.improvements: list[park.Improvement] = []
        self.logs: list[park.Log] = []
        self.said = threading.Event()

    def on_progress(self, message: park.Progress) -> None:
        self.progress.append(message)
        self.said.set()

    def on_improvement(self, message: park.Improvement) -> None:
        self.improvements.append(message)

    def on_log(self, message: park.Log) -> None:
        self.logs.append(message)


def test_the_main_job() -> None:
    monitor = Monitor()
    M1 = assembly()
    first = Fit(M1, monitor=monitor, tags="spine")
    err = Uncertainty(M1, first.result, after=first, samples=2000)
    result = err.wait(WAIT)
    assert isinstance(result, FitResult)
    assert result.x == pytest.approx(first.result.x, rel=1e-2)
    assert result.dx == pytest.approx(first.result.dx, rel=0.3)
    assert np.abs(first.result.x - TRUE) / first.result.dx == pytest.approx(0, abs=3)
    assert first.tags == (park.usertag(), "spine")
    assert monitor.progress[-1].total == 1000
    assert monitor.improvements[-1].value == pytest.approx(first.result.nllf, rel=1e-3)


@pytest.mark.parametrize("method", ["de", pytest.param("dream", marks=pytest.mark.heavy)])
def test_where_points_are_evaluated_changes_nothing(method: str) -> None:
    options = {"steps": 15} if method == "de" else {"samples": 300, "burn": 10}
    there = Fit(assembly(), method=method, seed=11, **options).wait(WAIT)
    again = Fit(assembly(), method=method, seed=11, **options).wait(WAIT)
    here = fit(assembly(), method, Env(seed=there.seed), **options)
    for other in (again, here):
        assert other.x.tolist() == there.x.tolist()
        assert other.convergence.tolist() == there.convergence.tolist()
        if method == "dream":
            assert other.draws.tolist() == there.draws.tolist()
    other = Fit(assembly(), method=method, **options).wait(WAIT)
    repeated = Fit(assembly(), method=method, seed=other.seed, **options).wait(WAIT)
    assert other.convergence.tolist() == repeated.convergence.tolist()
    assert other.convergence.tolist() != there.convergence.tolist()


def test_uncertainty_repeats_too() -> None:
    chains: dict[str, Any] = {"samples": 300, "burn": 10, "max_samples": 600}
    there = Uncertainty(assembly(), TRUE, seed=2, **chains).wait(WAIT)
    here = sample(assembly(), np.array(TRUE), Env(seed=there.seed), pop=10, **chains)
    assert here.draws is not None
    assert there.draws.tolist() == here.draws.tolist()


def test_many_starts() -> None:
    result = Fit(assembly(), method="lm", starts=5, seed=3).wait(WAIT)
    assert result.x == pytest.approx(fit(assembly(), "lm").x, rel=1e-6)
    assert len(result.convergence) == 5
    assert result.starts is not None
    assert result.starts.shape == (5, 1 + len(result.names))
    best = result.starts[result.starts[:, 0].argmin()]
    assert best[0] == result.nllf
    assert best[1:].tolist() == result.x.tolist()
    assert f"{result.starts_at_best} of 5 starts ended here" in repr(result)


def test_starts_whose_model_fails_are_kept_as_nan() -> None:
    def root(x: Any, a: float) -> Any:
        if a < 5:
            raise ValueError("too small")
        return a * x

    x = np.linspace(1, 2, 10)
    result = Fit(
        Assembly((Model(root, a=(0.0, 10.0)), (x, 7 * x, 0.1))), method="lm", starts=12, seed=1
    ).wait(WAIT)
    assert result.starts is not None
    failed = np.isnan(result.starts).all(axis=1)
    assert 0 < failed.sum() < 12
    assert result.starts_at_best == 12 - failed.sum()
    assert result["a"].value == pytest.approx(7)


@pytest.mark.parametrize("method", ["dream", "pt"])
def test_stop_keeps_the_best_so_far(method: str) -> None:
    options = {"samples": 10**6} if method == "dream" else {"steps": 10**6}
    monitor = Monitor()
    job = Fit(assembly(), method=method, monitor=monitor, **options)
    assert monitor.said.wait(WAIT)
    job.stop()
    result = job.wait(WAIT)
    assert result.stopped
    assert result.nllf < assembly().nllf(assembly().start)


def test_abort() -> None:
    monitor = Monitor()
    job = Fit(assembly(), method="pt", steps=10**6, monitor=monitor)
    assert monitor.said.wait(WAIT)
    job.abort()
    with pytest.raises(JobAborted):
        job.wait(WAIT)


def broken(x: Any, height: float, time: float, floor: float) -> Any:
    raise ZeroDivisionError("the density is zero")


@pytest.mark.parametrize("fields", [{}, {"method": "de"}, {"method": "lm"}, {"starts": 3}])
def test_a_broken_model_fails_with_its_own_traceback(fields: dict[str, Any]) -> None:
    with pytest.raises(JobFailed, match="ZeroDivisionError: the density is zero") as caught:
        Fit(assembly(model=broken), **fields).wait(WAIT)
    assert "in broken" in caught.value.traceback


def test_a_model_that_breaks_at_a_point_leaves_a_line_in_the_log() -> None:
    def partly(x: Any, height: float, time: float, floor: float) -> Any:
        if time > 5:
            raise ZeroDivisionError("too slow")
        return decay(x, height, time, floor)

    monitor = Monitor()
    Fit(assembly(model=partly), method="de", start={"time": 3.0}, monitor=monitor).wait(WAIT)
    assert "too slow" in monitor.logs[0].text


def test_a_start_that_does_not_fit_fails_where_it_is_known() -> None:
    first = Fit(assembly(), method="lm", start={"floor": 0.1})
    other = Assembly((Model(decay, height=(0, 1), time=1, floor=0), (X, X)))
    job = Uncertainty(other, first.result, after=first)
    with pytest.raises(JobFailed, match="InvalidRequest: the start names time, floor"):
        job.wait(WAIT)


def test_a_result_starts_another_fit() -> None:
    first = Fit(assembly(), method="lm")
    again = Fit(assembly(), method="amoeba", start=first)
    assert again.wait(WAIT).x == pytest.approx(first.wait(WAIT).x, rel=1e-4)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Fit(3), "neither an Assembly"),
        (lambda: Fit(assembly(), "simplex"), "unknown method"),
        (lambda: Fit(assembly(), step=3), "no option 'step'"),
        (lambda: Fit(assembly(), starts=0), "starts=0"),
        (lambda: Fit(assembly(), starts=1.5), "starts=1.5"),
        (lambda: Fit(assembly(), start=[1, 2]), "vector of 3 numbers"),
        (lambda: Fit(assembly(), start={"height": 99}), "height=99 is outside its limits"),
        (lambda: Fit(assembly(), seed="x"), "seed="),
        (lambda: Fit(assembly(), priority="huge"), "priority"),
        (lambda: Fit(assembly(), tags=[3]), "tag 3"),
        (lambda: Fit(assembly(), memory="much"), "memory='much'"),
        (lambda: Uncertainty(assembly(), labels=[""]), "label ''"),
        (lambda: Uncertainty(assembly(), samples=0), "samples=0"),
        (lambda: Uncertainty(assembly(), burn=-1), "burn=-1"),
        (lambda: Uncertainty(assembly(), samples="many"), "a number is needed"),
        (lambda: Uncertainty(assembly(), start="best"), "not a vector"),
    ],
)
def test_refused_in_the_client(service: Any, make: Any, says: str) -> None:
    before = len(service.jobs())
    with pytest.raises(InvalidRequest, match=says):
        make()
    assert len(service.jobs()) == before


def test_a_fit_may_ask_for_a_kernel_that_can_run_it(service: Any) -> None:
    fields: dict[str, Any] = {"cpus": 1, "memory": "2 GB", "labels": "gpu", "requires": {"numpy": ">=1"}}
    for job in (Fit(assembly(), **fields), Uncertainty(assembly(), **fields)):
        assert job.reason == "no kernel has the label 'gpu'"
        request = service.fetch(job).request
        assert (request.memory, request.labels) == (2 * 10**9, ("gpu",))
        assert request.requires == (("numpy", ">=1"),)
        job.abort()


def slow_decay(x: Any, height: float, time: float, floor: float) -> Any:
    sleep(0.01)
    return decay(x, height, time, floor)


def test_a_fit_is_paused_and_goes_on(service: Any) -> None:
    monitor = Monitor()
    model = assembly(model=slow_decay)  # the fit must not end by itself
    job = Fit(model, method="amoeba", monitor=monitor, steps=100_000, xtol=0, ftol=0)
    assert monitor.said.wait(WAIT)
    job.pause()
    until(lambda: job.record.running == 0)
    assert job.state == "paused"
    best = min((each.value for each in monitor.improvements), default=np.inf)
    job.resume()
    until(lambda: bool(monitor.improvements) and monitor.improvements[-1].value < best)
    job.stop()
    found = job.wait(WAIT)
    assert isinstance(found, FitResult)
    assert not found.converged


def test_the_record_names_the_class(service: Any) -> None:
    job = Fit(assembly(), method="lm")
    assert job.record.kind == "fit"
    job.wait(WAIT)
    if entry_points(group="park.jobs"):  # a checkout that is not installed has none
        assert type(service.job(job.id)) is Fit


def test_a_script_needs_no_guard_and_no_bumps_in_its_process(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\n"
        f"sys.path.insert(0, {str(Path(park.__file__).parent.parent)!r})\n"
        "import numpy as np, park\n"
        "def line(x, a, b):\n"
        "    return a * x + b\n"
        "x = np.arange(10.0)\n"
        "with park.local_service:\n"
        "    M1 = park.Assembly((park.fit.Model(line, a=(0, 4), b=(-2, 2)), (x, 3 * x - 1, 0.1)))\n"
        "    fit = park.Fit(M1)\n"
        "    err = park.Uncertainty(M1, fit.result, after=fit, samples=500, burn=10)\n"
        "    result = err.wait()\n"
        "print(np.round(fit.result.x, 3).tolist(), [m for m in ('bumps', 'scipy') if m in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=WAIT, check=False
    )
    assert done.stdout == "[3.0, -1.0] []\n", done.stderr


def test_the_signature_of_a_fit_lists_the_fields_of_a_request() -> None:
    for kind in (Fit, Uncertainty):
        shown = inspect.signature(kind).parameters
        assert set(REQUEST_FIELDS) - set(shown) == set(NOT_IN_FITS)
        assert shown["pure"].default is True
        assert shown["options"].kind is inspect.Parameter.VAR_KEYWORD


@pytest.mark.parametrize("kind", [Fit, Uncertainty])
def test_a_fit_takes_the_fields_of_a_request(kind: type[Fit] | type[Uncertainty]) -> None:
    job = kind(assembly(), name="mine", tags="early", when=1000, seed=7, argv=["fit.py", "3"])
    assert (job.record.name, job.record.tags[-1], job.record.argv) == ("mine", "early", ("fit.py", "3"))
    job.abort()


def test_a_name_near_that_of_a_field_is_suggested() -> None:
    with pytest.raises(InvalidRequest, match=r"no option 'cpu'; .* \(did you mean cpus\?\)"):
        Fit(assembly(), cpu=2)
    with pytest.raises(InvalidRequest, match=r"a request has no cpu=; .* \(did you mean cpus=\?\)"):
        park.local_service.start(abs, [-1], cpu=2)
    with pytest.raises(InvalidRequest, match=r"no option 'kind'; it has [^(]*$"):
        Fit(assembly(), kind="other")
