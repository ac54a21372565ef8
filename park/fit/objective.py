"""The numbers behind an assembly: a vector of parameters in, residuals and likelihood out.

The negative log likelihood of a part with dy is half its sum of squared residuals. A part without dy has errors of
one unknown size. The size is estimated together with the fit: at its most likely value, SS/n, the part adds
n/2 log(SS/n) for n points with a sum of squares SS. The same expression is left when the size is integrated out with
the usual prior (1/size), so a sampler and an optimizer work on one function, and neither depends on the unit of y.

There are two of them: `PartsObjective` for models and data, in plain numpy, so that a process that only
evaluates never loads bumps (a second); and `park.fit.problem.BumpsObjective` around a ``FitProblem``. Both raise
what the model raises: only drivers decide what a failure means.
"""

from __future__ import annotations

import math
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from park.errors import InvalidRequest
from park.fit.arrival import SINGLES, First
from park.fit.curve import Curve, Profile, nothing
from park.fit.data import Array, Data, WrongShape
from park.fit.exports import in_words
from park.fit.holes import missing_value
from park.fit.model import Model
from park.fit.parameter import Parameter
from park.fit.signature import Bound


@dataclass(frozen=True, slots=True)
class Part:
    """A model with its data; *weight* multiplies its residuals."""

    name: str
    model: Model
    data: Data
    weight: float = 1.0


class Computed(NamedTuple):
    """An expression: its *function* of the list of all values gives the one at *place*."""

    place: int
    function: Callable[[list[float]], float]


@dataclass(frozen=True, slots=True)
class Group:
    """Residuals in one unit: those of a part, of a model, or of the priors.

    *rows* says where they stand. *known* is False where the size of the errors is not known: the residuals are then
    in the unit of y. *spread* and *magnitude* are the typical size of the data in the unit of the residuals, about
    their mean and about zero.
    """

    name: str
    rows: slice
    known: bool
    spread: float
    magnitude: float
    #: the square of the part's weight, which multiplies its likelihood; with known errors the residuals have it
    emphasis: float = 1.0

    @property
    def points(self) -> int:
        """The number of residuals."""
        return int(self.rows.stop - self.rows.start)

    def variance(self, residuals: Array, least: float = 1e-10) -> float:
        """The most likely squared size of the errors, for all *residuals*: SS/n, or 1 where it is known.

        Data without any scatter end at a size of *least* times their spread, not at zero.
        """
        if self.known:
            return 1.0
        part = residuals[self.rows]
        return max(float(part @ part) / part.size, (least * self.spread) ** 2)

    def nllf(self, residuals: Array, least: float = 1e-10) -> float:
        """The group's part of the negative log likelihood, for all *residuals*; *least* as in `variance`."""
        part = residuals[self.rows]
        if self.known:
            return 0.5 * float(part @ part)
        return 0.5 * self.emphasis * part.size * float(np.log(self.variance(residuals, least)))


def group(name: str, start: int, about_mean: Array, about_zero: Array, known: bool) -> Group:
    """The group of one part, from its data as residuals: *about_mean* and *about_zero*, of shape (n,)."""
    spread, magnitude = (float(np.sqrt(np.mean(np.square(row)))) for row in (about_mean, about_zero))
    magnitude = magnitude or 1.0
    rows = slice(start, start + about_zero.size)
    return Group(name, rows, known, max(spread, 1e-6 * magnitude), magnitude)


@dataclass(frozen=True, slots=True)
class Inequality:
    """A condition between parameters: *slack* of a vector (k,) is at least zero where it holds.

    *names* are the parameters that are marked as at a limit when a fit ends on it.
    """

    text: str
    slack: Callable[[Array], float]
    names: tuple[str, ...]


