"""Fitting models to data on the fabric.

``import park.fit`` loads numpy, but neither bumps nor scipy nor matplotlib: they are loaded where a fit
runs, and where a result is plotted or saved.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from park.fit.assembly import Assembly
    from park.fit.data import Data
    from park.fit.job import Fit, Uncertainty
    from park.fit.model import Constant, Model
    from park.fit.parameter import Parameter
    from park.fit.result import FitResult

__all__ = ["Assembly", "Constant", "Data", "Fit", "FitResult", "Model", "Parameter", "Uncertainty"]

_HOME = {
    "Assembly": "assembly",
    "Constant": "model",
    "Data": "data",
    "Fit": "job",
    "FitResult": "result",
    "Model": "model",
    "Parameter": "parameter",
    "Uncertainty": "job",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"park.fit.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
