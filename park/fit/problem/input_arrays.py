"""Reads arrays of numbers from the arguments of a script: arrays, lists, masked arrays, columns of tables, objects.

`read` converts them to float64 or complex128. It keeps information that numpy drops silently: masks, missing values, and
errors that belong to a value. Texts, dates and quantities with a unit raise an error that names the index and the remedy.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from dataclasses import dataclass, field
from numbers import Rational
from typing import Any

import numpy as np
from numpy.typing import NDArray

from park.errors import InvalidRequest

#: the largest loss when numbers are rounded to float64, as a part of their spread
_MAX_ROUNDING_LOSS = 1e-9


@dataclass(slots=True)
class InputColumn:
    """Values with mask and errors; all arrays have the same shape."""

    #: float64, or complex128
    values: NDArray[Any]
    #: True at values that a mask leaves out
    masked: NDArray[np.bool_] | None = None
    #: the errors of values that have their own
    errors: NDArray[np.float64] | None = None
    #: the original text of missing values, by flat index
    written: dict[int, str] = field(default_factory=dict)
    #: names of the columns of a table
    names: tuple[str, ...] = ()
    #: True and False were given, which count as 1 and 0
    boolean: bool = False

    def shown(self, flat: int) -> str:
        """The value at a flat index, as text for a message."""
        return self.written.get(flat, str(self.values.flat[flat]))


def read(given: Any, what: str, complex_too: bool = False) -> InputColumn:
    """The numbers of *given*, as a copy. *what* is its name in errors.

    Raises InvalidRequest for empty arrays and for values that are not numbers. Nan and infinity are allowed.
    """
    array, masked = _array(given, what)
    if array.ndim == 0 and array.dtype == object and not _is_number(array[()]):
        raise InvalidRequest(f"{what} is a {type(given).__name__}, not an array of numbers{_way_out(given)}")
    if array.size == 0:
        raise InvalidRequest(f"{what} is empty")
    column = _objects(array, what) if array.dtype == object else InputColumn(_plain(array, what))
    if np.iscomplexobj(column.values) and not complex_too:
        raise InvalidRequest(f"{what} has dtype {column.values.dtype}: real numbers are needed")
    column.masked = _either(column.masked, masked)
    column.names = _names(given, array)
    column.boolean = array.dtype.kind == "b"
    return column


def where(flat: int, shape: tuple[int, ...]) -> int | tuple[int, ...]:
    """The index of a flat index in an array of this *shape*: a number, or a tuple for several axes."""
    index = tuple(int(i) for i in np.unravel_index(flat, shape))
    return index[0] if len(index) == 1 else index


def from_table(given: Any) -> bool:
    """Whether *given* is a column, a table or an index of pandas."""
    return type(given).__module__.split(".")[0] == "pandas"


def from_xarray(given: Any) -> bool:
    """Whether *given* is an array or a data set of xarray."""
    return type(given).__module__.split(".")[0] == "xarray"


def unit_of(given: Any) -> str:
    """The unit that a quantity carries (pint, astropy, unyt and others), "" for plain numbers."""
    if given is None or isinstance(given, int | float | str) or type(given) is np.ndarray:
        return ""
    if from_table(given):
        return str(getattr(getattr(given, "dtype", None), "units", "") or "")
    if from_xarray(given):
        return ""  # an attribute of that name may be a text
    unit = getattr(given, "units", None) or getattr(given, "unit", None)
    if unit is None or callable(unit):
        return ""
    text = str(unit)
    return "" if text in ("", "1", "dimensionless") else text


def _array(given: Any, what: str) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
    """The array and its mask."""
    if from_xarray(given):
        if not hasattr(given, "dims") or not hasattr(given, "dtype"):
            raise InvalidRequest(f"{what} is a {type(given).__name__}: give one of its variables")
        given = given.data
    _refuse_unit(given, what)
    if hasattr(given, "magnitude") and hasattr(given, "units"):
        given = given.magnitude  # a dimensionless quantity of pint, whose own conversion warns
    if isinstance(given, list | tuple):
        for value in _leaves(given):
            _refuse_unit(value, what)
        if any(isinstance(value, np.ma.MaskedArray) for value in _leaves(given)):
            given = _stacked(given, what)
    if isinstance(given, np.ma.MaskedArray):
        mask = np.ma.getmaskarray(given) if given.dtype.names is None else None
        return np.asarray(given.data), mask if mask is not None and mask.any() else None
    if hasattr(given, "unmasked") and hasattr(given, "mask"):  # astropy's
        return np.asarray(given.unmasked), np.array(given.mask, dtype=np.bool_)
    try:
        array = np.asarray(given)
        if array.dtype.kind in "US" and isinstance(given, list | tuple):
            array = np.array(given, dtype=object)  # numpy has converted numbers among texts to texts
        return array, None
    except Exception as error:
        raise InvalidRequest(f"{what} is not an array of numbers: {error}") from None


def _stacked(given: Any, what: str) -> Any:
    try:
        parts = [_stacked(v, what) if isinstance(v, list | tuple) else v for v in given]
        return np.ma.stack([np.ma.asarray(part) for part in parts])
    except ValueError as error:
        raise InvalidRequest(f"{what} is not an array of numbers: {error}") from None


def _leaves(given: Any) -> Iterator[Any]:
    """The items of nested lists that are not Python numbers."""
    for value in given:
        if isinstance(value, list | tuple):
            yield from _leaves(value)
        elif type(value) not in (float, int):
            yield value


def _refuse_unit(given: Any, what: str) -> None:
    unit = unit_of(given)
    if unit:
        raise InvalidRequest(
            f"{what} carries the unit {unit!r}, and a fit computes with plain numbers: convert it to the unit "
            f"that the model uses and give the numbers alone (pint: .to(unit).magnitude, "
            f"astropy: .to_value(unit))"
        )


def _way_out(given: Any) -> str:
    if hasattr(given, "toarray"):
        return ": give its .toarray()"
    if hasattr(given, "__iter__"):
        return ": give a list or an array of its values"
    return ""


def _names(given: Any, array: NDArray[Any]) -> tuple[str, ...]:
    columns = getattr(given, "columns", None)
    return tuple(map(str, columns)) if array.ndim == 2 and from_table(given) and columns is not None else ()


def _either(a: NDArray[np.bool_] | None, b: NDArray[np.bool_] | None) -> NDArray[np.bool_] | None:
    if a is None or b is None:
        return a if b is None else b
    return a | b


def _plain(array: NDArray[Any], what: str) -> NDArray[Any]:
    """A copy as float64 or complex128."""
    kind = array.dtype.kind
    if kind in "SUT":
        index = where(0, array.shape) if array.ndim else 0
        raise InvalidRequest(_text(what, str(array.dtype), str(array.flat[0]), index))
    if kind in "Mm":
        raise InvalidRequest(_dates(what, str(array.dtype), kind == "M"))
    if array.dtype.names:
        raise InvalidRequest(
            f"{what} has several fields ({', '.join(array.dtype.names)}): give one of them, "
            f"{what}[{array.dtype.names[0]!r}]"
        )
    if kind not in "biufc":
        raise InvalidRequest(f"{what} has dtype {array.dtype}: real numbers are needed")
    values = np.array(array, dtype=np.complex128 if kind == "c" else np.float64, order="C")
    _refuse_loss(array, values, what)
    return values


def _text(what: str, dtype: str, value: str | bytes, index: Any) -> str:
    return (
        f"{what} has dtype {dtype}, and {value!r} at index {index} is text: give numbers, {what}.astype(float) if "
        f"they are written as text"
    )


def _dates(what: str, dtype: str, date: bool) -> str:
    numbers = f"({what} - {what}[0])" if date else what
    return (
        f"{what} has dtype {dtype}, and a fit computes with plain numbers: give them in a unit of your choice, "
        f"seconds for one: {numbers} / np.timedelta64(1, 's')"
    )


def _refuse_loss(array: NDArray[Any], values: NDArray[Any], what: str) -> None:
    """Raises InvalidRequest for numbers whose differences are lost in float64."""
    if array.dtype.kind in "iu" and array.dtype.itemsize == 8:
        if np.abs(values).max() > 2.0**53:
            pairs = list(zip(map(int, array.flat), map(int, values.flat), strict=True))
            _refuse_rounding([a for a, _ in pairs], [b for _, b in pairs], what)
    elif array.dtype.kind == "f" and array.dtype.itemsize > 8:
        finite = array[np.isfinite(array)]
        with np.errstate(all="ignore"):
            rounded = finite.astype(np.float64).astype(array.dtype)
            lost = np.abs(finite - rounded).max(initial=0)
            spread = finite.max() - finite.min() if finite.size else lost
        if not np.isfinite(rounded).all() or (spread > 0 and lost > _MAX_ROUNDING_LOSS * spread):
            raise InvalidRequest(_loss(what))


def _refuse_rounding(exact: list[Any], rounded: list[Any], what: str) -> None:
    spread = max(exact) - min(exact) if exact else 0
    if spread and max(abs(a - b) for a, b in zip(exact, rounded, strict=True)) > _MAX_ROUNDING_LOSS * float(
        spread
    ):
        raise InvalidRequest(_loss(what))


def _loss(what: str) -> str:
    return (
        f"{what} loses digits as float64 numbers: its values are large and differ by little; "
        f"subtract a common offset before the conversion"
    )


def _is_number(value: Any) -> bool:
    from decimal import Decimal

    return isinstance(value, Decimal | Rational | float | complex) or hasattr(value, "nominal_value")


def _objects(array: NDArray[Any], what: str) -> InputColumn:
    """The column of an array of Python objects."""
    from decimal import Decimal  # imported late: both are slow to import and rarely used
    from fractions import Fraction

    column = InputColumn(np.empty(array.shape, dtype=np.complex128))
    values, exact, rounded = column.values, [], []
    masked = np.zeros(array.shape, dtype=bool)
    errors = np.full(array.shape, np.nan)
    for flat, value in enumerate(array.flat):
        if value is np.ma.masked:
            masked.flat[flat], values.flat[flat] = True, 0.0
            continue
        if value is None or type(value).__name__ in ("NAType", "NaTType"):
            column.written[flat], values.flat[flat] = str(value), np.nan
            continue
        if hasattr(value, "nominal_value") and hasattr(value, "std_dev"):
            errors.flat[flat] = value.std_dev
            value = value.nominal_value
        values.flat[flat] = number = _number(value, what, where(flat, array.shape) if array.ndim else 0)
        if isinstance(value, Decimal | Rational) and np.isfinite(number):
            exact.append(Fraction(value))
            rounded.append(Fraction(number.real))
    _refuse_rounding(exact, rounded, what)
    if not any(isinstance(value, complex | np.complexfloating) for value in array.flat):
        column.values = values.real.copy()  # ascontiguousarray turns one number into an array
    column.masked = masked if masked.any() else None
    if not np.isnan(errors).all():
        _refuse_correlated(array, what)
        column.errors = errors
    return column


def _number(value: Any, what: str, index: Any) -> complex:
    if isinstance(value, str | bytes):
        raise InvalidRequest(_text(what, "object", value, index))
    if isinstance(value, datetime.date | datetime.timedelta | np.datetime64 | np.timedelta64):
        raise InvalidRequest(_dates(what, "object (dates)", isinstance(value, datetime.date | np.datetime64)))
    _refuse_unit(value, what)
    try:
        if isinstance(value, complex | np.complexfloating):
            return complex(value)
        if not isinstance(value, list | tuple | dict | set | np.ndarray):
            return complex(float(value))
    except OverflowError:
        raise InvalidRequest(f"{what} is too large for a float64 number at index {index}") from None
    except Exception:
        pass
    raise InvalidRequest(f"{what} has dtype object, and {value!r:.60} at index {index} is not a number")


def _refuse_correlated(array: NDArray[Any], what: str) -> None:
    """Raises InvalidRequest for values of `uncertainties` with correlated errors."""
    seen: set[int] = set()
    for value in array.flat:
        own = {id(variable) for variable in getattr(value, "derivatives", ())}
        if seen & own:
            raise InvalidRequest(
                f"the errors of {what} are correlated: give its nominal values, and cov= with "
                f"uncertainties.covariance_matrix({what})"
            )
        seen |= own