class Objective(ABC):
    """What drivers see: k fitted parameters with names, start and limits; residuals and likelihood."""

    names: tuple[str, ...]
    #: each of shape (k,)
    start: Array
    low: Array
    high: Array
    #: data points, and priors that count as such
    points: int
    #: sentences about how the data were taken, for the result
    notes: tuple[str, ...] = ()
    #: of parameters that have one, by name
    units: Mapping[str, str] = MappingProxyType({})
    #: what `check` has seen at the start; None where it was not called, or the model raised
    first: First | None = None
    #: is told what a model has raised at a point that counts as infinitely bad
    on_failure: Callable[[Exception], None] | None = None
    #: a traceback of a model has been told in this process
    failure_told = False
    #: what `number` gives, in words
    number_is = "half the sum of its squared residuals"

    @property
    @abstractmethod
    def squares(self) -> bool:
        """The likelihood follows from sums of squared residuals: least squares applies."""

    @property
    @abstractmethod
    def groups(self) -> tuple[Group, ...]:
        """The residuals by their unit, in order."""

    @property
    def inequalities(self) -> tuple[Inequality, ...]:
        """The conditions between parameters."""
        return ()

    @property
    def unknown(self) -> tuple[Group, ...]:
        """The groups whose errors are of unknown size."""
        return tuple(g for g in self.groups if not g.known) if self.squares else ()

    @abstractmethod
    def residuals(self, x: Array) -> Array:
        """All residuals in one row, weighted, over dy where that is known; priors come last.

        They are infinite where a condition between parameters does not hold.
        """

    def free_residuals(self, x: Array) -> Array:
        """The residuals, also where a condition between parameters does not hold."""
        return self.residuals(x)

    @abstractmethod
    def nllf(self, x: Array) -> float:
        """The negative log likelihood; inf outside the limits and where the model is not finite.

        Optimizers minimise it, and samplers sample it as minus the log of the posterior probability.
        """

    def free_nllf(self, x: Array) -> float:
        """The negative log likelihood, also where a condition between parameters does not hold."""
        residuals = self.free_residuals(x)
        return float(sum(g.nllf(residuals) for g in self.groups))

    @abstractmethod
    def number(self, x: Array) -> float:
        """One number of the models at *x* that differs if they do, with one evaluation of each."""

    @abstractmethod
    def length_of_data(self) -> float:
        """The square root of the sum of (y/dy)**2 over all points, about; where the errors are not known, of y**2."""

    @abstractmethod
    def curves(self, x: Array) -> tuple[list[Curve], list[str]]:
        """Data and theory of each part at *x*, in their order, and why some have none."""

    @abstractmethod
    def drawn(self, x: Array, wanted: Sequence[Sequence[Profile] | None]) -> Iterator[list[NDArray[Any]]]:
        """The theory at *x* of each part, and its profiles at the depths of the given ones; not of None."""

    def models(self, x: Array) -> Iterator[tuple[int, Any]]:
        """The models of bumps at *x*, numbered from 1; each is at *x* while the iterator is there."""
        return iter(())

    @abstractmethod
    def problem(self) -> Any:
        """A bumps ``FitProblem``, at the start."""

    def check(self) -> None:
        """Raises InvalidRequest where no fit can begin. A model that raises here may not elsewhere."""
        if not self.names:
            raise InvalidRequest("there is nothing to fit: every parameter is fixed or computed")

    def failed(self, error: Exception) -> None:
        """A model has raised at a point, which counts as infinitely bad."""
        if self.on_failure is not None:
            self.on_failure(error)

    #: parameters that are not fitted, by name, as a function of x (expressions) or as numbers (fixed)
    def others(self, x: Array) -> dict[str, float]:
        """The values of computed and fixed parameters."""
        return {}

    def is_fixed(self, name: str) -> bool:
        """True for a fixed parameter, False for a computed one."""
        return True

    @property
    def dof(self) -> int:
        """Points less fitted parameters."""
        return self.points - len(self.names)

    def quality(self, nllf: float) -> str:
        """How well the data are met, in short: chi-squared over the degrees of freedom, where that is minimised.

        "" where *nllf* is not finite.
        """
        if not math.isfinite(nllf):
            return ""
        if self.squares and not self.unknown and self.dof > 0:
            return f"chisq {2 * nllf / self.dof:.4g}"
        return f"nllf {nllf:.6g}"

    @property
    def uninformed(self) -> tuple[str, ...]:
        """The groups of unknown errors that have no more points than parameters: nothing is left to estimate a size."""
        return (
            tuple(g.name for g in self.unknown if g.points <= len(self.names))
            if len(self.groups) == 1
            else ()
        )

    def deviance(self, x: Array) -> float | None:
        """Twice the likelihood's distance from that of a perfect model; None where it is not known."""
        return None

    def inside(self, x: Array) -> bool:
        """True if *x* is within the limits."""
        # Plain floats: for a handful of parameters several times as fast as arrays.
        for value, low, high in zip(x.tolist(), self.low.tolist(), self.high.tolist(), strict=True):
            if not low <= value <= high:
                return False
        return True


