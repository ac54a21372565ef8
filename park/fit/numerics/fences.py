"""The minimum of a quadratic within constraints and limits, and the constraints that hold it.

Near a point each side of a constraint (`park.fit.numerics.sides`) is a linear one. With the limits of the parameters they
bound a region, in which the quadratic approximation of nllf has one minimum. In coordinates z in which nllf is
``z @ z / 2`` this is the shortest z with ``rows @ z >= least``.

Source: Lawson and Hanson, Solving Least Squares Problems (1974), chapter 23 (least distance programming).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from park.fit.arrays import Array
from park.fit.numerics.sides import Fence, sides_of
from park.fit.problem.objective import Objective

#: A constraint counts as reached within this part of a conditional standard error.
_ACTIVE_SIGMAS = 1e-2


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
    found = [fence for inequality in objective.inequalities for fence in sides_of(inequality, x, scale)]
    for normal, value, low, high in zip(np.eye(x.size), x, objective.low, objective.high, strict=True):
        sides = ((1.0, value - low), (-1.0, high - value))
        found += [Fence(None, float(slack), way * normal) for way, slack in sides if np.isfinite(slack)]
    return found
