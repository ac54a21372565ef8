"""Parameters of models: value, limits, prior, expression."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from park.errors import InvalidRequest
from park.fit.problem.expression import names_in


@dataclass(frozen=True, slots=True, eq=False)
class Parameter:
    """One parameter of a model.

    *value* is the start value of a fit; its default is the middle of the limits. *limits* (low, high) bound the value. A
    *fixed* parameter keeps its value. A parameter with an *expression*, a text in other parameters such as ``"2*b1"``, is
    computed, and its *limits* become constraints of the fit. *prior* (mean, sigma) is a normal prior: it adds the residual
    (value - mean)/sigma, as an earlier measurement would. *unit* is a text for tables and plots.

    A `Parameter` object that several models use is one shared parameter. Raises `park.InvalidRequest` for a value
    outside the limits, limits without a middle and no value, and everything that is not a number.

    >>> Parameter(3.0, limits=(0, 10))
    Parameter(3, limits=(0, 10))
    """

    value: float | None = None
    limits: tuple[float, float] = (-math.inf, math.inf)
    fixed: bool = False
    expression: str | None = None
    prior: tuple[float, float] | None = None
    unit: str = ""

    def __post_init__(self) -> None:
        low, high = _pair(self.limits, "limits")
        if not low < high:
            raise InvalidRequest(f"limits=({low:g}, {high:g}): the lower limit must be below the upper one")
        object.__setattr__(self, "limits", (low, high))
        if not isinstance(self.unit, str) or not self.unit.isprintable():
            raise InvalidRequest(f"unit={self.unit!r} is not a text such as 'Å'")
        if self.prior is not None:
            mean, sigma = _pair(self.prior, "prior")
            if not (math.isfinite(mean) and math.isfinite(sigma) and sigma > 0):
                raise InvalidRequest(f"prior=({mean:g}, {sigma:g}) is not a finite mean and a positive sigma")
            object.__setattr__(self, "prior", (mean, sigma))
        if self.expression is not None:
            if not isinstance(self.expression, str):
                raise InvalidRequest(f"expression={self.expression!r} is not a text")
            if self.value is not None or self.fixed:
                raise InvalidRequest("a parameter with an expression has no value and is not fixed")
            names_in(self.expression)
            return
        if self.value is None:
            if not (math.isfinite(low) and math.isfinite(high)):
                raise InvalidRequest(f"limits ({low:g}, {high:g}) have no middle: give a value to start from")
            object.__setattr__(self, "value", (low + high) / 2)
            return
        value = _number(self.value, "value")
        if not math.isfinite(value):
            raise InvalidRequest(f"value {value} is not finite")
        if not low <= value <= high:
            raise InvalidRequest(f"value {value:g} is outside its limits ({low:g}, {high:g})")
        object.__setattr__(self, "value", value)

    @property
    def fitted(self) -> bool:
        """True if a fit varies it: neither fixed nor computed."""
        return not self.fixed and self.expression is None

    def __repr__(self) -> str:
        if self.expression is not None:
            parts = [f"expression={self.expression!r}"]
        else:
            parts = [f"{self.value:g}"]
        if self.limits != (-math.inf, math.inf):
            parts.append(f"limits=({self.limits[0]:g}, {self.limits[1]:g})")
        if self.fixed:
            parts.append("fixed=True")
        if self.prior is not None:
            parts.append(f"prior=({self.prior[0]:g}, {self.prior[1]:g})")
        if self.unit:
            parts.append(f"unit={self.unit!r}")
        return f"Parameter({', '.join(parts)})"


def as_parameter(given: Any) -> Parameter:
    """The parameter that a shorthand stands for.

    A number is a fixed parameter, a pair (low, high) a fitted one that starts in the middle, a text an expression.

    >>> as_parameter((0, 4)).value
    2.0
    """
    if isinstance(given, Parameter):
        return given
    if isinstance(given, str):
        return Parameter(expression=given)
    if isinstance(given, tuple | list):
        return Parameter(limits=_pair(given, "the range"))
    return Parameter(_number(given, "the value"), fixed=True)


def _number(given: Any, what: str) -> float:
    if isinstance(given, bool | np.bool_ | str | bytes):
        raise InvalidRequest(f"{what} {given!r} is not a number")
    try:
        return float(given)
    except (TypeError, ValueError):
        raise InvalidRequest(f"{what} {given!r} is not a number") from None


def _pair(given: Any, what: str) -> tuple[float, float]:
    if not isinstance(given, Sequence | np.ndarray) or isinstance(given, str | bytes) or len(given) != 2:
        raise InvalidRequest(f"{what} {given!r} is not a pair of numbers")
    low, high = _number(given[0], what), _number(given[1], what)
    if math.isnan(low) or math.isnan(high):
        raise InvalidRequest(f"{what} {given!r} has a nan")
    return low, high
