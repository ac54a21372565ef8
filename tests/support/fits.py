"""Small fits that run in this process, and what they need of the fabric."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from park.body.payload import dumps, loads
from park.errors import Abort
from park.fit.bodies import FitBody, UncertaintyBody
from park.fit.problem.assembly import Assembly
from park.fit.problem.model import Model
from park.fit.results.result import FitResult

X = np.linspace(0, 5, 40)
TRUE = (3.0, 1.5, 0.4)
NOISE = np.random.default_rng(5).normal(size=X.size)


def decay(x: Any, height: float, time: float, floor: float) -> Any:
    return height * np.exp(-x / time) + floor


class Env:
    """An environment in this process. What it maps is pickled and runs in another order, as on the fabric."""

    def __init__(self, seed: int = 1, stop_after: float = math.inf, abort_after: float = math.inf) -> None:
        self.seed = seed
        self.stop_after = stop_after
        self.abort_after = abort_after
        self.messages: list[Any] = []
        self.store: dict[str, bytes] = {}
        self.remarks: list[str] = []
        self.calls = 0
        self.mapped = 0
        self.kept = b""
        self.checkpoints = 0

    @property
    def should_checkpoint(self) -> bool:
        return False

    @property
    def should_stop(self) -> bool:
        return self.calls >= self.stop_after

    def map(self, fn: Any, inputs: Iterable[Any], /) -> Iterator[Any]:
        fn = loads(dumps(fn))
        if hasattr(fn, "prepare"):
            fn.prepare(self)
        call = getattr(fn, "run", fn)
        given = list(inputs)
        results: list[Any] = [None] * len(given)
        for n in reversed(range(len(given))):
            state = np.random.get_state()
            np.random.seed(n)
            results[n] = loads(dumps(call(given[n])))
            np.random.set_state(state)
        self.mapped += len(given)
        return iter(results)

    def mapper(self, fn: Any, /) -> Callable[[Any], list[Any]]:
        return lambda points: list(self.map(fn, points))

    def publish(self, message: Any, /) -> None:
        self.messages.append(message)

    def remark(self, text: str, /) -> None:
        self.remarks.append(text)

    def ready(self) -> None:
        self.calls += 1
        if self.calls >= self.abort_after:
            raise Abort("somebody said so")

    def checkpoint(self, state: Any, wait: float, /) -> bool:
        self.kept = dumps(state)
        self.checkpoints += 1
        return False

    @property
    def restored(self) -> Any:
        return loads(self.kept) if self.kept else None

    def of(self, kind: type) -> list[Any]:
        return [message for message in self.messages if isinstance(message, kind)]


def assembly(dy: float | None = 0.05, model: Callable[..., Any] = decay) -> Assembly:
    parameters = {"height": (0.0, 10.0), "time": (0.1, 10.0), "floor": (-1.0, 1.0)}
    y = decay(X, *TRUE) + 0.05 * NOISE
    return Assembly((Model(model, **parameters), (X, y) if dy is None else (X, y, dy)))


def fit(
    a: Assembly, method: str, env: Env | None = None, starts: int = 1, start: Any = None, **options: Any
) -> FitResult:
    body = FitBody(a, method, options, start, starts, (env or Env()).seed)
    body.prepare(env or Env())
    return body.run()


def sample(a: Assembly, start: Any = None, env: Env | None = None, **options: Any) -> FitResult:
    body = UncertaintyBody(a, options, start, (env or Env()).seed)
    body.prepare(env or Env())
    return body.run()


SETTINGS: dict[str, dict[str, Any]] = {
    "amoeba": {},
    "auto": {},
    "lm": {},
    "newton": {},
    "de": {},
    "pt": {"steps": 200, "burn": 200, "Tmin": 0.5},
    "dream": {"samples": 2000, "burn": 150, "init": "eps", "max_samples": 2000},
}
