"""Random generators of a model's own: ``rng = np.random.default_rng(7)`` beside a function that draws from it.

A job seeds the global generators, and these not: their state would depend on the evaluations that a process has made
before, and so would the numbers of a fit. So each evaluation leaves them as they were. A model that integrates by drawing
points then draws the same points everywhere, and a script finds its generators as it left them.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from types import CodeType, FunctionType, MethodType
from typing import Any, TypeVar

import numpy as np

from park.fit.problem.preserved_state import reachable

T = TypeVar("T")
_KINDS = (np.random.Generator, np.random.RandomState, np.random.BitGenerator, random.Random)
#: attributes that are, or lead to, a generator
_LEADING = (*_KINDS, FunctionType, MethodType)


class OwnGenerators:
    """The generators that the models in *roots* may draw from: functions, or objects with functions."""

    def __init__(self, roots: Iterable[Any]) -> None:
        self._found = list(_generators(roots))
        #: true once an evaluation has drawn from one of them
        self.drawn = False

    def __bool__(self) -> bool:
        return bool(self._found)

    def kept(self, function: Callable[..., T], *args: Any, **values: Any) -> T:
        """The result of *function*, with the generators as before. It notes whether the function has drawn from one."""
        before = [_state(one) for one in self._found]
        try:
            return function(*args, **values)
        finally:
            for one, state in zip(self._found, before, strict=True):
                self.drawn = self.drawn or not _equal(_state(one), state)
                _restore(one, state)


def _state(one: Any) -> Any:
    if isinstance(one, random.Random):
        return one.getstate()
    if isinstance(one, np.random.RandomState):
        return one.get_state(legacy=False)
    return (one.bit_generator if isinstance(one, np.random.Generator) else one).state


def _restore(one: Any, state: Any) -> None:
    if isinstance(one, random.Random):
        one.setstate(state)
    elif isinstance(one, np.random.RandomState):
        one.set_state(state)
    else:
        (one.bit_generator if isinstance(one, np.random.Generator) else one).state = state


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return all(_equal(one[name], other[name]) for name in one)
    return bool(np.array_equal(one, other)) if isinstance(one, np.ndarray) else bool(one == other)


def _generators(roots: Iterable[Any]) -> Iterator[Any]:
    """The generators in the *roots*, their attributes, and the global variables of their functions, each once."""
    seen, stack = set[int](), list(roots)
    while stack:
        one = stack.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, _KINDS):
            yield one
        elif isinstance(one, FunctionType):
            stack += _named_in(one)
        elif isinstance(one, MethodType):
            stack += (one.__self__, one.__func__)
        else:
            for inner in (one, *reachable(one)):
                if callable(inner):
                    stack.append(type(inner).__call__)
                stack += [
                    each for each in getattr(inner, "__dict__", {}).values() if isinstance(each, _LEADING)
                ]


def _named_in(function: FunctionType) -> Iterator[Any]:
    """The generators and functions of the same module that a function names, and the contents of its closure."""
    names, codes = set[str](), [function.__code__]
    while codes:
        code = codes.pop()
        names.update(code.co_names)
        codes += [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    for name in names:
        one = function.__globals__.get(name)
        if isinstance(one, _KINDS) or (
            isinstance(one, FunctionType) and one.__globals__ is function.__globals__
        ):
            yield one
    for cell in function.__closure__ or ():
        try:
            one = cell.cell_contents
        except ValueError:  # it is empty
            continue
        if not isinstance(one, type):
            yield one
    yield from function.__defaults__ or ()
