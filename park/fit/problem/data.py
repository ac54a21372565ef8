"""Measured data, and the residuals of a model."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from park.errors import InvalidRequest
from park.fit.arrays import Array
from park.fit.problem import row_labels
from park.fit.problem.coordinates import Flags, are_several, columns_of, coordinates_of
from park.fit.problem.correlated_errors import covariance_of, whitening
from park.fit.problem.data_checks import errors_of, not_finite, refuse_errors, refuse_sizes
from park.fit.problem.input_arrays import read, unit_of


class WrongShape(InvalidRequest):
    """Raised when the value of a model has another shape or type than its data."""


class Data:
    """Measured values *y* at the points *x*, with standard errors *dy*.

    *y* has shape (n,), or the shape of an image. *dy* has the same shape, or is one number for all points. Without *dy* the
    errors have one unknown size, which the fit estimates from the scatter of the residuals. *cov*, shape (n, n), is the
    covariance of correlated errors, and takes the place of *dy*. A complex *y* needs a complex *dy* (errors of the real and
    of the imaginary part), or a real *dy* for both.

    *x* has the shape of *y*, or holds several coordinates: a tuple of arrays ``(x, t)`` that broadcast to the shape of *y*,
    or one array of shape (n, k) or (k, n). A model ``f(x, t, ...)`` gets each coordinate as an argument; a model
    ``f(q, ...)`` gets one array whose ``q[0]`` is the first coordinate.

    Points that are masked in any of the arrays (``numpy.ma``) are left out. Nan and infinity raise an error, or are
    left out with ``nan="drop"``. The model of a one-dimensional y gets only the points that remain. The model of an
    image gets all pixels, and the residuals skip the pixels that are left out.

    *name* and *labels* (of x, or of each coordinate, and of y) are for plots; x and y have the units of the model. Raises
    `park.InvalidRequest`, with the index and the remedy, for arrays that do not match, errors that are not positive, and
    values that are not plain numbers.

    >>> Data([1, 2, 3], [2.1, 3.9, 6.2], 0.1)
    <Data: 3 points>
    >>> Data([1, 2, 3], [2.1, float("nan"), 6.2], nan="drop")
    <Data: 2 points, 1 left out>
    """

    #: the coordinates as a model with one argument for all of them gets them
    x: Array
    #: float64 or complex128; nan in pixels of an image that are left out
    y: NDArray[Any]
    #: the standard errors, with the shape and the type of y; None if they are unknown
    dy: NDArray[Any] | None
    #: the covariance (n, n) of the points that remain
    cov: Array | None
    #: True for the pixels of an image that are left out; None if all points of y count
    mask: Flags | None
    #: the number of points, and of those that are left out
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
        row_labels.check([*given, ("y", y), ("dy", dy), ("cov", cov)])
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
        refuse_sizes(values.values[~out], None if errors is None else errors.values[~out])
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
        """Stores the points whose flag in *out* is False."""
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
        #: shape, dtype and its kind of y; the values of a model must have the same shape and kind
        self.shape, self.dtype, self.kind = y.shape, y.dtype, y.dtype.kind
        #: real points without mask and without correlations: residuals need no further step
        self._plain = self._good is None and cov is None and self.kind != "c"
        self._arrange()

    def _arrange(self) -> None:
        """Sets the standard errors in the order of the residuals: a view of *dy* where that is possible."""
        self._size = None if self.dy is None or self.cov is not None else self.row(self.dy)

    def row(self, values: NDArray[Any]) -> Array:
        """The values at the points that count, shape (n,); of complex values all real parts, then all imaginary parts."""
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
        """One array of coordinates for each of the named *arguments* of a model."""
        return self._points.apart(arguments)

    def comparable(self, theory: Any) -> NDArray[Any]:
        """The values of a model as an array with the shape of y; masked values become nan.

        Raises WrongShape for another shape, another type, and numbers with a unit.
        """
        if unit_of(theory):
            raise WrongShape(f"it returned numbers with the unit {unit_of(theory)}, not plain numbers")
        if isinstance(theory, np.ma.MaskedArray):
            theory = np.ma.filled(theory.astype(np.result_type(theory.dtype, np.float64)), np.nan)
        values: NDArray[Any] = np.asarray(theory)
        self._check(values)
        if np.result_type(values, self.dtype) != self.dtype:  # linear algebra has no extended precision
            values = values.astype(self.dtype)
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
        """The residuals of the points that count, shape (n,), from the *difference* theory - y, which it may overwrite.

        Residuals are divided by *dy*. With *cov* they are multiplied by the inverse Cholesky factor, which makes them
        independent.
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
        """Flags with the shape of y: True at points that count where *theory* is not finite."""
        holes: Flags = ~np.isfinite(theory)
        return holes if self._good is None else holes & self._good

    def place(self, flat: int) -> str:
        """The coordinates of the point at a flat index of y, as text for a message; "" if they are unknown."""
        x, axis = self.x, self._points.axis
        if x.shape == self.y.shape:
            return f" (x = {x.flat[flat]:g})"
        if axis is None:
            return ""
        at = np.moveaxis(x, axis, 0).reshape(x.shape[axis], -1)[:, flat]
        return f" (x = {', '.join(f'{value:g}' for value in at)})"

    def __len__(self) -> int:
        """The number of residuals: a complex point counts twice."""
        count = int(self.y.size) if self._good is None else int(self._good.sum())
        return 2 * count if self.kind == "c" else count

    def _protect(self) -> None:
        """Makes the arrays read-only: a model that changes x in place fails, and does not shift the points silently."""
        for array in (self.x, self.y, self.dy, self.cov):
            if array is not None:
                array.flags.writeable = False

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_size"}  # dy travels once

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._arrange()
        self._protect()  # pickling drops the read-only flag

    def __repr__(self) -> str:
        kind = "complex points" if self.kind == "c" else "points"
        count = len(self) // 2 if self.kind == "c" else len(self)
        out = f", {self.left_out} left out" if self.left_out else ""
        return f"<Data{' ' + self.name if self.name else ''}: {count} {kind}{out}>"


def as_data(given: Any) -> Data:
    """The given `Data`, or new data from a tuple (x, y) or (x, y, dy). Raises InvalidRequest for anything else."""
    if isinstance(given, Data):
        return given
    if isinstance(given, tuple | list) and len(given) in (2, 3):
        return Data(*given)
    raise InvalidRequest(f"{given!r:.80} is neither Data nor a tuple (x, y) or (x, y, dy)")
