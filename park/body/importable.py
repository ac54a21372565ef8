"""Modules that another process finds by their names, and those that it does not.

A script may load a file as a module under any name (``importlib.util.spec_from_file_location``), or a file whose name
another module has. The functions and classes of such modules cannot be imported elsewhere, though it looks so here.
"""

from __future__ import annotations

import os
import sys
from types import ModuleType
from typing import Any

#: Answers by name: the module, the length of the path then, and the answer.
_known: dict[str, tuple[ModuleType, int, bool]] = {}


def is_importable(module: ModuleType) -> bool:
    """Whether ``import`` finds this very module by its name, on the path as it is; true where that is not known."""
    name = module.__name__
    known = _known.get(name)
    if known is not None and known[0] is module and known[1] == len(sys.path):
        return known[2]
    found = _is_importable(name, module)
    _known[name] = module, len(sys.path), found
    return found


def _is_importable(name: str, module: ModuleType) -> bool:
    file = getattr(module, "__file__", None)
    if name == "__main__" or not isinstance(file, str) or not file.endswith(".py"):
        return True  # Python's own, of compiled code, or made by another: it is its package's business
    above, _, _ = name.rpartition(".")
    parent = sys.modules.get(above)
    if above and parent is not None and not is_importable(parent):
        return False
    path = getattr(parent, "__path__", None) if above else None
    if above and path is None:
        return parent is not None  # its package makes it when it is imported
    spec = _find(name, path)
    if spec is None:
        return False
    origin = spec.origin
    if not isinstance(origin, str) or not os.path.exists(origin) or not os.path.exists(file):
        return True
    return os.path.samefile(origin, file)


def _find(name: str, path: Any) -> Any:
    """The spec of a module, as ``import`` finds it where it is not loaded yet."""
    for finder in sys.meta_path:
        find = getattr(finder, "find_spec", None)
        try:
            spec = find(name, path, None) if find is not None else None
        except Exception:
            continue
        if spec is not None:
            return spec
    return None
