"""The numbers behind an assembly: a vector of parameters in, residuals and likelihood out.

There are two of them: `PartsObjective` for models and data, in plain numpy, so that a process that only
evaluates never loads bumps (a second); and `BumpsObjective` around a ``FitProblem``. Both raise what the
model raises: only drivers decide what a failure means.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from park.errors import InvalidRequest
from park.fit.data import Array, Data, WrongShape
from park.fit.holes import missing_value
from park.fit.model import Model
from park.fit.parameter import Parameter


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
class Curve:
    """Data and fit of one part, for plots; *low* and *high* bound 95 % of the drawn curves.

    For a part whose points are unknown (some bumps models) *y* is empty and *residuals* is all there is.
    """

    name: str
    x: Array
    y: Array
    dy: Array | None
    theory: Array
    residuals: Array
    labels: tuple[str, str] = ("x", "y")
    low: Array | None = None
    high: Array | None = None


class Objective(ABC):
    """What drivers see: k fitted parameters with names, start and limits; residuals and likelihood."""

    names: tuple[str, ...]
    #: each of shape (k,)
    start: Array
    low: Array
    high: Array
    #: data points, and priors that count as such
    points: int
    #: the size of the errors is unknown (no dy): it is estimated from the scatter about the fit
    scaled: bool = False
    has_residuals: bool = True

    @abstractmethod
    def residuals(self, x: Array) -> Array:
        """All residuals in one row, weighted, over dy; priors are the last `priors` of them."""

    @abstractmethod
    def nllf(self, x: Array) -> float:
        """Half the sum of squared residuals; inf outside the limits and where the model is not finite."""

    def loss(self, x: Array) -> float:
        """What a sampler samples: minus the log of the posterior probability."""
        return self.nllf(x)

    @abstractmethod
    def curves(self, x: Array, draws: Array | None = None) -> list[Curve]:
        """Data and theory of each part at *x*, with bands from *draws* of shape (n, k)."""

    @abstractmethod
    def problem(self) -> Any:
        """A bumps ``FitProblem``, at the start."""

    def check(self) -> None:
        """Raises InvalidRequest where no fit can begin. A model that raises here may not elsewhere."""
        if not self.names:
            raise InvalidRequest("there is nothing to fit: every parameter is fixed or computed")

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

    @property
    def priors(self) -> int:
        """How many of the residuals are priors."""
        return 0

    def chisq(self, nllf: float) -> float:
        """The reduced chi-squared of a likelihood; nan where no degree of freedom is left."""
        return 2 * nllf / self.dof if self.dof > 0 else float("nan")

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
        self._calls = [_at_its_data(part) for part in parts]
        self._template: list[float] = [np.float64(0.0 if p.value is None else p.value) for p in parameters]
        self._fitted = [n for n, p in enumerate(parameters) if p.fitted]
        self._bounded = [c.place for c in computed if np.isfinite(parameters[c.place].limits).any()]
        #: a prior on a fixed parameter would add a constant and is left out
        self._prior = [(n, *p.prior) for n, p in enumerate(parameters) if p.prior is not None and not p.fixed]
        self.names = tuple(names[n] for n in self._fitted)
        self.start = np.array([self._template[n] for n in self._fitted], dtype=np.float64)
        self.low, self.high = (
            np.array([parameters[n].limits for n in self._fitted], dtype=np.float64).reshape(-1, 2).T
        )
        self._data_points = sum(len(part.data) for part in parts)
        self.points = self._data_points + len(self._prior)
        self.scaled = any(part.data.dy is None for part in parts)

    @property
    def priors(self) -> int:
        return len(self._prior)

    def values(self, x: Array) -> list[float]:
        """All values, in the order of the places."""
        values = self._template.copy()
        for place, value in zip(self._fitted, x, strict=True):
            values[place] = value
        for place, function in self._computed:
            values[place] = function(values)
        return values

    def theory(self, n: int, values: list[float]) -> Array:
        """What the model of part *n* says, with the shape of its data."""
        part = self.parts[n]
        try:
            theory = self._calls[n](**{k: values[i] for k, i in self._arguments[n].items()})
            y = part.data.y
            if type(theory) is np.ndarray and theory.shape == y.shape and theory.dtype.kind == y.dtype.kind:
                return theory
            return part.data.comparable(theory)
        except WrongShape as error:
            raise WrongShape(f"{part.name}, model {part.model.name}: {error}") from None
        except ValueError as error:
            if "read-only" not in str(error):
                raise
            raise WrongShape(
                f"{part.name}, model {part.model.name}: it changes the data's x in place ({error}); it may work "
                f"on a copy, x = x.copy()"
            ) from error

    def _residuals_of(self, n: int, values: list[float]) -> Array:
        part = self.parts[n]
        # In one expression numpy uses the memory of the theory again.
        difference = self.theory(n, values) - part.data.y
        residuals = part.data.residuals(difference)
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
        with np.errstate(all="ignore"):
            values = self.values(x)
            if not self._allowed(values):
                return np.full(self.points, np.inf)
            rows = [self._residuals_of(n, values) for n in range(len(self.parts))]
            if self._prior:
                rows.append(np.array(self._prior_residuals(values)))
            return rows[0] if len(rows) == 1 else np.concatenate(rows)

    def nllf(self, x: Array) -> float:
        if not self.inside(x):
            return float("inf")
        residuals = self.residuals(x)
        value = 0.5 * float(residuals @ residuals)
        return value if value == value else float("inf")

    def loss(self, x: Array) -> float:
        """With dy it is `nllf`.

        Without, the common size of the errors is one more unknown; with the usual prior (1/size) it
        integrates out, and n/2 log(sum of squares) is left: the intervals that come out are Student's.
        """
        if not self.scaled:
            return self.nllf(x)
        if not self.inside(x):
            return float("inf")
        residuals = self.residuals(x)
        data, priors = residuals[: self._data_points], residuals[self._data_points :]
        squares = float(data @ data)
        if squares != squares or squares == float("inf"):
            return float("inf")
        tiny = self._data_points * np.finfo(float).tiny ** 0.5  # exact data would end at minus infinity
        return 0.5 * self._data_points * float(np.log(max(squares, tiny))) + 0.5 * float(priors @ priors)

    def check(self) -> None:
        super().check()
        try:
            with np.errstate(all="ignore"), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                values = self.values(self.start)
                for n in range(len(self.parts)):
                    self._check_values(n)
        except WrongShape:
            raise
        except Exception:
            return  # perhaps it works where the job runs; if not, the job fails with this traceback
        for n, parameter in enumerate(self._parameters):
            low, high = parameter.limits
            if parameter.expression is not None and not low <= values[n] <= high:
                raise InvalidRequest(
                    f"{self._all_names[n]} = {parameter.expression} is {values[n]:g} at the start, "
                    f"outside its limits ({low:g}, {high:g})"
                )

    def _check_values(self, n: int) -> None:
        part = self.parts[n]

        def theory(x: Array) -> Array:
            return self.theory(n, self.values(x))

        missing = missing_value(part.data, theory, self.start, self.low, self.high)
        if missing:
            raise WrongShape(f"{part.name}, model {part.model.name}: {missing}")

    def others(self, x: Array) -> dict[str, float]:
        with np.errstate(all="ignore"):
            values = self.values(x)
        names = zip(self._all_names, self._parameters, values, strict=True)
        return {name: float(value) for name, p, value in names if not p.fitted}

    def is_fixed(self, name: str) -> bool:
        return self._parameters[list(self._all_names).index(name)].fixed

    def curves(self, x: Array, draws: Array | None = None) -> list[Curve]:
        curves = []
        with np.errstate(all="ignore"):
            values = self.values(x)
            for n, part in enumerate(self.parts):
                low = high = None
                if draws is not None and len(draws) and not np.iscomplexobj(part.data.y):
                    drawn = np.array([self.theory(n, self.values(row)) for row in draws])
                    low, high = np.quantile(drawn, (0.025, 0.975), axis=0)
                curves.append(
                    Curve(
                        name=part.data.name or part.name,
                        x=part.data.x,
                        y=part.data.y,
                        dy=part.data.dy,
                        theory=np.array(self.theory(n, values), dtype=part.data.y.dtype),
                        residuals=self._residuals_of(n, values),
                        labels=part.data.labels,
                        low=low,
                        high=high,
                    )
                )
        return curves

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
        return self.objective.priors if self.part is None else len(self.objective.parts[self.part].data)

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


def _at_its_data(part: Part) -> Callable[..., Any]:
    try:
        return part.model.on(part.data)
    except InvalidRequest as error:
        raise InvalidRequest(f"{part.name}, model {part.model.name}: {error}") from None


class BumpsObjective(Objective):
    """The objective of a bumps ``FitProblem`` that somebody made; priors and constraints are its own."""

    def __init__(self, problem: Any) -> None:
        self._problem = problem
        labels = [str(label) for label in problem.labels()]
        self.names = tuple(
            label if label not in labels[:n] else f"{label} #{labels[:n].count(label) + 1}"
            for n, label in enumerate(labels)
        )
        self.start = np.array(problem.getp(), dtype=np.float64)
        self.low, self.high = np.array(problem.bounds(), dtype=np.float64)
        # A problem of densities has a `residuals` too, but its models say that it is only for show.
        models = tuple(getattr(problem, "models", ()))
        real = getattr(problem, "has_residuals", hasattr(problem, "residuals"))
        self.has_residuals = bool(real) and all(getattr(model, "has_residuals", True) for model in models)
        self._dof = int(problem.dof) if np.isfinite(getattr(problem, "dof", np.nan)) else 0
        self.points = self._dof + len(self.names)

    def check(self) -> None:
        super().check()
        for name, value, low, high in zip(self.names, self.start, self.low, self.high, strict=True):
            if not low <= value <= high:
                raise InvalidRequest(f"{name}={value:g} is outside its limits ({low:g}, {high:g})")

    def residuals(self, x: Array) -> Array:
        self._problem.setp(x)
        constraints, _ = self._problem.constraints_nllf()
        rows = (np.ravel(self._problem.residuals()), self._problem.parameter_residuals(), [constraints**0.5])
        return np.concatenate([np.asarray(row, dtype=np.float64) for row in rows])

    def nllf(self, x: Array) -> float:
        value = float(self._problem.nllf(x))
        if not np.isfinite(value) and self.inside(x):
            model = getattr(self._problem, "model_nllf", None)
            if model is not None:
                self._problem.setp(x)
                model()  # bumps made an infinity of the exception; here it is again
        return value

    def curves(self, x: Array, draws: Array | None = None) -> list[Curve]:
        self._problem.setp(x)
        curves = []
        for n, model in enumerate(getattr(self._problem, "models", ()), 1):
            name = getattr(model, "name", None) or f"part{n}"
            empty = np.empty(0)
            residuals = np.ravel(model.residuals()) if hasattr(model, "residuals") else empty
            try:
                given = (model.x, model.y, model.dy, model.theory())
                columns = [np.array(column, dtype=np.float64) for column in given]
            except Exception:
                columns = []
            if len({c.shape for c in columns}) == 1:
                horizontal, y, dy, theory = columns
                curves.append(Curve(name, horizontal, y, dy, theory, residuals))
            elif residuals.size:
                curves.append(Curve(name, np.arange(1.0, residuals.size + 1), empty, None, empty, residuals))
        return curves

    def problem(self) -> Any:
        self._problem.setp(self.start)
        return self._problem
