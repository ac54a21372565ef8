"""Notebooks: whether this process belongs to one, and how it shows things. IPython is not loaded to know."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any


def shell() -> Any:
    """IPython's shell in the kernel of a notebook or of another front end; None in a script and on a terminal."""
    ask = getattr(sys.modules.get("IPython"), "get_ipython", None)
    found = ask() if ask is not None else None
    return found if getattr(found, "kernel", None) is not None else None


def display(thing: Any) -> None:
    """Show *thing* under the cell that runs."""
    import_module("IPython.display").display(thing)
