"""Settings that a module makes while it is imported: they stay until the process ends, as the module does.

A process executes a module once, for all jobs that use it. If the settings of the import (filters of warnings, entries of
``sys.path``, decimal's precision) were undone when the first of these jobs ended, the next job would miss them.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Any

_MAIN_THREAD = threading.main_thread().ident


def watch(begin: Callable[[], Any], end: Callable[[Any], None]) -> None:
    """Call *begin*, from now on, before modules are imported, and *end* with its return value if the import went well.

    An import within an import is part of the outer one; imports of other threads are left out. Python has no hook for
    the end of an import, so this class replaces the function that the ``import`` statement calls for modules that are
    not loaded yet. Loaded modules are found without it. Tracebacks leave its frame out, as those of importlib.
    """
    importlib: Any = sys.modules["_frozen_importlib"]
    find_and_load = importlib._find_and_load
    importing = False

    def _call_with_frames_removed(name: str, import_: Any) -> Any:
        nonlocal importing
        if importing or threading.get_ident() != _MAIN_THREAD:
            return find_and_load(name, import_)
        importing = True
        try:
            before = begin()
            module = find_and_load(name, import_)
            end(before)
            return module
        finally:
            importing = False

    code = _call_with_frames_removed.__code__
    _call_with_frames_removed.__code__ = code.replace(co_filename=find_and_load.__code__.co_filename)
    importlib._find_and_load = _call_with_frames_removed


def merged(value: Any, before: Any, after: Any) -> Any:
    """*value* with the same changes that turn *before* into *after*. A tuple is changed place by place.

    >>> merged(["a"], ["b", "a"], ["new", "b", "a"]), merged({"A": 1}, {"B": 2}, {"B": 3, "C": 4})
    (['new', 'a'], {'A': 1, 'B': 3, 'C': 4})
    >>> merged((1, 2), (5, 2), (5, 3))
    (1, 3)
    """
    if before == after:
        return value
    if type(before) is tuple and type(after) is tuple and len(value) == len(before) == len(after):
        return tuple(map(merged, value, before, after))
    if type(before) is dict and type(after) is dict:
        rest = {name: v for name, v in value.items() if name not in before or name in after}
        return rest | {name: v for name, v in after.items() if name not in before or before[name] != v}
    if type(before) is list and type(after) is list:
        kept = [item for item in value if item not in before or item in after]
        new = [item for item in after if item not in before]
        first = next((i for i, item in enumerate(after) if item in before), len(after))
        return [*new[:first], *(item for item in kept if item not in new), *new[first:]]
    return after
