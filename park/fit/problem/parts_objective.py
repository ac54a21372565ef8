"""The objective function of an assembly of models and data."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from park.errors import InvalidRequest
from park.fit.arrays import Array
from park.fit.curves.bumps_output import describe_error
from park.fit.curves.curve import Curve, DepthProfile, nothing
from park.fit.problem.client_values import SINGLE_DTYPES, StartValue
from park.fit.problem.data import Data, WrongShape
from park.fit.problem.model import Model
from park.fit.problem.objective import Group, Inequality, Objective, group
from park.fit.problem.own_generators import OwnGenerators
from park.fit.problem.parameter import Parameter
from park.fit.problem.signature import Bound
from park.fit.problem.undefined_points import missing_value


@dataclass(frozen=True, slots=True)
class AssemblyPart:
    """A part of an assembly: a model with its data. *weight* multiplies the residuals."""

    name: str
    model: Model
    data: Data
    weight: float = 1.0


class ComputedParameter(NamedTuple):
    """A computed parameter: *function* maps the list of all values to the value at index *place*."""

    place: int
    function: Callable[[list[float]], float]


class PartsObjective(Objective):
    """The objective function of parts. Every parameter has an index in one list of values."""

    def __init__(
        self,
        parts: Sequence[AssemblyPart],
        names: Sequence[str],
        parameters: Sequence[Parameter],
        arguments: Sequence[Mapping[str, int]],
        computed: Sequence[ComputedParameter],
    ) -> None:
        self.parts = parts
        self._all_names = names
        self._parameters = parameters
        self._arguments = arguments
        self._computed = computed
        self.notes = tuple(note for part in parts for note in _left_out(part))
        self.own_generators = OwnGenerators(part.model.function for part in parts)
        self._calls = [self._first_call(n, _at_its_data(part)) for n, part in enumerate(parts)]
        self._template: list[float] = [np.float64(0.0 if p.value is None else p.value) for p in parameters]
        self._fitted = [n for n, p in enumerate(parameters) if p.fitted]
        self._bounded = [c.place for c in computed if np.isfinite(parameters[c.place].limits).any()]
        #: (index, mean, sigma) of each prior; a prior of a fixed parameter is a constant and is left out
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
        """The values of all parameters, by index."""
        values = self._template.copy()
        for place, value in zip(self._fitted, x, strict=True):
            values[place] = value
        for place, function in self._computed:
            values[place] = function(values)
        return values

    def _first_call(self, n: int, bound: Bound) -> Callable[..., Any]:
        """The first call of the function of part *n*, which decides how all later calls pass their arguments."""

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
        """The theory of part *n*, with the shape of its data. Raises WrongShape for other values."""
        part = self.parts[n]
        try:
            given = {k: values[i] for k, i in self._arguments[n].items()}
            own, call = self.own_generators, self._calls[n]
            theory = own.kept(call, **given) if own else call(**given)
            data = part.data
            if type(theory) is np.ndarray and theory.shape == data.shape and theory.dtype == data.dtype:
                return theory
            return data.comparable(theory)
        except WrongShape as error:
            raise WrongShape(f"{part.name}, model {part.model.name}: {error}") from None

    def _residuals_of(self, n: int, values: list[float]) -> Array:
        part = self.parts[n]
        # numpy reuses the memory of a temporary only within one expression.
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
        if self._plain:  # vdot overflows to infinity without a warning
            value = 0.5 * float(np.vdot(residuals, residuals))
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
        """Whether all parts have dy, so that one scalar product is the likelihood."""
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
            return  # the model may work on the kernel; otherwise the job fails with this traceback
        self._check_points()
        for n, parameter in enumerate(self._parameters):
            low, high = parameter.limits
            if parameter.expression is not None and not low <= values[n] <= high:
                raise InvalidRequest(
                    f"{self._all_names[n]} = {parameter.expression} is {values[n]:g} at the start, "
                    f"outside its limits ({low:g}, {high:g})"
                )

    def _look(self, values: list[float]) -> None:
        """Evaluates each part once at the start *values*, and raises InvalidRequest if no fit can start."""
        total, single, seconds = 0.0, False, 0.0
        for n, part in enumerate(self.parts):
            began = time.perf_counter()
            theory = self.theory(n, values)
            seconds += time.perf_counter() - began
            residuals = part.data.residuals(theory - part.data.y) * part.weight
            total += float(residuals @ residuals)
            single |= theory.dtype.name in SINGLE_DTYPES
            self._check_values(n, theory)
        total += sum(residual**2 for residual in self._prior_residuals(values))
        self.first = StartValue(total / 2 if self._allowed(values) else float("inf"), single, seconds)

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
        """Refuses a part without dy that its parameters can fit exactly: it would fix the parameters of other parts."""
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
                    notes.append(f"there is no curve of {name}: {describe_error(error)}")
                    curves.append(nothing(name))
        return curves, notes

    def drawn(
        self, x: Array, wanted: Sequence[Sequence[DepthProfile] | None]
    ) -> Iterator[list[NDArray[Any]]]:
        with np.errstate(all="ignore"):
            values = self.values(x)
            for n, profiles in enumerate(wanted):
                if profiles is not None:
                    yield [self.theory(n, values)]

    def problem(self) -> Any:
        """A bumps problem with a model for each part and one for the priors."""
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
            warnings.simplefilter("ignore")  # bumps warns of few points, which is no error here
            return FitProblem(models, name="+".join(part.model.name for part in self.parts))


@dataclass
class _Fitness:
    """A bumps model of one part, or of the priors if *part* is None."""

    objective: PartsObjective
    fitted: dict[str, Any]
    part: int | None
    name: str
    _cache: Array | None = field(default=None, repr=False)

    def parameters(self) -> list[Any]:
        return list(self.fitted.values())  # a list, because bumps sorts a dict

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
        return 0.5 * float(np.vdot(residuals, residuals))


def _left_out(part: AssemblyPart) -> Iterator[str]:
    """A remark if points of the part are left out."""
    data = part.data
    if data.left_out:
        name = data.name or part.name
        yield f"{data.left_out} of {data.given} points of {name} are left out, masked or not finite"


def _at_its_data(part: AssemblyPart) -> Bound:
    try:
        return part.model.on(part.data)
    except InvalidRequest as error:
        raise InvalidRequest(f"{part.name}, model {part.model.name}: {error}") from None
