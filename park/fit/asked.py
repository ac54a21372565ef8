"""What a fit is asked while it runs, by controls: where its population is, and for more samples.

A control is served wherever the fit is at a safe point, also in the middle of a step. So it only leaves word, and the fit
answers when the step is done.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from park.errors import InvalidRequest
from park.fit.data import Array
from park.fit.env import Env


class Asked:
    """What was asked and is to be answered. *draws*: the method draws samples, and may draw more."""

    def __init__(self, env: Env, draws: bool) -> None:
        self._env = env
        self._draws = draws
        self._population = False
        #: samples beyond those of the request, all in all
        self.samples = 0
        #: the method has taken its last step
        self.over = False

    @property
    def wanted(self) -> bool:
        """Whether somebody wants to see the population."""
        return self._population

    def population(self) -> None:
        """Somebody wants to see the population."""
        self._check()
        self._population = True

    def more(self, samples: Any) -> None:
        """Somebody wants so many samples more. Raises InvalidRequest."""
        self._check()
        if not self._draws:
            raise InvalidRequest("this method draws no samples: only 'dream' can be extended")
        self.samples += check_samples(samples)

    def _check(self) -> None:
        if self.over:
            raise InvalidRequest("the fit has taken its last step, and works its result out")

    def answer(
        self,
        method: str,
        step: int,
        names: Sequence[str],
        points: Any,
        values: Any,
        best: Array,
        value: float,
    ) -> None:
        """Tell the population, if somebody has asked for it: *points* and their *values*, the *best* so far and its."""
        if not self._population:
            return
        self._population = False
        self._env.publish(
            {
                "kind": "population",
                "method": method,
                "step": step,
                "names": tuple(names),
                "points": np.array(points, dtype=np.float64),
                "nllf": np.array(values, dtype=np.float64),
                "best": np.array(best, dtype=np.float64),
                "best_nllf": float(value),
            }
        )


class Steered:
    """A body that serves these controls."""

    env: Env
    asked: Asked
    #: whether it draws samples
    draws = False

    def prepare(self, env: Env) -> None:
        """Keeps the environment."""
        self.env = env
        self.asked = Asked(env, self.draws)

    def on_get_population(self, message: dict[str, Any]) -> None:
        """The answer is a message of the kind "population"."""
        self.asked.population()

    def on_extend(self, message: dict[str, Any]) -> None:
        """*value* samples more."""
        self.asked.more(message.get("value"))


def check_samples(samples: Any) -> int:
    """*samples*, if that is a number of them. Raises InvalidRequest."""
    if isinstance(samples, bool) or not isinstance(samples, int) or samples < 1:
        raise InvalidRequest(f"samples={samples!r} is not a whole number from 1")
    return samples