class PartsObjective(Objective):
    """The objective of parts. Every parameter has a place in one list of values."""

    def __init__(
        self,
        parts: Sequence[Part],
        names: Sequence[str],
        parameters: Sequence[Parameter],
        arguments: Sequence[Mapping[str, int]],
        computed: Sequence[Computed],
    ) -> None:
        self.parts = parts
        self._all_names = names
        self._parameters = parameters
        self._arguments = arguments
        self._computed = computed
        self.notes = tuple(note for part in parts for note in _left_out(part))
        self._calls = [self._first_call(n, _at_its_data(part)) for n, part in enumerate(parts)]
        self._template: list[float] = [np.float64(0.0 if p.value is None else p.value) for p in parameters]
        self._fitted = [n for n, p in enumerate(parameters) if p.fitted]
        self._bounded = [c.place for c in computed if np.isfinite(parameters[c.place].limits).any()]
        #: a prior on a fixed parameter would add a constant and is left out
        self._prior = [(n, *p.prior) for n, p in enumerate(parameters) if p.prior is not None and not p.fixed]
        self.names = tuple(names[n] for n in self._fitted)
        self.units = {name: p.unit for name, p in zip(names, parameters, strict=True) if p.unit}
        self.start = np.array([self._template[n] for n in self._fitted], dtype=np.float64)
        self.low, self.high = (
            np.array([parameters[n].limits for n in self._fitted], dtype=np.float64).reshape(-1, 2).T
        )
        self.points = sum(len(part.data) for part in parts) + len(self._prior)

    @property
    def squares(self) -> bool:
        return True

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        groups, start = [], 0
        for part in self.parts:
            y, known = part.data.y, part.data.dy is not None
            about_mean, about_zero = (
                part.data.residuals(y - mean) * part.weight for mean in (np.nanmean(y), 0.0)
            )
            made = group(part.name, start, about_mean, about_zero, known)
            groups.append(made if known else replace(made, emphasis=part.weight**2))
            start += made.points
        if self._prior:
            size = max(abs(mean / sigma) for _, mean, sigma in self._prior)
            rows_of = slice(start, start + len(self._prior))
            groups.append(Group("priors", rows_of, known=True, spread=1.0, magnitude=max(size, 1.0)))
        return tuple(groups)

    @cached_property
    def inequalities(self) -> tuple[Inequality, ...]:
        found = []
        for place in self._bounded:
            name, parameter = self._all_names[place], self._parameters[place]
            for sign, limit, word in zip((1.0, -1.0), parameter.limits, (">=", "<="), strict=True):
                if np.isfinite(limit):
                    text = f"{name} {word} {limit:g}"
                    found.append(Inequality(text, partial(self._slack, place, sign, limit), (name,)))
        return tuple(found)

    def _slack(self, place: int, sign: float, limit: float, x: Array) -> float:
        with np.errstate(all="ignore"):
            return float(sign * (self.values(x)[place] - limit))

    def values(self, x: Array) -> list[float]:
        """All values, in the order of the places."""
        values = self._template.copy()
        for place, value in zip(self._fitted, x, strict=True):
            values[place] = value
        for place, function in self._computed:
            values[place] = function(values)
        return values

    def _first_call(self, n: int, bound: Bound) -> Callable[..., Any]:
        """How the function of part *n* is called; its first call decides about all others."""

        def first(**values: Any) -> Any:
            try:
                value, self._calls[n] = bound.first(values)
            except (TypeError, IndexError) as error:
                advice = self.parts[n].model.advice(error)
                if not advice:
                    raise
                raise WrongShape(advice) from error
            return value

        return first

    def theory(self, n: int, values: list[float]) -> Array:
        """What the model of part *n* says, with the shape of its data."""
        part = self.parts[n]
        try:
            theory = self._calls[n](**{k: values[i] for k, i in self._arguments[n].items()})
            data = part.data
            if type(theory) is np.ndarray and theory.shape == data.shape and theory.dtype.kind == data.kind:
                return theory
            return data.comparable(theory)
        except WrongShape as error:
            raise WrongShape(f"{part.name}, model {part.model.name}: {error}") from None

    def _residuals_of(self, n: int, values: list[float]) -> Array:
        part = self.parts[n]
        # In one expression numpy uses the memory of the theory again.
        data = part.data
        difference = self.theory(n, values) - data.y
        residuals = data.residuals(difference)
        return residuals if part.weight == 1.0 else residuals * part.weight

    def _allowed(self, values: list[float]) -> bool:
        for place in self._bounded:
            low, high = self._parameters[place].limits
            if not low <= values[place] <= high:
                return False
        return True

    def _prior_residuals(self, values: list[float]) -> list[float]:
        return [(values[place] - mean) / sigma for place, mean, sigma in self._prior]

    def residuals(self, x: Array) -> Array:
        return self._residuals(x, fenced=True)

    def free_residuals(self, x: Array) -> Array:
        return self._residuals(x, fenced=False)

    def _residuals(self, x: Array, fenced: bool) -> Array:
        with np.errstate(all="ignore"):
            values = self.values(x)
            if fenced and not self._allowed(values):
                return np.full(self.points, np.inf)
            rows = [self._residuals_of(n, values) for n in range(len(self.parts))]
            if self._prior:
                rows.append(np.array(self._prior_residuals(values)))
            return rows[0] if len(rows) == 1 else np.concatenate(rows)

    def nllf(self, x: Array) -> float:
        if not self.inside(x):
            return float("inf")
        residuals = self.residuals(x)
        if self._plain:
            value = 0.5 * float(residuals @ residuals)
        else:
            value = sum(g.nllf(residuals) for g in self.groups)
        return value if value == value else float("inf")

    def number(self, x: Array) -> float:
        residuals = self.residuals(x)
        return float(residuals @ residuals) / 2

    def length_of_data(self) -> float:
        return float(np.sqrt(sum(g.points * g.magnitude**2 for g in self.groups)))

    @cached_property
    def _plain(self) -> bool:
        """Every part has dy: one product is the whole likelihood."""
        return all(g.known for g in self.groups)

    def check(self) -> None:
        super().check()
        try:
            with np.errstate(all="ignore"), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                values = self.values(self.start)
                self._look(values)
        except WrongShape:
            raise
        except Exception:
            return  # perhaps it works where the job runs; if not, the job fails with this traceback
        self._check_points()
        for n, parameter in enumerate(self._parameters):
            low, high = parameter.limits
            if parameter.expression is not None and not low <= values[n] <= high:
                raise InvalidRequest(
                    f"{self._all_names[n]} = {parameter.expression} is {values[n]:g} at the start, "
                    f"outside its limits ({low:g}, {high:g})"
                )

    def _look(self, values: list[float]) -> None:
        """Evaluate each part once, at the *values* of the start."""
        total, single, seconds = 0.0, False, 0.0
        for n, part in enumerate(self.parts):
            began = time.perf_counter()
            theory = self.theory(n, values)
            seconds += time.perf_counter() - began
            residuals = part.data.residuals(theory - part.data.y) * part.weight
            total += float(residuals @ residuals)
            single |= theory.dtype.name in SINGLES
            self._check_values(n, theory)
        total += sum(residual**2 for residual in self._prior_residuals(values))
        self.first = First(total / 2 if self._allowed(values) else float("inf"), single, seconds)

    def _check_values(self, n: int, at_start: Array) -> None:
        part = self.parts[n]

        def theory(x: Array) -> Array:
            return self.theory(n, self.values(x))

        missing = missing_value(part.data, at_start, theory, self.start, self.low, self.high)
        if missing:
            raise WrongShape(f"{part.name}, model {part.model.name}: {missing}")

    @property
    def uninformed(self) -> tuple[str, ...]:
        return tuple(
            part.name
            for n, part in enumerate(self.parts)
            if part.data.dy is None
            and len(part.data) <= len(set(self._fitted) & set(self._arguments[n].values()))
        )

    def _check_points(self) -> None:
        """A part of unknown errors that its parameters can meet exactly would decide what it shares with other parts."""
        for n, part in enumerate(self.parts):
            fitted = set(self._fitted) & set(self._arguments[n].values())
            others = {place for m, a in enumerate(self._arguments) if m != n for place in a.values()}
            if part.data.dy is None and fitted & others and len(part.data) <= len(fitted):
                raise InvalidRequest(
                    f"{part.name} has {len(part.data)} points without dy for {len(fitted)} parameters, of which other "
                    f"parts have some too: the size of its errors cannot be estimated; give its data a dy"
                )

    def others(self, x: Array) -> dict[str, float]:
        with np.errstate(all="ignore"):
            values = self.values(x)
        names = zip(self._all_names, self._parameters, values, strict=True)
        return {name: float(value) for name, p, value in names if not p.fitted}

    def is_fixed(self, name: str) -> bool:
        return self._parameters[list(self._all_names).index(name)].fixed

    def curves(self, x: Array) -> tuple[list[Curve], list[str]]:
        curves, notes = [], []
        with np.errstate(all="ignore"):
            values = self.values(x)
            for n, part in enumerate(self.parts):
                name, given = part.data.name or part.name, part.data
                try:
                    theory = self.theory(n, values)
                    curves.append(
                        Curve(
                            name=name,
                            x=given.x,
                            y=given.y,
                            dy=given.dy,
                            theory=np.array(theory, dtype=given.y.dtype),
                            residuals=given.residuals(theory - given.y) * part.weight,
                            labels=given.labels,
                            mask=given.mask,
                        )
                    )
                except Exception as error:
                    notes.append(f"there is no curve of {name}: {in_words(error)}")
                    curves.append(nothing(name))
        return curves, notes

    def drawn(self, x: Array, wanted: Sequence[Sequence[Profile] | None]) -> Iterator[list[NDArray[Any]]]:
        with np.errstate(all="ignore"):
            values = self.values(x)
            for n, profiles in enumerate(wanted):
                if profiles is not None:
                    yield [self.theory(n, values)]

    def problem(self) -> Any:
        """One bumps model a part, and one for the priors; all have the fitted parameters."""
        from bumps.fitproblem import FitProblem
        from bumps.parameter import Parameter as BumpsParameter

        fitted = {}
        for name, start, low, high in zip(self.names, self.start, self.low, self.high, strict=True):
            parameter = BumpsParameter(float(start), name=name, bounds=(float(low), float(high)))
            parameter.fixed = False
            fitted[name] = parameter
        models = [_Fitness(self, fitted, n, part.name) for n, part in enumerate(self.parts)]
        if self._prior:
            models.append(_Fitness(self, fitted, None, "priors"))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns of few points, which is no error here
            return FitProblem(models, name="+".join(part.model.name for part in self.parts))


