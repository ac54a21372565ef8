"""Checks the data of a bumps problem for numbers that are not finite, before a fit starts.

Each library stores its data differently: bumps' ``Curve`` as x, y and dy, refl1d in a probe, sasmodels in an object
for each kind of measurement. This module finds the columns of all of them. A model may handle nan itself (sasmodels
leaves masked points out), so nan is an error only if the likelihood of the model is not finite either.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from park.errors import InvalidRequest
from park.fit.arrays import quiet
from park.fit.problem.input_arrays import where

Numbers = NDArray[Any]
#: The names of columns in the libraries that work with bumps: positions, values, errors, resolution widths.
_POSITIONS = ("x", "Q", "q", "qx", "qy", "T")
_VALUES = ("y", "R", "Iq", "I", "data", "counts")
_ERRORS = ("dy", "dR", "dIq", "dI", "err_data", "err", "yerr")
_WIDTHS = ("dx", "dQ", "dT", "dL")
#: Attributes of a model that hold its data.
_HOLDERS = ("data", "_data", "probe", "measurement", "dataset")


@dataclass(frozen=True, slots=True)
class ModelColumn:
    """A column of a model's data. *kind* is "x", "y", "dy" or "width"; *places* are indices in the user's array."""

    name: str
    kind: str
    values: Numbers
    masked: Numbers | None = None
    places: Numbers | None = None

    def bad(self) -> tuple[int, str] | None:
        """The flat index of the first invalid number, and the property that it lacks; None if all are valid."""
        counts = np.ones(self.values.shape, dtype=bool) if self.masked is None else ~self.masked
        wrong = np.flatnonzero(~np.isfinite(self.values) & counts)
        if wrong.size:
            return int(wrong[0]), "finite"
        zero = np.flatnonzero((self.values == 0) & counts) if self.kind == "dy" else wrong
        return (int(zero[0]), "positive") if zero.size else None

    def index(self, flat: int) -> int | tuple[int, ...]:
        """The index in the user's array for a flat index."""
        if self.places is not None and flat < self.places.size:
            return int(self.places[flat])
        return where(flat, self.values.shape)


# -- before anything runs ------------------------------------------------------------------------


def check_problem(problem: Any) -> None:
    """Raises InvalidRequest for data of a bumps ``FitProblem`` without a likelihood: not finite, or negative counts."""
    for number, model in models_of(problem):
        _check_counts(model, number)
        for column in columns_of(model):
            bad = column.bad()
            if bad is None:
                continue
            at, need = bad
            value = column.values.flat[at]
            # A point with an infinite error adds nothing to chi-squared but counts as a degree of freedom.
            if (column.kind == "dy" and np.isinf(value)) or not _is_finite(model):
                raise InvalidRequest(
                    f"{name_of(model, number)}: {column.name} must be {need}; it is {value:g} at index "
                    f"{column.index(at)}: leave the point out of its data"
                )


def _check_counts(model: Any, number: int) -> None:
    """Raises InvalidRequest for negative counts, to which bumps gives some likelihood."""
    from bumps.curve import PoissonCurve

    if isinstance(model, PoissonCurve) and model.y is not None:
        counts = np.asarray(model.y)
        negative = np.flatnonzero(counts < 0)
        if negative.size:
            at = int(negative[0])
            raise InvalidRequest(
                f"{name_of(model, number)}: counts must not be negative; y is {counts.flat[at]:g} at index "
                f"{where(at, counts.shape)}: leave the point out; data with a background subtracted are no counts, and "
                "need a dy in a Curve"
            )


def length_of_data(problem: Any) -> float:
    """The square root of the sum of (y/dy)**2 over all points; points whose data are unknown count as 1000."""
    total = 0.0
    for _, model in models_of(problem):
        columns = list(columns_of(model))
        pairs = list(
            zip(
                (c.values for c in columns if c.kind == "y"),
                (c.values for c in columns if c.kind == "dy"),
                strict=False,
            )
        )
        with quiet():
            squares = [np.square(np.abs(y / dy)) for y, dy in pairs if y.shape == dy.shape]
        if squares:
            total += float(sum(np.sum(s[np.isfinite(s)]) for s in squares))
        else:
            total += 1e6 * int(model.numpoints()) if hasattr(model, "numpoints") else 1e6
    return float(np.sqrt(total))


