"""The inputs of a map on their way: read as they are needed, by whoever can wait for them.

What is in a list or an array is there, and is read by whoever makes the map. What comes out of an iterator may take its
time, or wait for the very results that are to come. So a thread of its own reads that, as for `multiprocessing.Pool.imap`,
and no result is kept from its caller because an input is not there yet. The thread sends what it has read when that is a
batch, or took a while; what is less than that is sent by whoever has nothing to do but wait for results.
"""

from __future__ import annotations

import contextvars
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

from park.batches import BATCH_BYTES, PATIENCE, batches_of, bytes_of, packs_of
from park.errors import InvalidRequest
from park.wire.pack import Pack

#: Seconds that the first inputs have to be sent together.
FIRST = 0.01
#: What holds its inputs: they cost nothing to read.
HOLDERS = (list, tuple, range, str, bytes, bytearray, dict, set, frozenset, deque)


class Sink(Protocol):
    """Where batches go: the map."""

    def put(self, data: bytes, count: int, closed: bool) -> None:
        """Take a batch; *closed*: it is the last. One thread at a time."""

    def has_room(self) -> bool:
        """Whether more may be sent now."""

    def batch_size(self) -> int:
        """Units of a full batch."""

    def stir(self) -> None:
        """Let whoever waits for results look: there is something to send."""


class Feed:
    """Reads *inputs*, and gives them to *sink*; ``eager``: as soon as it has room, whether or not anybody asks."""

    def __init__(self, inputs: Iterable[Any], sink: Sink, eager: bool = False) -> None:
        self._sink = sink
        #: held by who sends, so that batches come in order; and by who looks at or changes what follows
        self._sending, self._changed = threading.Lock(), threading.Condition()
        self._values: list[Any] = []
        self._bytes = 0
        #: the inputs have come to their end; nobody wants more; somebody waits for results
        self._read = self._over = self._waits = False
        self._sent_at = 0.0
        #: the last batch was sent
        self.ended = False
        #: what reading the inputs has raised: that comes after the results of those before it, unless it has *failed* to
        #: send them
        self.error: BaseException | None = None
        self.failed = False
        self._batches: Iterator[tuple[bytes, bool]] | None = None
        numpy = sys.modules.get("numpy")
        if type(inputs) in HOLDERS or (numpy is not None and isinstance(inputs, numpy.ndarray)):
            self._batches = batches_of(inputs, sink.batch_size)
            self.flush()
            if eager and not self.ended:
                self._start(self._send_rest)
        else:
            try:
                iterator = iter(inputs)
            except TypeError:
                raise InvalidRequest(
                    f"inputs={inputs!r:.80} cannot be iterated over: give a list, or inputs=None"
                ) from None
            self._start(self._read_all, iterator)
            with self._changed:
                self._changed.wait_for(lambda: self._read, FIRST)
            self.flush()

    def flush(self) -> None:
        """Send what there is."""
        with self._sending:
            if self._batches is not None:
                while not self.ended and not self._over and self._sink.has_room():
                    self._put(*next(self._batches))
                return
            with self._changed:
                values, self._values, self._bytes, closed = self._values, [], 0, self._read
            if (values or closed) and not (self.ended or self._over):
                *packs, last = packs_of(values)
                for pack in packs:
                    self._put(pack, False)
                self._put(last, closed)

    def _put(self, data: bytes, closed: bool) -> None:
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
        """There may be room for more; also from the loop, which waits for nothing here."""
        with self._changed:
            self._changed.notify_all()

    def stop(self) -> None:
        """Nobody wants more."""
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
            full = len(self._values) >= self._sink.batch_size() or self._bytes >= BATCH_BYTES
        if full or time.perf_counter() - self._sent_at > PATIENCE:
            if not self._end(self.flush):
                return False
            self._await_room()
        elif self._waits:
            self._waits = False
            self._sink.stir()
        return not self._over

    def _send_rest(self) -> None:
        while not (self.ended or self._over) and self._end(self.flush):
            self._await_room()

    def _await_room(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._over or self._sink.has_room())

    def _end(self, send: Any) -> bool:
        """Send, and let whoever waits look; what goes wrong is theirs to hear."""
        try:
            send()
        except BaseException as error:
            self.error = error
            self.failed = True
            self.stop()
        self._waits = False
        self._sink.stir()
        return not self._over
