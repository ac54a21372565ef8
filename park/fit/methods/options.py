"""The methods of `Fit` and their options, as plain tables: a client checks a request without loading bumps."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from park.errors import InvalidRequest, did_you_mean
from park.fit.problem.objective import Objective
from park.model import REQUEST_FIELDS

#: The options of each method with their defaults. All methods but auto and lm are bumps' own and use bumps' names.
#: DREAM has further options: it continues until *rhat* and *ess* are reached, up to *max_samples* (0 means ten to fifty
#: times *samples*). A *pop* of 0 means the default number of chains (`chains_of`), and *init* "auto" means "cov" about a
#: fit.
METHODS: dict[str, dict[str, Any]] = {
    "auto": {"steps": 1000, "xtol": 1e-15, "ftol": 1e-15, "gtol": 1e-15},
    "amoeba": {"steps": 1000, "radius": 0.15, "xtol": 1e-6, "ftol": 1e-8},
    "lm": {"steps": 1000, "xtol": 1e-15, "ftol": 1e-15, "gtol": 1e-15},
    "de": {"steps": 1000, "pop": 10, "CR": 0.9, "F": 2.0, "ftol": 1e-8, "xtol": 1e-6},
    "dream": {
        "samples": 10_000, "burn": 100, "pop": 0, "init": "auto", "thin": 1, "alpha": 0.0, "outliers": "iqr",
        "trim": True, "rhat": 1.05, "ess": 400, "max_samples": 0,
    },
    "newton": {"steps": 3000, "ftol": 1e-6, "xtol": 1e-12},
    "pt": {"steps": 400, "nT": 24, "CR": 0.9, "burn": 100, "Tmin": 0.1, "Tmax": 10.0},
}  # fmt: skip

#: the default method of a fit
DEFAULT_METHOD = "auto"

#: methods that evaluate a whole population in parallel, through ``env.mapper``
POPULATION_METHODS = frozenset({"de", "dream"})

_CHOICES = {"init": ("auto", "eps", "lhs", "cov", "random"), "outliers": ("iqr", "grubbs", "mahal", "none")}
#: options that may be zero
_MAY_BE_ZERO = frozenset({"burn", "alpha", "max_samples", "xtol", "ftol", "gtol"})
_INTEGERS = frozenset({"steps", "samples", "burn", "thin", "nT", "ess", "max_samples"})
#: Smallest number of members of a population or of chains: each step uses three others.
MIN_POPULATION = 4


def check_method(method: Any, options: dict[str, Any], objective: Objective) -> dict[str, Any]:
    """The checked options of a *method*. Raises InvalidRequest, which names the error and the valid choices."""
    if method not in METHODS:
        raise InvalidRequest(f"unknown method {method!r}; there are {', '.join(METHODS)}")
    known = METHODS[method]
    for name, value in options.items():
        if name not in known:
            raise InvalidRequest(
                f"method {method!r} has no option {name!r}; it has {', '.join(known)}"
                + did_you_mean(name, known if name in REQUEST_FIELDS else (*known, *REQUEST_FIELDS))
            )
        _check_option(method, name, value)
    if method == "lm" and not objective.squares:
        raise InvalidRequest(
            "method 'lm' minimises squared residuals, and the likelihood of this problem is no sum of them (counts, or a "
            "density): take 'auto', 'amoeba', 'newton', 'de' or 'dream'"
        )
    if method == "pt":
        limited = np.isfinite(objective.low) & np.isfinite(objective.high)
        without = [name for name, both in zip(objective.names, limited, strict=True) if not both]
        if without:
            raise InvalidRequest(f"method 'pt' steps between limits, and {', '.join(without)} has not both")
    if method == "dream" and objective.uninformed:
        raise InvalidRequest(
            f"{', '.join(objective.uninformed)} has no dy, and no more points than parameters: the size of its errors "
            "cannot be estimated, and there is nothing to sample; give its data a dy"
        )
    check_population(method, {**known, **options}, len(objective.names))
    return dict(options)


def check_population(method: str, options: dict[str, Any], parameters: int) -> None:
    """Raises InvalidRequest if a population has too few members for a step, or too few samples are allowed."""
    if method == "dream" and 0 < options["max_samples"] < options["samples"]:
        raise InvalidRequest(
            f"max_samples={options['max_samples']} is below samples={options['samples']}: give both, or samples alone"
        )
    if method == "dream" and chains_of(options["pop"], parameters) < MIN_POPULATION:
        raise InvalidRequest(
            f"pop={options['pop']!r} gives fewer than the {MIN_POPULATION} chains that DREAM needs"
        )
    if method == "de" and int(options["pop"] * parameters) < MIN_POPULATION:
        raise InvalidRequest(
            f"pop={options['pop']!r} gives {int(options['pop'] * parameters)} members, and differential evolution needs "
            f"{MIN_POPULATION}: pop counts them for each parameter"
        )


def chains_of(pop: float, parameters: int) -> int:
    """DREAM's number of chains: *pop* for each parameter, -*pop* in all if it is negative, or a default if it is 0.

    The default is ten for each parameter up to forty chains, and at least two for each parameter. More chains are
    shorter for the same number of samples, and each chain has to explore the whole posterior.
    """
    if pop == 0:
        return max(min(10 * parameters, 40), 2 * parameters)
    return math.ceil(pop * parameters) if pop > 0 else int(-pop)


def _check_option(method: str, name: str, value: Any) -> None:
    where = f"method {method!r}, option {name}={value!r}"
    if name in _CHOICES:
        if value not in _CHOICES[name]:
            raise InvalidRequest(f"{where}: one of {', '.join(_CHOICES[name])} is needed")
    elif name == "trim":
        if not isinstance(value, bool):
            raise InvalidRequest(f"{where}: True or False is needed")
    elif isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InvalidRequest(f"{where}: a number is needed")
    elif name in _INTEGERS and value != int(value):
        raise InvalidRequest(f"{where}: a whole number is needed")
    elif (method, name) == ("dream", "pop"):
        if value < 0 and value != int(value):
            raise InvalidRequest(f"{where}: a negative number is the number of all chains, a whole one")
    elif name == "rhat" and value <= 1:
        raise InvalidRequest(f"{where}: chains come near 1, and not below: it must be above 1")
    elif value < 0 or (value == 0 and name not in _MAY_BE_ZERO):
        raise InvalidRequest(
            f"{where}: it must {'not be negative' if name in _MAY_BE_ZERO else 'be positive'}"
        )
