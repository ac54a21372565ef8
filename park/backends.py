"""The offers of PARK to libraries for parallel work, made when these are loaded: to joblib the backend "park"."""

from __future__ import annotations

import importlib
import sys
from typing import Any


def offer() -> None:
    """Register the backend, where joblib has been imported; what is behind it is loaded when it is used."""
    register = getattr(sys.modules.get("joblib"), "register_parallel_backend", None)
    if register is not None:
        register("park", _backend)


def _backend(**given: Any) -> Any:
    return importlib.import_module("park.joblib").ParkBackend(**given)
