"""The sides of a constraint near a point, each as a linear constraint.

A constraint between parameters is a smooth surface, or has edges: ``max(a, b) <= c`` has two sides that meet at a = b = c.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from park.fit.arrays import Array
from park.fit.problem.objective import Inequality

#: Distance, in scales, of the points at which the sides of a constraint are looked for, and the relative difference of
#: their normals from which on it has an edge there.
_EDGE_SCALES, _EDGE_DIFFERENCE = 1e-2, 0.1
#: Length of a normal, relative to the longest one, below which it is noise.
_LEAST_NORMAL = 1e-3


class Fence(NamedTuple):
    """One side of a constraint near a point x: ``slack + normal @ (point - x)`` is at least zero.

    *inequality* is None for a limit of a parameter.
    """

    inequality: Inequality | None
    slack: float
    normal: Array


def sides_of(inequality: Inequality, x: Array, scale: Array) -> list[Fence]:
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
    _pair_opposite(found, scale)
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


def _pair_opposite(sides: list[Fence], scale: Array) -> None:
    """Makes the normals of two opposite *sides* of one curved surface, as of ``abs(a * b - 1) <= 0``, exactly opposite.

    They were found on both sides of the point. Their mean is the normal at the point, and directions along the surface stay
    free.
    """
    for i, one in enumerate(sides):
        for j, other in enumerate(sides[:i]):
            together = np.linalg.norm((one.normal + other.normal) * scale)
            if together <= _EDGE_DIFFERENCE * np.linalg.norm(one.normal * scale):
                mean = (one.normal - other.normal) / 2
                sides[i], sides[j] = one._replace(normal=mean), other._replace(normal=-mean)


def normal_of(inequality: Inequality, x: Array, scale: Array) -> Array:
    """The gradient (k,) of the slack of an *inequality* at *x*."""
    normal = np.empty(x.size)
    for j in range(x.size):
        step = max(1e-6 * scale[j], float(4 * np.spacing(abs(x[j]))))
        up, down = x.copy(), x.copy()
        up[j], down[j] = x[j] + step, x[j] - step
        normal[j] = (inequality.slack(up) - inequality.slack(down)) / (up[j] - down[j])
    normal[~np.isfinite(normal)] = 0.0
    return normal
