"""Measured data."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from park.errors import InvalidRequest

Array = NDArray[np.float64]


class Data:
    """Points *x*, measured values *y* and their standard errors *dy*.

    *y* has n values (or any shape), *dy* the same shape. *x* has n values too, or several coordinates
    for each point: shape (n, k) or (k, n), handed to the model as it is. Without *dy* all points weigh
    the same, and the errors of parameters are scaled by the scatter about the fit.

    *name* and *labels* (of x and y) are for plots.

    >>> Data([1, 2, 3], [2.1, 3.9, 6.2], 0.1)
    <Data: 3 points>
    """

    def __init__(
        self, x: Any, y: Any, dy: Any = None, name: str = "", labels: tuple[str, str] = ("x", "y")
    ) -> None:
        self.x = _array(x, "x")
        self.y = _array(y, "y")
        if self.y.ndim == 0:
            raise InvalidRequest(f"y={y!r} is one number, not an array of data")
        if self.y.ndim == 1 and self.y.size not in (self.x.shape[:1] + self.x.shape[-1:]):
            raise InvalidRequest(f"x of shape {self.x.shape} does not match y of {self.y.size} points")
        self.dy: Array | None = None
        if dy is not None:
            dy = _array(dy, "dy")
            if dy.ndim == 0:
                dy = np.full(self.y.shape, float(dy))
            if dy.shape != self.y.shape:
                raise InvalidRequest(f"dy has shape {dy.shape} and y has shape {self.y.shape}")
            bad = np.flatnonzero(dy <= 0)
            if bad.size:
                raise InvalidRequest(f"dy must be positive; it is {dy.flat[bad[0]]:g} at index {bad[0]}")
            self.dy = dy
        self.name = name
        self.labels = labels

    def __len__(self) -> int:
        return int(self.y.size)

    def __repr__(self) -> str:
        return f"<Data{' ' + self.name if self.name else ''}: {len(self)} points>"


def as_data(given: Any) -> Data:
    """The `Data` behind a tuple (x, y) or (x, y, dy)."""
    if isinstance(given, Data):
        return given
    if isinstance(given, tuple | list) and len(given) in (2, 3):
        return Data(*given)
    raise InvalidRequest(f"{given!r:.80} is neither Data nor a tuple (x, y) or (x, y, dy)")


def _array(given: Any, what: str) -> Array:
    """A private float64 copy; refuses what is empty, not real numbers, or not finite."""
    try:
        array = np.asarray(given)
    except ValueError as error:
        raise InvalidRequest(f"{what} is not an array of numbers: {error}") from None
    if array.dtype.kind not in "iuf":
        raise InvalidRequest(f"{what} has dtype {array.dtype}: real numbers are needed")
    if array.size == 0:
        raise InvalidRequest(f"{what} is empty")
    array = np.array(array, dtype=np.float64)
    bad = np.flatnonzero(~np.isfinite(array))
    if bad.size:
        raise InvalidRequest(f"{what} must be finite; it is {array.flat[bad[0]]} at index {bad[0]}")
    array.flags.writeable = False
    return array
