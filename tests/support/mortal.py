"""Fits that are killed at a chosen checkpoint and run again."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from park.fit import Assembly, FitResult, Model
from tests.support.fits import Env


class Interrupted(BaseException):
    """An end as sudden as a kill."""


class Mortal(Env):
    """An environment that ends after some steps; its checkpoint is there for the next one."""

    def __init__(self, before: Env | None = None, life: float = math.inf) -> None:
        super().__init__()
        self.life = life
        if before is not None:
            self.kept = before.kept

    def ready(self) -> None:
        super().ready()
        if self.calls > self.life:
            raise Interrupted

    def checkpoint(self, state: Any, wait: float, /) -> bool:
        return self.calls >= self.life and super().checkpoint(state, wait)  # the others would be for nothing


def run(body: Any, env: Env) -> FitResult:
    body.prepare(env)
    result: FitResult = body.run()
    return result


def interrupted(make: Any, *lives: float) -> tuple[FitResult, list[Mortal]]:
    """The result of a body that is interrupted after a given number of steps of each life, and its environments."""
    envs: list[Mortal] = []
    for life in (*lives, math.inf):
        envs.append(Mortal(envs[-1] if envs else None, life))
        if life == math.inf:
            return run(make(), envs[-1]), envs
        with pytest.raises(Interrupted):
            run(make(), envs[-1])
    raise AssertionError


def agree(result: FitResult, right: FitResult) -> None:
    """The draws are of one posterior."""
    assert result.draws is not None
    assert right.draws is not None
    assert len(result.draws) > 0.4 * len(right.draws)
    for drawn, alone in zip(result.draws.T, right.draws.T, strict=True):
        assert abs(drawn.mean() - alone.mean()) < 0.2 * alone.std()
        assert drawn.std() == pytest.approx(alone.std(), rel=0.2)


def slow(seconds: float) -> Assembly:
    """A straight line whose model takes its time."""

    def line(x: Any, slope: float, floor: float) -> Any:
        import time

        time.sleep(seconds)
        return slope * x + floor

    return Assembly((Model(line, slope=(-5.0, 5.0), floor=(-5.0, 5.0)), (ABSCISSA, Y, np.full(20, 0.1))))


ABSCISSA = np.linspace(0, 1, 20)
Y = 2 * ABSCISSA + 1 + 0.1 * np.random.default_rng(3).normal(size=20)
