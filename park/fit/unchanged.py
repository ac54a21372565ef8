"""A problem stays as it was, though it was evaluated: what its models have kept of the evaluation is taken back.

Models keep what costs time: theories, kernels, open libraries, locks. A problem that could be sent to another machine
before it was looked at in this process must be as good after. And a script goes on with its own random numbers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np

from park.kernel.generators import Generators

#: Objects that are looked at; materials may lead to all isotopes of all elements.
MANY = 20_000
#: Items of a list, or a table, of data, which hold no other objects.
LONG = 5_000
_PLAIN = (
    *(int, float, complex, str, bytes, bool, type(None), type, range, slice),
    *(BuiltinFunctionType, ModuleType, np.ndarray, np.generic, np.dtype),
)


@contextlib.contextmanager
def unchanged(*roots: Any) -> Iterator[None]:
    """Put back the attributes, lists and dicts of all objects that can be reached from the *roots*, and the generators.

    What a function keeps in a list or a dict of the script around it stays: the script may be waiting for it.
    """
    kept, generators = list(_states(roots)), Generators(keep=True)
    try:
        yield
    finally:
        generators.restore()
        for state, copy in kept:
            if isinstance(state, dict):
                if not _same(state, copy):
                    state.clear()
                    state.update(copy)
            elif len(state) != len(copy) or any(a is not b for a, b in zip(state, copy, strict=True)):
                state[:] = copy


def reachable(*roots: Any) -> Iterator[Any]:
    """The objects that hold others, from the *roots* on, each once; at most `MANY`."""
    stack, seen = list(roots), set[int]()
    while stack and len(seen) < MANY:
        one = stack.pop()
        if isinstance(one, _PLAIN) or id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, FunctionType):
            stack += _around(one)
            continue
        yield one
        if isinstance(one, dict | list | tuple | set | frozenset) and len(one) > LONG:
            continue
        if isinstance(one, dict):
            stack += one.values()
        elif isinstance(one, list | tuple | set | frozenset):
            stack += one
        elif isinstance(one, MethodType):
            stack.append(one.__self__)
        stack += _attributes(one).values()


def _around(function: FunctionType) -> Iterator[Any]:
    """The objects that a function has from the function around it."""
    for cell in function.__closure__ or ():
        with contextlib.suppress(ValueError):  # it has no value yet
            if not isinstance(cell.cell_contents, dict | list | tuple | set | frozenset):
                yield cell.cell_contents


def _states(roots: tuple[Any, ...]) -> Iterator[tuple[Any, Any]]:
    """Each dict and list with a copy of it, those of attributes too."""
    for one in reachable(*roots):
        if type(one) in (dict, list) and len(one) <= LONG:
            yield one, one.copy()
        attributes = _attributes(one)
        if attributes:
            yield attributes, dict(attributes)


def _attributes(one: Any) -> dict[str, Any]:
    try:
        found = object.__getattribute__(one, "__dict__")
    except AttributeError:
        return {}
    return found if type(found) is dict else {}


def _same(state: dict[Any, Any], copy: dict[Any, Any]) -> bool:
    return len(state) == len(copy) and all(key in copy and copy[key] is value for key, value in state.items())
