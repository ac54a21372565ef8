"""The arrangement of data points: on a grid of pixels, or along one coordinate for few values of another."""

from __future__ import annotations

from typing import Any

import numpy as np

from park.fit.arrays import Array

#: Largest number of rows of a two-dimensional y that are drawn as curves; more rows are an image.
MAX_SERIES = 12


def series(u: Array, v: Array) -> tuple[int, list[float], list[Any]] | None:
    """The coordinate to plot against (0 or 1) if the other has few values, these values, and the points of each."""
    for along, other in ((0, v), (1, u)):
        values = np.unique(other)
        if len(values) <= MAX_SERIES and 2 * len(values) <= len(other):
            return along, values.tolist(), [other == value for value in values]
    return None


def edges_along(x: Array, axis: int) -> Array | None:
    """The edges of pixels whose centres *x* (rows, columns) change only along *axis*; None for other centres."""
    centres = np.take(x, 0, 1 - axis)
    steps = np.diff(centres)
    if not steps.size or not ((steps > 0).all() or (steps < 0).all()):
        return None
    if np.abs(x - np.expand_dims(centres, 1 - axis)).max() > 1e-6 * np.ptp(centres):
        return None
    return edges(centres)


def edges(centres: Array) -> Array:
    """The edges of pixels with these sorted centres: one more than centres."""
    between = (centres[1:] + centres[:-1]) / 2
    first, last = 2 * centres[0] - between[0], 2 * centres[-1] - between[-1]
    found: Array = np.concatenate([[first], between, [last]])
    return found


def pixels(u: Array, v: Array) -> tuple[Array, Array] | None:
    """The edges of pixels along both axes for points at (u, v); None for too few points."""
    width, height = (float(np.ptp(a)) if a.size else 0.0 for a in (u, v))
    if width <= 0 or height <= 0:
        return None
    columns, rows = distinct(u), distinct(v)
    if len(columns) * len(rows) <= 4 * u.size:
        few = min(len(columns), len(rows)) <= MAX_SERIES
        return None if few else (edges(columns), edges(rows))
    if u.size < 400:
        return None
    pitch = np.sqrt(width * height / u.size)  # not on a grid: pixels that hold about one point each
    return tuple(  # type: ignore[return-value]
        edges(np.linspace(a.min(), a.max(), max(2, round(float(np.ptp(a)) / pitch)))) for a in (u, v)
    )


def distinct(x: Array) -> Array:
    """The sorted distinct values; values that differ only by rounding count as one."""
    values = np.unique(x)
    found: Array = values[np.concatenate([[True], np.diff(values) > 1e-6 * np.ptp(values)])]
    return found
