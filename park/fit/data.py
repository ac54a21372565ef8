"""Measured data, and the residuals of a model at them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from park.errors import InvalidRequest
from park.fit import pairing
from park.fit.columns import read, unit_of
from park.fit.coordinates import Flags, are_several, columns_of, coordinates_of
from park.fit.usable import errors_of, not_finite, refuse_errors
from park.fit.whitening import covariance_of, whitening

Array = NDArray[np.float64]


class WrongShape(InvalidRequest):
    """Raised when a model returns something that cannot be compared with its data."""


class Data:
    """Points *x*, measured values *y* and their standard errors *dy*.

    *y* has n values or the shape of an image; *dy* has the same shape, or is one number for all points.
    Without *dy* the errors are unknown, and are estimated from the scatter about the fit. *cov*, a matrix
    (n, n), is the covariance of correlated errors, in place of *dy*. A complex *y* has a complex *dy* (the
    errors of real and imaginary parts) or a real one for both.

    *x* has the shape of *y*, or several coordinates: a tuple of arrays ``(x, t)`` that broadcast to the shape
    of *y*, or one array (n, k) or (k, n). A model ``f(x, t, ...)`` gets one by one, a model ``f(q, ...)`` all in
    one array, whose ``q[0]`` is the first of the tuple.

    Masked points (``numpy.ma``, in any of the arrays) are left out. Nan and infinity are refused;
    ``nan="drop"`` leaves such points out too. The model of a row of points gets those that remain. The model
    of an image gets all pixels, and those left out are not compared.

    *name* and *labels* (of x, or of each coordinate, and of y) are for plots.

    >>> Data([1, 2, 3], [2.1, 3.9, 6.2], 0.1)
    <Data: 3 points>
    >>> Data([1, 2, 3], [2.1, float("nan"), 6.2], nan="drop")
    <Data: 2 points, 1 left out>
    """

    #: as a model with one argument for it gets it
    x: Array
    #: complex128 for complex data; nan in pixels that are left out
    y: NDArray[Any]
    #: shaped as y, complex as y; None if it is unknown
    dy: NDArray[Any] | None
    #: the covariance of the points that remain
    cov: Array | None
    #: True for the pixels of an image that are left out; None if all points of y count
    mask: Flags | None
    #: how many points there are, with those that are left out
    given: int
    left_out: int

    def __init__(
        self,
        x: Any,
        y: Any,
        dy: Any = None,
        name: str = "",
        labels: tuple[str, ...] = ("x", "y"),
        *,
        cov: Any = None,
        nan: str = "refuse",
    ) -> None:
        self.name = name
        self.labels = labels
        try:
            self._read(x, y, dy, cov, nan)
        except InvalidRequest as error:
            if not name:
                raise
            raise InvalidRequest(f"data {name!r}: {error}") from None
        self._protect()

    def _read(self, x: Any, y: Any, dy: Any, cov: Any, nan: str) -> None:
        if nan not in ("refuse", "drop"):
            raise InvalidRequest(f"nan={nan!r} is neither 'refuse' nor 'drop'")
        several = are_several(x)
        given = [(f"x[{n}]", one) for n, one in enumerate(x)] if several else [("x", x)]
        pairing.check([*given, ("y", y), ("dy", dy), ("cov", cov)])
        columns = columns_of(x)
        values = read(y, "y", complex_too=True)
        if values.values.ndim == 0:
            raise InvalidRequest(f"y={y!r} is one number, not an array of data")
        shape = values.values.shape
        self._points, masked = coordinates_of(columns, several, shape)
        errors = errors_of(dy, values, cov is not None)
        parts = 2 if np.iscomplexobj(values.values) else 1
        matrix = None if cov is None else covariance_of(cov, values.values.size, parts)
        out = np.zeros(shape, dtype=bool)
        for column in (values, errors):
            if column is not None and column.masked is not None:
                out |= column.masked
        out |= self._masked_coordinates(masked)
        out = not_finite(out, self._points, values, errors, nan == "drop")
        if errors is not None:
            refuse_errors(errors, out)
        if out.all():
            raise InvalidRequest(f"no point is left: all {out.size} are masked or not finite")
        self._take(values.values, None if errors is None else errors.values, matrix, out)

    def _masked_coordinates(self, masked: Flags | None) -> Flags | bool:
        if masked is None:
            return False
        points = self._points.points(masked)
        if points is None:
            raise InvalidRequest(
                f"x of shape {masked.shape} is masked, which does not say which points of y (shape "
                f"{self._points.shape}) to leave out: mask y"
            )
        return points

    def _take(self, y: NDArray[Any], dy: NDArray[Any] | None, cov: Array | None, out: Flags) -> None:
        """Takes the points that are not *out*."""
        self.given, self.left_out = out.size, int(out.sum())
        self.mask = self._good = None
        if self.left_out and y.ndim == 1:
            self._points.keep(~out)
            y, dy = y[~out], None if dy is None else dy[~out]
        elif self.left_out:
            self.mask, self._good = out, ~out
            y[out] = np.nan
            if dy is not None:
                dy[out] = np.nan
        if cov is not None:
            kept = np.tile(~out.ravel(), len(cov) // out.size)
            cov = np.ascontiguousarray(cov[np.ix_(kept, kept)])
        self._whiten = None if cov is None else whitening(cov)
        if cov is not None:
            dy = self._spread(np.sqrt(np.diag(cov)), y)
        self.x, self.y, self.dy, self.cov = self._points.values, y, dy, cov
        #: of y, to be compared with those of each theory
        self.shape, self.kind = y.shape, y.dtype.kind
        #: every point counts, and by itself
        self._plain = self._good is None and cov is None and self.kind != "c"
        #: the errors of the residuals, in their order
        self._size = None if dy is None or cov is not None else self.row(dy)

    def row(self, values: NDArray[Any]) -> Array:
        """The numbers that count, in the order of the residuals: real parts before imaginary ones."""
        row = values.ravel() if self._good is None else values[self._good]
        return np.concatenate([row.real, row.imag]) if row.dtype.kind == "c" else row

    def _spread(self, row: Array, like: NDArray[Any]) -> NDArray[Any]:
        """The inverse of `row`, with nan in pixels that are left out."""
        values = np.full_like(like, np.nan)
        chosen = np.ones(like.shape, dtype=bool) if self._good is None else self._good
        if like.dtype.kind == "c":
            half = row.size // 2
            values[chosen] = row[:half] + 1j * row[half:]
        else:
            values[chosen] = row
        return values

    def coordinates(self, arguments: tuple[str, ...]) -> list[Array]:
        """The coordinates for the named *arguments* of a model, one array for each."""
        return self._points.apart(arguments)

    def comparable(self, theory: Any) -> NDArray[Any]:
        """The values that a model has returned, as numbers with the shape of y; masked ones are nan.

        Raises WrongShape for anything else.
        """
        if unit_of(theory):
            raise WrongShape(f"it returned numbers with the unit {unit_of(theory)}, not plain numbers")
        if isinstance(theory, np.ma.MaskedArray):
            theory = np.ma.filled(theory.astype(np.result_type(theory.dtype, np.float64)), np.nan)
        values: NDArray[Any] = np.asarray(theory)
        self._check(values)
        return values

    def _check(self, theory: NDArray[Any]) -> None:
        if theory.shape != self.shape:
            raise WrongShape(f"it returned shape {theory.shape} for y of shape {self.shape}{self._hint()}")
        if theory.dtype.kind == "c" and self.kind != "c":
            raise WrongShape(f"it returned dtype {theory.dtype}, not real numbers")
        if theory.dtype.kind not in "iufbc":
            raise WrongShape(f"it returned dtype {theory.dtype}, not real numbers")
        if self.kind == "c" and theory.dtype.kind != "c":
            raise WrongShape(
                f"it returned real numbers ({theory.dtype}) for a complex y: return complex ones, theory + 0j"
            )

    def _hint(self) -> str:
        if self.left_out and self._good is None:
            return f" ({self.left_out} points are left out: the model gets an x without them)"
        if 1 in self.y.shape and self.y.ndim == 2:
            return ": give y as one column, y.ravel()"
        if self._points.axis is not None and self.y.ndim == 1:
            return f" and x of shape {self.x.shape}: a model f(x1, x2, ...) gets its coordinates one by one"
        return ""

    def residuals(self, difference: NDArray[Any]) -> Array:
        """The residuals of the points that count, in one row, from theory - y, which it may overwrite.

        They are in units of *dy*; with *cov* they are made independent.
        """
        if self._plain:
            if self.dy is not None:
                difference /= self.dy
            residuals: Array = difference.ravel()
            return residuals
        row = self.row(difference)
        if self._whiten is not None:
            return np.asarray(self._whiten @ row)
        return row if self._size is None else row / self._size

    def without_value(self, theory: NDArray[Any]) -> Flags:
        """True where a model has no finite value at a point that counts, with the shape of y."""
        holes: Flags = ~np.isfinite(theory)
        return holes if self._good is None else holes & self._good

    def place(self, flat: int) -> str:
        """The coordinates of the point at a flat index of y, for a message; "" where they are not known."""
        x, axis = self.x, self._points.axis
        if x.shape == self.y.shape:
            return f" (x = {x.flat[flat]:g})"
        if axis is None:
            return ""
        at = np.moveaxis(x, axis, 0).reshape(x.shape[axis], -1)[:, flat]
        return f" (x = {', '.join(f'{value:g}' for value in at)})"

    def __len__(self) -> int:
        """How many numbers are compared with the model: a complex point counts twice."""
        count = int(self.y.size) if self._good is None else int(self._good.sum())
        return 2 * count if self.kind == "c" else count

    def _protect(self) -> None:
        """A model that changes its x in place must fail, not shift the points with each evaluation."""
        for array in (self.x, self.y, self.dy, self.cov):
            if array is not None:
                array.flags.writeable = False

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._protect()  # pickling drops it

    def __repr__(self) -> str:
        kind = "complex points" if self.kind == "c" else "points"
        count = len(self) // 2 if self.kind == "c" else len(self)
        out = f", {self.left_out} left out" if self.left_out else ""
        return f"<Data{' ' + self.name if self.name else ''}: {count} {kind}{out}>"


def as_data(given: Any) -> Data:
    """The `Data` behind a tuple (x, y) or (x, y, dy)."""
    if isinstance(given, Data):
        return given
    if isinstance(given, tuple | list) and len(given) in (2, 3):
        return Data(*given)
    raise InvalidRequest(f"{given!r:.80} is neither Data nor a tuple (x, y) or (x, y, dy)")
