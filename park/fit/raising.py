"""The likelihood of a bumps problem, with what its models raise.

bumps turns what a model raises into an infinity, and writes its traceback into the log, at each of the thousands of points
of a fit. Here it is raised: who fits tells it once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_NAN = float("nan")
#: The methods in which user code runs, and the value that stands for what it raises.
_PARTS = {"model_nllf": _NAN, "parameter_nllf": (_NAN, []), "constraints_nllf": (_NAN, [])}


class Likelihood:
    """``problem.nllf``, but what a model, a prior or a constraint raises is raised."""

    def __init__(self, problem: Any) -> None:
        self._problem = problem
        self._raised: Exception | None = None
        self._shadow: Any = None
        if hasattr(problem, "model_nllf") and hasattr(problem, "__dict__"):
            # bumps evaluates through a shadow: the problem itself stays as it is.
            self._shadow = object.__new__(type(problem))
            vars(self._shadow).update(vars(problem))
            self._caught = {
                name: self._catch(getattr(self._shadow, name), value)
                for name, value in _PARTS.items()
                if hasattr(problem, name)
            }

    def __call__(self, x: Any) -> float:
        if self._shadow is None:
            return float(self._problem.nllf(x))
        self._raised = None
        state = vars(self._shadow)
        state.update(vars(self._problem))  # it may have got other weights, or models
        state.update(self._caught)
        value = float(self._shadow.nllf(x))
        if self._raised is not None:
            raise self._raised
        return value

    def _catch(self, function: Callable[[], Any], instead: Any) -> Callable[[], Any]:
        def call() -> Any:
            try:
                return function()
            except Exception as error:
                self._raised = self._raised or error
                return instead

        return call
