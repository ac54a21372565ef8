"""A fit computes where it runs what it did in the client; else the job fails and names both values."""

from __future__ import annotations

import platform
import random
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from bumps.curve import Curve
from bumps.fitproblem import FitProblem

import park
from park.body import payload
from park.fit import Assembly, Fit, Model, Uncertainty
from park.fit.job import fit_request
from park.fit.methods.monitor import Evaluate, FailedEvaluation
from park.fit.problem.client_values import ModelDiffers, compare, process_identity, with_values
from park.model import Log

Q = np.linspace(0.1, 2.0, 40)


@pytest.fixture(scope="module")
def service() -> Iterator[Any]:
    with park.local_service as service:
        yield service


class Guinier:
    """A model that is off by a part of *change* where it arrives, in the precision of *dtype*."""

    def __init__(self, change: float, dtype: str = "float64") -> None:
        self.change, self.off, self.dtype = change, 0.0, dtype

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "off": self.change}

    def __call__(self, q: Any, size: float, scale: float) -> Any:
        exact = scale * np.exp(-((q * size) ** 2) / 3)
        return (exact * (1 + self.off)).astype(self.dtype)


def assembly(model: Any, noise: float = 0.01, dy: float | None = 0.01, size: float = 1.2) -> Assembly:
    y = 5 * np.exp(-((Q * size) ** 2) / 3) + np.random.default_rng(1).normal(0, noise, Q.size)
    return Assembly(
        (
            Model(model, size=park.fit.Parameter(1.2, (0.5, 3)), scale=park.fit.Parameter(5.0, (1, 9))),
            (Q, y, dy),
        )
    )


def problem(model: Any, noise: float = 0.01) -> FitProblem:
    y = 5 * np.exp(-((Q * 1.2) ** 2) / 3) + np.random.default_rng(1).normal(0, noise, Q.size)

    def curve(q: Any, size: Any, scale: Any) -> Any:
        return model(q, size, scale)

    made = Curve(curve, Q, y, np.full(Q.shape, 0.01), size=1.2, scale=5)
    made.size.range(0.5, 3)
    made.scale.range(1, 9)
    return FitProblem(made)


def arrived(sent: Assembly) -> Assembly:
    body = fit_request(sent).body
    copy: Assembly = payload.loads(payload.dumps(body)).assembly
    return copy


# -- how large a difference may be ---------------------------------------------------------------


@pytest.mark.parametrize("noise", [0.0, 1e-3, 1.0])
@pytest.mark.parametrize("dy", [None, 1e-4, 0.01, 10.0])
@pytest.mark.parametrize("size", [1.2, 2.0])
def test_rounding_passes_whatever_the_data_are(noise: float, dy: float | None, size: float) -> None:
    for change in (0.0, 1e-15, -1e-12, 1e-9):
        compare(arrived(assembly(Guinier(change), noise, dy, size)))
    for change in (1e-6, -1e-5):
        compare(arrived(assembly(Guinier(change, "float32"), noise, dy, size)))


@pytest.mark.parametrize("noise", [0.0, 1e-3])
@pytest.mark.parametrize("dy", [None, 1e-4, 0.01])
def test_another_model_does_not(noise: float, dy: float | None) -> None:
    for change in (0.01, -0.3, np.nan, np.inf):
        with pytest.raises(ModelDiffers):
            compare(arrived(assembly(Guinier(change), noise, dy)))
    with pytest.raises(ModelDiffers):
        compare(arrived(assembly(Guinier(0.1, "float32"), noise, dy)))


def test_problems_of_bumps_too() -> None:
    for noise in (0.0, 0.01):
        for change in (0.0, 1e-12, 1e-9):
            compare(arrived(Assembly(problem(Guinier(change), noise))))
        with pytest.raises(ModelDiffers, match=r"at scale = 5, size = 1.2 its negative log likelihood was"):
            compare(arrived(Assembly(problem(Guinier(0.01), noise))))


