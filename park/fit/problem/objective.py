"""The objective function: maps a vector of parameters to residuals and the negative log likelihood.

The negative log likelihood (nllf) of a part with dy is half its sum of squared residuals. The errors of a part without dy
have one unknown size, which is estimated with the fit. At its maximum likelihood value, SS/n, the part contributes
n/2 log(SS/n), for n points with the sum of squared residuals SS. Integration over the size with the prior 1/size leaves the
same expression. Samplers and optimisers therefore use one function, and neither depends on the unit of y.

There are two implementations. `park.fit.problem.parts_objective.PartsObjective` evaluates models and data with numpy alone,
so that a process that only evaluates does not load bumps (which takes a second).
`park.fit.problem.bumps_objective.BumpsObjective` wraps a ``FitProblem``. Both pass exceptions of a model on; the methods
decide how to treat them.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from park.errors import InvalidRequest
from park.fit.arrays import Array
from park.fit.curves.curve import Curve, DepthProfile
from park.fit.problem.client_values import StartValue
from park.fit.problem.own_generators import OwnGenerators


@dataclass(frozen=True, slots=True)
class Group:
    """Residuals with one unit: those of a part, of a bumps model, or of the priors.

    *rows* is their slice of the vector of residuals. If *known* is False, the size of the errors is unknown and the
    residuals have the unit of y. *spread* and *magnitude* are the root mean square of the data about their mean and
    about zero, in the unit of the residuals.
    """

    name: str
    rows: slice
    known: bool
    spread: float
    magnitude: float
    #: the squared weight of a part with unknown errors, a factor of its nllf; other residuals include their weight
    emphasis: float = 1.0

    @property
    def points(self) -> int:
        """The number of residuals."""
        return int(self.rows.stop - self.rows.start)

    def variance(self, residuals: Array, least: float = 1e-10) -> float:
        """The maximum likelihood variance of the errors, SS/n, given all *residuals*; 1 if dy is known.

        The size is at least *least* times the spread, so that data without scatter do not end at zero.
        """
        if self.known:
            return 1.0
        part = residuals[self.rows]
        return max(float(np.vdot(part, part)) / part.size, (least * self.spread) ** 2)

    def nllf(self, residuals: Array, least: float = 1e-10) -> float:
        """The contribution to the negative log likelihood, given all *residuals*; *least* as in `variance`."""
        part = residuals[self.rows]
        if self.known:
            return 0.5 * float(np.vdot(part, part))
        return 0.5 * self.emphasis * part.size * float(np.log(self.variance(residuals, least)))


def group(name: str, start: int, about_mean: Array, about_zero: Array, known: bool) -> Group:
    """The group of one part.

    *about_mean* and *about_zero* (n,) are its data about their mean and about zero, as residuals.
    """
    spread, magnitude = (float(np.sqrt(np.mean(np.square(row)))) for row in (about_mean, about_zero))
    magnitude = magnitude or 1.0
    rows = slice(start, start + about_zero.size)
    return Group(name, rows, known, max(spread, 1e-6 * magnitude), magnitude)


@dataclass(frozen=True, slots=True)
class Inequality:
    """An inequality constraint: it holds for a vector (k,) if *slack* of that vector is at least zero.

    *names* are the parameters that count as at a limit if a fit ends on the constraint.
    """

    text: str
    slack: Callable[[Array], float]
    names: tuple[str, ...]


class Objective(ABC):
    """An objective function of k fitted parameters with names, start values and limits."""

    names: tuple[str, ...]
    #: start values and limits, each of shape (k,)
    start: Array
    low: Array
    high: Array
    #: the number of data points and of priors
    points: int
    #: remarks about the treatment of the data, for the result
    notes: tuple[str, ...] = ()
    #: the units of parameters that have one, by name
    units: Mapping[str, str] = MappingProxyType({})
    #: the value that `check` found at the start; None before `check`, or if the model raised
    first: StartValue | None = None
    #: called with the exception of a model at a point whose value becomes infinite
    on_failure: Callable[[Exception], None] | None = None
    #: True once this process has logged a traceback of the model
    failure_told = False
    #: the generators of their own from which models may draw
    own_generators = OwnGenerators(())
    #: the name of the figure that `number` returns
    number_is = "half the sum of its squared residuals"

    @property
    @abstractmethod
    def squares(self) -> bool:
        """Whether the likelihood is a function of sums of squared residuals, so that least squares applies."""

    def recognise(self, x: Array) -> None:
        """Takes back `squares` if the likelihood turns out at *x* to be more than a sum of squares."""
        return

    @property
    @abstractmethod
    def groups(self) -> tuple[Group, ...]:
        """The groups of residuals, in their order."""

    @property
    def inequalities(self) -> tuple[Inequality, ...]:
        """The inequality constraints between parameters."""
        return ()

    @property
    def unknown(self) -> tuple[Group, ...]:
        """The groups whose errors have an unknown size."""
        return tuple(g for g in self.groups if not g.known) if self.squares else ()

    @abstractmethod
    def residuals(self, x: Array) -> Array:
        """All residuals, shape (n,): weighted, and divided by dy if it is known. Priors come last.

        Residuals are infinite if a constraint does not hold.
        """

    def free_residuals(self, x: Array) -> Array:
        """The residuals, shape (n,), without regard to constraints."""
        return self.residuals(x)

    @abstractmethod
    def nllf(self, x: Array) -> float:
        """The negative log likelihood with priors; infinity outside the limits and where the model is not finite.

        Optimisers minimise it. For samplers it is minus the logarithm of the posterior density.
        """

    def free_nllf(self, x: Array) -> float:
        """The negative log likelihood, without regard to constraints."""
        residuals = self.free_residuals(x)
        return float(sum(g.nllf(residuals) for g in self.groups))

    @abstractmethod
    def number(self, x: Array) -> float:
        """One figure of all models at *x*, by which two machines compare them; it costs one evaluation of each model."""

    @abstractmethod
    def length_of_data(self) -> float:
        """The approximate square root of the sum of (y/dy)**2 over all points, or of y**2 if the errors are unknown."""

    @abstractmethod
    def curves(self, x: Array) -> tuple[list[Curve], list[str]]:
        """Data and theory of each part at *x*, in their order, and remarks on curves that are missing."""

    @abstractmethod
    def drawn(
        self, x: Array, wanted: Sequence[Sequence[DepthProfile] | None]
    ) -> Iterator[list[NDArray[Any]]]:
        """Theory and profiles of each part at *x*, at the depths of the profiles in *wanted*.

        Parts with None are skipped.
        """

    def models(self, x: Array) -> Iterator[tuple[int, Any]]:
        """The bumps models, numbered from 1. Each has the parameters *x* while the iterator is at it."""
        return iter(())

    @abstractmethod
    def problem(self) -> Any:
        """A bumps ``FitProblem`` at the start values."""

    def check(self) -> None:
        """Raises InvalidRequest if no fit can start. An exception of a model is not an error: it may work on a kernel."""
        if not self.names:
            raise InvalidRequest("there is nothing to fit: every parameter is fixed or computed")

    def failed(self, error: Exception) -> None:
        """Reports the exception of a model at a point whose value becomes infinite."""
        if self.on_failure is not None:
            self.on_failure(error)

    def others(self, x: Array) -> dict[str, float]:
        """The values of the computed and the fixed parameters at *x*, by name."""
        return {}

    def is_fixed(self, name: str) -> bool:
        """Whether a parameter that is not fitted is fixed, and not computed."""
        return True

    @property
    def dof(self) -> int:
        """Degrees of freedom: the number of points minus the number of fitted parameters."""
        return self.points - len(self.names)

    def quality(self, nllf: float) -> str:
        """A short text for progress reports: reduced chi-squared, or nllf if dy is unknown; "" if *nllf* is not finite."""
        if not math.isfinite(nllf):
            return ""
        if self.squares and not self.unknown and self.dof > 0:
            return f"chisq {2 * nllf / self.dof:.4g}"
        return f"nllf {nllf:.6g}"

    @property
    def uninformed(self) -> tuple[str, ...]:
        """The groups of unknown errors with too few points to estimate the size of the errors."""
        return (
            tuple(g.name for g in self.unknown if g.points <= len(self.names))
            if len(self.groups) == 1
            else ()
        )

    def deviance(self, x: Array) -> float | None:
        """The deviance: twice the difference of nllf to that of a perfect model; None if it is unknown."""
        return None

    def inside(self, x: Array) -> bool:
        """Whether *x* is within the limits."""
        # Plain floats are several times faster than arrays for a few parameters.
        for value, (low, high) in zip(x.tolist(), self._ranges, strict=True):
            if not low <= value <= high:
                return False
        return True

    @cached_property
    def _ranges(self) -> list[tuple[float, float]]:
        return list(zip(self.low.tolist(), self.high.tolist(), strict=True))
