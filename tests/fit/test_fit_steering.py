"""Controls of a running fit: its population, and more samples."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest

import park
from park.errors import InvalidRequest
from park.fit import FitResult, Uncertainty
from park.fit.bodies import FitBody, UncertaintyBody
from park.model import Progress
from tests.support.fabric import Fabric, slots_of, until
from tests.support.fits import TRUE, Env, assembly
from tests.support.mortal import Mortal, agree, interrupted, run, slow

cloudpickle.register_pickle_by_value(sys.modules[__name__])


class Asking(Env):
    """An environment in which the body is asked at some of its safe points, by their number."""

    def __init__(self, **at: Callable[[Any], None]) -> None:
        super().__init__()
        self.at = {int(name[1:]): ask for name, ask in at.items()}
        self.body: Any = None

    def ready(self) -> None:
        super().ready()
        if self.calls in self.at:
            self.at[self.calls](self.body)

    @property
    def populations(self) -> list[dict[str, Any]]:
        return [m for m in self.messages if isinstance(m, dict)]


def asked(body: Any, env: Asking) -> FitResult:
    env.body = body
    return run(body, env)


def see(body: Any) -> None:
    body.on_get_population({"kind": "get_population"})


def extend(samples: int) -> Callable[[Any], None]:
    return lambda body: body.on_extend({"kind": "extend", "value": samples})


@pytest.mark.parametrize(
    ("method", "options", "rows"),
    [
        ("amoeba", {}, 4),
        ("lm", {}, 1),
        ("de", {"steps": 30}, 30),
        ("newton", {}, 1),
        ("pt", {"steps": 30, "burn": 5}, 24),
        ("dream", {"samples": 600, "burn": 10, "init": "eps", "max_samples": 600}, 30),
    ],
)
def test_every_method_tells_its_population_in_the_step_in_which_it_is_asked(
    method: str, options: dict[str, Any], rows: int
) -> None:
    env = Asking(_1=see, _5=see)
    start = {"height": 4, "time": 2} if method == "newton" else None
    result = asked(FitBody(assembly(), method, options, start, 1, 1), env)
    assert [p["step"] for p in env.populations] == [1, 5]
    objective = assembly().objective
    for p in env.populations:
        assert p["kind"] == "population"
        assert (p["method"], p["names"]) == (method, result.names)
        assert p["points"].shape == (rows, 3)
        assert p["nllf"] == pytest.approx([objective.nllf(x) for x in p["points"]])
        assert p["best_nllf"] == pytest.approx(objective.nllf(p["best"]))
        assert p["best_nllf"] <= min(p["nllf"]) + 1e-9


def test_many_starts_tell_their_best() -> None:
    env = Asking(_1=see)
    asked(FitBody(assembly(), "lm", {}, None, 5, 1), env)
    (population,) = env.populations
    assert population["step"] == 4
    assert population["nllf"].tolist() == [population["best_nllf"]]


def test_a_sampler_draws_more_and_says_so_at_once() -> None:
    best = run(FitBody(assembly(), "lm", {}), Env()).x
    options = {"samples": 1500, "burn": 50, "max_samples": 1500}
    alone = run(
        UncertaintyBody(assembly(), {**options, "samples": 6000, "max_samples": 6000}, best, 1), Env()
    )
    env = Asking(_20=extend(3000), _40=extend(1500))
    result = asked(UncertaintyBody(assembly(), options, best, 1), env)
    assert abs(result.steps - alone.steps) <= 10
    agree(result, alone)
    totals = [m.total for m in env.of(Progress)]
    assert (totals[18], totals[19], totals[39]) == (1500, 4500, 6000)
    assert env.of(Progress)[-1].fraction == 1


def test_an_extension_is_extended() -> None:
    best = run(FitBody(assembly(), "lm", {}), Env()).x
    env = Asking(_20=extend(900), _50=extend(900))
    result = asked(
        UncertaintyBody(assembly(), {"samples": 900, "burn": 10, "max_samples": 900}, best, 1), env
    )
    assert 95 <= result.steps <= 115


def test_one_that_fits_first_samples_more_then() -> None:
    env = Asking(_2=extend(3000))
    result = asked(
        UncertaintyBody(assembly(), {"samples": 600, "burn": 10, "max_samples": 600}, None, 1), env
    )
    assert result.draws is not None
    assert len(result.draws) >= 1700


@pytest.mark.parametrize("lives", [(30, 70), pytest.param((80, 60), marks=pytest.mark.heavy)])
def test_what_was_asked_for_is_not_forgotten_with_the_process(lives: tuple[int, ...]) -> None:
    best = run(FitBody(assembly(), "lm", {}), Env()).x
    seen: list[Any] = []

    def make() -> UncertaintyBody:
        body = UncertaintyBody(
            assembly(), {"samples": 1500, "burn": 20, "max_samples": 1500}, best, 1, checkpoint=0
        )
        seen.append(body)
        return body

    ready = Mortal.ready

    def once(self: Mortal) -> None:
        if len(seen) == 1 and self.calls == 20:
            extend(3000)(seen[0])
        ready(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Mortal, "ready", once)
        result, _ = interrupted(make, *lives)
    assert result.draws is not None
    assert abs(result.steps - 171) <= 20
    assert len(result.draws) >= 0.45 * 4500


def test_what_cannot_be_is_refused_in_words() -> None:
    body = FitBody(assembly(), "amoeba", {})
    body.prepare(Env())
    with pytest.raises(InvalidRequest, match="only 'dream' can be extended"):
        extend(3)(body)
    sampler = UncertaintyBody(assembly(), {"samples": 100, "burn": 1}, np.array(TRUE))
    sampler.prepare(Env())
    for wrong in (0, -1, "many", True, None, 1.5):
        with pytest.raises(InvalidRequest, match="is not a whole number from 1"):
            extend(wrong)(sampler)  # type: ignore[arg-type]
    sampler.run()
    for ask in (see, extend(5)):
        with pytest.raises(InvalidRequest, match="has taken its last step"):
            ask(sampler)
    with park.local_service:
        job = Uncertainty(assembly(), when=1000)
        with pytest.raises(InvalidRequest, match="samples=0"):
            job.extend(0)
        job.abort()


# -- real processes ------------------------------------------------------------------------------------


class Sees:
    """Keeps the populations that come, and the steps."""

    def __init__(self) -> None:
        self.populations: list[dict[str, Any]] = []
        self.steps: list[float] = []

    def on_population(self, message: dict[str, Any]) -> None:
        self.populations.append(message | {"seen": self.steps[-1] if self.steps else 0})

    def on_progress(self, message: Progress) -> None:
        self.steps.append(message.done)


ELSEWHERE = """
    import park, sys
    with park.connect() as service:
        job = service.job(int(sys.argv[1]))
        stream = job.stream(20)
        assert next(stream).record.kind == "uncertainty"
        print(type(job).__name__, job.get_population())
        for message in stream:
            if isinstance(message, dict):
                print(message["kind"], message["method"], message["points"].shape)
                break
        job.extend(300)
        job.stop()
