"""The inputs of a map on their way to the broker: read as they are needed, by a thread that can wait for them.

The thread that makes the map reads lists and arrays. An iterator may be slow, or may wait for results of the map itself. So
a thread of its own reads it, as for `multiprocessing.Pool.imap`, and a missing input holds back no result. That thread
sends its inputs when they fill a batch or have waited a while; the thread that waits for results sends the rest.
"""

from __future__ import annotations

import contextlib
import contextvars
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

from park.body.inputs import MAX_BATCH_BYTES, MAX_BATCH_SECONDS, batches_of, bytes_of, iterator_of, packs_of
from park.errors import ServiceClosed
from park.util.sealed import SealedBuffer
from park.wire.pack import Buffer, Pack

#: Seconds that the first inputs have to be sent together.
FIRST_INPUTS_SECONDS = 0.01
#: Types of inputs that cost nothing to read.
CONTAINERS = (list, tuple, range, str, bytes, bytearray, dict, set, frozenset, deque)


class InputSink(Protocol):
    """The map as the feed sees it."""

    def put(self, data: Buffer, count: int, closed: bool) -> None:
        """Take a batch; *closed*: it is the last. One thread at a time."""

    def has_room(self) -> bool:
        """Whether more may be sent now."""

    def batch_size(self) -> int:
        """Units of a full batch."""

    def stir(self) -> None:
        """Wake the thread that waits for results, because there are inputs to send."""


class InputFeed:
    """Reads *inputs*, and passes them to *sink*. ``eager``: as soon as the sink takes more, even if no thread waits for
    results.
    """

    def __init__(self, inputs: Iterable[Any], sink: InputSink, eager: bool = False) -> None:
        self._sink = sink
        #: held while a batch is sent, so that batches stay in order; and while the fields below are read or changed
        self._sending, self._changed = threading.Lock(), threading.Condition()
        self._values: list[Any] = []
        self._bytes = 0
        #: the inputs have ended; no more are wanted; a thread waits for results
        self._read = self._over = self._waits = False
        self._sent_at = 0.0
        #: the last batch was sent
        self.ended = False
        #: the error of reading the inputs. It comes after the results of the inputs before it, unless sending them has
        #: *failed*
        self.error: BaseException | None = None
        self.failed = False
        self._batches: Iterator[tuple[Buffer, bool]] | None = None
        numpy = sys.modules.get("numpy")
        if type(inputs) in CONTAINERS or (numpy is not None and isinstance(inputs, numpy.ndarray)):
            self._batches = batches_of(inputs, sink.batch_size, SealedBuffer)
            self.flush()
            if eager and not self.ended:
                self._start(self._send_rest)
        else:
            self._start(self._read_all, iterator_of(inputs))
            with self._changed:
                self._changed.wait_for(lambda: self._read, FIRST_INPUTS_SECONDS)
            self.flush()

    def flush(self) -> None:
        """Send the inputs that have been read."""
        with self._sending:
            if self._batches is not None:
                while not self.ended and not self._over and self._sink.has_room():
                    self._put(*next(self._batches))
                return
            with self._changed:
                values, self._values, self._bytes, closed = self._values, [], 0, self._read
            if (values or closed) and not (self.ended or self._over):
                *packs, last = packs_of(values, SealedBuffer)
                for pack in packs:
                    self._put(pack, False)
                self._put(last, closed)

    def _put(self, data: Buffer, closed: bool) -> None:
        self._sink.put(data, Pack(data).count, closed)
        self._sent_at = time.perf_counter()
        self.ended = closed

    @property
    def over(self) -> bool:
        """Whether no more will be sent."""
        return self.ended or self._over

    def rest(self) -> None:
        """The caller will wait for results, once it has sent what there is."""
        self._waits = True

    def tell_room(self) -> None:
        """Note that more inputs may be taken. The loop may call it too: it never waits."""
        with self._changed:
            self._changed.notify_all()

    def stop(self) -> None:
        """Stop reading inputs."""
        with self._changed:
            self._over = True
            self._values.clear()
            self._changed.notify_all()

    # -- the thread ------------------------------------------------------------------------------

    def _start(self, run: Any, *given: Any) -> None:
        # a generator finds the service, and whatever else its maker has set, as it would have without a thread
        context = contextvars.copy_context()
        threading.Thread(target=context.run, args=(run, *given), name="park-inputs", daemon=True).start()

    def _read_all(self, iterator: Iterator[Any]) -> None:
        try:
            for value in iterator:
                if not self._take(value):
                    return
                del value
        except BaseException as error:
            self.error = error
        finally:
            del iterator
        with self._changed:
            self._read = True
            self._changed.notify_all()
        self._end(self.flush)

    def _take(self, value: Any) -> bool:
        """An input was read; whether more are wanted."""
        with self._changed:
            self._values.append(value)
            self._bytes += bytes_of(value)
            full = len(self._values) >= self._sink.batch_size() or self._bytes >= MAX_BATCH_BYTES
        if full or time.perf_counter() - self._sent_at > MAX_BATCH_SECONDS:
            if not self._end(self.flush):
                return False
            self._await_room()
        elif self._waits:
            self._waits = False
            self._stir()
        return not self._over

    def _send_rest(self) -> None:
        while not (self.ended or self._over) and self._end(self.flush):
            self._await_room()

    def _await_room(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._over or self._sink.has_room())

    def _end(self, send: Any) -> bool:
        """Send, and wake the thread that waits; if sending fails, that thread raises the error."""
        try:
            send()
        except BaseException as error:
            self.error = error
            self.failed = True
            self.stop()
        self._waits = False
        self._stir()
        return not self._over

    def _stir(self) -> None:
        with contextlib.suppress(ServiceClosed):  # the thread that waits hears of it by itself
            self._sink.stir()
