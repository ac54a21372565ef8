"""The curves and files of a result, for plots and for saving.

They are made when the fit is over, and a failure must not lose the fit: if a model fails here, or a curve is too large,
the result comes without the curve, and a remark says why.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from park.fit.arrays import Array
from park.fit.curves import bumps_output, error_bands
from park.fit.curves.curve import Curve, DepthProfile
from park.fit.curves.downsampling import thinned
from park.fit.environment import Env
from park.fit.problem.assembly import Assembly

#: Largest size of all curves of a result (bytes); larger curves are reduced to every second point, or third, ...
MAX_CURVE_BYTES = 64 << 20
#: Largest number of values for which error bands are made.
MAX_BAND_VALUES = 1_000_000
#: Evaluations that take longer than this (seconds) are distributed to other slots.
SLOW_EVALUATION_SECONDS = 0.005


class ResultCurves(NamedTuple):
    """Curves with error bands, compressed files of the models by suffix, and remarks on missing ones."""

    curves: tuple[Curve, ...]
    files: dict[str, bytes]
    notes: tuple[str, ...]


class CurvesAtPoint:
    """A unit of work that evaluates all banded curves at one point, as one row; None if the model fails."""

    #: each evaluation leaves the generators of models as they were
    keeps_own_generators = True

    def __init__(self, assembly: Assembly, wanted: Sequence[Sequence[DepthProfile] | None]) -> None:
        self.assembly = assembly
        self.wanted = wanted

    def at(self, x: Array) -> Array:
        """The row at *x* (k,). Exceptions of the model are raised."""
        parts = self.assembly.objective.drawn(x, self.wanted)
        return np.concatenate([_flat(values) for arrays in parts for values in arrays])

    def run(self, x: Array) -> Array | None:
        """The row at *x* (k,), or None if the model raises."""
        try:
            return self.at(x)
        except Exception:
            return None


def make_result_curves(
    assembly: Assembly, x: Array, cov: Array, draws: Array | None, env: Env
) -> ResultCurves:
    """The curves at *x* with error bands from *draws* (n, k), or from *cov* (k, k), and the files of the models."""
    objective = assembly.objective
    curves: list[Curve] = []
    files: dict[str, bytes] = {}
    notes: list[str] = []
    try:
        curves, notes = objective.curves(x)
    except Exception as error:
        notes.append(f"there are no curves: {bumps_output.describe_error(error)}")
    try:
        curves = with_bands(assembly, x, cov, draws, curves, env)
    except Exception as error:
        notes.append(f"the curves have no 95 % band: {bumps_output.describe_error(error)}")
    curves, less = small(curves)
    notes += less
    try:
        files, missing = bumps_output.model_files(objective.models(x))
        notes += missing
    except Exception as error:
        notes.append(f"there are no files of the models: {bumps_output.describe_error(error)}")
    return ResultCurves(tuple(curves), files, tuple(notes))


def with_bands(
    assembly: Assembly, x: Array, cov: Array, draws: Array | None, curves: Sequence[Curve], env: Env
) -> list[Curve]:
    """The curves with *low* and *high* set, also in their profiles; images have no bands."""
    wanted = [curve if curve.y.size and not curve.is_image() else None for curve in curves]
    rows = [_flat(values) for curve in wanted if curve is not None for values in _banded(curve)]
    size = sum(row.size for row in rows)
    if not 0 < size <= MAX_BAND_VALUES:
        return list(curves)
    drawn = CurvesAtPoint(assembly, [None if curve is None else curve.profiles for curve in wanted])
    # A stopped fit skips the evaluations of draws.
    points = error_bands.chosen(None if env.should_stop else draws, size)
    if len(points):
        found = error_bands.of_curves(_evaluated(drawn, points, env))
    else:
        objective = assembly.objective
        limits = objective.low, objective.high
        found = error_bands.propagated(drawn.at, x, np.concatenate(rows), limits, cov)
    if found is None:
        return list(curves)
    return _with_edges(curves, wanted, found)


def _with_edges(
    curves: Sequence[Curve], wanted: Sequence[Curve | None], found: tuple[Array, Array]
) -> list[Curve]:
    """Splits the bounds, which are in one row, among the curves."""
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


def _evaluated(drawn: CurvesAtPoint, points: Array, env: Env) -> Iterator[Array | None]:
    """The rows at *points*, evaluated here, or in parallel if an evaluation is slow."""
    begun = time.perf_counter()
    yield drawn.run(points[0])
    slow = time.perf_counter() - begun > SLOW_EVALUATION_SECONDS
    yield from env.map(drawn, list(points[1:])) if slow else map(drawn.run, points[1:])


def _banded(curve: Curve) -> list[NDArray[Any]]:
    return [curve.theory, *(profile.y for profile in curve.profiles)]


def _flat(values: NDArray[Any]) -> Array:
    """The values as one row of floats; complex values become pairs."""
    row = np.ascontiguousarray(values).ravel()
    return row.view(np.float64) if np.iscomplexobj(row) else row


def _shaped(row: Array, like: NDArray[Any]) -> NDArray[Any]:
    return (row.copy().view(np.complex128) if np.iscomplexobj(like) else row).reshape(like.shape)


def small(curves: Sequence[Curve]) -> tuple[list[Curve], list[str]]:
    """The curves, reduced if they exceed MAX_CURVE_BYTES together, and a remark on that."""
    size = sum(curve.nbytes() for curve in curves)
    if size <= MAX_CURVE_BYTES:
        return list(curves), []
    factor = math.ceil(size / MAX_CURVE_BYTES)
    note = f"the curves are too large to travel with the result: they hold one of every {factor} points"
    return [thinned(curve, factor) for curve in curves], [note]
