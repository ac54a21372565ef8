"""A memory of pickled functions: a function is pickled again only if one of its parts has changed.

To pickle a function takes 20 to 60 us, which is most of the time of a call that an executor sends. A function is
remembered where all its parts can be compared within a microsecond: its code and defaults, and the values of its cells
and of the globals that it reads. Each part must be a *constant*: a value that cannot change, or something that other
processes find by its name. Anything else, such as a bound method or a function that reads an array, is pickled each time.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from operator import is_
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any, NamedTuple

from cloudpickle import cloudpickle as internals

from park.body import edited_modules, importable, payload

#: Functions that are remembered, parts of each, and bytes of its pickle, at most.
MAX_FUNCTIONS, MAX_PARTS, MAX_BYTES = 64, 64, 64 * 1024
_VALUES = frozenset({int, float, complex, str, bytes, bool, type(None), type(...)})
_MISSING = object()


class _Remembered(NamedTuple):
    """The *pickled* form of a function with its hash, which holds while its parts are the same objects."""

    function: Any
    #: functions that are pickled by value, with their `_state`
    states: list[tuple[FunctionType, tuple[Any, ...]]]
    #: names that are looked up: the namespace, the name, and what is found there
    names: list[tuple[Mapping[str, Any], str, Any]]
    surroundings: tuple[int, ...]
    #: the user's own modules among the parts, and their versions
    own: set[str]
    versions: dict[str, str]
    pickled: tuple[bytes, bytes]

    def holds(self) -> bool:
        return (
            self.surroundings == _surroundings()
            and all(space.get(name, _MISSING) is value for space, name, value in self.names)
            and all(_same(_state(function), state) for function, state in self.states)
            and (not self.own or edited_modules.versions_of(self.own) is self.versions)
        )


class CodeMemory:
    """Pickles functions, each inside *wrapper*, and remembers the last ones. Threads may share it."""

    def __init__(self, wrapper: Callable[[Any], Any]) -> None:
        self._wrapper = wrapper
        self._known: dict[int, _Remembered] = {}

    def dump(self, function: Any) -> tuple[bytes, bytes]:
        """The hash of the function's code, and the code. Raises NotPicklable."""
        known = self._known.get(id(function))
        if known is not None and known.holds():
            return known.pickled
        blob = payload.dump_code(self._wrapper(function), "the function")
        pickled = payload.code_hash(blob), blob
        found = _Parts().of(function) if len(blob) <= MAX_BYTES else None
        if found is None:
            self._known.pop(id(function), None)
        else:
            if len(self._known) >= MAX_FUNCTIONS:
                self._known.clear()
            versions = edited_modules.versions_of(found.own) if found.own else {}
            self._known[id(function)] = _Remembered(
                function, found.states, found.names, _surroundings(), found.own, versions, pickled
            )
        return pickled


class _Parts:
    """Collects the parts of a function."""

    def __init__(self) -> None:
        self.states: list[tuple[FunctionType, tuple[Any, ...]]] = []
        self.names: list[tuple[Mapping[str, Any], str, Any]] = []
        self.own: set[str] = set()
        self._left: list[Any] = []
        self._seen: set[int] = set()

    def of(self, function: Any) -> _Parts | None:
        """Collect all parts of *function*. Returns this object; None: not all parts are constants."""
        self._left.append(function)
        while self._left:
            part = self._left.pop()
            if type(part) in _VALUES or id(part) in self._seen:
                continue
            self._seen.add(id(part))
            if len(self._seen) > MAX_PARTS or not self._add(part):
                return None
        return self

    def _add(self, part: Any) -> bool:
        """Note what *part* consists of. Returns whether it is a constant, as far as its own parts are."""
        kind = type(part)
        if kind is tuple:
            self._left.extend(part)
            return True
        if kind is ModuleType:
            return self._add_module(part)
        if kind is FunctionType and not internals._should_pickle_by_reference(part):
            return self._add_function(part)
        if kind in (FunctionType, BuiltinFunctionType, type):
            return self._add_named(part)
        return False

    def _add_module(self, module: ModuleType) -> bool:
        name = module.__name__
        if name == "__main__" or sys.modules.get(name) is not module or not importable.is_importable(module):
            return False
        if name in internals.list_registry_pickle_by_value():
            return False
        self.names += [(sys.modules, name, module), (vars(module), "__spec__", module.__spec__)]
        if edited_modules.is_own(module):
            self.own.add(name)
        return True

    def _add_named(self, part: Any) -> bool:
        module = sys.modules.get(part.__module__) if isinstance(part.__module__, str) else None
        if module is None or vars(module).get(part.__qualname__, _MISSING) is not part:
            return False
        self.names.append((vars(module), part.__qualname__, part))
        self._left.append(module)
        return True

    def _add_function(self, function: FunctionType) -> bool:
        try:
            state = _state(function)
        except ValueError:  # a cell is empty
            return False
        code, attributes, *values = state
        if attributes is not None:
            return False
        self.states.append((function, state))
        self._left.extend(values)
        space = function.__globals__
        for name in internals._extract_code_globals(code):
            value = space.get(name, _MISSING)
            self.names.append((space, name, value))
            if value is not _MISSING:
                self._left.append(value)
        return True


def _state(function: FunctionType) -> tuple[Any, ...]:
    """Everything of a function that may be set anew."""
    keywords = function.__kwdefaults__ or {}
    return (
        function.__code__,
        vars(function) or None,
        function.__module__,
        function.__name__,
        function.__qualname__,
        function.__doc__,
        function.__defaults__,
        *keywords,
        *keywords.values(),
        *function.__annotations__,
        *function.__annotations__.values(),
        *(cell.cell_contents for cell in function.__closure__ or ()),
    )


def _same(values: Sequence[Any], others: Sequence[Any]) -> bool:
    """Whether these are the same objects, in order."""
    return len(values) == len(others) and all(map(is_, values, others))


def _surroundings() -> tuple[int, ...]:
    """Numbers that change where names may lead to something else: loaded modules may be parts of packages that a function
    uses, and a longer path may find other modules.
    """
    return len(sys.modules), len(sys.path), len(internals._PICKLE_BY_VALUE_MODULES)
