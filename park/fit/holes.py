"""Points where a model has no value whatever its parameters are, such as sin(x)/x at x = 0.

No method can fit such a part, since every sum of squares is nan. A model may also have no value at some points
for some parameters only; then a fit goes elsewhere, and nothing is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from park.fit.columns import where
from park.fit.data import Array, Data

#: at how many sets of parameters the same points must be without a value
_TRIALS = 8


def missing_value(
    data: Data, at_start: Array, theory: Callable[[Array], Array], start: Array, low: Array, high: Array
) -> str:
    """A sentence about the first of these points; "" if there is none.

    *theory* gives the values of the model at a vector. It is not called if those *at_start* are all finite.
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
    """Several sets of parameters: anywhere between finite limits, else about the start."""
    rng = np.random.default_rng(0)
    for _ in range(_TRIALS):
        finite = np.isfinite(low) & np.isfinite(high)
        near = start + (np.abs(start) + (start == 0)) * rng.uniform(-0.3, 0.3, start.size)
        within = np.where(finite, low, 0) + np.where(finite, high - low, 0) * rng.random(start.size)
        yield np.where(finite, within, np.clip(near, low, high))
