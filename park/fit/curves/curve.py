"""Data and fit of one part as plain arrays, for plots and files.

A `Curve` is read from a model where the fit ran, and is sent with the result. A client can plot a reflectivity or a
scattering pattern without the library that computed it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from park.fit.arrays import Array
from park.fit.curves.pixel_grid import MAX_SERIES, edges_along, pixels, series


class CurveLine(NamedTuple):
    """One line of a plot, with arrays of shape (n,): measured *y* with *dy*, the fit *theory* and its 95 % band."""

    label: str
    x: Array
    y: Array
    dy: Array | None
    theory: Array
    low: Array | None
    high: Array | None


class Image(NamedTuple):
    """Data, fit and residuals on a grid of pixels, shape (rows, columns); nan in pixels without a point.

    *across* (columns + 1,) and *up* (rows + 1,) are the edges of the pixels. *labels* belong to the two axes and the
    values.
    """

    across: Array
    up: Array
    labels: tuple[str, str, str]
    data: Array
    theory: Array
    residuals: Array


@dataclass(frozen=True, slots=True)
class DepthProfile:
    """A computed curve without data, such as the scattering length density against depth."""

    name: str
    x: Array
    y: Array
    labels: tuple[str, str]
    low: Array | None = None
    high: Array | None = None


@dataclass(frozen=True, slots=True)
class Curve:
    """Data and fit of one part. *low* and *high* bound the fit with a probability of 95 %.

    *y*, *dy* and *theory* have the shape of the data and may be complex. *x* has that shape, or is one coordinate for each
    column or row, or holds several coordinates: (k, ...) or (..., k). *mask* is True at points that are left out. *labels*
    belong to x (or to each coordinate) and y. If y consists of several pieces, *pieces* has the name and the number of
    points of each.

    For a part whose points are unknown (some bumps models) *y* is empty, and only *residuals* and *image*, a plot that the
    model has drawn itself (PNG), may be set.
    """

    name: str
    x: Array
    y: NDArray[Any]
    dy: NDArray[Any] | None
    theory: NDArray[Any]
    residuals: Array
    labels: tuple[str, ...] = ("x", "y")
    low: NDArray[Any] | None = None
    high: NDArray[Any] | None = None
    mask: NDArray[np.bool_] | None = None
    pieces: tuple[tuple[str, int], ...] = ()
    profiles: tuple[DepthProfile, ...] = ()
    #: the default view of its plot: "linear", "log", "logx" or "loglog"; None if the data decide
    view: str | None = None
    #: x and values of the fit on a finer grid, drawn in place of *theory*
    fine: tuple[Array, Array] | None = None
    image: bytes = b""
    #: True for a bumps model: `save` gives its plot the name that bumps uses
    from_bumps: bool = False

    def coordinates(self) -> list[Array]:
        """The coordinates of all points, each with the shape of y; [] if x has another shape."""
        x, shape = np.asarray(self.x), self.y.shape
        if x.shape == shape:
            return [x]
        if x.ndim == 1 and len(shape) > 1 and x.size in (shape[-1], shape[0]):
            return [np.broadcast_to(x if x.size == shape[-1] else _upright(x, len(shape)), shape)]
        if x.shape[1:] == shape:
            return list(x)
        if x.shape[:-1] == shape:
            return list(np.moveaxis(x, -1, 0))
        if x.ndim == 2 and x.shape[1] == self.y.size:
            return [row.reshape(shape) for row in x]
        return []

    def lines(self) -> list[CurveLine]:
        """The lines of data and fit, sorted by x; [] for images and for parts without known points."""
        if not self.y.size or self.is_image():
            return []
        found = [line for piece in self._pieces() for line in _real(piece)]
        return [_sorted(line) for line in found if line.x.size]

    def drawn(self, line: CurveLine) -> tuple[Array, Array]:
        """x and values of the fit of one of the lines, as a plot shows them."""
        if self.fine is None:
            return line.x, line.theory
        order = np.argsort(self.fine[0], kind="stable")
        return self.fine[0][order], self.fine[1][order]

    def is_image(self) -> bool:
        """Whether the points form an image."""
        if self.y.size == 0 or np.iscomplexobj(self.y) or self.pieces:
            return False
        if self.y.ndim > 1:
            return not self.is_rows()
        return self._edges(self.coordinates()) is not None

    def pixels(self) -> Image | None:
        """The image of the points; None if they form none."""
        if not self.is_image():
            return None
        return self.grid(self.coordinates()) if self.y.ndim > 1 else self._scattered(self.coordinates())

    def missing(self) -> NDArray[np.bool_]:
        """Flags with the shape of y: True at points that are left out."""
        return np.zeros(self.y.shape, dtype=bool) if self.mask is None else self.mask

    def differences(self) -> NDArray[Any]:
        """Data minus fit, divided by dy if it is known; nan at masked points."""
        with np.errstate(all="ignore"):
            found = np.asarray(self.y) - self.theory
            if self.dy is not None:
                if np.iscomplexobj(self.dy):
                    found = np.real(found) / self.dy.real + 1j * (np.imag(found) / self.dy.imag)
                else:
                    found = found / self.dy
        return np.where(self.missing(), np.nan, found)

    def nbytes(self) -> int:
        """The size of the arrays and the plot, in bytes."""
        values = [getattr(self, f.name) for f in fields(self)] + list(self.fine or ())
        return len(self.image) + sum(v.nbytes for v in values if isinstance(v, np.ndarray))

    def is_rows(self) -> bool:
        """Whether a two-dimensional y is a set of curves over a common x."""
        if self.y.ndim != 2 or np.ndim(self.x) != 1:
            return False
        along = 1 if self.x.size == self.y.shape[1] else 0
        several = len(np.unique(self.x)) > 1
        return self.x.size == self.y.shape[along] and self.y.shape[1 - along] <= MAX_SERIES and several

    def _pieces(self) -> list[CurveLine]:
        """The lines, with complex values not yet split."""
        at = self.coordinates()
        given = (self.y, self.dy, self.theory, self.low, self.high)
        if self.is_rows():
            axis = 0 if self.x.size == self.y.shape[1] else 1
            names = self.labels[2:] if len(self.labels) == 2 + self.y.shape[axis] else ()
            return [
                self._line(
                    names[n] if names else f"{self.labels[-1]}{n + 1}",
                    self.x,
                    [None if a is None else np.take(a, n, axis) for a in given],
                    np.take(self.missing(), n, axis),
                )
                for n in range(self.y.shape[axis])
            ]
        flat = [None if a is None else np.ravel(a) for a in given]
        mask, count = np.ravel(self.missing()), np.arange(1.0, self.y.size + 1)
        if self.pieces:
            ends = np.cumsum([size for _, size in self.pieces])
            x = np.ravel(at[0]) if at else count
            cuts = [slice(end - size, end) for end, (_, size) in zip(ends, self.pieces, strict=True)]
            labels = [label for label, _ in self.pieces]
        elif len(at) == 2 and (found := series(*map(np.ravel, at))) is not None:
            along, values, groups = found
            x = np.ravel(at[along])
            name = self._axes()[1 - along]
            cuts, labels = groups, [f"{name} = {value:.6g}" for value in values]
        else:
            x = np.ravel(at[0]) if len(at) == 1 else count
            cuts, labels = [slice(None)], [""]
        return [
            self._line(label, x[cut], [None if a is None else a[cut] for a in flat], mask[cut])
            for label, cut in zip(labels, cuts, strict=True)
        ]

    def _line(self, label: str, x: Any, arrays: Sequence[Any], mask: Any) -> CurveLine:
        use = ~np.asarray(mask)
        y, dy, theory, low, high = (None if a is None else a[use] for a in arrays)
        assert y is not None
        assert theory is not None
        return CurveLine(label, np.asarray(x)[use], y, dy, theory, low, high)

    @property
    def against(self) -> str:
        """The label of the horizontal axis of lines."""
        at = self.coordinates()
        if len(at) == 2 and (found := series(*map(np.ravel, at))) is not None:
            return self._axes()[found[0]]
        return self.labels[0] if len(at) == 1 else "point"

    @property
    def value(self) -> str:
        """The label of the values."""
        return self.labels[1] if self.is_rows() or len(self.labels) < 3 else self.labels[-1]

    def grid(self, at: list[Array]) -> Image:
        """The image of a y with two or more dimensions; all dimensions but the last become rows."""
        shape = (-1, self.y.shape[-1])
        arrays = (self.y, self.theory, self.differences())
        data, theory, residuals = (np.asarray(a, dtype=np.float64).reshape(shape) for a in arrays)
        outside = self.missing().reshape(shape)
        data, theory = (np.where(outside, np.nan, a) for a in (data, theory))
        rows, columns = data.shape
        across, up = (np.arange(n + 1, dtype=np.float64) + 0.5 for n in (columns, rows))
        labels = ("column", "row")
        if self.y.ndim == 2 and len(at) == 2:
            for first, second in ((0, 1), (1, 0)):
                horizontal, vertical = edges_along(at[first], 1), edges_along(at[second], 0)
                if horizontal is not None and vertical is not None:
                    names = self._axes()
                    across, up, labels = horizontal, vertical, (names[first], names[second])
        return Image(across, up, (*labels, self.value), data, theory, residuals)

    def _edges(self, at: list[Array]) -> tuple[Array, Array] | None:
        """The edges of the pixels of points with two coordinates; None if the points form no image."""
        use = ~self.missing()
        return pixels(at[0][use], at[1][use]) if len(at) == 2 else None

    def _scattered(self, at: list[Array]) -> Image:
        """The image of points on a grid, or of many points: each pixel is the mean of its points."""
        edges, use = self._edges(at), ~self.missing()
        assert edges is not None
        (across, up), (u, v) = edges, (coordinate[use] for coordinate in at)
        columns, rows = len(across) - 1, len(up) - 1
        column = np.clip(np.searchsorted(across, u, side="right") - 1, 0, columns - 1)
        row = np.clip(np.searchsorted(up, v, side="right") - 1, 0, rows - 1)
        where, size = row * columns + column, rows * columns
        with np.errstate(all="ignore"):
            count = np.bincount(where, minlength=size).reshape(rows, columns)
            values = [np.asarray(a, dtype=np.float64)[use] for a in (self.y, self.theory, self.differences())]
            means = [np.bincount(where, a, size).reshape(rows, columns) / count for a in values]
        return Image(across, up, (*self._axes(), self.value), *means)

    def _axes(self) -> tuple[str, str]:
        """The labels of two coordinates."""
        return (self.labels[0], self.labels[1]) if len(self.labels) > 2 else ("x1", "x2")


def nothing(name: str) -> Curve:
    """The curve of a part without data."""
    empty = np.empty(0)
    return Curve(name, empty, empty, None, empty, empty)


def _upright(x: Array, dimensions: int) -> Array:
    return x.reshape((-1,) + (1,) * (dimensions - 1))


def _real(line: CurveLine) -> list[CurveLine]:
    """A complex line split into real and imaginary part."""
    if not (np.iscomplexobj(line.y) or np.iscomplexobj(line.theory)):
        return [line]
    found = []
    for name in ("real", "imag"):
        dy = line.dy if line.dy is None or not np.iscomplexobj(line.dy) else getattr(line.dy, name)
        y, theory = (getattr(np.asarray(a), name) for a in (line.y, line.theory))
        low, high = (None if a is None else getattr(np.asarray(a), name) for a in (line.low, line.high))
        part = "imaginary part" if name == "imag" else "real part"
        label = f"{line.label}, {part}" if line.label else part
        found.append(CurveLine(label, line.x, y, dy, theory, low, high))
    return found


def _sorted(line: CurveLine) -> CurveLine:
    order = np.argsort(line.x, kind="stable")
    return CurveLine(line.label, *(None if a is None else a[order] for a in line[1:]))  # type: ignore[arg-type]
