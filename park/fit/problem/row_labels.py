"""Row labels of pandas columns and xarray arrays, which must agree before rows are paired.

pandas pairs rows by index, numpy by position. `check` raises an error if the two would pair different points.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from park.errors import InvalidRequest
from park.fit.problem.input_arrays import from_table, from_xarray


def check(columns: Sequence[tuple[str, Any]]) -> None:
    """Raises InvalidRequest if columns, given with their names, have different row labels."""
    tables = [(what, given.index) for what, given in columns if from_table(given) and hasattr(given, "index")]
    for what, index in tables[1:]:
        _same_index(*tables[0], what, index)
    arrays = [(what, given) for what, given in columns if from_xarray(given)]
    for what, given in arrays[1:]:
        _same_dimensions(*arrays[0], what, given)


def _same_index(what: str, index: Any, other_what: str, other: Any) -> None:
    if len(index) != len(other):
        raise InvalidRequest(
            f"{what} has {len(index)} rows and {other_what} has {len(other)}: {_advice(what, other_what)}"
        )
    if index.equals(other):
        return
    place = next((n for n, (a, b) in enumerate(zip(index, other, strict=True)) if a != b), 0)
    raise InvalidRequest(
        f"{what} and {other_what} have different indexes ({index[place]} and {other[place]} in row {place}): "
        f"{_advice(what, other_what)}"
    )


def _advice(what: str, other: str) -> str:
    return (
        f"take them from one table, or align them with {what}, {other} = {what}.align({other}, join='inner'); "
        f"to pair by position give {what}.to_numpy() and {other}.to_numpy()"
    )


def _same_dimensions(what: str, given: Any, other_what: str, other: Any) -> None:
    if len(given.dims) == len(other.dims) and tuple(given.dims) != tuple(other.dims):
        raise InvalidRequest(
            f"{what} has the dimensions {', '.join(map(str, given.dims))} and {other_what} has "
            f"{', '.join(map(str, other.dims))}: transpose one of them, or give their .values"
        )
    for name in given.dims:
        a, b = (array.indexes.get(name) for array in (given, other))
        if a is not None and b is not None and not a.equals(b):
            raise InvalidRequest(
                f"{what} and {other_what} have different coordinates along {name}: align them with "
                f"xarray.align({what}, {other_what}), or give their .values to pair by position"
            )
