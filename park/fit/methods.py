"""The methods of `Fit` and their options. Plain tables: a client checks a request without loading bumps."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from park.errors import InvalidRequest
from park.fit.objective import Objective

#: method -> its options with their defaults. All but auto and lm are bumps' own, under bumps' names. DREAM has more: it
#: draws on until each *rhat* is small and each *ess* large enough, up to *max_samples* (0: ten times its samples). Its
#: *pop* of 0 is a good number of chains (`chains_of`), and its *init* "auto" is "cov" about a fit.
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

#: the method of a fit where none is named
DEFAULT = "auto"

#: methods that evaluate a whole population at once, through ``env.mapper``
POPULATION = frozenset({"de", "dream"})

_WORDS = {"init": ("auto", "eps", "lhs", "cov", "random"), "outliers": ("iqr", "grubbs", "mahal", "none")}
#: options for which zero means something
_MAY_BE_ZERO = frozenset({"burn", "alpha", "max_samples", "xtol", "ftol", "gtol"})
_WHOLE = frozenset({"steps", "samples", "burn", "thin", "nT", "ess", "max_samples"})
#: Members of a population, or chains: each step is made from three others.
FEWEST = 4


def check_method(method: Any, options: dict[str, Any], objective: Objective) -> dict[str, Any]:
    """The options of a *method*, checked. Raises InvalidRequest naming what is wrong and what there is."""
    if method not in METHODS:
        raise InvalidRequest(f"unknown method {method!r}; there are {', '.join(METHODS)}")
    known = METHODS[method]
    for name, value in options.items():
        if name not in known:
            raise InvalidRequest(f"method {method!r} has no option {name!r}; it has {', '.join(known)}")
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
    """Raises InvalidRequest where a population method has too few members to make steps from."""
    if method == "dream" and chains_of(options["pop"], parameters) < FEWEST:
        raise InvalidRequest(f"pop={options['pop']!r} gives fewer than the {FEWEST} chains that DREAM needs")
    if method == "de" and int(options["pop"] * parameters) < FEWEST:
        raise InvalidRequest(
            f"pop={options['pop']!r} gives {int(options['pop'] * parameters)} members, and differential evolution needs "
            f"{FEWEST}: pop counts them for each parameter"
        )


def chains_of(pop: float, parameters: int) -> int:
    """DREAM's number of chains: *pop* for each parameter; -*pop* in all if that is negative; a good number if it is 0.

    That is ten for each parameter up to forty, and at least two for each. More of them are shorter ones for the same
    number of samples, and each has to find its way through the whole posterior.
    """
    if pop == 0:
        return max(min(10 * parameters, 40), 2 * parameters)
    return math.ceil(pop * parameters) if pop > 0 else int(-pop)


def _check_option(method: str, name: str, value: Any) -> None:
    where = f"method {method!r}, option {name}={value!r}"
    if name in _WORDS:
        if value not in _WORDS[name]:
            raise InvalidRequest(f"{where}: one of {', '.join(_WORDS[name])} is needed")
    elif name == "trim":
        if not isinstance(value, bool):
            raise InvalidRequest(f"{where}: True or False is needed")
    elif isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InvalidRequest(f"{where}: a number is needed")
    elif name in _WHOLE and value != int(value):
        raise InvalidRequest(f"{where}: a whole number is needed")
    elif (method, name) == ("dream", "pop"):
        if value < 0 and value != int(value):
            raise InvalidRequest(f"{where}: a negative number is the number of all chains, a whole one")
    elif name == "rhat" and value <= 1:
        raise InvalidRequest(f"{where}: chains come near 1, and not below: it must be above 1")
    elif value < 0 or (value == 0 and name not in _MAY_BE_ZERO):
        raise InvalidRequest(f"{where}: it must be positive")
