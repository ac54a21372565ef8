"""The coordinates of data points: one independent variable, or several.

A model function has an argument for each coordinate, ``f(x, t, ...)``, or one argument for all of them, ``f(q, ...)`` with
``q[0]`` and ``q[1]``. Several coordinates are a tuple of arrays that broadcast to the shape of y, or a table whose columns
have the names of the arguments. One array with several coordinates works only with functions of one such argument:
otherwise a parameter without a value would silently become a coordinate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from park.errors import InvalidRequest
from park.fit.problem.input_arrays import InputColumn, read, where

Flags = NDArray[np.bool_]


@dataclass(slots=True)
class Coordinates:
    """The coordinates of the points of a y of one *shape*."""

    #: the values as a function with one argument for all coordinates gets them
    values: NDArray[np.float64]
    shape: tuple[int, ...]
    #: the axis of *values* on which several coordinates stand: 0 or -1; None for one coordinate
    axis: int | None
    #: True if rows and columns both match y, so that the axis of the coordinates is unknown
    ambiguous: bool = False
    #: True if the coordinates were a tuple of arrays, which are the rows of *values*
    separate: bool = False
    #: names of the columns of a table
    names: tuple[str, ...] = ()

    def points(self, flags: Flags) -> Flags | None:
        """Flags of the points of y of which any coordinate is flagged; None if the axis is unknown."""
        if self.ambiguous:
            return None
        if flags.shape == self.shape:
            return flags
        if self.axis is not None:
            return np.asarray(flags.any(axis=self.axis))
        if len(self.shape) == 1:  # a table for each point
            others = tuple(range(1, flags.ndim) if flags.shape[0] == self.shape[0] else range(flags.ndim - 1))
            return np.asarray(flags.any(axis=others))
        return None

    def hidden(self, out: Flags) -> Flags:
        """Flags with the shape of the values: True for coordinates of points of y that are *out*."""
        x = self.values
        if x.shape == self.shape or (self.axis == 0 and not self.ambiguous):
            return np.broadcast_to(out, x.shape)
        if not self.ambiguous and out.shape == x.shape[: out.ndim]:
            return np.broadcast_to(out.reshape(out.shape + (1,) * (x.ndim - out.ndim)), x.shape)
        return np.zeros(x.shape, dtype=bool)

    def place(self, flat: int) -> tuple[str, str, int | tuple[int, ...]]:
        """Name, value and index of the coordinate at a flat index, for a message."""
        x = self.values
        shown = str(x.flat[flat])
        if self.axis == 0:
            size = x[0].size
            return f"x[{flat // size}]", shown, where(flat % size, x.shape[1:])
        return "x", shown, where(flat, x.shape)

    def keep(self, chosen: Flags) -> None:
        """Keeps only the *chosen* points of a one-dimensional y."""
        if self.ambiguous:
            raise InvalidRequest(
                f"x of shape {self.values.shape} does not say whether its points are rows or columns, and some "
                f"of them must be left out: give its coordinates as a tuple, {_tuple(len(self.values))}"
            )
        first = self.axis != 0 and self.values.shape[0] == self.shape[0]
        self.values = np.compress(chosen, self.values, axis=0 if first else -1)
        self.shape = (int(chosen.sum()),)

    def apart(self, arguments: Sequence[str]) -> list[NDArray[np.float64]]:
        """One array for each of the *arguments* of a model.

        Raises InvalidRequest if the numbers of coordinates and arguments differ.
        """
        if len(arguments) == 1:
            return [self.values]
        listed = ", ".join(arguments)
        if not self.separate and not self.names:
            raise InvalidRequest(
                f"no value for {', '.join(arguments[1:])}; without one, {listed} are coordinates: give values or "
                f"limits, or each coordinate as an array of its own, Data({_tuple(len(arguments))}, y)"
            )
        count = self.values.shape[0 if self.separate else -1]
        if count != len(arguments):
            raise InvalidRequest(
                f"no value for {', '.join(arguments[count:]) or arguments[-1]}; without one, {listed} are "
                f"coordinates, and x has {count}: give values or limits, or Data({_tuple(len(arguments))}, y)"
            )
        if self.names and self.names != tuple(arguments):
            raise InvalidRequest(
                f"the columns of x are {', '.join(self.names)} and the model takes {listed}: give each coordinate as "
                f"a column of its own, Data({_tuple(len(arguments))}, y)"
            )
        rows = self.values if self.separate else np.moveaxis(self.values, -1, 0)
        return [np.ascontiguousarray(row) for row in rows]


def _tuple(count: int) -> str:
    return f"({', '.join(f'x{n}' for n in range(1, count + 1))})"


def are_several(given: Any) -> bool:
    """Whether *given* holds several coordinates: a tuple with an array, or a list of arrays."""
    if isinstance(given, tuple):
        return any(np.ndim(value) > 0 if _plain(value) else hasattr(value, "__len__") for value in given)
    return isinstance(given, list) and any(hasattr(value, "shape") and value.shape for value in given)


def _plain(value: Any) -> bool:
    return type(value) in (int, float, np.ndarray)


def columns_of(given: Any) -> list[InputColumn]:
    """The columns of *given*: one for each coordinate of a tuple, or a single one."""
    named = [(f"x[{n}]", one) for n, one in enumerate(given)] if are_several(given) else [("x", given)]
    columns = [read(one, what) for what, one in named]
    for (what, _), column in zip(named, columns, strict=True):
        if column.errors is not None:
            raise InvalidRequest(
                f"the values of {what} have errors of their own, and a fit takes {what} as exact: give their nominal "
                f"values"
            )
    return columns


def coordinates_of(
    columns: list[InputColumn], several: bool, shape: tuple[int, ...]
) -> tuple[Coordinates, Flags | None]:
    """The coordinates for a y of *shape*, and the flags of their masked values.

    Raises InvalidRequest if the shapes do not match.
    """
    if not several:
        return _single(columns[0], shape), columns[0].masked
    shapes = [column.values.shape for column in columns]
    try:
        together = np.broadcast_shapes(*shapes)
    except ValueError:
        together = None
    if together != shape and len(set(shapes)) > 1:
        raise InvalidRequest(
            f"coordinates of shapes {', '.join(map(str, shapes))} do not match y of shape {shape}"
            + (": numpy.meshgrid makes a grid of them" if len(shape) > 1 else "")
        )
    common = shape if together == shape else shapes[0]
    values = np.stack([np.broadcast_to(column.values, common) for column in columns])
    masks = [np.broadcast_to(_mask(column), common) for column in columns]
    masked = np.stack(masks) if any(column.masked is not None for column in columns) else None
    if common == shape:
        return Coordinates(values, shape, axis=0, separate=True), masked
    return _single(InputColumn(values), shape), masked


def _mask(column: InputColumn) -> Flags:
    return np.zeros(column.values.shape, dtype=bool) if column.masked is None else column.masked


def _single(column: InputColumn, shape: tuple[int, ...]) -> Coordinates:
    x = column.values
    if len(shape) == 1 and shape[0] not in (x.shape[:1] + x.shape[-1:]):
        raise InvalidRequest(f"x of shape {x.shape} does not match y of {shape[0]} points")
    if x.shape == shape:
        return Coordinates(x, shape, axis=None)
    fits = [axis for axis, rest in ((0, x.shape[1:]), (-1, x.shape[:-1])) if rest == shape]
    if len(fits) == 2 and x.shape[0] == x.shape[-1]:
        return Coordinates(x, shape, axis=None, ambiguous=True)
    return Coordinates(x, shape, axis=fits[0] if fits else None, names=column.names)
