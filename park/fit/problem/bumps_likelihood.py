"""The likelihood of a bumps problem that passes the exceptions of its models on.

bumps turns an exception of a model into an infinite value and logs its traceback, at each of the thousands of points of a
fit. `RaisingLikelihood` raises it instead, so that the fit reports it once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from park.errors import InvalidRequest

_NAN, _INF = float("nan"), float("inf")
#: bumps' models return such a value, as 1e308, where they have none: Poisson's at a theory of zero.
_NO_VALUE = 1e300
#: The methods of a bumps problem that run user code, and the value that replaces an exception in them.
_USER_CODE_METHODS = {"model_nllf": _NAN, "parameter_nllf": (_NAN, []), "constraints_nllf": (_NAN, [])}


class RaisingLikelihood:
    """``problem.nllf``, except that exceptions of models, priors and constraints are raised.

    It is infinite where bumps' models say by a huge value that they have none.
    """

    def __init__(self, problem: Any) -> None:
        self._problem = problem
        self._raised: Exception | None = None
        self._shadow: Any = None
        if hasattr(problem, "model_nllf") and hasattr(problem, "__dict__"):
            # bumps evaluates a copy of the problem with wrapped methods; the problem itself is not changed.
            self._shadow = object.__new__(type(problem))
            vars(self._shadow).update(vars(problem))
            self._caught = {
                name: self._catch(getattr(self._shadow, name), value)
                for name, value in _USER_CODE_METHODS.items()
                if hasattr(problem, name)
            }

    def __call__(self, x: Any) -> float:
        if self._shadow is None:
            return _or_infinity(float(as_real(self._problem.nllf(x), "the likelihood")))
        self._raised = None
        state = vars(self._shadow)
        state.update(vars(self._problem))  # weights or models of the problem may have changed
        state.update(self._caught)
        value = float(as_real(self._shadow.nllf(x), "the likelihood"))
        if self._raised is not None:
            raise self._raised
        return _or_infinity(value)

    def _catch(self, function: Callable[[], Any], instead: Any) -> Callable[[], Any]:
        def call() -> Any:
            try:
                return function()
            except Exception as error:
                self._raised = self._raised or error
                return instead

        return call


def _or_infinity(value: float) -> float:
    return _INF if value >= _NO_VALUE else value


def as_real(values: Any, what: str) -> Any:
    """The *values*, real or with imaginary parts of zero, as real ones. Raises InvalidRequest for others, named *what*."""
    if not np.iscomplexobj(values):
        return values
    if np.imag(values).any():
        raise InvalidRequest(
            f"{what} of the problem is complex, and bumps would drop its imaginary part: fit complex data with "
            "park.fit.Model and Data, or let the model return real numbers"
        )
    return np.real(values)