@dataclass
class _Fitness:
    """A part (or, with *part* None, the priors) as bumps sees it."""

    objective: PartsObjective
    fitted: dict[str, Any]
    part: int | None
    name: str
    _cache: Array | None = field(default=None, repr=False)

    def parameters(self) -> list[Any]:
        return list(self.fitted.values())  # bumps would sort a dict

    def update(self) -> None:
        self._cache = None

    def numpoints(self) -> int:
        return len(self.objective._prior if self.part is None else self.objective.parts[self.part].data)

    def residuals(self) -> Array:
        if self._cache is None:
            with np.errstate(all="ignore"):
                x = np.array([p.value for p in self.fitted.values()], dtype=np.float64)
                values = self.objective.values(x)
                if not self.objective._allowed(values):
                    self._cache = np.full(self.numpoints(), np.inf)
                elif self.part is None:
                    self._cache = np.array(self.objective._prior_residuals(values))
                else:
                    self._cache = self.objective._residuals_of(self.part, values)
        return self._cache

    def nllf(self) -> float:
        residuals = self.residuals()
        return 0.5 * float(residuals @ residuals)


def _left_out(part: Part) -> Iterator[str]:
    """A sentence if a part has points that are left out."""
    data = part.data
    if data.left_out:
        name = data.name or part.name
        yield f"{data.left_out} of {data.given} points of {name} are left out, masked or not finite"


def _at_its_data(part: Part) -> Bound:
    try:
        return part.model.on(part.data)
    except InvalidRequest as error:
        raise InvalidRequest(f"{part.name}, model {part.model.name}: {error}") from None
