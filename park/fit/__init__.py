"""Fitting models to data on the fabric.

``import park.fit`` loads numpy, but neither bumps nor scipy nor matplotlib. The process that runs a fit loads bumps and
scipy; a process that plots or saves a result loads matplotlib.

The rooms: `park.fit.problem` states a fit (data, models, parameters, the objective function), `park.fit.numerics` is the
numerical core (derivatives, least squares, covariance), `park.fit.methods` holds the optimisers and the sampler,
`park.fit.results` the result, `park.fit.curves` data and fit as arrays, `park.fit.plotting` the plots. `park.fit.job`
submits fits as jobs, and `park.fit.bodies` is the code that these jobs run.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from park.fit.job import Fit, Uncertainty
    from park.fit.problem.assembly import Assembly
    from park.fit.problem.data import Data
    from park.fit.problem.model import Constant, Model
    from park.fit.problem.parameter import Parameter
    from park.fit.results.result import FitResult

__all__ = ["Assembly", "Constant", "Data", "Fit", "FitResult", "Model", "Parameter", "Uncertainty"]

_HOME = {
    "Assembly": "problem.assembly",
    "Constant": "problem.model",
    "Data": "problem.data",
    "Fit": "job",
    "FitResult": "results.result",
    "Model": "problem.model",
    "Parameter": "problem.parameter",
    "Uncertainty": "job",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"park.fit.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