def models_of(problem: Any) -> Iterator[tuple[int, Any]]:
    """The models of a problem, numbered from 1."""
    return enumerate(getattr(problem, "models", ()), 1)


def name_of(model: Any, number: int) -> str:
    """The name of a model in messages: its own, that of its data, or its number."""
    for holder in (model, getattr(model, "probe", None), getattr(model, "_data", None)):
        for attribute in ("name", "filename"):
            name = getattr(holder, attribute, None)
            if isinstance(name, str) and name.strip():
                return f"model {name.strip()!r} of the problem"
    return f"model {number} of the problem, {type(model).__name__}"


def _is_finite(model: Any) -> bool:
    """Whether the likelihood of the model is finite at its present parameters."""
    with quiet():
        try:
            return bool(np.isfinite(model.nllf()))
        except Exception:
            return False


def columns_of(model: Any) -> Iterator[ModelColumn]:
    """The columns of a model's data, as the model uses them."""
    if hasattr(model, "Iq") and hasattr(model, "index"):
        yield from _of_sasmodels(model)
        return
    yield from _of_holder(model, "", ("x", "q"), ("y", "counts"), ("dy",))
    for name in _HOLDERS:
        held = _get(model, name)
        if held is None or isinstance(held, str | bytes | dict):
            continue
        sections = _get(held, "xs")  # refl1d's polarized probes have one for each spin state
        if isinstance(sections, list | tuple):
            for section, sign in zip(sections, ("--", "-+", "+-", "++"), strict=False):
                if section is not None:
                    yield from _of_holder(section, f"{sign} ", _POSITIONS, _VALUES, _ERRORS, _WIDTHS)
        elif isinstance(held, list | tuple):
            for label, one in zip(("x", "y", "dy"), held, strict=False):
                yield from _column(one, label, label)
        elif not isinstance(held, np.ndarray):
            yield from _of_holder(held, "", _POSITIONS, _VALUES, _ERRORS, _WIDTHS)
        else:
            yield from _column(held, name, "y")


def _of_sasmodels(model: Any) -> Iterator[ModelColumn]:
    """The points of a measurement that sasmodels has not left out."""
    places = None
    if isinstance(model.index, np.ndarray):
        places = np.flatnonzero(model.index) if model.index.dtype == bool else model.index
    data = _get(model, "_data")
    for name, kind, values in (("y", "y", model.Iq), ("dy", "dy", _get(model, "dIq"))):
        yield from _column(values, name, kind, places)
    for name in ("x", "qx_data", "qy_data", "dx", "dxl", "dxw"):
        values = _get(data, name)
        if isinstance(values, np.ndarray) and not isinstance(model.index, slice):
            with contextlib.suppress(IndexError):
                yield from _column(values[model.index], name, "width" if name[0] == "d" else "x", places)


def _of_holder(holder: Any, prefix: str, *names: tuple[str, ...]) -> Iterator[ModelColumn]:
    for kind, choice in zip(("x", "y", "dy", "width"), names, strict=False):
        for name in choice:
            yield from _column(_get(holder, name), prefix + name, kind)


def _column(values: Any, name: str, kind: str, places: Numbers | None = None) -> Iterator[ModelColumn]:
    if not isinstance(values, np.ndarray | list | tuple):
        return
    masked = np.ma.getmaskarray(values) if isinstance(values, np.ma.MaskedArray) else None
    try:
        array = np.asarray(values)
    except ValueError:  # rows of several lengths
        return
    if array.dtype.kind in "iufc" and array.ndim and array.size:
        yield ModelColumn(name, kind, array, masked, places)


def _get(holder: Any, name: str) -> Any:
    """An attribute, or None if it is missing or raises: some are computed, and fail without data."""
    try:
        return getattr(holder, name, None)
    except Exception:
        return None
