"""The signature of a model function: coordinates first, then values by keyword, by position, or as a vector."""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from park.errors import InvalidRequest

_PLACED = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_NAMED = (*_PLACED, inspect.Parameter.KEYWORD_ONLY)
_VECTOR = inspect.Parameter.VAR_POSITIONAL


def name_of(function: Any) -> str:
    """The name of a function in messages."""
    if isinstance(function, partial):
        return name_of(function.func)
    if isinstance(function, np.vectorize):
        return name_of(function.pyfunc)
    return str(getattr(function, "__name__", type(function).__name__))


def arguments_of(function: Any) -> list[inspect.Parameter] | None:
    """The arguments of a function in order; None for a compiled function without a signature."""
    if isinstance(function, np.ufunc):
        names = ["x"] if function.nin == 1 else [f"x{n}" for n in range(1, function.nin + 1)]
        return [inspect.Parameter(name, inspect.Parameter.POSITIONAL_ONLY) for name in names]
    try:
        told = inspect.signature(function.pyfunc if isinstance(function, np.vectorize) else function)
    except (TypeError, ValueError):
        return None
    return list(told.parameters.values())


def takes_text(argument: inspect.Parameter | None) -> bool:
    """Whether an argument takes a text, by its default or its annotation."""
    if argument is None:
        return False
    annotation = argument.annotation
    if isinstance(argument.default, str) or annotation is str:
        return True
    if isinstance(annotation, str):
        return re.search(r"\b(str|Literal)\b", annotation) is not None
    return any(one is str or isinstance(one, str) for one in get_args(annotation))


def takes_whole(argument: inspect.Parameter | None, whole: bool) -> bool:
    """Whether an argument takes an int: by its annotation, or because default and given value are ints."""
    if argument is None:
        return False
    return argument.annotation in (int, "int") or (whole and type(argument.default) is int)


