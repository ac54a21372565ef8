"""Calls of a function with arguments, whose exceptions come back as themselves."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from typing import Any

from park.body import payload
from park.errors import Abort, UnitError, in_words


class _Raised:
    """An exception of the user's, on its way back as itself."""

    def __init__(self, error: BaseException, text: str) -> None:
        self.error = error
        self.text = text


class _RaisedInParts(_Raised):
    """An exception that cannot be pickled, or not be made from its pickle: its class, arguments and attributes travel.

    Many exceptions are like that: pickle calls the class with ``args``, and its ``__init__`` takes others.
    """

    def __reduce__(self) -> Any:
        error = self.error
        attributes = {name: value for name, value in vars(error).items() if _travels(value)}
        args = _built_in(type(error)).__reduce__(error)[1]  # an OSError has more of them than its ``args``
        return _from_parts, (type(error), args, attributes, self.text)


def _from_parts(
    kind: type[BaseException], args: tuple[Any, ...], attributes: dict[str, Any], text: str
) -> _Raised:
    built_in = _built_in(kind)
    error: BaseException = built_in.__new__(kind, *args)
    built_in.__init__(error, *args)
    vars(error).update(attributes)
    return _Raised(error, text)


def _built_in(kind: type) -> Any:
    """The class of Python itself that the exception is of."""
    return next(base for base in kind.__mro__ if base.__module__ == "builtins")


def _copy_of(value: Any) -> Any:
    """The value as it arrives; None: it does not."""
    try:
        return payload.loads(payload.dumps(value))
    except BaseException:
        return None


def _travels(value: Any) -> bool:
    return value is None or _copy_of(value) is not None


def _arrives(raised: _Raised) -> bool:
    """Whether an exception comes out again: some exceptions pickle as something else."""
    copy = _copy_of(raised)
    return copy is not None and isinstance(copy.error, BaseException)


def _text_of(error: BaseException) -> str:
    """The traceback of the exception that is handled here. The methods of *error* may raise anything themselves."""
    try:
        return traceback.format_exc()
    except BaseException:
        return in_words(error)


class FunctionCall:
    """Runs a function with positional and keyword arguments, and hands its exception over as a value."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def __call__(self, call: tuple[tuple[Any, ...], dict[str, Any]]) -> Any:
        process = os.getpid()
        try:
            return self.function(*call[0], **call[1])
        except Abort:
            raise
        except BaseException as error:
            if (
                os.getpid() != process
            ):  # a child that the function has forked ends with it, and has its exit code
                raise
            text = _text_of(error)
            for raised in (_Raised(error, text), _RaisedInParts(error, text)):
                if _arrives(raised):
                    return raised
            raise error from None  # it cannot travel: its text can


def value_of(result: Any) -> Any:
    """The result of a `FunctionCall`, or the exception that it raised."""
    if isinstance(result, _Raised):
        raise result.error from UnitError("raised in a slot process", result.text)
    if isinstance(result, UnitError):
        raise result
    return result
