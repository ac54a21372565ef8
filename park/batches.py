"""What is run, and over what: functions are checked, and inputs packed batch by batch as they are read."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from park import payload
from park.errors import InvalidRequest
from park.wire.parts import MAX_PAYLOAD

#: Units, and bytes of inputs, in the largest batch.
LARGEST_BATCH, BATCH_BYTES = 8192, 4 << 20
#: Bytes of inputs in one map, about, where the next one is made when that has ended.
WINDOW = 128 << 20
#: So deep, and into so many parts of each part, an input is looked for its length.
DEPTH, PARTS = 3, 10
_BOXES = (tuple, list, dict)
_SHORT = frozenset((int, float, bool, complex, type(None)))
#: A batch is sent when reading its inputs took this many seconds.
PATIENCE = 0.01


def check_function(function: Any, what: str = "function") -> Any:
    """*function* if it can run over inputs: a callable, or a body with ``run``. Raises InvalidRequest."""
    if isinstance(function, type) and hasattr(function, "run"):
        raise InvalidRequest(
            f"the {what} is the class {function.__name__}: give an instance, {function.__name__}(...)"
        )
    if not callable(function) and not callable(getattr(function, "run", None)):
        raise InvalidRequest(
            f"the {what} {function!r:.80} is neither callable nor an object with a run method"
        )
    return function


def batches_of(inputs: Iterable[Any], size: Callable[[], int]) -> Iterator[tuple[bytes, bool]]:
    """Packs of inputs, and whether the pack is the last."""
    if (rows := _rows_of(inputs)) is not None:
        at = 0
        row = max(1, rows[:1].nbytes)
        last = False
        while not last:
            stop = at + max(1, min(size(), BATCH_BYTES // row))
            last = stop >= len(rows)
            yield payload.encode_array(rows[at:stop]), last
            at = stop
        return
    try:
        iterator = iter(inputs)
    except TypeError:
        raise InvalidRequest(
            f"inputs={inputs!r:.80} cannot be iterated over: give a list, or inputs=None"
        ) from None
    following = list(itertools.islice(iterator, 1))
    last = False
    while not last:
        values, following = following, []
        began = time.perf_counter()
        room = BATCH_BYTES - sum(map(bytes_of, values))
        most = size()
        for value in iterator:
            if len(values) >= most or room <= 0 or time.perf_counter() - began > PATIENCE:
                following = [value]
                break
            values.append(value)
            room -= bytes_of(value)
        last = not following
        *packs, final = packs_of(values)
        yield from ((pack, False) for pack in packs)
        yield final, last


def windows_of(inputs: Iterable[Any]) -> Iterator[bytes]:
    """Packs of all inputs, each of them of some `WINDOW` bytes at the most where that can be; none of no inputs."""
    if (rows := _rows_of(inputs)) is not None:
        step = max(1, WINDOW // max(1, rows[:1].nbytes))
        yield from (payload.encode_array(rows[at : at + step]) for at in range(0, len(rows), step))
        return
    values: list[Any] = []
    room = WINDOW
    for value in inputs:
        if values and room <= 0:
            yield from packs_of(values)
            values, room = [], WINDOW
        values.append(value)
        room -= bytes_of(value)
    if values:
        yield from packs_of(values)


def _rows_of(inputs: Any) -> Any:
    """A numpy array, whose rows are the inputs; None: it is something else."""
    numpy = sys.modules.get("numpy")
    if numpy is None or not isinstance(inputs, numpy.ndarray):
        return None
    if not inputs.ndim:
        raise InvalidRequest("a numpy array without axes has no rows to be inputs")
    return inputs


def packs_of(values: list[Any]) -> Iterator[bytes]:
    """One pack of the inputs; several where it would be too long to travel."""
    pack = payload.encode_units(values)
    if len(pack) <= MAX_PAYLOAD or len(values) < 2:
        yield pack
        return
    del pack
    half = len(values) // 2
    yield from packs_of(values[:half])
    yield from packs_of(values[half:])


def bytes_of(value: Any, depth: int = DEPTH) -> int:
    """About how long an input is, as far as that is easily seen.

    >>> bytes_of(b"12345678901234567890"), bytes_of([1.0, {"data": b"x" * 100}])
    (20, 124)
    """
    if type(value) in _SHORT:
        return 8
    if isinstance(value, bytes | str):
        return len(value)
    parts: Any = value
    if not isinstance(value, _BOXES):
        # of an object of the user's only what its class says: another may answer to any name, or do something
        if hasattr(type(value), "nbytes") and isinstance(size := value.nbytes, int) and size:
            return size
        parts = _attributes(value)
        if not isinstance(parts, dict):
            return 8
    if not depth or not parts:
        return 8
    some = parts.values() if isinstance(parts, dict) else parts
    if (count := len(parts)) > PARTS:
        some = list(itertools.islice(some, PARTS))
    total = 0
    for part in some:
        total += 8 if type(part) in _SHORT else bytes_of(part, depth - 1)
    return 8 + total * count // len(some)


def _attributes(value: Any) -> Any:
    """The attributes of an object, as they lie in it; None: it has no dict of them."""
    try:
        return object.__getattribute__(value, "__dict__")
    except AttributeError:
        return None