@dataclass(slots=True)
class Signature:
    """The arguments of one function, as a model uses them.

    *given* are the names of all values, including those in vectors. *vectors* maps arguments that take several values
    as one array to the names of these values.
    """

    function: Callable[..., Any]
    arguments: list[inspect.Parameter] | None
    given: Sequence[str]
    vectors: Mapping[str, Sequence[str]]
    #: the arguments that are coordinates
    coordinates: tuple[str, ...] = ("x",)
    #: arguments that are passed by position after the coordinates, in order
    placed: list[str] = field(default_factory=list)
    #: the names of the values of ``*p``, in order
    spread: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.arguments is None:
            return
        self._find_coordinates(self.arguments)
        first = self.arguments[0].kind is _VECTOR
        rest = self.arguments if first else self.arguments[len(self.coordinates) :]
        self._find_spread(rest)
        self._check(rest)
        by_place = [a for a in rest if a.kind in _PLACED]
        if not self.spread:
            by_place = [a for a in by_place if a.kind is inspect.Parameter.POSITIONAL_ONLY]
            while by_place and by_place[-1].name not in self._covered():
                by_place.pop()  # the function uses its own defaults
        self.placed = [a.name for a in by_place]

    def _covered(self) -> set[str]:
        return {*self.given, *self.vectors}

    def _find_coordinates(self, arguments: list[inspect.Parameter]) -> None:
        if not arguments or arguments[0].kind not in (*_PLACED, _VECTOR):
            raise InvalidRequest("its function takes no x as first argument")
        first = arguments[0]
        if first.kind is _VECTOR:
            self.coordinates = ("x",)
            return
        if first.name in self._covered():
            raise InvalidRequest(
                f"{first.name}, the first argument of its function, is the x of the data and has no other value"
            )
        found = [first.name]
        for argument in arguments[1:]:
            free = argument.kind in _PLACED and argument.default is inspect.Parameter.empty
            if not free or argument.name in self._covered():
                break
            found.append(argument.name)
        self.coordinates = tuple(found)

    def _find_spread(self, arguments: list[inspect.Parameter]) -> None:
        """Finds the values of ``*p``: p0, p1, ..."""
        vector = next((a.name for a in arguments if a.kind is _VECTOR), None)
        if vector is None:
            return
        named = {a.name for a in arguments if a.kind in _NAMED}
        found = [n for n in self.given if re.fullmatch(rf"{re.escape(vector)}\d+", n) and n not in named]
        self.spread = sorted(found, key=lambda name: int(name[len(vector) :]))
        for n, name in enumerate(self.spread):
            if name != f"{vector}{n}":
                raise InvalidRequest(f"no value for {vector}{n}, and there is one for {name}")

    def _check(self, arguments: list[inspect.Parameter]) -> None:
        covered = self._covered()
        missing = [
            a.name
            for a in arguments
            if a.kind in _NAMED and a.default is inspect.Parameter.empty and a.name not in covered
        ]
        if missing:
            raise InvalidRequest(f"no value for {', '.join(missing)}")
        inside = {name for names in self.vectors.values() for name in names}
        known = {a.name for a in arguments if a.kind in _NAMED} | {*self.spread} | inside
        unknown = [name for name in (*self.given, *self.vectors) if name not in known]
        if unknown and not any(a.kind is inspect.Parameter.VAR_KEYWORD for a in arguments):
            vector = next((a.name for a in arguments if a.kind is _VECTOR), None)
            hint = "" if vector is None else f"; *{vector} takes {vector}0, {vector}1, ..., or {vector}=[...]"
            names = ", ".join(a.name for a in self.arguments or ())
            raise InvalidRequest(
                f"its function has no argument {', '.join(unknown)}{hint or f'; it has {names}'}"
            )

    def call(self, coordinates: Sequence[Any], constants: Mapping[str, Any]) -> Callable[..., Any]:
        """The function at fixed *coordinates*, which takes all other values by keyword."""
        if not (self.placed or self.spread or self.vectors):
            return partial(self.function, *coordinates, **constants)
        function, placed, vectors, spread = self.function, self.placed, self.vectors, self.spread
        fixed = {a.name: a.default for a in self.arguments or () if a.name in placed} | dict(constants)

        def called(**values: Any) -> Any:
            values = {**fixed, **values}
            for name, inside in vectors.items():
                values[name] = np.array([values.pop(one) for one in inside])
            by_place = [values.pop(name) for name in placed]
            return function(*coordinates, *by_place, *[values.pop(one) for one in spread], **values)

        return called


@dataclass(slots=True)
class Bound:
    """A function with fixed coordinates, which takes all other values by keyword.

    The function gets its own copies of the arrays. A function that changes them gets fresh copies for each call, so
    that its points do not move from one evaluation to the next.
    """

    signature: Signature
    coordinates: Sequence[NDArray[Any]]
    constants: Mapping[str, Any]

    def first(self, values: Mapping[str, Any]) -> tuple[Any, Callable[..., Any]]:
        """Calls the function, and returns its value and the function for all later calls."""
        own, call = self._call()
        value = call(**values)
        given = [*self.coordinates, *self.constants.values()]
        if all(_equal(a, b) for a, b in zip(own, given, strict=True) if isinstance(b, np.ndarray)):
            return value, call
        return value, lambda **values: self._call()[1](**values)

    def _call(self) -> tuple[list[Any], Callable[..., Any]]:
        coordinates = [np.array(array) for array in self.coordinates]
        constants = {k: v.copy() if type(v) is np.ndarray else v for k, v in self.constants.items()}
        return [*coordinates, *constants.values()], self.signature.call(coordinates, constants)


def _equal(a: NDArray[Any], b: NDArray[Any]) -> bool:
    return a.shape == b.shape and bool(np.all((a == b) | ((a != a) & (b != b))))


def typed(function: Any, dtype: Any) -> Any:
    """The *function*, with its output type set to *dtype* if it is a `numpy.vectorize` without *otypes*.

    numpy takes the type of the first value, and an int there would truncate all later values.
    """
    if isinstance(function, np.vectorize) and function.otypes is None and function.signature is None:
        function = copy.copy(function)
        function.otypes = np.dtype(dtype).char
    return function
