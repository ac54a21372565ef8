"""What a result carries for pictures and files, made when the fit is over.

None of it may lose the fit: where a model fails here, or something would be too large, the result comes
without it, and a sentence says why.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from park.fit import bands, exports
from park.fit.assembly import Assembly
from park.fit.curve import Curve, Profile
from park.fit.data import Array
from park.fit.env import Env
from park.fit.thinning import thinned

#: All curves of a result take no more bytes than this: beyond it they hold every second point, or third, ...
MOST_BYTES = 64 << 20
#: No band is made for more values than this.
MOST_VALUES = 1_000_000
#: An evaluation that takes more seconds is worth sending to another slot.
SLOW = 0.005


class Portrait(NamedTuple):
    """Curves with bands, the models' own files (compressed, by what follows the base name), and what is missing."""

    curves: tuple[Curve, ...]
    files: dict[str, bytes]
    notes: tuple[str, ...]


class Drawn:
    """A unit of work: at one point, everything that bands are made of, as one row; None where the model fails."""

    def __init__(self, assembly: Assembly, wanted: Sequence[Sequence[Profile] | None]) -> None:
        self.assembly = assembly
        self.wanted = wanted

    def at(self, x: Array) -> Array:
        """The row; raises what the model raises."""
        parts = self.assembly.objective.drawn(x, self.wanted)
        return np.concatenate([_flat(values) for arrays in parts for values in arrays])

    def run(self, x: Array) -> Array | None:
        """The row."""
        try:
            return self.at(x)
        except Exception:
            return None


def portray(assembly: Assembly, x: Array, cov: Array, draws: Array | None, env: Env) -> Portrait:
    """The curves at *x* with their bands from *draws* (n, k), or else from *cov* (k, k), and the models' files."""
    objective = assembly.objective
    curves: list[Curve] = []
    files: dict[str, bytes] = {}
    notes: list[str] = []
    try:
        curves, notes = objective.curves(x)
    except Exception as error:
        notes.append(f"there are no curves: {exports.in_words(error)}")
    try:
        curves = with_bands(assembly, x, cov, draws, curves, env)
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
    assembly: Assembly, x: Array, cov: Array, draws: Array | None, curves: Sequence[Curve], env: Env
) -> list[Curve]:
    """The curves with *low* and *high*, those of profiles too; images have none."""
    wanted = [curve if curve.y.size and not curve.is_image() else None for curve in curves]
    rows = [_flat(values) for curve in wanted if curve is not None for values in _banded(curve)]
    size = sum(row.size for row in rows)
    if not 0 < size <= MOST_VALUES:
        return list(curves)
    drawn = Drawn(assembly, [None if curve is None else curve.profiles for curve in wanted])
    # A fit that was asked to stop ends soon.
    points = bands.chosen(None if env.should_stop else draws, size)
    if len(points):
        found = bands.of_curves(_evaluated(drawn, points, env))
    else:
        objective = assembly.objective
        limits = objective.low, objective.high
        found = bands.propagated(drawn.at, x, np.concatenate(rows), limits, cov)
    if found is None:
        return list(curves)
    return _with_edges(curves, wanted, found)


def _with_edges(
    curves: Sequence[Curve], wanted: Sequence[Curve | None], found: tuple[Array, Array]
) -> list[Curve]:
    """The bounds of everything in one row, given back to the curves that they belong to."""
    result, at = [], 0
    for given, curve in zip(curves, wanted, strict=True):
        if curve is None:
            result.append(given)
            continue
        bounds = []
        for values in _banded(curve):
            count = _flat(values).size
            bounds.append([_shaped(edge[at : at + count], values) for edge in found])
            at += count
        profiles = zip(curve.profiles, bounds[1:], strict=True)
        with_edges = tuple(replace(profile, low=low, high=high) for profile, (low, high) in profiles)
        result.append(replace(curve, low=bounds[0][0], high=bounds[0][1], profiles=with_edges))
    return result


def _evaluated(drawn: Drawn, points: Array, env: Env) -> Iterator[Array | None]:
    """The rows at *points*: from here, or, where each takes its time, from wherever there are slots."""
    begun = time.perf_counter()
    yield drawn.run(points[0])
    slow = time.perf_counter() - begun > SLOW
    yield from env.map(drawn, list(points[1:])) if slow else map(drawn.run, points[1:])


def _banded(curve: Curve) -> list[NDArray[Any]]:
    return [curve.theory, *(profile.y for profile in curve.profiles)]


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
    return [thinned(curve, factor) for curve in curves], [note]
