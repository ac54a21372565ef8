"""Points at which a model has no value, told by part, index and x: of models with data, and in bumps problems."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from park.errors import InvalidRequest
from park.fit.columns import where
from park.fit.data import Array
from park.fit.holes import trials
from park.fit.problem_checks import columns_of, models_of, name_of, quiet

if TYPE_CHECKING:
    from park.fit.objective import Objective


class Holes(NamedTuple):
    """The points of a part without a value: their flat indices, the first of them in words, and how many points it has."""

    name: str
    at: tuple[int, ...]
    first: str
    points: int


def check_holes(problem: Any) -> None:
    """Raises InvalidRequest where models of a bumps problem have no value at some points, whatever their parameters are.

    For a problem that has no likelihood at its start. Its parameters change.
    """
    with quiet():
        start = np.array(problem.getp(), dtype=np.float64)
        low, high = np.array(problem.bounds(), dtype=np.float64)
        try:
            holes = list(_of_problem(problem))
            for point in trials(start, low, high):
                problem.setp(point)
                again = list(_of_problem(problem))
                holes = [hole for hole in holes if any(hole[:2] == other[:2] for other in again)]
        except Exception:
            return  # the driver tells what a model raises
        finally:
            problem.setp(start)
    for hole in holes:
        raise InvalidRequest(
            f"{hole.name}: it has no finite value at {hole.first}, whatever its parameters are: mend the model there, or "
            "leave the point out of its data"
        )


def without_value(objective: Objective, x: Array) -> str:
    """Which parts have points without a value at *x*, in words; an empty text if none has, or all points of all.

    >>> from park.fit import Assembly, Model
    >>> root = Model(lambda x, a: np.sqrt(x - a), a=(0, 4))
    >>> objective = Assembly((root, ([1.0, 2.0, 3.0, 4.0], [0.1, 1.0, 1.4, 1.7]))).objective
    >>> without_value(objective, objective.start)
    'part1, model <lambda>, has no finite value at 1 of 4 points, the first at index 0 (x = 1)'
    """
    told = []
    with quiet(), contextlib.suppress(Exception):  # the driver tells what a model raises
        for hole in _of_parts(objective, x) if hasattr(objective, "parts") else _of_objective(objective, x):
            told.append(
                f"{hole.name}, has no finite value at {len(hole.at):,} of {hole.points:,} points, the first at {hole.first}"
            )
    return "; ".join(told)


def _of_parts(objective: Any, x: Array) -> Iterator[Holes]:
    values = objective.values(x)
    for n, part in enumerate(objective.parts):
        holes = part.data.without_value(objective.theory(n, values))
        points = int(part.data.y.size if part.data.mask is None else (~part.data.mask).sum())
        yield from _made(f"{part.name}, model {part.model.name}", holes, points, part.data.place)


def _of_objective(objective: Objective, x: Array) -> Iterator[Holes]:
    problem = objective.problem()
    problem.setp(x)
    return _of_problem(problem)


def _of_problem(problem: Any) -> Iterator[Holes]:
    for number, model in models_of(problem):
        if not hasattr(model, "residuals"):
            continue
        holes = ~np.isfinite(np.asarray(model.residuals(), dtype=np.float64))
        position = next(
            (c.values for c in columns_of(model) if c.kind == "x" and c.values.shape == holes.shape), None
        )

        def place(flat: int, position: NDArray[Any] | None = position) -> str:
            return "" if position is None else f" (x = {position.flat[flat]:g})"

        yield from _made(name_of(model, number), holes, holes.size, place)


def _made(name: str, holes: NDArray[Any], points: int, place: Any) -> Iterator[Holes]:
    at = tuple(np.flatnonzero(holes).tolist())
    if at and len(at) < points:
        yield Holes(name, at, f"index {where(at[0], holes.shape)}{place(at[0])}", points)