"""


@pytest.mark.heavy
def test_a_sampler_on_a_broker_tells_its_population_within_a_generation(fabric: Fabric) -> None:
    fabric.start_kernel(slots=2)
    service = fabric.connect()
    sees = Sees()
    err = Uncertainty(slow(0.002), [2.0, 1.0], samples=10**6, burn=0, service=service, monitor=sees)
    until(lambda: err.progress.done >= 60)  # samples, of 20 chains
    for n in range(3):
        before = err.progress.done / 20
        began = time.monotonic()
        assert err.get_population()
        until(lambda n=n: len(sees.populations) > n)  # type: ignore[misc]
        took = time.monotonic() - began
        step = sees.populations[n]["step"]
        # while it was acknowledged, and while progress is thinned, some generations pass
        assert step - before <= 2 + (took + 0.2) / 0.02
        assert sees.populations[n]["points"].shape == (20, 2)
    script = fabric.script(ELSEWHERE, str(err.id))
    assert script.wait() == 0, script.text
    assert script.text == "Uncertainty True\npopulation dream (20, 2)\n"
    assert err.wait(50).stopped


@pytest.fixture
def fabric(tmp_path: Path) -> Any:
    with Fabric(tmp_path) as made:
        yield made


@pytest.mark.heavy
def test_a_sampler_that_was_extended_and_killed_draws_all(tmp_path: Path) -> None:
    with park.local_service:
        err = Uncertainty(
            slow(0.0002), [2.0, 1.0], samples=2000, max_samples=2000, burn=20, checkpoint=0.1, seed=5
        )
        until(lambda: err.progress.done >= 20)
        assert err.extend(2000)
        until(lambda: err.progress.total > 2000, why=lambda: repr(err.progress))
        time.sleep(0.3)  # a checkpoint
        for pid in slots_of(os.getpid()):
            os.kill(pid, signal.SIGKILL)
        result = err.wait(60)
    assert abs(result.steps - 221) <= 20