def test_nan_and_infinity_are_one() -> None:
    class Nowhere(Guinier):
        def __call__(self, q: Any, size: float, scale: float) -> Any:
            return np.full(q.shape, np.inf if self.off else np.nan)

    compare(arrived(assembly(Nowhere(1.0))))


def test_parameters_must_be_the_same() -> None:
    copy = arrived(Assembly(problem(Guinier(0.0))))
    (model,) = copy.problem_given.models
    model.size.fixed = True
    copy.problem_given.model_reset()
    with pytest.raises(ModelDiffers, match=r"the client fits scale, size, and here the problem has scale:"):
        compare(copy)


# -- what else may happen ------------------------------------------------------------------------


def test_the_job_fails_and_names_values_and_machines(service: Any) -> None:
    for job in (
        Fit(problem(Guinier(0.5)), method="amoeba"),
        Uncertainty(assembly(Guinier(0.5)), samples=100),
    ):
        with pytest.raises(park.JobFailed) as caught:
            job.wait(60)
        told = str(caught.value)
        assert "ModelDiffers: the model is not what was sent: at s" in told
        assert told.count(platform.node()) >= 2
        assert "Traceback" not in told


def test_a_model_that_keeps_its_last_values_is_found_out() -> None:
    class Keeps(Guinier):
        def __init__(self, change: float) -> None:
            super().__init__(change)
            self.kept: dict[float, Any] = {}

        def __call__(self, q: Any, size: float, scale: float) -> Any:
            if (size, scale) not in self.kept:
                self.kept[size, scale] = super().__call__(q, size, scale)
            return self.kept[size, scale]

    fitted = assembly(Keeps(0.5))
    fitted.nllf(fitted.start)
    with pytest.raises(ModelDiffers):
        compare(arrived(fitted))


def test_a_random_model_is_not_compared(service: Any) -> None:
    def noisy(q: Any, size: float, scale: float) -> Any:
        return scale * np.exp(-((q * size) ** 2) / 3) + np.random.normal(0, 1e-3, q.size)

    np.random.seed(5)
    random.seed(5)
    expected = np.random.random(), random.random()
    np.random.seed(5)
    random.seed(5)
    job = Fit(assembly(noisy), method="amoeba", steps=20)
    assert (np.random.random(), random.random()) == expected  # the script's own numbers go on
    job.wait(60)
    assert any("draws random numbers" in message.text for message in job.logs() if isinstance(message, Log))


def test_a_slow_random_model_shows_it_where_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    def noisy(q: Any, size: float, scale: float) -> Any:
        return scale * np.exp(-((q * size) ** 2) / 3) + np.random.normal(0, 1e-3, q.size)

    monkeypatch.setattr("park.fit.problem.client_values.CHEAP_EVALUATION_SECONDS", -1.0)
    sent = with_values(assembly(noisy))
    assert sent.sent is not None
    assert (len(sent.sent.values), sent.sent.steady) == (1, None)
    compare(payload.loads(payload.dumps(sent)))


def test_random_values_that_agreed_by_chance_in_the_client_are_not_compared() -> None:
    def noisy(q: Any, size: float, scale: float) -> Any:
        return scale * np.exp(-((q * size) ** 2) / 3) + np.random.normal(0, 1e-3, q.size)

    sent = with_values(assembly(noisy))
    assert sent.sent is not None
    sent.sent = replace(sent.sent, steady=True)
    compare(arrived(sent))


CALLS: list[float] = []


def test_a_slow_model_is_evaluated_once_in_the_client() -> None:
    def slow(q: Any, size: float, scale: float) -> Any:
        CALLS.append(size)
        time.sleep(0.03)
        return scale * np.exp(-((q * size) ** 2) / 3)

    with_values(assembly(slow))
    assert len(CALLS) == 1
    CALLS.clear()
    with_values(Assembly(problem(slow)))
    assert len(CALLS) == 1


