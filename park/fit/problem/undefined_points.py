"""Points at which a model has no finite value for any parameters, such as sin(x)/x at x = 0.

No method can fit such a part, because every sum of squares is nan. A model that has no value at a point for some parameters
only is no error: a fit avoids these parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from park.fit.arrays import Array
from park.fit.problem.data import Data
from park.fit.problem.input_arrays import where

#: number of parameter vectors for which the same points must have no value
_PARAMETER_TRIALS = 8


def missing_value(
    data: Data, at_start: Array, theory: Callable[[Array], Array], start: Array, low: Array, high: Array
) -> str:
    """An error message about the first of these points; "" if there are none.

    *theory* maps a vector to the values of the model. It is not called if all values *at_start* are finite.
    """
    holes = data.without_value(at_start)
    if not holes.any() or holes.sum() * (2 if np.iscomplexobj(data.y) else 1) == len(data):
        return ""
    for point in trials(start, low, high):
        if not np.array_equal(data.without_value(theory(point)), holes):
            return ""
    first = int(np.flatnonzero(holes)[0])
    return (
        f"it has no finite value at index {where(first, holes.shape)}{data.place(first)}, whatever its parameters "
        f"are: mend the model there, or leave the point out with a mask (numpy.ma)"
    )


def trials(start: Array, low: Array, high: Array) -> Iterator[Array]:
    """Random parameter vectors: uniform between finite limits, otherwise about the start."""
    rng = np.random.default_rng(0)
    for _ in range(_PARAMETER_TRIALS):
        finite = np.isfinite(low) & np.isfinite(high)
        near = start + (np.abs(start) + (start == 0)) * rng.uniform(-0.3, 0.3, start.size)
        within = np.where(finite, low, 0) + np.where(finite, high - low, 0) * rng.random(start.size)
        yield np.where(finite, within, np.clip(near, low, high))
