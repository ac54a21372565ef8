"""Quick problems for samplers, and a fabric that runs their maps in this process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from park.fit.problem.assembly import Assembly
from park.fit.problem.model import Model
from park.fit.problem.parameter import Parameter
from tests.support.fits import Env


class Quick(Env):
    """An environment whose maps run at once."""

    def mapper(self, fn: Any, /) -> Callable[[Any], list[Any]]:
        return lambda points: [fn(point) for point in points]


X = np.linspace(0, 6, 25)
NOISE = 0.2 * np.random.default_rng(21).normal(size=X.size)
POWERS = 4


def cubic(data: float = 1.0) -> Assembly:
    """A polynomial of strongly correlated coefficients, of which all is known."""

    def powers(x: Any, c0: float, c1: float, c2: float, c3: float) -> Any:
        return c0 + x * (c1 + x * (c2 + x * c3))

    limits = {f"c{n}": Parameter(0.5, limits=(-100, 100)) for n in range(POWERS)}
    return Assembly((Model(powers, **limits), (X, data * (powers(X, 1, 0.5, -0.2, 0.05) + NOISE), 0.2)))