def test_a_model_that_works_elsewhere_only_is_not_compared(service: Any) -> None:
    class Elsewhere(Guinier):
        def __call__(self, q: Any, size: float, scale: float) -> Any:
            if not self.off:
                raise RuntimeError("this machine has no such card")
            return super().__call__(q, size, scale)

    for fitted in (assembly(Elsewhere(1e-9)), problem(Elsewhere(1e-9))):
        result = Fit(fitted, method="amoeba").wait(60)
        assert result["size"].value == pytest.approx(1.2, rel=0.05)


def test_what_changed_after_the_assembly_was_made_is_no_difference(service: Any) -> None:
    table = {"offset": 0.0}

    def shifted(q: Any, size: float, scale: float) -> Any:
        return scale * np.exp(-((q * size) ** 2) / 3) + table["offset"]

    fitted, given = assembly(shifted), problem(shifted)
    of_problem = Assembly(given)
    table["offset"] = 0.5
    next(iter(given.models)).y += 0.5
    assert Fit(fitted, method="lm").wait(60).x.size == 2
    assert Fit(of_problem, method="lm").wait(60)["size"].value == pytest.approx(1.2, rel=0.02)


def test_a_problem_travels_though_its_models_keep_what_cannot() -> None:
    class Locked(Guinier):
        def __call__(self, q: Any, size: float, scale: float) -> Any:
            self.lock = threading.Lock()
            return super().__call__(q, size, scale)

        def __getstate__(self) -> dict[str, Any]:
            return dict(vars(self))

    model = Locked(0.0)
    for fitted in (assembly(model), Assembly(problem(model))):
        compare(arrived(fitted))
    assert not hasattr(model, "lock")


def test_a_process_elsewhere_compares_before_it_evaluates() -> None:
    sent = with_values(assembly(Guinier(0.5)))
    assert sent.sent is not None
    evaluate = Evaluate(sent)
    beside = payload.loads(payload.dumps(evaluate))
    assert isinstance(beside(sent.start), float)  # its driver has compared
    evaluate.place = "another machine"
    elsewhere = payload.loads(payload.dumps(evaluate))
    for _ in range(2):
        with pytest.raises(ModelDiffers, match="is not what was sent"):
            elsewhere(sent.start)
    assert process_identity() == process_identity() != evaluate.place


# -- words ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "method", ["amoeba", "auto", "lm", "de", pytest.param("dream", marks=pytest.mark.heavy)]
)
def test_a_problem_that_raises_at_times_is_told_once(service: Any, method: str) -> None:
    def fragile(q: Any, size: float, scale: float) -> Any:
        if size > 1.2:
            raise ArithmeticError("the series does not converge")
        return scale * np.exp(-((q * size) ** 2) / 3)

    options = {"dream": {"samples": 200, "burn": 10}, "de": {"steps": 5}}.get(method, {})
    job = Fit(problem(fragile), method=method, seed=1, **options)
    job.wait(60)
    told = "\n".join(getattr(message, "text", "") for message in job.logs())
    assert told.count("Traceback") <= 1
    assert told.count("in fragile") <= 1
    assert "the model raised at a point:\nTraceback" in told
    assert " points; the first: ArithmeticError: the series does not converge" in told
    assert "bumps" not in told


def test_a_problem_that_raises_everywhere_is_told_once(
    service: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    def broken(q: Any, size: Any, scale: Any) -> Any:
        raise ArithmeticError("the series does not converge")

    job = Fit(problem(broken), method="amoeba")
    with pytest.raises(park.JobFailed, match="ArithmeticError: the series does not converge") as caught:
        job.wait(60)
    assert str(caught.value).count("Traceback") == 1
    assert str(caught.value).count("in broken") == 1
    out, err = capfd.readouterr()
    assert "Traceback" not in out + err


def test_what_a_model_raises_is_kept_as_it_is() -> None:
    def broken(q: Any, size: Any, scale: Any) -> Any:
        raise ArithmeticError("the series does not converge")

    found = Evaluate(Assembly(problem(broken)))(np.array([5.0, 1.2]))
    assert isinstance(found, FailedEvaluation)
    assert found.traceback.endswith("ArithmeticError: the series does not converge")
    assert "in broken" in found.traceback
