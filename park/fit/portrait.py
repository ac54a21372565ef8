"""What a result carries for pictures and files, made when the fit is over.

None of it may lose the fit: where a model fails here, or something would be too large, the result comes
without it, and a sentence says why.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from park.fit import exports
from park.fit.bands import band
from park.fit.curve import Curve
from park.fit.data import Array
from park.fit.objective import Objective

#: All curves of a result take no more bytes than this: beyond it they hold every second point, or third, ...
MOST_BYTES = 64 << 20
#: No band is made for more values than this.
MOST_VALUES = 1_000_000


class Portrait(NamedTuple):
    """Curves with bands, the models' own files (compressed, by what follows the base name), and what is missing."""

    curves: tuple[Curve, ...]
    files: dict[str, bytes]
    notes: tuple[str, ...]


def portray(objective: Objective, x: Array, cov: Array, draws: Array | None = None) -> Portrait:
    """The curves at *x* with their bands from *draws* (n, k), or else from *cov* (k, k), and the models' files."""
    curves: list[Curve] = []
    files: dict[str, bytes] = {}
    notes: list[str] = []
    try:
        curves, notes = objective.curves(x)
    except Exception as error:
        notes.append(f"there are no curves: {exports.in_words(error)}")
    try:
        curves = with_bands(objective, x, cov, draws, curves)
    except Exception as error:
        notes.append(f"the curves have no 95 % band: {exports.in_words(error)}")
    curves, less = small(curves)
    notes += less
    try:
        files, missing = exports.written(objective.models(x))
        notes += missing
    except Exception as error:
        notes.append(f"there are no files of the models: {exports.in_words(error)}")
    return Portrait(tuple(curves), files, tuple(notes))


def with_bands(
    objective: Objective, x: Array, cov: Array, draws: Array | None, curves: Sequence[Curve]
) -> list[Curve]:
    """The curves with *low* and *high*, those of profiles too; images have none."""
    wanted = [n for n, curve in enumerate(curves) if curve.y.size and not curve.is_image()]
    size = sum(curves[n].theory.size for n in wanted)
    if not wanted or size > MOST_VALUES:
        return list(curves)
    given = [curves[n] if n in wanted else None for n in range(len(curves))]

    def evaluate(point: Array) -> Array:
        return np.concatenate([_flat(a) for arrays in objective.drawn(point, given) for a in arrays])

    found = band(evaluate, x, (objective.low, objective.high), cov, draws)
    if found is None:
        return list(curves)
    result = list(curves)
    at = 0
    for n in wanted:
        shapes = [curves[n].theory, *(profile.y for profile in curves[n].profiles)]
        bounds = []
        for values in shapes:
            count = _flat(values).size
            bounds.append(tuple(_shaped(edge[at : at + count], values) for edge in found))
            at += count
        profiles = zip(curves[n].profiles, bounds[1:], strict=True)
        result[n] = replace(
            curves[n],
            low=bounds[0][0],
            high=bounds[0][1],
            profiles=tuple(replace(profile, low=low, high=high) for profile, (low, high) in profiles),
        )
    return result


def _flat(values: NDArray[Any]) -> Array:
    """Complex numbers as pairs of numbers."""
    row = np.ascontiguousarray(values).ravel()
    return row.view(np.float64) if np.iscomplexobj(row) else row


def _shaped(row: Array, like: NDArray[Any]) -> NDArray[Any]:
    return (row.copy().view(np.complex128) if np.iscomplexobj(like) else row).reshape(like.shape)


def small(curves: Sequence[Curve]) -> tuple[list[Curve], list[str]]:
    """The curves, thinned where all of them together are larger than MOST_BYTES, and words about that."""
    size = sum(curve.nbytes() for curve in curves)
    if size <= MOST_BYTES:
        return list(curves), []
    factor = math.ceil(size / MOST_BYTES)
    note = f"the curves are too large to travel with the result: they hold one of every {factor} points"
    return [curve.thinned(factor) for curve in curves], [note]
