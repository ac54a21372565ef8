"""Reduces the points of a curve that is too large to be sent with a result."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from park.fit.arrays import Array
from park.fit.curves.curve import Curve


def thinned(curve: Curve, factor: int) -> Curve:
    """The curve with about one of *factor* points; an image keeps one pixel of each square."""
    number = np.arange(curve.y.size).reshape(curve.y.shape)
    if curve.is_rows():
        axis = 1 if curve.x.size == curve.y.shape[1] else 0
        cut = (slice(None),) * axis + (slice(None, None, factor),)
        return _at(curve, cut, curve.x[::factor], curve.pieces, curve.labels)
    at: list[NDArray[Any]] = list(curve.coordinates())
    labels, pieces = curve.labels, curve.pieces
    if pieces:
        ends = np.cumsum([size for _, size in pieces])
        parts = [np.arange(end - size, end, factor) for end, (_, size) in zip(ends, pieces, strict=True)]
        pieces = tuple((name, len(part)) for (name, _), part in zip(pieces, parts, strict=True))
        chosen = np.concatenate(parts)
    elif curve.y.ndim > 1:
        side = math.ceil(math.sqrt(factor))
        chosen = number[..., ::side, ::side].ravel()
        if curve.grid(at).labels[0] == "column":
            columns = curve.y.shape[-1]
            at = [number % columns + 1.0, number // columns + 1.0]
            labels = ("column", "row", curve.value)
    else:
        chosen = number[::factor]
    where = np.unravel_index(chosen, curve.y.shape)
    x = np.array([coordinate[where] for coordinate in at or [number + 1.0]])
    return _at(curve, where, x if len(x) > 1 else x[0], pieces, labels)


def _at(curve: Curve, cut: Any, x: Array, pieces: Any, labels: tuple[str, ...]) -> Curve:
    """The curve at the points that *cut* selects from y; residuals become those of these points."""
    names = ("y", "dy", "theory", "low", "high", "mask")
    arrays = {name: getattr(curve, name) for name in names}
    taken: dict[str, Any] = {name: None if a is None else np.array(a[cut]) for name, a in arrays.items()}
    thin = replace(curve, x=x, pieces=pieces, labels=labels, **taken)
    return replace(thin, residuals=-np.ravel(thin.differences()[~thin.missing()]))
