"""What becomes of units: results and errors, as they travel."""

from __future__ import annotations

import os
import platform
import traceback
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from park import payload
from park.errors import UnitError, in_words
from park.wire.pack import Buffer
from park.wire.parts import too_long

#: Characters of the line that says why a unit failed.
MAX_CAUSE = 500
#: Types whose values cannot change after they were returned, so that they are encoded together.
_FIXED: dict[type, bool] = dict.fromkeys((float, int, bool, str, bytes, type(None)), True)


@dataclass(slots=True)
class Encoded:
    """A result that was encoded at once, because it may change."""

    entry: bytes


class _Failed(Exception):
    """Carries what went wrong before the units."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


class Broken:
    """Stands for a body that could not be made or prepared: every unit fails with the reason."""

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
    """An input, or what fails with the reason why there is none."""
    try:
        return payload.decode_entry(entry)
    except Exception as error:
        return Broken(error)


def entry_of(result: Any) -> bytes:
    """The entry of a result in the pack of an answer."""
    if isinstance(result, Encoded):
        return result.entry
    if isinstance(result, UnitError):
        return payload.encode_error(result)
    return payload.encode_result(result)


def too_long_errors(size: int, start: int, count: int) -> list[UnitError]:
    """What stands for results that cannot travel, because they have *size* bytes together; empty if they can."""
    text = too_long(size)
    return (
        [UnitError(f"its result cannot travel: {text}", "", start + i) for i in range(count)] if text else []
    )


def one_line(error: BaseException) -> str:
    """What went wrong, and where it may be mended."""
    if isinstance(error, UnitError):
        return error.cause
    return in_words(error) + hint(error)


def hint(error: BaseException) -> str:
    """How to mend an error that comes of travelling: this machine lacks what the client's has; else an empty text."""
    if isinstance(error, ModuleNotFoundError):
        return f" on {platform.node()}: install it there, or define what it holds in the script itself"
    missing = isinstance(error, FileNotFoundError) and error.filename is not None
    if missing or (isinstance(error, OSError) and any(word in str(error) for word in _LIBRARY)):
        return (
            f" on {platform.node()}{_opener(error)}: only its path has travelled. Put the file there, or let the code "
            "carry what it reads, or make it anew where it is missing"
        )
    return ""


#: Linux and macOS say this of a library that cannot be opened.
_LIBRARY = ("shared object file", "ELF header", "wrong ELF class", "dlopen(", "file too short")


def _opener(error: BaseException) -> str:
    """The method, with its class, that wanted to open a file."""
    opener, trace = "", error.__traceback__
    while trace is not None:
        code, owner = trace.tb_frame.f_code, trace.tb_frame.f_locals.get("self")
        if owner is not None and type(owner).__module__.partition(".")[0] not in _MACHINERY:
            opener = f", where {type(owner).__qualname__}.{code.co_name} opens it"
        trace = trace.tb_next
    return opener


_MACHINERY = ("ctypes", "park", "pathlib", "codecs", "zipfile", "gzip", "subprocess")


def trace_of(error: BaseException) -> str:
    """The traceback without PARK's own frames in front.

    An error whose class is `complete` says all in its words and notes.
    """
    if getattr(type(error), "complete", False):
        long = [f"{type(error).__name__}: {error}"] if len(str(error)) > MAX_CAUSE else []
        return "\n".join([*long, *getattr(error, "__notes__", ())])
    return "".join(traceback.format_exception(type(error), error, _own_trace(error)))


def _own_trace(error: BaseException) -> TracebackType | None:
    """Where user code raised *error*."""
    own = os.path.dirname(os.path.abspath(__file__))
    trace = error.__traceback__
    while trace is not None and os.path.dirname(trace.tb_frame.f_code.co_filename) == own:
        trace = trace.tb_next
    return trace or error.__traceback__


def unit_error(error: BaseException, unit: int | None) -> UnitError:
    """What stands for a unit that raised *error*, which may be anything: what it is asked may raise too."""
    if isinstance(error, _Failed):
        error = error.error
    try:
        return _unit_error(error, unit)
    except Exception:
        frames = traceback.format_tb(_own_trace(error))
        return UnitError(in_words(error), "".join([*frames, in_words(error)]), unit)


def _unit_error(error: BaseException, unit: int | None) -> UnitError:
    if isinstance(error, UnitError):  # of a map inside: its own traceback says more
        inner = error.traceback or error.cause
        return UnitError(one_line(error), f"{trace_of(error)}\n{inner}", unit)
    return UnitError(one_line(error), trace_of(error), unit)
