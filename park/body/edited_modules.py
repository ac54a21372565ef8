"""Modules of the user that are edited between two runs: a process that lives on does not compute with the old versions.

Pickled code names the modules that it finds by ``import``. With the code travel the hashes of the files of the user's own
modules (all but Python's and installed ones) among them, and of the own modules that these import. A process that has
loaded another version forgets its own modules, so that they are loaded anew. Where the file itself differs from the
client's, for example on another machine, the code reports that.
"""

from __future__ import annotations

import hashlib
import os
import site
import sys
import sysconfig
from collections.abc import Iterable
from functools import cache
from types import FunctionType, ModuleType
from typing import Any

#: The hash of each module's file when the module was first seen, with the spec that it was loaded by.
_seen: dict[str, tuple[Any, str]] = {}
#: Hashes of files, by path, time of change and size.
_files: dict[tuple[str, int, int], str] = {}
#: Answers of `versions_of`, by the names asked for, with the specs for which they hold.
_closures: dict[frozenset[str], tuple[list[tuple[str, Any]], dict[str, str]]] = {}
#: Modules whose version here differs from the client's, found by `compare` since `differences` was last called.
_differences: list[str] = []
#: A body that waits in this process has loaded modules, so no module may be forgotten.
held = False
#: the number of modules when `note` last looked
_loaded = 0


def is_own(module: ModuleType) -> bool:
    """Whether the module is the user's own: a Python file, compiled or not, neither installed nor part of PARK."""
    file = getattr(module, "__file__", None)
    return isinstance(file, str) and module.__name__ != "__main__" and _is_own(file)


@cache
def _is_own(file: str) -> bool:
    return (
        file.endswith((".py", ".pyc"))
        and not os.path.realpath(file).startswith(_installed())
        and f"{os.sep}site-packages{os.sep}" not in file
        and f"{os.sep}dist-packages{os.sep}" not in file
    )


@cache
def _installed() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    folders = {paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    folders |= {site.getusersitepackages(), os.path.dirname(os.path.dirname(os.path.abspath(__file__)))}
    return tuple(os.path.realpath(folder) + os.sep for folder in folders)


def _hash_of(file: str) -> str:
    """The hash of a file's content; "" where it cannot be read."""
    try:
        found = os.stat(file)
        key = file, found.st_mtime_ns, found.st_size
        if key not in _files:
            with open(file, "rb") as content:
                _files[key] = hashlib.blake2b(content.read(), digest_size=8).hexdigest()
        return _files[key]
    except OSError:
        return ""


def version_of(name: str) -> str:
    """The hash of the file of an own module, as it was when this process first saw this version of the module."""
    module = sys.modules[name]
    spec = getattr(module, "__spec__", None)
    known = _seen.get(name)
    if known is None or known[0] is not spec:  # it was loaded, or loaded again, since
        known = _seen[name] = spec, _hash_of(str(module.__file__))
    return known[1]


def note() -> None:
    """Note the versions of all modules that were loaded since the last call."""
    global _loaded
    if len(sys.modules) == _loaded:
        return
    _loaded = len(sys.modules)
    try:
        for name, module in list(sys.modules.items()):
            if name not in _seen and isinstance(module, ModuleType) and is_own(module):
                version_of(name)
    except OSError:  # a body has left no descriptor for a look
        _loaded = 0


def versions_of(names: Iterable[str]) -> dict[str, str]:
    """The versions of these own modules, and of the own modules that they import, by name."""
    key = frozenset(names)
    known = _closures.get(key)
    if known is not None and all(_spec(name) is spec for name, spec in known[0]):
        return known[1]
    found: dict[str, str] = {}
    left = list(key)
    while left:
        name = left.pop()
        module = sys.modules.get(name)
        if name in found or not isinstance(module, ModuleType) or not is_own(module):
            continue
        found[name] = version_of(name)
        above = name.rpartition(".")[0]
        left += [above] if above else []
        for value in list(vars(module).values()):
            if isinstance(value, ModuleType):
                left.append(value.__name__)
            elif isinstance(value, type | FunctionType):
                left.append(value.__module__)
    _closures[key] = [(name, _spec(name)) for name in found], dict(sorted(found.items()))
    return _closures[key][1]


def _spec(name: str) -> Any:
    return getattr(sys.modules.get(name), "__spec__", None)


def refresh(versions: dict[str, str]) -> None:
    """Before code that needs these *versions* is unpickled: forget modules that were edited since they were loaded."""
    note()
    if not held and any(_is_stale(name, version) for name, version in versions.items()):
        _forget()


def forget_edited() -> None:
    """Before another job begins: forget edited modules, for functions that import them only when called."""
    here = _seen.keys() & sys.modules
    if any(_hash_of(str(sys.modules[name].__file__)) != _seen[name][1] for name in here):
        _forget()


def _forget() -> None:
    """Forget all own modules: the next import loads them anew."""
    global _loaded
    loaded = [(name, module) for name, module in sys.modules.items() if isinstance(module, ModuleType)]
    for name in [name for name, module in loaded if is_own(module)]:
        del sys.modules[name]
        _seen.pop(name, None)
    _loaded = 0


def compare(versions: dict[str, str]) -> None:
    """After code was unpickled: note the modules whose versions differ from *versions*."""
    note()
    here = {name: _seen[name][1] for name in versions if name in _seen}
    _differences.extend(name for name, version in here.items() if version != versions[name])


def _is_stale(name: str, version: str) -> bool:
    """Whether the loaded module has another version, and its file does not."""
    module = sys.modules.get(name)
    if module is None or name not in _seen or _seen[name][1] == version:
        return False
    return _hash_of(str(module.__file__)) != _seen[name][1]


def differences() -> list[str]:
    """The modules that were found to differ since the last call."""
    found, _differences[:] = _differences[:], []
    return found
