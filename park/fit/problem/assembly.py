"""An assembly: weighted parts, each a model with its data, fitted together.

The name of a parameter is its keyword, such as ``b1``. Where different parameters of several parts have the same keyword,
each is named after its first part: ``part1.b1``, ``part2.b1``. A name in an expression is looked up among the keywords of
its own part first, then among full names such as ``part2.b1``, then among all unique names.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from park.errors import InvalidRequest
from park.fit.arrays import Array
from park.fit.problem.bumps_data import check_problem
from park.fit.problem.bumps_objective import BumpsObjective
from park.fit.problem.client_values import ClientValues
from park.fit.problem.data import Data, as_data
from park.fit.problem.expression import CONSTANTS, compiled, names_in
from park.fit.problem.model import Model
from park.fit.problem.objective import Objective
from park.fit.problem.parameter import Parameter
from park.fit.problem.parts_objective import AssemblyPart, ComputedParameter, PartsObjective
from park.fit.problem.preserved_state import preserved_state


class Assembly:
    """Parts ``(model, data)`` that are fitted together, or one bumps ``FitProblem``.

    *parts* are tuples of a `Model` and its `Data`, or of a `Model` and a tuple ``(x, y)`` or ``(x, y, dy)``. *weights*, one
    number for each part, multiply the residuals of the parts (default: 1). Parts share a parameter if they use the same
    `Parameter` or `Model` object. An expression ties a parameter to others.

    The constructor calls each model function once, at the start of the fit. It raises `park.InvalidRequest` for an array of
    the wrong shape, data that are not numbers, and a problem without fitted parameters.

    >>> line = Model(lambda x, a, b: a * x + b, a=(0, 4), b=(-1, 1))
    >>> Assembly((line, ([1, 2, 3], [2.1, 3.9, 6.2])))
    <Assembly: 1 part, 3 points, fits a, b>
    """

    #: the values of the objective function in the client; set on the copy that is sent to kernels
    sent: ClientValues | None = None

    def __init__(self, *parts: Any, weights: Sequence[float] | None = None) -> None:
        if not parts:
            raise InvalidRequest("an Assembly needs at least one part (model, data)")
        self.problem_given: Any = None
        self.parts: list[AssemblyPart] = []
        if len(parts) == 1 and _is_bumps(parts[0]):
            if weights is not None:
                raise InvalidRequest("a bumps FitProblem has weights of its own: leave weights out")
            self.problem_given = parts[0]
        else:
            factors = _weights(weights, len(parts))
            numbers = range(1, len(parts) + 1)
            self.parts = [_part(n, p, w) for n, p, w in zip(numbers, parts, factors, strict=True)]
        with preserved_state(*self.foreign):
            if self.problem_given is not None:
                check_problem(self.problem_given)
            self.objective.check()

    @property
    def foreign(self) -> tuple[Any, ...]:
        """The user's own objects that an evaluation runs: the model functions, or a bumps problem."""
        return (
            (self.problem_given,)
            if self.problem_given is not None
            else tuple(p.model.function for p in self.parts)
        )

    @cached_property
    def objective(self) -> Objective:
        """The objective function that the methods evaluate. Each process makes its own."""
        return _objective(self.parts) if self.parts else BumpsObjective(self.problem_given)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the k fitted parameters, in the order of all vectors."""
        return self.objective.names

    @property
    def start(self) -> Array:
        """The values at which a fit starts, shape (k,)."""
        return self.objective.start.copy()

    def nllf(self, x: Any) -> float:
        """The negative log likelihood at *x*: a vector of shape (k,), a dict, or a result.

        Parts with dy and priors contribute half their sum of squared residuals. A part of n points without dy contributes
        n/2 log(SS/n), where SS is its sum of squared residuals.
        """
        return self.objective.nllf(self.vector(x))

    def residuals(self, x: Any) -> Array:
        """The residuals (theory - y)/dy times the weights at *x*, shape (n,); priors come last."""
        return self.objective.residuals(self.vector(x))

    def problem(self) -> Any:
        """A bumps ``FitProblem`` with the same parameters and residuals. Imports bumps."""
        return self.objective.problem()

    def vector(self, given: Any) -> Array:
        """The parameters as one vector of shape (k,), from a vector, a dict of some values, or a result.

        Raises InvalidRequest for another length, an unknown name, or a value outside its limits.
        """
        objective = self.objective
        if hasattr(given, "names") and hasattr(given, "x"):
            given = dict(zip(given.names, given.x, strict=True))
        if isinstance(given, dict):
            unknown = [str(name) for name in given if name not in objective.names]
            if unknown:
                raise InvalidRequest(
                    f"the start names {', '.join(unknown)}; fitted are {', '.join(objective.names)}"
                )
            given = list((dict(zip(objective.names, objective.start, strict=True)) | given).values())
        try:
            x = np.array(given, dtype=np.float64)
        except (TypeError, ValueError):
            raise InvalidRequest(f"{given!r:.80} is not a vector of {len(objective.names)} numbers") from None
        if x.shape != objective.start.shape:
            raise InvalidRequest(
                f"a vector of {objective.start.size} numbers is needed ({', '.join(objective.names)}); "
                f"this one has shape {x.shape}"
            )
        for name, value, low, high in zip(objective.names, x, objective.low, objective.high, strict=True):
            if not low <= value <= high:
                raise InvalidRequest(f"{name}={value:g} is outside its limits ({low:g}, {high:g})")
        return x

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "objective"}

    def __repr__(self) -> str:
        objective = self.objective
        n = len(self.parts)
        what = f"{n} part{'s' * (n > 1)}" if n else f"{type(self.problem_given).__name__}"
        return f"<Assembly: {what}, {objective.points} points, fits {', '.join(objective.names)}>"


def as_assembly(given: Any) -> Assembly:
    """The given `Assembly`, or one around the given bumps ``FitProblem``. Raises InvalidRequest for anything else."""
    if isinstance(given, Assembly):
        return given
    if _is_bumps(given):
        return Assembly(given)
    raise InvalidRequest(f"{given!r:.80} is neither an Assembly nor a bumps FitProblem")


def is_problem(given: Any) -> bool:
    """Whether *given* is an `Assembly` or a bumps ``FitProblem``."""
    return isinstance(given, Assembly) or _is_bumps(given)


def _is_bumps(given: Any) -> bool:
    return all(callable(getattr(given, name, None)) for name in ("nllf", "getp", "setp", "bounds", "labels"))


def _weights(given: Sequence[float] | None, count: int) -> list[float]:
    if given is None:
        return [1.0] * count
    try:
        weights = [float(w) for w in given]
    except (TypeError, ValueError):
        raise InvalidRequest(f"weights={given!r:.80} is not a sequence of numbers") from None
    if len(weights) != count:
        raise InvalidRequest(f"{len(weights)} weights for {count} parts")
    if any(not (math.isfinite(w) and w > 0) for w in weights):
        raise InvalidRequest(f"weights={weights}: each must be positive and finite")
    return weights


def _part(number: int, given: Any, weight: float) -> AssemblyPart:
    name = f"part{number}"
    if not isinstance(given, tuple | list) or len(given) != 2 or not isinstance(given[0], Model):
        raise InvalidRequest(f"{name} is {given!r:.80}, not a tuple (Model, Data)")
    try:
        data: Data = as_data(given[1])
    except InvalidRequest as error:
        raise InvalidRequest(f"{name}, data: {error}") from None
    return AssemblyPart(name, given[0], data, weight)


@dataclass(slots=True)
class _Owned:
    """A parameter with the first part and keyword that use it."""

    parameter: Parameter
    part: AssemblyPart
    keyword: str
    name: str = ""


def _objective(parts: list[AssemblyPart]) -> PartsObjective:
    owned: list[_Owned] = []
    index: dict[int, int] = {}  # id of a Parameter -> its place in owned
    for part in parts:
        for keyword, parameter in part.model.parameters.items():
            if id(parameter) not in index:
                index[id(parameter)] = len(owned)
                owned.append(_Owned(parameter, part, keyword))
    keywords = [o.keyword for o in owned]
    for o in owned:
        o.name = o.keyword if keywords.count(o.keyword) == 1 else f"{o.part.name}.{o.keyword}"
    scope = {o.name: n for n, o in enumerate(owned)}
    for part in parts:
        for keyword, parameter in part.model.parameters.items():
            scope[f"{part.name}.{keyword}"] = index[id(parameter)]
    return PartsObjective(
        parts=parts,
        names=[o.name for o in owned],
        parameters=[o.parameter for o in owned],
        arguments=[
            {k: index[id(p)] for k, p in part.model.parameters.items() if k not in part.model.constants}
            for part in parts
        ],
        computed=_computed(owned, scope),
    )


def _computed(owned: list[_Owned], scope: dict[str, int]) -> list[ComputedParameter]:
    """The expressions in the order of their evaluation: each after those that it depends on."""
    uses: dict[int, dict[str, int]] = {}
    for n, o in enumerate(owned):
        if o.parameter.expression is None:
            continue
        own = {k: scope[f"{o.part.name}.{k}"] for k in o.part.model.parameters}
        names = {name: own.get(name, scope.get(name)) for name in names_in(o.parameter.expression)}
        unknown = [name for name, place in names.items() if place is None and name not in CONSTANTS]
        if unknown:
            alike = [q for q in scope if q.endswith(f".{unknown[0]}")]
            hint = f"say {' or '.join(alike)}" if alike else f"there are {', '.join(scope)}"
            raise InvalidRequest(
                f"{o.part.name}, parameter {o.keyword!r}: the expression {o.parameter.expression!r} uses "
                f"{unknown[0]!r}, which is not one parameter; {hint}; use Constant({o.parameter.expression!r}) if "
                f"it is a text for the function"
            )
        uses[n] = {name: place for name, place in names.items() if place is not None}
    order: list[ComputedParameter] = []
    done: set[int] = set()

    def visit(n: int, path: tuple[int, ...]) -> None:
        if n in done or n not in uses:
            return
        if n in path:
            circle = " -> ".join(owned[k].name for k in (*path[path.index(n) :], n))
            raise InvalidRequest(
                f"{owned[n].part.name}, parameter {owned[n].keyword!r}: its expression uses itself: {circle}"
            )
        for below in uses[n].values():
            visit(below, (*path, n))
        done.add(n)
        expression = owned[n].parameter.expression
        assert expression is not None
        order.append(ComputedParameter(n, compiled(expression, uses[n])))

    for n in uses:
        visit(n, ())
    return order
