"""A model: a function and its parameters."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from park.errors import InvalidRequest
from park.fit.data import Data
from park.fit.parameter import Parameter, as_parameter
from park.fit.signature import Bound, Signature, arguments_of, name_of, takes_text, takes_whole, typed


@dataclass(frozen=True, slots=True, eq=False)
class Constant:
    """A value for an argument that is no parameter: the function gets it as it is.

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

    *x* and *y* are numpy arrays; the parameters arrive as floats. Each is a `Parameter` or a shorthand: a
    number is fixed, ``(low, high)`` is fitted from the middle, a text is an expression of other parameters.
    Arguments with a default may be left out.

    Arguments that are no parameters get a `Constant`. True, False, None, arrays, dicts and other objects are
    constants by themselves, and so is a text for an argument whose default or annotation is a text. An int
    for an argument whose default or annotation is an int arrives as an int.

    Leading arguments without a value are coordinates, ``f(x, t, b1, ...)``; their arrays come from ``Data((x, t), y)``.
    A vector of parameters, ``f(x, *p)`` or ``f(x, p)``, is a list: ``p=[(0, 4), (1, 2)]`` makes the
    parameters p0 and p1.

    The same `Model` in two parts of an `Assembly` shares all its parameters.

    >>> Model(lambda x, a, b: a * x + b, a=(0, 4), b=1.0)
    Model(<lambda>, a=Parameter(2, limits=(0, 4)), b=Parameter(1, fixed=True))
    """

    def __init__(self, function: Callable[..., Any], /, **values: Any) -> None:
        if not callable(function):
            raise InvalidRequest(f"the model {function!r} is not a function")
        self.function = function
        self.name: str = name_of(function)
        self.parameters: dict[str, Parameter] = {}
        #: values that the function gets as they are, by argument
        self.constants: dict[str, Any] = {}
        #: the names of the parameters that stand in a vector, by argument
        self._vectors: dict[str, list[str]] = {}
        self._shown: dict[str, Parameter | Constant] = {}
        arguments = arguments_of(function)
        known = {} if arguments is None else {a.name: a for a in arguments}
        for name, given in values.items():
            self._take(name, given, known.get(name))
        try:
            self._signature()
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
            if isinstance(given, str | list | tuple | complex):
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

    def _signature(self, function: Any = None) -> Signature:
        given = [*self.parameters, *(name for name in self.constants if name not in self.parameters)]
        function = self.function if function is None else function
        return Signature(function, arguments_of(self.function), given, self._vectors)

    def on(self, data: Data) -> Bound:
        """The function at the points of *data*.

        Raises InvalidRequest where the data have another number of coordinates than the function.
        """
        signature = self._signature(typed(self.function, data.y.dtype))
        return Bound(signature, data.coordinates(signature.coordinates), self.constants)

    def advice(self, error: Exception) -> str:
        """What may help where the function has failed with *error* for a float that should be an int; else ""."""
        whole = [
            f"{name}=Constant({parameter.value:g})"
            for name, parameter in self.parameters.items()
            if parameter.fixed and name not in self.constants and float(parameter.value or 0).is_integer()
        ]
        if "integer" not in str(error) or not whole:
            return ""
        return f"{type(error).__name__}: {error}; parameters are floats: for an int give {', '.join(whole)}"

    def __repr__(self) -> str:
        coordinates = self._signature().coordinates
        name = f"{self.name}({', '.join(coordinates)})" if len(coordinates) > 1 else self.name
        return f"Model({', '.join([name, *(f'{key}={value!r}' for key, value in self._shown.items())])})"


def _is_number(given: Any) -> bool:
    return isinstance(given, int | float | np.number) and not isinstance(given, bool)


def _is_vector(given: Any) -> bool:
    """A list of parameters and ranges: no pair of numbers."""
    return (
        isinstance(given, list | tuple)
        and any(isinstance(one, Parameter | list | tuple) for one in given)
        and all(isinstance(one, Parameter | list | tuple | str) or _is_number(one) for one in given)
    )


def _is_constant(given: Any, text: bool) -> bool:
    """True for an object that cannot be meant as a parameter."""
    if isinstance(given, str):
        return text
    if isinstance(given, Parameter | list | tuple | complex):
        return False
    if isinstance(given, np.ndarray):
        return given.ndim > 0 and given.shape != (2,)
    if given is None or isinstance(given, bool | np.bool_ | bytes | dict | set):
        return True
    return len(getattr(given, "shape", ())) > 0 or not hasattr(given, "__float__")
