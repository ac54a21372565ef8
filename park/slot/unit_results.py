"""Results and errors of units, in the form in which they travel."""

from __future__ import annotations

import os
import traceback
from types import TracebackType
from typing import Any

from msgspec import Struct

from park.body import payload
from park.body.causes import MAX_CAUSE_CHARACTERS, one_line
from park.errors import UnitError, in_words
from park.wire.fragments import too_long
from park.wire.pack import Buffer

#: The folders of PARK's frames between the slot process and user code, which a traceback leaves out.
_OWN = frozenset(
    os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), room)
    for room in ("body", "slot")
)
#: The traceback of an exception, also of one whose class hides it.
_TRACEBACK: Any = BaseException.__dict__["__traceback__"].__get__
#: Types whose values cannot change after they were returned, so that they are encoded together.
_FIXED: dict[type, bool] = dict.fromkeys((float, int, bool, str, bytes, type(None)), True)


class EncodedResult(Struct):
    """A result that was encoded at once, because it might change later."""

    entry: bytes


class _Failed(Exception):
    """Carries an error from before the units."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


class FailingBody:
    """A placeholder for a body or an input that could not be made. Every unit with it fails with the reason."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def __call__(self, *_: Any) -> Any:
        raise _Failed(self._error)


def is_fixed(kind: type) -> bool:
    """Whether values of this type cannot change."""
    found = _FIXED.get(kind)
    if found is None:
        found = _FIXED[kind] = payload.is_number(kind)
    return found


def decode(entry: Buffer) -> Any:
    """An input, or a FailingBody with the reason why it cannot be read."""
    try:
        return payload.decode_entry(entry)
    except Exception as error:
        return FailingBody(error)


def entry_of(result: Any) -> bytes:
    """The entry of a result in the pack of an answer."""
    if isinstance(result, EncodedResult):
        return result.entry
    if isinstance(result, UnitError):
        return payload.encode_error(result)
    return payload.encode_result(result)


def too_long_errors(size: int, start: int, count: int) -> list[UnitError]:
    """The errors in place of results that are too long to travel, *size* bytes together; []: they can travel."""
    text = too_long(size)
    return (
        [UnitError(f"its result cannot travel: {text}", "", start + i) for i in range(count)] if text else []
    )


def trace_of(error: BaseException) -> str:
    """The traceback without PARK's own frames in front.

    An error whose class is `complete` needs no traceback: only its words and notes are returned.
    """
    if getattr(type(error), "complete", False):
        long = [f"{type(error).__name__}: {error}"] if len(str(error)) > MAX_CAUSE_CHARACTERS else []
        return "\n".join([*long, *getattr(error, "__notes__", ())])
    return "".join(traceback.format_exception(type(error), error, _own_trace(error)))


def _own_trace(error: BaseException) -> TracebackType | None:
    """The traceback from where user code raised *error*."""
    whole: TracebackType | None = _TRACEBACK(error)  # an attribute of the same name may raise
    trace = whole
    while trace is not None and os.path.dirname(trace.tb_frame.f_code.co_filename) in _OWN:
        trace = trace.tb_next
    return trace or whole


def unit_error(error: BaseException, unit: int | None) -> UnitError:
    """The error of a unit that raised *error*. The methods of *error* may raise anything themselves."""
    if isinstance(error, _Failed):
        error = error.error
    try:
        return _unit_error(error, unit)
    except BaseException:
        frames = traceback.format_tb(_own_trace(error))
        return UnitError(in_words(error), "".join([*frames, in_words(error)]), unit)


def _unit_error(error: BaseException, unit: int | None) -> UnitError:
    if isinstance(error, UnitError):  # a unit of a map inside: its traceback says more
        inner = error.traceback or error.cause
        return UnitError(one_line(error), f"{trace_of(error)}\n{inner}", unit)
    return UnitError(one_line(error), trace_of(error), unit)
