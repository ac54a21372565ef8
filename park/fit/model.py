"""A model: a function and its parameters."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from park.errors import InvalidRequest
from park.fit.parameter import Parameter, as_parameter


class Model:
    """A function ``f(x, b1, b2, ...) -> y`` and a parameter for each of its arguments.

    *x* and *y* are numpy arrays; the parameters arrive as keyword arguments, as floats. Each is a
    `Parameter` or a shorthand: a number is fixed, ``(low, high)`` is fitted from the middle, a text
    is an expression of other parameters. Arguments with a default may be left out.

    The same `Model` in two parts of an `Assembly` shares all its parameters.

    >>> Model(lambda x, a, b: a * x + b, a=(0, 4), b=1.0)
    Model(<lambda>, a=Parameter(2, limits=(0, 4)), b=Parameter(1, fixed=True))
    """

    def __init__(self, function: Callable[..., Any], /, **parameters: Any) -> None:
        if not callable(function):
            raise InvalidRequest(f"the model {function!r} is not a function")
        self.function = function
        self.name: str = getattr(function, "__name__", type(function).__name__)
        self.parameters: dict[str, Parameter] = {}
        for name, given in parameters.items():
            try:
                self.parameters[name] = as_parameter(given)
            except InvalidRequest as error:
                raise InvalidRequest(f"model {self.name}, parameter {name!r}: {error}") from None
        self._check_signature()

    def _check_signature(self) -> None:
        try:
            signature = inspect.signature(self.function)
        except (TypeError, ValueError):
            return  # a compiled function that does not tell: its first call does
        arguments = list(signature.parameters.values())
        if not arguments or arguments[0].kind is inspect.Parameter.KEYWORD_ONLY:
            raise InvalidRequest(f"model {self.name}: its function takes no x as first argument")
        if arguments[0].kind is not inspect.Parameter.VAR_POSITIONAL:
            arguments = arguments[1:]
        keywords = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        known = {a.name for a in arguments if a.kind in keywords}
        missing = [
            a.name
            for a in arguments
            if a.name not in self.parameters
            and a.default is inspect.Parameter.empty
            and a.kind not in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        ]
        if missing:
            raise InvalidRequest(f"model {self.name}: no value for {', '.join(missing)}")
        unknown = [name for name in self.parameters if name not in known]
        if unknown and not any(a.kind is inspect.Parameter.VAR_KEYWORD for a in arguments):
            raise InvalidRequest(f"model {self.name}: its function has no argument {', '.join(unknown)}")

    def __repr__(self) -> str:
        inside = ", ".join([self.name, *(f"{name}={p!r}" for name, p in self.parameters.items())])
        return f"Model({inside})"
