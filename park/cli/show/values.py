"""Values of any kind as text, for people, and as JSON, for programs: the results of jobs."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from park.errors import UnitError

#: How deep a value is followed; what lies deeper is text.
MAX_DEPTH = 50


def as_text(value: Any, write: Callable[[Any], str] = str) -> str:
    """*value* as ``print`` shows it, or another function that writes it, with plain numbers however deep they lie.

    >>> import numpy
    >>> print(as_text({"chisq": numpy.float64(1.5), "at": [(numpy.int64(3), numpy.bool_(True))]}))
    {'chisq': 1.5, 'at': [(3, True)]}
    """
    with _plain_numbers():
        return write(value)


@contextmanager
def _plain_numbers() -> Iterator[None]:
    """Inside, numbers of numpy are shown without their type, ``np.float64(1.5)`` as 1.5.

    numpy does so itself, as it did before its release 2. So it holds wherever a number lies: also in the text of a class
    of the user's.
    """
    numpy = sys.modules.get("numpy")
    if numpy is None or int(numpy.__version__.partition(".")[0]) < 2:
        yield
        return
    with numpy.printoptions(legacy="1.25"):
        yield


def as_json(value: Any) -> str:
    """*value* in JSON.

    Arrays become lists, and numbers that are not finite null, because JSON has no such numbers. An object with a
    ``summary``, as the results of fits have, becomes its summary. A failed input becomes a map of its unit and cause, a
    dataclass a map of its fields. Anything else becomes its text.

    >>> import numpy
    >>> print(as_json({"x": numpy.arange(3), "at": (1.5, float("nan"))}))
    {
      "x": [0, 1, 2],
      "at": [1.5, null]
    }
    """
    with _plain_numbers():  # keys, and what is no number, are texts
        return _indented(_plain(value))


def _plain(value: Any, depth: int = 0) -> Any:
    """The text of maps, lists and scalars."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if depth >= MAX_DEPTH:
        return repr(value)
    if isinstance(value, UnitError):
        return {"unit": value.unit, "error": value.cause, "traceback": value.traceback}
    if isinstance(value, Mapping):
        return {str(key): _plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item, depth + 1) for item in value]
    if isinstance(value, type):
        return str(value)
    for name in ("summary", "tolist"):
        make = getattr(value, name, None)
        if callable(make):
            return _plain(make(), depth + 1)
    if dataclasses.is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name), depth + 1) for f in dataclasses.fields(value)}
    return str(value)


def _indented(value: Any) -> str:
    """JSON with a line for each item of the outermost map, or list of maps and lists."""
    if isinstance(value, dict) and value:
        rows = [f"  {json.dumps(key)}: {json.dumps(item)}" for key, item in value.items()]
        return "{\n" + ",\n".join(rows) + "\n}"
    return json.dumps(value)
