"""Checks of data: errors must be positive and values finite."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from park.errors import InvalidRequest
from park.fit.problem.coordinates import Coordinates, Flags
from park.fit.problem.input_arrays import InputColumn, read, where

#: Range of the size of y and dy in which squares, and sums of squares, are float64 numbers.
_SIZES = (1e-100, 1e100)


def errors_of(dy: Any, y: InputColumn, with_cov: bool) -> InputColumn | None:
    """The standard errors with the shape of y, from *dy* or from values with errors of their own; None if unknown."""
    given = [what for what, is_given in (("dy", dy is not None), ("cov", with_cov)) if is_given]
    if y.errors is not None and given:
        raise InvalidRequest(f"the values of y have errors of their own: leave {given[0]} out")
    if len(given) == 2:
        raise InvalidRequest("dy and cov are both given: cov has the errors on its diagonal, leave dy out")
    if y.errors is not None:
        return InputColumn(y.errors)
    if dy is None:
        return None
    shape = y.values.shape
    column = read(dy, "dy", complex_too=True)
    if column.values.ndim == 0:
        column.values = np.full(shape, column.values)
        column.masked = None
    _check_errors(column, y)
    if np.iscomplexobj(y.values) and not np.iscomplexobj(column.values):
        column.values = column.values * (1 + 1j)
    return column


def _check_errors(column: InputColumn, y: InputColumn) -> None:
    shape = y.values.shape
    if column.boolean:
        raise InvalidRequest("dy is an array of True and False, not of errors: to leave points out mask y")
    if column.errors is not None:
        raise InvalidRequest("the errors in dy have errors of their own: give their nominal values")
    if column.values.shape != shape:
        if column.values.shape in ((2,), (2, *shape), (*shape, 2)):
            raise InvalidRequest(
                f"dy has shape {column.values.shape} and y has shape {shape}: a lower and an upper error for each "
                f"point are not the errors of a normal distribution; give one error, such as their mean"
            )
        raise InvalidRequest(f"dy has shape {column.values.shape} and y has shape {shape}")
    if np.iscomplexobj(column.values) and not np.iscomplexobj(y.values):
        raise InvalidRequest("dy is complex and y is real: give real errors")


def not_finite(
    out: Flags, points: Coordinates, values: InputColumn, errors: InputColumn | None, drop: bool
) -> Flags:
    """*out* with the points added that are not finite. Raises InvalidRequest for the first of them unless *drop*."""
    bad = ~np.isfinite(points.values)
    if bad.any():
        flags = points.points(bad)
        hidden = points.hidden(out)
        if flags is not None and drop:
            out = out | flags
        elif (bad & ~hidden).any():
            what, shown, index = points.place(int(np.flatnonzero(bad & ~hidden)[0]))
            raise InvalidRequest(_advice(what, shown, index, flags is not None))
    for what, column in (("y", values), ("dy", errors)):
        if column is None:
            continue
        bad = ~np.isfinite(column.values)
        if drop:
            out = out | bad
        elif (bad & ~out).any():
            flat = int(np.flatnonzero(bad & ~out)[0])
            raise InvalidRequest(_advice(what, column.shown(flat), where(flat, out.shape), True))
    return out


def _advice(what: str, shown: str, index: Any, droppable: bool) -> str:
    advice = "leave the point out with a mask (numpy.ma)"
    if droppable:
        advice += ", or all such points with Data(..., nan='drop')"
    return f"{what} must be finite; it is {shown} at index {index}: {advice}"


def refuse_errors(errors: InputColumn, out: Flags) -> None:
    """Raises InvalidRequest for errors that are not positive."""
    both = np.iscomplexobj(errors.values)
    low = np.minimum(errors.values.real, errors.values.imag) if both else errors.values
    bad = np.flatnonzero((low <= 0) & ~out)
    if bad.size:
        raise InvalidRequest(
            f"dy must be positive; it is {errors.values.flat[bad[0]]:g} at index {where(int(bad[0]), out.shape)}: "
            f"give the point its error or leave it out with a mask (numpy.ma); without dy errors are estimated"
        )


def refuse_sizes(y: NDArray[Any], dy: NDArray[Any] | None) -> None:
    """Raises InvalidRequest for values whose squares are zero or infinite as float64 numbers.

    The largest y and the smallest dy count: a huge dy takes a single point out of the fit. Beside dy, a tiny y is as
    good as zero.
    """
    low, high = _SIZES
    for what, size, least in (
        ("y", np.abs(y).max(), low if dy is None else 0.0),
        ("dy", np.abs(dy).min() if dy is not None else 1.0, low),
    ):
        if size and not least <= size <= high:
            raise InvalidRequest(
                f"{what} is of the size {size:.0e}, and squares of such numbers are not float64 numbers: give y in a "
                f"unit in which it is of a size near 1"
            )
