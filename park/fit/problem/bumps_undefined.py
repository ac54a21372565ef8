"""Data points at which a model has no finite value, named by part, index and x, for parts and for bumps problems."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from park.errors import InvalidRequest
from park.fit.arrays import Array, quiet
from park.fit.problem.bumps_data import columns_of, models_of, name_of
from park.fit.problem.input_arrays import where
from park.fit.problem.undefined_points import trials

if TYPE_CHECKING:
    from park.fit.problem.objective import Objective


class UndefinedPoints(NamedTuple):
    """The points of a part without a value: flat indices, the first point as text, and the number of all points."""

    name: str
    at: tuple[int, ...]
    first: str
    points: int


def check_holes(problem: Any) -> None:
    """Raises InvalidRequest if models of a bumps problem have no value at some points for any parameters.

    It is called for a problem without a likelihood at its start, and restores the parameters.
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
            return  # the method reports a model that raises
        finally:
            problem.setp(start)
    for hole in holes:
        raise InvalidRequest(
            f"{hole.name}: it has no finite value at {hole.first}, whatever its parameters are: mend the model there, or "
            "leave the point out of its data"
        )


def without_value(objective: Objective, x: Array) -> str:
    """The parts with points without a value at *x*, as text; "" if there are none, or if all points have no value.

    >>> from park.fit import Assembly, Model
    >>> root = Model(lambda x, a: np.sqrt(x - a), a=(0, 4))
    >>> objective = Assembly((root, ([1.0, 2.0, 3.0, 4.0], [0.1, 1.0, 1.4, 1.7]))).objective
    >>> without_value(objective, objective.start)
    'part1, model <lambda>, has no finite value at 1 of 4 points, the first at index 0 (x = 1)'
    """
    told = []
    with quiet(), contextlib.suppress(Exception):  # the method reports a model that raises
        for hole in _of_parts(objective, x) if hasattr(objective, "parts") else _of_objective(objective, x):
            told.append(
                f"{hole.name}, has no finite value at {len(hole.at):,} of {hole.points:,} points, the first at {hole.first}"
            )
    return "; ".join(told)


def _of_parts(objective: Any, x: Array) -> Iterator[UndefinedPoints]:
    values = objective.values(x)
    for n, part in enumerate(objective.parts):
        holes = part.data.without_value(objective.theory(n, values))
        points = int(part.data.y.size if part.data.mask is None else (~part.data.mask).sum())
        yield from _made(f"{part.name}, model {part.model.name}", holes, points, part.data.place)


def _of_objective(objective: Objective, x: Array) -> Iterator[UndefinedPoints]:
    problem = objective.problem()
    problem.setp(x)
    return _of_problem(problem)


def _of_problem(problem: Any) -> Iterator[UndefinedPoints]:
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


def _made(name: str, holes: NDArray[Any], points: int, place: Any) -> Iterator[UndefinedPoints]:
    at = tuple(np.flatnonzero(holes).tolist())
    if at and len(at) < points:
        yield UndefinedPoints(name, at, f"index {where(at[0], holes.shape)}{place(at[0])}", points)
