"""The part of an object that cannot be pickled, in words that lead its author to it."""

from __future__ import annotations

import functools
import types
from collections.abc import Iterator
from itertools import islice
from typing import Any

from park.body.value_pickler import pickle_by_value

#: Steps from an object into its parts, parts that are looked at in each step, and characters of an error's text.
MAX_DEPTH, MAX_PARTS, MAX_ERROR_CHARS = 10, 10_000, 200
_POINTER = "an address stays in its process; keep what it is made from, and make it where it is used, as in prepare()"


def pickles(obj: Any) -> bool:
    """Whether *obj* can be pickled by value."""
    try:
        pickle_by_value(obj)
    except Exception:
        return False
    return True


def culprit_of(obj: Any, error: Exception) -> str:
    """The path to the innermost part of *obj* that cannot be pickled, its class, and the text of *error*."""
    path: list[str] = []
    seen: set[int] = set()
    while len(path) < MAX_DEPTH:
        seen.add(id(obj))
        parts = islice(_parts_of(obj), MAX_PARTS)
        inner = next(((n, o) for n, o in parts if id(o) not in seen and not pickles(o)), None)
        if inner is None:
            break
        path.append(inner[0])
        obj = inner[1]
    kind = type(obj)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    where, text = " of ".join(reversed(path)) or "it", str(error)
    told = f"{where} is a {name} ({text if len(text) <= MAX_ERROR_CHARS else text[: MAX_ERROR_CHARS - 3] + '...'})"
    of_ctypes = any(base.__module__ == "_ctypes" for base in kind.__mro__)
    return f"{told}: {_POINTER}" if of_ctypes else told


def _parts_of(obj: Any) -> Iterator[tuple[str, Any]]:
    """The named parts of an object that are pickled with it."""
    if isinstance(obj, dict):
        yield from ((f"the value of key {key!r}", value) for key, value in obj.items())
    elif isinstance(obj, list | tuple | set | frozenset):
        yield from ((f"item {i}", value) for i, value in enumerate(obj))
    elif isinstance(obj, functools.partial):
        yield from (("the function", obj.func), ("its arguments", obj.args), ("its keywords", obj.keywords))
    elif isinstance(obj, types.MethodType):
        yield (f"the {type(obj.__self__).__name__} it is a method of", obj.__self__)
    elif isinstance(obj, types.FunctionType):
        yield from _parts_of_function(obj)
    elif isinstance(obj, type):
        yield from ((f"class attribute {name!r}", value) for name, value in vars(obj).items())
    else:
        yield from _parts_of_instance(obj)


def _parts_of_function(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield (f"variable {name!r}", cell.cell_contents)
        except ValueError:
            pass  # the variable has no value yet
    names = (name for name in function.__code__.co_names if name in function.__globals__)
    yield from ((f"global {name!r}", function.__globals__[name]) for name in names)
    yield from (("a default argument", value) for value in function.__defaults__ or ())


def _parts_of_instance(obj: Any) -> Iterator[tuple[str, Any]]:
    try:
        state = obj.__getstate__()
    except Exception:
        return
    for fields in state if isinstance(state, tuple) else (state,):
        if isinstance(fields, dict):
            yield from ((f"attribute {name!r}", value) for name, value in fields.items())
    yield (f"the class {type(obj).__name__}", type(obj))
