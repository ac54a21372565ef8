"""What is run, and over what: functions are checked, and inputs packed batch by batch as they are read."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from park import payload
from park.errors import InvalidRequest

#: Units, and bytes of inputs, in the largest batch.
LARGEST_BATCH, BATCH_BYTES = 8192, 4 << 20
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
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(inputs, numpy.ndarray):
        if not inputs.ndim:
            raise InvalidRequest("a numpy array without axes has no rows to be inputs")
        at = 0
        row = max(1, inputs[:1].nbytes)
        last = False
        while not last:
            stop = at + max(1, min(size(), BATCH_BYTES // row))
            last = stop >= len(inputs)
            yield payload.encode_array(inputs[at:stop]), last
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
        room = BATCH_BYTES
        most = size()
        for value in iterator:
            if len(values) >= most or room <= 0 or time.perf_counter() - began > PATIENCE:
                following = [value]
                break
            values.append(value)
            room -= (value.nbytes if hasattr(type(value), "nbytes") else 0) or (
                len(value) if isinstance(value, bytes | str) else 8
            )
        last = not following
        yield payload.encode_units(values), last
