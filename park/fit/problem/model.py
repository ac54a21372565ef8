"""Models: a function with its parameters and constants."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np

from park.errors import InvalidRequest
from park.fit.problem.data import Data
from park.fit.problem.parameter import Parameter, as_parameter
from park.fit.problem.signature import Bound, Signature, arguments_of, name_of, takes_text, takes_whole, typed


@dataclass(frozen=True, slots=True, eq=False)
class Constant:
    """A value for an argument that is not a parameter. The function gets the value unchanged.

    >>> Model(lambda x, a, kind: a * x, a=(0, 4), kind=Constant("lin"))
    Model(<lambda>, a=Parameter(2, limits=(0, 4)), kind=Constant('lin'))
    """

    value: Any

    def __repr__(self) -> str:
        if isinstance(self.value, np.ndarray):
            return f"Constant(<array of shape {self.value.shape}>)"
        text = repr(self.value)
        return f"Constant({text if len(text) <= 60 else text[:57] + '...'})"


class Model:
    """A function ``f(x, b1, b2, ...) -> y`` and a value for each of its arguments.

    *x* and *y* are numpy arrays of one shape; parameters are passed as floats. *values* are the parameters by argument
    name. Each is a `Parameter` or a shorthand: a number is fixed, ``(low, high)`` is fitted from its middle, a text is an
    expression of other parameters. Arguments with a default may be left out.

    An argument that is not a parameter gets a `Constant`. True, False, None, arrays, dicts and other objects are constants
    without it, and so is a text for an argument whose default or annotation is a text. An int for an argument whose default
    or annotation is an int stays an int.

    Leading arguments without a value are coordinates, ``f(x, t, b1, ...)``; ``Data((x, t), y)`` gives their arrays. A
    vector of parameters, ``f(x, *p)`` or ``f(x, p)``, is a list: ``p=[(0, 4), (1, 2)]`` makes the parameters p0 and p1.

    Two parts of an `Assembly` with the same `Model` object share all its parameters. Raises `park.InvalidRequest` for an
    argument without a value, a value without an argument, and values that are neither numbers nor constants.

    >>> Model(lambda x, a, b: a * x + b, a=(0, 4), b=1.0)
    Model(<lambda>, a=Parameter(2, limits=(0, 4)), b=Parameter(1, fixed=True))
    """

    def __init__(self, function: Callable[..., Any], /, **values: Any) -> None:
        if not callable(function):
            raise InvalidRequest(f"the model {function!r} is not a function")
        self.function = function
        self.name: str = name_of(function)
        self.parameters: dict[str, Parameter] = {}
        #: values that the function gets unchanged, by argument
        self.constants: dict[str, Any] = {}
        #: the names of the parameters of a vector, by argument
        self._vectors: dict[str, list[str]] = {}
        self._shown: dict[str, Parameter | Constant] = {}
        arguments = arguments_of(function)
        known = {} if arguments is None else {a.name: a for a in arguments}
        for name, given in values.items():
            self._take(name, given, known.get(name))
        try:
            self._signature(function, arguments)
        except InvalidRequest as error:
            raise InvalidRequest(f"model {self.name}: {error}") from None

    def _take(self, name: str, given: Any, argument: inspect.Parameter | None) -> None:
        spread = argument is not None and argument.kind is inspect.Parameter.VAR_POSITIONAL
        try:
            if spread or _is_vector(given):
                self._take_vector(name, given, spread)
            elif isinstance(given, Constant) or _is_constant(given, takes_text(argument)):
                constant = given if isinstance(given, Constant) else Constant(given)
                self.constants[name] = constant.value
                self._shown[name] = constant
            else:
                parameter = as_parameter(given)
                self._add(name, parameter)
                if parameter.fixed and takes_whole(argument, isinstance(given, int | np.integer)):
                    value = parameter.value
                    assert value is not None
                    if value.is_integer():
                        self.constants[name] = int(value)
        except InvalidRequest as error:
            hint = ""
            if isinstance(given, str | list | tuple | complex | np.ndarray):
                hint = f"; for the function to get it as it is: Constant({given!r:.60})"
            raise InvalidRequest(f"model {self.name}, parameter {name!r}: {error}{hint}") from None

    def _take_vector(self, name: str, given: Any, spread: bool) -> None:
        pair = isinstance(given, list | tuple) and len(given) == 2 and all(_is_number(v) for v in given)
        if not isinstance(given, list | tuple) or pair:
            raise InvalidRequest(
                f"{given!r:.60} is for a vector of parameters: give a list with an entry for each, [(0, 4), (1, 2)]"
            )
        names = [f"{name}{n}" for n in range(len(given))]
        for one, value in zip(names, given, strict=True):
            self._add(one, as_parameter(value))
        if not spread:
            self._vectors[name] = names

    def _add(self, name: str, parameter: Parameter) -> None:
        if name in self.parameters:
            raise InvalidRequest(f"there are two values for {name}")
        self.parameters[name] = self._shown[name] = parameter

    def _signature(self, function: Any, arguments: list[inspect.Parameter] | None) -> Signature:
        given = [*self.parameters, *(name for name in self.constants if name not in self.parameters)]
        return Signature(function, arguments, given, self._vectors)

    def on(self, data: Data) -> Bound:
        """The function at the points of *data*.

        Raises InvalidRequest if data and function differ in the number of coordinates.
        """
        signature = self._signature(typed(self.function, data.y.dtype), arguments_of(self.function))
        return Bound(signature, data.coordinates(signature.coordinates), self.constants)

    def advice(self, error: Exception) -> str:
        """The remedy for an *error* that a float in place of an int has caused; "" for other errors."""
        whole = [
            f"{name}=Constant({parameter.value:g})"
            for name, parameter in self.parameters.items()
            if parameter.fixed and name not in self.constants and float(parameter.value or 0).is_integer()
        ]
        if "integer" not in str(error) or not whole:
            return ""
        return f"{type(error).__name__}: {error}; parameters are floats: for an int give {', '.join(whole)}"

    def __repr__(self) -> str:
        coordinates = self._signature(self.function, arguments_of(self.function)).coordinates
        name = f"{self.name}({', '.join(coordinates)})" if len(coordinates) > 1 else self.name
        return f"Model({', '.join([name, *(f'{key}={value!r}' for key, value in self._shown.items())])})"


def _is_number(given: Any) -> bool:
    return isinstance(given, int | float | np.number) and not isinstance(given, bool)


def _is_vector(given: Any) -> bool:
    """Whether *given* is a list of parameters and ranges, and not a pair of numbers."""
    return (
        isinstance(given, list | tuple)
        and any(isinstance(one, Parameter | list | tuple) for one in given)
        and all(isinstance(one, Parameter | list | tuple | str) or _is_number(one) for one in given)
    )


def _is_constant(given: Any, text: bool) -> bool:
    """Whether *given* cannot be a parameter, and so is a constant. *text*: the argument takes a text."""
    if isinstance(given, str) and not isinstance(given, Enum):
        return text
    if isinstance(given, Parameter | list | tuple | complex):
        return False
    if isinstance(given, np.ndarray):
        return given.ndim > 0 and given.shape != (2,)
    if given is None or isinstance(given, bool | np.bool_ | bytes | dict | set | Enum):
        return True
    return len(getattr(given, "shape", ())) > 0 or not hasattr(given, "__float__")
