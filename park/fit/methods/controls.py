"""Controls of a running fit: requests for its population, and for more samples.

A control is handled at any safe point of the fit, also in the middle of a step. The handler only records the request, and
the fit answers at the end of the step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from park.errors import InvalidRequest
from park.fit.arrays import Array
from park.fit.environment import Env


class ControlRequests:
    """The requests that are not answered yet. *draws* is True if the method draws samples, and so can draw more."""

    def __init__(self, env: Env, draws: bool) -> None:
        self._env = env
        self._draws = draws
        self._population = False
        #: all samples requested by controls, beyond those of the job's request
        self.samples = 0
        #: True once the method has taken its last step
        self.over = False

    @property
    def wanted(self) -> bool:
        """Whether a request for the population waits for its answer."""
        return self._population

    def population(self) -> None:
        """Records a request for the population. Raises InvalidRequest after the last step."""
        self._check()
        self._population = True

    def more(self, samples: Any) -> None:
        """Records a request for more *samples*.

        Raises InvalidRequest for methods that draw none, and after the last step.
        """
        self._check()
        if not self._draws:
            raise InvalidRequest("this method draws no samples: only 'dream' can be extended")
        self.samples += check_samples(samples)

    def _check(self) -> None:
        if self.over:
            raise InvalidRequest("the fit has taken its last step and computes its result")

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
        """Publishes the population if it was requested.

        *points* (n, k), their *values* (n,), and the best point with its value.
        """
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


class ControlledBody:
    """A body that handles these controls."""

    env: Env
    asked: ControlRequests
    #: True for bodies that draw samples
    draws = False

    def prepare(self, env: Env) -> None:
        """Stores the environment of the job."""
        self.env = env
        self.asked = ControlRequests(env, self.draws)

    def on_get_population(self, message: dict[str, Any]) -> None:
        """Handles the control; the answer is a message of the kind "population"."""
        self.asked.population()

    def on_extend(self, message: dict[str, Any]) -> None:
        """Handles the control; its *value* is the number of additional samples."""
        self.asked.more(message.get("value"))


def check_samples(samples: Any) -> int:
    """*samples*, if it is a positive integer. Raises InvalidRequest otherwise."""
    if isinstance(samples, bool) or not isinstance(samples, int) or samples < 1:
        raise InvalidRequest(f"samples={samples!r} is not a whole number from 1")
    return samples
