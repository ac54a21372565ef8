"""The minimum of a quadratic within constraints and limits, and the constraints that hold it.

A constraint between parameters is a smooth surface, or has edges: ``max(a, b) <= c`` has two sides that meet at a = b = c.
Near a point each side is a linear constraint of its own. With the limits of the parameters they bound a region, in which
the quadratic approximation of nllf has one minimum. In coordinates z in which nllf is ``z @ z / 2`` this is the shortest z
with ``rows @ z >= least``.

Source: Lawson and Hanson, Solving Least Squares Problems (1974), chapter 23 (least distance programming).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from park.fit.arrays import Array
from park.fit.numerics.constrained import normal_of
from park.fit.problem.objective import Inequality, Objective

#: Distance, in scales, of the points at which the sides of a constraint are looked for, and the relative difference of
#: their normals from which on it has an edge there.
_EDGE_SCALES, _EDGE_DIFFERENCE = 1e-2, 0.1
#: Length of a normal, relative to the longest one, below which it is noise.
_LEAST_NORMAL = 1e-3
#: A constraint counts as reached within this part of a conditional standard error.
_ACTIVE_SIGMAS = 1e-2


class Fence(NamedTuple):
    """One side of a constraint near a point x: ``slack + normal @ (point - x)`` is at least zero.

    *inequality* is None for a limit of a parameter.
    """

    inequality: Inequality | None
    slack: float
    normal: Array


class FencedMinimum(NamedTuple):
    """The *step* (k,) to the minimum of a quadratic within all fences, its *gain* in nllf, and the fences that hold it."""

    step: Array
    gain: float
    holding: list[Fence]


def fenced_minimum(objective: Objective, x: Array, gradient: Array, factor: Array) -> FencedMinimum:
    """The minimum about *x* of the quadratic with *gradient* (k,) and the second derivatives factor' factor.

    Only fences on which *x* lies already count as holding.
    """
    norms = np.linalg.norm(factor, axis=0)
    norms[norms == 0] = 1.0
    inverse = np.linalg.pinv(factor / norms, rcond=1e-9)
    target = inverse.T @ (gradient / norms)
    fences = _fences(objective, x, 1 / norms)
    rows = np.array([fence.normal / norms @ inverse for fence in fences]).reshape(-1, target.size)
    lengths = np.linalg.norm(rows, axis=1)
    lengths[lengths == 0] = 1.0  # a fence for a parameter without an effect
    least = rows @ target - [fence.slack for fence in fences]
    z, force = _shortest(rows / lengths[:, None], least / lengths)
    holding = [
        fence
        for fence, holds in zip(fences, force, strict=True)
        if holds and fence.slack <= _ACTIVE_SIGMAS * np.linalg.norm(fence.normal / norms)
    ]
    step = inverse @ (z - target) / norms
    return FencedMinimum(step, 0.5 * float(target @ target - z @ z), holding)


def _shortest(rows: Array, least: Array) -> tuple[Array, NDArray[np.bool_]]:
    """The shortest z (m,) with ``rows @ z >= least``, where the *rows* have length one, and the rows that hold it."""
    outside: NDArray[np.bool_] = least > 0
    zero = np.zeros(rows.shape[1])
    if not outside.any():
        return zero, outside
    from scipy.optimize import nnls

    unit = float(np.abs(least[outside]).max())
    matrix = np.vstack([rows.T, least / unit])
    try:
        force, _ = nnls(matrix, np.append(zero, 1.0))
    except RuntimeError:  # too many iterations
        return zero, outside
    rest = matrix @ force - np.append(zero, 1.0)
    if not rest[-1] < 0:  # no point is within all of them
        return zero, outside
    return -rest[:-1] / rest[-1] * unit, force > 1e-10 * force.max()


def _fences(objective: Objective, x: Array, scale: Array) -> list[Fence]:
    found = [fence for inequality in objective.inequalities for fence in _sides(inequality, x, scale)]
    for normal, value, low, high in zip(np.eye(x.size), x, objective.low, objective.high, strict=True):
        sides = ((1.0, value - low), (-1.0, high - value))
        found += [Fence(None, float(slack), way * normal) for way, slack in sides if np.isfinite(slack)]
    return found


def _sides(inequality: Inequality, x: Array, scale: Array) -> list[Fence]:
    """The sides of an *inequality* near *x*: one where its slack is smooth, and those that meet on an edge."""
    near = _EDGE_SCALES * scale
    points = [x + way * near[j] * unit for j, unit in enumerate(np.eye(x.size)) for way in (1.0, -1.0)]
    normals = [normal_of(inequality, point, scale) for point in points]
    lengths = [float(np.linalg.norm(normal * scale)) for normal in normals]
    found: list[Fence] = []
    for point, normal, length in zip(points, normals, lengths, strict=True):
        slack = inequality.slack(point) + float(normal @ (x - point))
        apart = [np.linalg.norm((normal - other.normal) * scale) for other in found]
        telling = np.isfinite(slack) and length > _LEAST_NORMAL * max(lengths)  # others are rounding noise
        if telling and all(each > _EDGE_DIFFERENCE * length for each in apart):
            found.append(Fence(inequality, slack, normal))
    slacks = np.array([inequality.slack(point) for point in points])
    # where the slack is the larger one of two sides, the region has a notch, and no minimum lies there
    notched = any(
        np.any(
            side.slack + (np.array(points) - x) @ side.normal
            < slacks - _EDGE_DIFFERENCE * _EDGE_SCALES * np.linalg.norm(side.normal * scale)
        )
        for side in found
    )
    if len(found) > 1 and not notched:
        return found
    normal = normal_of(inequality, x, scale)
    return [Fence(inequality, inequality.slack(x), normal)] if normal.any() else []
