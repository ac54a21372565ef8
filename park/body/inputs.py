"""Functions are checked, and inputs are packed batch by batch as an iterable is read."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from park.body import payload
from park.errors import InvalidRequest
from park.wire.fragments import MAX_PAYLOAD_BYTES
from park.wire.pack import Buffer, BufferAllocator

#: Units, and bytes of inputs, in the largest batch.
MAX_BATCH_UNITS, MAX_BATCH_BYTES = 8192, 4 << 20
#: Bytes of inputs in one map, about, where the next map begins when this one has ended.
WINDOW_BYTES = 128 << 20
#: Levels of an input that the estimate of its length enters, and parts that it reads at each level.
ESTIMATE_DEPTH, ESTIMATE_PARTS = 3, 10
_BOXES = (tuple, list, dict)
_SHORT = frozenset((int, float, bool, complex, type(None)))
#: Seconds of reading inputs after which a batch is sent.
MAX_BATCH_SECONDS = 0.01


def check_function(function: Any, what: str = "function") -> Any:
    """Return *function* if it can run over inputs: a callable, or a body with ``run``. Raises InvalidRequest."""
    if isinstance(function, type) and hasattr(function, "run"):
        raise InvalidRequest(
            f"the {what} is the class {function.__name__}: give an instance, {function.__name__}(...)"
        )
    if not callable(function) and not callable(getattr(function, "run", None)):
        raise InvalidRequest(
            f"the {what} {function!r:.80} is neither callable nor an object with a run method"
        )
    return function


def iterator_of(inputs: Iterable[Any]) -> Iterator[Any]:
    """The iterator over *inputs*. Raises InvalidRequest where there is none."""
    try:
        return iter(inputs)
    except TypeError:
        raise InvalidRequest(
            f"inputs={inputs!r:.80} cannot be iterated over: give a list, or inputs=None"
        ) from None


def batches_of(
    inputs: Iterable[Any], size: Callable[[], int], place: BufferAllocator | None = None
) -> Iterator[tuple[Buffer, bool]]:
    """Packs of inputs, each with the answer whether it is the last. *size* gives the number of units for the next batch.

    *place*: where a long one is put.
    """
    if (rows := _rows_of(inputs)) is not None:
        at = 0
        row = max(1, rows[:1].nbytes)
        last = False
        while not last:
            stop = at + max(1, min(size(), MAX_BATCH_BYTES // row))
            last = stop >= len(rows)
            yield payload.encode_array(rows[at:stop], place), last
            at = stop
        return
    iterator = iterator_of(inputs)
    following = list(itertools.islice(iterator, 1))
    last = False
    while not last:
        values, following = following, []
        began = time.perf_counter()
        room = MAX_BATCH_BYTES - sum(map(bytes_of, values))
        most = size()
        for value in iterator:
            if len(values) >= most or room <= 0 or time.perf_counter() - began > MAX_BATCH_SECONDS:
                following = [value]
                break
            values.append(value)
            room -= bytes_of(value)
        last = not following
        *packs, final = packs_of(values, place)
        yield from ((pack, False) for pack in packs)
        yield final, last


def windows_of(inputs: Iterable[Any], place: BufferAllocator | None = None) -> Iterator[Buffer]:
    """Packs of all inputs, each of at most about `WINDOW_BYTES`; no packs where there are no inputs.

    *place*: where a long one is put.
    """
    if (rows := _rows_of(inputs)) is not None:
        step = max(1, WINDOW_BYTES // max(1, rows[:1].nbytes))
        yield from (payload.encode_array(rows[at : at + step], place) for at in range(0, len(rows), step))
        return
    values: list[Any] = []
    room = WINDOW_BYTES
    for value in inputs:
        if values and room <= 0:
            yield from packs_of(values, place)
            values, room = [], WINDOW_BYTES
        values.append(value)
        room -= bytes_of(value)
    if values:
        yield from packs_of(values, place)


def _rows_of(inputs: Any) -> Any:
    """*inputs* if it is a numpy array, whose rows are the inputs; else None."""
    numpy = sys.modules.get("numpy")
    if numpy is None or not isinstance(inputs, numpy.ndarray):
        return None
    if not inputs.ndim:
        raise InvalidRequest("a numpy array without axes has no rows to be inputs")
    return inputs


def packs_of(values: list[Any], place: BufferAllocator | None = None) -> Iterator[Buffer]:
    """One pack of the inputs; several packs where one would be too long to travel."""
    pack = payload.encode_units(values, place=place)
    if len(pack) <= MAX_PAYLOAD_BYTES or len(values) < 2:
        yield pack
        return
    del pack
    half = len(values) // 2
    yield from packs_of(values[:half], place)
    yield from packs_of(values[half:], place)


def bytes_of(value: Any, depth: int = ESTIMATE_DEPTH) -> int:
    """A quick estimate of an input's length in bytes.

    >>> bytes_of(b"12345678901234567890"), bytes_of([1.0, {"data": b"x" * 100}])
    (20, 124)
    """
    if type(value) in _SHORT:
        return 8
    if isinstance(value, bytes | str):
        return len(value)
    parts: Any = value
    if not isinstance(value, _BOXES):
        # only an attribute of the class: an object of the user's may answer to any name, or run code
        if hasattr(type(value), "nbytes") and isinstance(size := value.nbytes, int) and size:
            return size
        parts = _attributes(value)
        if not isinstance(parts, dict):
            return 8
    if not depth or not parts:
        return 8
    some = parts.values() if isinstance(parts, dict) else parts
    if (count := len(parts)) > ESTIMATE_PARTS:
        some = list(itertools.islice(some, ESTIMATE_PARTS))
    total = 0
    for part in some:
        total += 8 if type(part) in _SHORT else bytes_of(part, depth - 1)
    return 8 + total * count // len(some)


def _attributes(value: Any) -> Any:
    """The dict of an object's attributes, without its own code running; None: it has none."""
    try:
        return object.__getattribute__(value, "__dict__")
    except AttributeError:
        return None
