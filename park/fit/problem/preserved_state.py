"""Restores a problem after an evaluation, so that it can be pickled as before.

Models cache theories, compute kernels, open libraries and locks. A problem that could be pickled before an evaluation in
the client must be picklable afterwards. The random numbers of the script are restored as well.

Objects of classes with a ``__reduce__`` of their own are left alone: it says what is pickled in place of their attributes.
Chemical elements, for one, are pickled by name and belong to the whole process. Their library loads its tables at the
first use, and would find them empty if their attributes went back.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np

from park.body.generators import Generators

#: Largest number of objects to visit; a material may lead to all isotopes of all elements.
MAX_OBJECTS = 20_000
#: Longer lists and dicts hold data, and are not searched for other objects.
MAX_ITEMS = 5_000
_LEAF_TYPES = (
    *(int, float, complex, str, bytes, bool, type(None), type, range, slice),
    *(BuiltinFunctionType, ModuleType, np.ndarray, np.generic, np.dtype),
)
#: These types themselves are found faster than their subclasses.
_LEAVES = frozenset(_LEAF_TYPES)


@contextlib.contextmanager
def preserved_state(*roots: Any) -> Iterator[list[Any]]:
    """Restores attributes, lists and dicts of all objects reachable from the *roots*, and random generators, at its end.

    It yields these objects. Lists and dicts in the closure of a function keep their changes: the script may use them.
    """
    objects = list(reachable(*roots))
    kept, generators = list(_states(objects)), Generators(keep=True)
    try:
        yield objects
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
    """All objects reachable from the *roots* that may hold others, each once, at most `MAX_OBJECTS`."""
    stack, seen = list(roots), set[int]()
    insides: dict[type, Callable[[Any], Iterable[Any]] | None] = {}
    while stack and len(seen) < MAX_OBJECTS:
        one = stack.pop()
        kind = type(one)
        if kind in _LEAVES or id(one) in seen:
            continue
        if kind not in insides:
            insides[kind] = _inside(kind)
        inside = insides[kind]
        if inside is None:
            continue
        seen.add(id(one))
        if kind is not FunctionType:
            yield one
        stack += inside(one)


def _inside(kind: type) -> Callable[[Any], Iterable[Any]] | None:
    """A function that maps an object of the class *kind* to the objects in it; None if they do not matter."""
    if issubclass(kind, _LEAF_TYPES) or _reduces_itself(kind):
        return None
    if kind is FunctionType:
        return _around
    if kind in (list, tuple, set, frozenset):
        return lambda one: one if len(one) <= MAX_ITEMS else ()
    if kind is dict:
        return lambda one: one.values() if len(one) <= MAX_ITEMS else ()
    if issubclass(kind, dict | list | tuple | set | frozenset):
        return _in_container
    if kind is MethodType:
        return lambda one: (one.__self__, *_attributes(one).values())
    return lambda one: _attributes(one).values()


def _in_container(one: Any) -> Iterable[Any]:
    """The items and attributes of a container of a class of its own."""
    if len(one) > MAX_ITEMS:
        return ()
    return (*(one.values() if isinstance(one, dict) else one), *_attributes(one).values())


def _reduces_itself(kind: type) -> bool:
    """Whether a class states in Python how its objects are pickled."""
    return any(isinstance(getattr(kind, name), FunctionType) for name in ("__reduce__", "__reduce_ex__"))


def _around(function: FunctionType) -> Iterator[Any]:
    """The objects in the closure of a function, without lists, dicts, tuples and sets."""
    for cell in function.__closure__ or ():
        with contextlib.suppress(ValueError):  # an empty cell
            if not isinstance(cell.cell_contents, dict | list | tuple | set | frozenset):
                yield cell.cell_contents


def _states(objects: list[Any]) -> Iterator[tuple[Any, Any]]:
    """Each dict, list and attribute dict of the *objects* with a copy of it."""
    for one in objects:
        if type(one) is dict or type(one) is list:
            if len(one) <= MAX_ITEMS:
                yield one, one.copy()
        elif attributes := _attributes(one):
            yield attributes, dict(attributes)


def _attributes(one: Any) -> dict[str, Any]:
    try:
        found = object.__getattribute__(one, "__dict__")
    except AttributeError:
        return {}
    return found if type(found) is dict else {}


def _same(state: dict[Any, Any], copy: dict[Any, Any]) -> bool:
    return len(state) == len(copy) and all(key in copy and copy[key] is value for key, value in state.items())
