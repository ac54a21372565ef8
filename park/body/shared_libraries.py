"""Open C libraries (`ctypes`) on their way to another process: by their path, and by the content of the file.

On machines of the same kind the file itself travels and is opened as it was sent, because another file may lie at its
path by then. Libraries of the system, which are known by a name without a folder, travel by that name. The declared
argument and result types of their functions travel too.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib
import operator
import os
import platform
from _ctypes import CFuncPtr
from collections.abc import Callable
from typing import Any

from park.errors import ParkError

Reduced = tuple[Any, ...]
#: Bytes of the largest file that travels.
MAX_LIBRARY_BYTES = 16 << 20


class LibraryMissing(ParkError, OSError):
    """Raised if a C library is not found, and the copy that has travelled cannot be opened."""


def reducers() -> dict[type, Callable[[Any], Reduced]]:
    """The reducers of open libraries, by class."""
    return {ctypes.CDLL: _reduce, ctypes.PyDLL: _reduce}


def reduced(obj: Any) -> Reduced | None:
    """The reduction of a library's function, or of a type that functions take; None for anything else."""
    if isinstance(obj, CFuncPtr):
        held = (getattr(obj, "_objects", None) or {}).values()
        library = next((one for one in held if isinstance(one, ctypes.CDLL)), None)
        name = getattr(obj, "__name__", None)
        if library is not None and isinstance(name, str | int):
            return function_of, (library, name, *_signature(obj))
    elif isinstance(obj, type) and issubclass(obj, ctypes._Pointer) and isinstance(obj._type_, type):
        return ctypes.POINTER, (obj._type_,)
    elif isinstance(obj, type) and issubclass(obj, ctypes.Array) and hasattr(obj, "_length_"):
        return operator.mul, (obj._type_, obj._length_)
    elif isinstance(obj, type) and obj.__name__.startswith("ndpointer_") and hasattr(obj, "_flags_"):
        return array_type, (obj._dtype_, obj._ndim_, obj._shape_, obj._flags_)  # type: ignore[attr-defined]
    return None


def _reduce(library: Any) -> Reduced:
    path = library._name
    data = vars(library).get("park_data", b"")
    if (
        not data
        and isinstance(path, str)
        and os.sep in path
        and os.path.isfile(path)
        and os.path.getsize(path) <= MAX_LIBRARY_BYTES
    ):
        with open(path, "rb") as file:
            data = file.read()
    functions = {name: _signature(f) for name, f in vars(library).items() if isinstance(f, CFuncPtr)}
    flags = library._FuncPtr._flags_
    return opened, (type(library), path, data, flags, functions)


def _signature(function: Any) -> tuple[Any, Any, Any]:
    return function.restype, function.argtypes, getattr(function, "errcheck", None)


def array_type(dtype: Any, ndim: Any, shape: Any, flags: Any) -> Any:
    """numpy's type for an argument that is an array."""
    return importlib.import_module("numpy.ctypeslib").ndpointer(dtype, ndim, shape, flags)


def function_of(library: Any, name: Any, restype: Any, argtypes: Any, errcheck: Any) -> Any:
    """A function of an open library. Like ``library[name]`` it is an object of its own."""
    function = library[name]
    _tell(function, restype, argtypes, errcheck)
    return function


def opened(kind: type, path: Any, data: bytes, flags: int, functions: dict[str, tuple[Any, Any, Any]]) -> Any:
    """The library, with the *functions* that were looked up in it. Raises LibraryMissing."""
    use = {"use_errno": bool(flags & ctypes._FUNCFLAG_USE_ERRNO)}  # type: ignore[attr-defined]
    library = _open(kind, path, data, use)
    for name, signature in functions.items():
        _tell(getattr(library, name), *signature)
    return library


def _tell(function: Any, restype: Any, argtypes: Any, errcheck: Any) -> None:
    function.restype = restype
    if argtypes is not None:
        function.argtypes = argtypes
    if errcheck is not None:
        function.errcheck = errcheck


def _open(kind: Any, path: Any, data: bytes, use: dict[str, bool]) -> Any:
    if not data:
        try:
            return kind(path, **use)
        except OSError as error:
            raise LibraryMissing(
                f"the C library {path} cannot be opened on {platform.node()}, and it has not travelled along: {error}"
            ) from error
    try:
        library = _open_copy(kind, path, data, use)
    except OSError as error:
        raise LibraryMissing(
            f"the C library {path} cannot be opened on {platform.node()} ({platform.machine()}), where it has travelled "
            f"to: {error}"
        ) from error
    library._name = path  # by which it is known, also where it travels on to
    library.park_data = data
    return library


#: The places at which libraries were opened in this process, by a hash of their contents.
_places: dict[bytes, str] = {}


def _open_copy(kind: Any, path: str, data: bytes, use: dict[str, bool]) -> Any:
    """Open the library of these *data* from a copy: the system opens a name only once, even after its file has changed.

    The same content is opened again under the name of its first copy, when that file may be gone.
    """
    known = hashlib.blake2b(data).digest()
    if known in _places:
        try:
            return kind(_places[known], **use)
        except OSError:
            pass  # the system has looked for the file
    import tempfile  # it loads `random`, which then is seeded for each unit

    with tempfile.TemporaryDirectory(prefix="park-") as folder:
        _places[known] = os.path.join(folder, os.path.basename(path))
        with open(_places[known], "wb") as file:
            file.write(data)
        return kind(_places[known], **use)
