"""The pickler of code: functions and classes travel by value where another process cannot import them by name.

cloudpickle pickles functions and classes, and decides by names alone. This pickler also looks at the files of modules
(`importable`), keeps the identity of classes (`by_value`), sends source lines along (`source_lines`), and reduces
objects of libraries that would not arrive whole (`reducers`, `shared_libraries`).
"""

from __future__ import annotations

import _ctypes
import contextlib
import io
import pickle
import sys
import types
import typing
from collections.abc import Callable
from typing import Any, NamedTuple

import cloudpickle
from cloudpickle import cloudpickle as internals

from park.body import by_value, edited_modules, importable, reducers, shared_libraries, source_lines

#: Receives a buffer, and returns whether the buffer stays inside the pickle.
BufferCallback = Callable[[pickle.PickleBuffer], Any]


def pickle_by_value(
    obj: Any,
    buffer_callback: BufferCallback | None = None,
    lines: bool = True,
    own: set[str] | None = None,
) -> bytes:
    """The pickle of *obj*; with *lines*, its code takes its source along.

    The names of the user's own modules that the pickle refers to are added to *own*.
    """
    with io.BytesIO() as file:
        pickler = _ValuePickler(file, buffer_callback, lines)
        try:
            pickler.dump(obj)
        finally:
            pickler.clear_memo()  # the memo would keep all pickled objects until a garbage collection
            for module in pickler.registered:
                with contextlib.suppress(ValueError):  # another thread has unregistered it
                    cloudpickle.unregister_pickle_by_value(module)
        if own is not None:
            own.update(pickler.own)
        return file.getvalue()


class _Reducers(dict[type, Callable[[Any], Any]]):
    """A dispatch table: the reducers of this package, then those of loaded libraries, of cloudpickle and of `copyreg`.

    A class that is not in the table is looked up each time: libraries are loaded and reducers registered at any time.
    """

    def __missing__(self, kind: type) -> Callable[[Any], Any]:
        return reducers.reducer_of(kind) or cloudpickle.Pickler.dispatch_table[kind]


#: Classes of wrappers, which Python pickles by names that another process may not know.
_WRAPPERS = (by_value.Cached, typing.NewType)
#: Functions that pickles call. They are found by their names in every process that has cloudpickle and PARK.
_CALLED_BY_PICKLES = frozenset(
    {
        internals._make_function,
        internals._make_empty_cell,
        internals._make_skeleton_class,
        internals._function_setstate,
        internals._class_setstate,
        source_lines.arrived,
        by_value.made,
        by_value.filled,
    }
)


class _Origin(NamedTuple):
    """The way in which other processes find a module. The answer holds for this *module* on a path of this length."""

    module: types.ModuleType
    path_length: int
    is_importable: bool
    is_own: bool


class _Code(NamedTuple):
    """The reduced form of a *code*, which is held so that its id stays its own."""

    code: types.CodeType
    with_lines: tuple[Any, ...]
    without_lines: tuple[Any, ...]
    #: ids of all codes inside, whose source is part of the source of this one
    inside: frozenset[int]


#: Codes whose reduced form is remembered, at most.
MAX_KNOWN_CODES = 1_000

#: Origins by the name of the module.
_origins: dict[str, _Origin] = {}
#: Reduced codes by their ids.
_codes: dict[int, _Code] = {}


def _origin_of(name: str, module: types.ModuleType) -> _Origin:
    known = _origins.get(name)
    if known is None or known.module is not module or known.path_length != len(sys.path):
        answers = importable.is_importable(module), edited_modules.is_own(module)
        known = _origins[name] = _Origin(module, len(sys.path), *answers)
    return known


def _reduced_code(code: types.CodeType) -> _Code:
    known = _codes.get(id(code))
    if known is None:
        if len(_codes) >= MAX_KNOWN_CODES:
            _codes.clear()
        inside = frozenset(map(id, source_lines.inner(code)))
        make, args = internals._code_reduce(code)
        shown = source_lines.source_of(code)
        known = _codes[id(code)] = _Code(
            code,
            source_lines.reduced(code, make, args, *shown),
            source_lines.reduced(code, make, args, 0, ""),
            inside,
        )
    return known


class _ValuePickler(cloudpickle.Pickler):  # type: ignore[misc]
    """The pickler of the module's first line."""

    dispatch_table = _Reducers(by_value.reducers() | shared_libraries.reducers())

    def __init__(self, file: Any, buffer_callback: BufferCallback | None, lines: bool) -> None:
        #: modules that this pickler has registered with cloudpickle, because other processes cannot import them
        self.registered: list[types.ModuleType] = []
        #: names of the user's own modules that other processes import by name
        self.own: set[str] = set()
        self._lines = lines
        #: ids of codes whose source has travelled with the code around them
        self._inside: set[int] = set()
        super().__init__(file, 5, buffer_callback=buffer_callback)

    def reducer_override(self, obj: Any) -> Any:
        """The reduced form of functions, codes, classes and wrappers; NotImplemented leaves *obj* to the dispatch table."""
        kind = type(obj)
        if kind is types.FunctionType:
            if obj in _CALLED_BY_PICKLES:
                return NotImplemented
            self._note_module(obj.__module__)
            return super().reducer_override(obj)
        if kind is types.CodeType:
            return self._reduce_code(obj)
        if isinstance(obj, type):
            self._note_module(getattr(obj, "__module__", None))
            return self._reduce_class(obj)
        reduced = None
        if isinstance(obj, types.ModuleType):
            self._note_module(obj.__name__)
        elif isinstance(obj, _WRAPPERS):
            reduced = by_value.reduced(obj)
        elif isinstance(obj, _ctypes.CFuncPtr):
            reduced = shared_libraries.reduced(obj)
        return NotImplemented if reduced is None else reduced

    def _reduce_class(self, cls: type) -> Any:
        reduced = shared_libraries.reduced(cls)
        if reduced is not None:
            return reduced
        found = super().reducer_override(cls)
        goes_by_value = isinstance(found, tuple) and len(found) == 6
        return by_value.by_value(cls, found) if goes_by_value else found

    def _reduce_code(self, code: types.CodeType) -> tuple[Any, ...]:
        known = _reduced_code(code)
        if not self._lines or id(code) in self._inside:
            return known.without_lines
        self._inside.update(known.inside)
        return known.with_lines

    def _note_module(self, name: Any) -> None:
        """Before an object of the module *name* is pickled: find out whether other processes import that module."""
        module = sys.modules.get(name) if isinstance(name, str) else None
        if module is None or module.__name__ != name:
            return
        origin = _origin_of(name, module)
        if origin.is_importable:
            if origin.is_own:
                self.own.add(name)
        elif name not in cloudpickle.list_registry_pickle_by_value():
            cloudpickle.register_pickle_by_value(module)
            self.registered.append(module)
