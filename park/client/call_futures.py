"""The calls of an executor on their way: those of one function travel together, and each has a future.

Calls that are submitted within a turn of the loop make one map. Each call has a number among those of its function, which
is its unit in the map, so its random numbers do not depend on which calls travel together.
"""

from __future__ import annotations

import concurrent.futures
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

from park.body.function_call import value_of
from park.body.payload import nbytes
from park.body.results import decode_results
from park.client.link import Link
from park.client.maps import MapSession
from park.client.remote_maps import MapCall
from park.errors import ParkError
from park.wire.pack import Buffer, pack_pieces


class CallOwner(Protocol):
    """The executor as its futures see it."""

    link: Link

    def send_gathered(self) -> None:
        """Send the calls that were gathered and have not been sent."""

    def cancel(self, futures: list[CallFuture]) -> bool:
        """Cancel the calls that have not begun. Returns whether none of *futures* will ever begin."""

    def forget(self, future: CallFuture) -> None:
        """The call has ended."""


class _Results:
    """Results that came in one message. The first thread that takes one decodes all of them."""

    def __init__(self, start: int, data: Buffer) -> None:
        self._start = start
        self._data = data
        self._values: list[Any] | None = None
        self._lock = threading.Lock()

    def take(self, unit: int) -> Any:
        """The result of this unit, once. Raises the exception of its call."""
        with self._lock:
            if self._values is None:
                self._values = decode_results(self._data, self._start)
                self._data = b""
        at = unit - self._start
        value, self._values[at] = self._values[at], None
        return value_of(value)


class _Dropped:
    """The outcome of a call that never runs."""


class CallFuture(concurrent.futures.Future[Any]):
    """The future of a call. The thread that waits in `result` settles it, which saves waking another.

    If no thread waits, or if the user has added callbacks, the thread of callbacks settles it, because user code must
    not hold up the loop.
    """

    def __init__(self, owner: CallOwner) -> None:
        super().__init__()
        self._owner = owner
        #: the calls that it travels with, and its number
        self.batch: CallBatch | None = None
        self.unit = 0
        self._outcome: _Results | _Dropped | BaseException | None = None
        #: locked until the outcome is here
        self._arrival = threading.Lock()
        self._arrival.acquire()
        #: held by a thread that waits; the thread that settles takes it for good
        self._attended, self._settling = threading.Lock(), threading.Lock()
        self._observed = False
        #: it was to be cancelled, and had begun
        self.begun = False

    def arrived(self, outcome: _Results | _Dropped | BaseException) -> bool:
        """Take the outcome. Returns whether the thread of callbacks has to `settle` it, because no waiting thread will."""
        self._outcome = outcome
        self._arrival.release()
        return isinstance(outcome, _Dropped) or self._observed or not self._attended.locked()

    def settle(self) -> None:
        """Take the outcome, once."""
        outcome = self._outcome
        assert outcome is not None
        if not self._settling.acquire(False):
            return
        try:
            if isinstance(outcome, _Dropped):
                super().cancel()
                self.set_running_or_notify_cancel()
            elif self.set_running_or_notify_cancel():
                try:
                    if isinstance(outcome, BaseException):
                        raise outcome
                    value = outcome.take(self.unit)
                except BaseException as error:
                    self.set_exception(error)
                else:
                    self.set_result(value)
        finally:  # a callback of the user's may raise anything
            self.batch = None
            self._owner.forget(self)

    def cancel(self) -> bool:
        """Whether the call will never run. One that has begun goes on."""
        if self.done():
            return super().cancel()
        return self._owner.cancel([self])

    def running(self) -> bool:
        return super().running() or (self.begun and not self.done())

    def add_done_callback(self, fn: Callable[[concurrent.futures.Future[Any]], object]) -> None:
        self._observed = True
        super().add_done_callback(fn)

    def result(self, timeout: float | None = None) -> Any:
        left = self._attend(timeout)
        error = super().exception(left)
        if error is None:
            return super().result(0)
        try:
            raise error  # raised here, because before Python 3.14 an exception that is false counts as no exception
        finally:
            del self, error  # the traceback of the exception holds this frame

    def exception(self, timeout: float | None = None) -> BaseException | None:
        return super().exception(self._attend(timeout))

    def join(self) -> None:
        """Help to settle it."""
        self._attend(None)

    def _attend(self, timeout: float | None) -> float | None:
        """Wait and settle, unless another thread does. Returns the time that is left."""
        if self._observed or self.done() or not self._attended.acquire(False):
            return timeout
        began = time.monotonic()
        try:
            if self._outcome is None:
                self._owner.send_gathered()
                self._owner.link.attend(self._arrival, timeout)
        finally:
            self._attended.release()
            if self._outcome is not None:  # also if it came just now, and the loop has left it to us
                if self._observed:
                    self._owner.link.call_back(self.settle)
                else:
                    self.settle()
        return None if timeout is None else max(0.0, timeout - (time.monotonic() - began))


class CallBatch:
    """Calls of one function with consecutive numbers from *first* on, which are sent as one map."""

    def __init__(self, session: MapSession, code: tuple[bytes, bytes], first: int, seed: int) -> None:
        self._session = session
        self._code = code
        self._first = first
        self._seed = seed
        #: the map, once it is sent
        self.call: MapCall | None = None
        #: futures by place; None: the outcome is here
        self._futures: list[CallFuture | None] = []
        self._sizes: list[int] = []
        self._pieces: list[Any] = []
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._futures)

    def add(self, future: CallFuture, pieces: Sequence[Any]) -> None:
        """One more call; *pieces* are the buffers of its arguments."""
        future.batch, future.unit = self, self._first + len(self._futures)
        self._futures.append(future)
        self._pieces += pieces
        self._sizes.append(sum(map(nbytes, pieces)))
        self.bytes += self._sizes[-1]

    def send(self) -> ParkError | None:
        """Send the calls. Returns the error with which all have ended, if they cannot be sent."""
        data = pack_pieces(self._sizes, self._pieces)
        self._pieces, self._sizes = [], []
        numbers = range(self._first, self._first + len(self._futures))
        try:
            self.call = self._session.open_calls(self._code, data, numbers, self._seed, self._arrived)
        except ParkError as error:
            self._end_all(error)
            return error
        except BaseException as error:
            self._end_all(error)
            raise
        return None

    def _arrived(self, call: MapCall) -> None:
        """Take results that have come, or will never come (runs in the loop)."""
        left: list[CallFuture] = []
        for start, count, data in call.take_results():
            left += self._tell(start, start + count, _Results(start, data))
        for start, stop in call.take_dropped():
            left += self._tell(start, stop, _Dropped())
        if call.error is not None:
            left += self._tell(self._first, self._first + len(self._futures), call.error)
        _settle_later(self._session.link, left)

    def _end_all(self, error: BaseException) -> None:
        left = self._tell(self._first, self._first + len(self._futures), error)
        _settle_later(self._session.link, left)

    def _tell(self, start: int, stop: int, outcome: _Results | _Dropped | BaseException) -> list[CallFuture]:
        """Give these units their outcome, if they have none. Returns the futures that the caller must settle."""
        places = slice(start - self._first, stop - self._first)
        futures = [future for future in self._futures[places] if future is not None]
        self._futures[places] = [None] * (stop - start)
        return [future for future in futures if future.arrived(outcome)]


def _settle_later(link: Link, futures: list[CallFuture]) -> None:
    """Let the callbacks' thread settle these *futures*."""
    if futures:
        link.call_back(partial(_settle, link, futures))


def _settle(link: Link, futures: list[CallFuture]) -> None:
    futures.reverse()
    try:
        while futures:
            futures.pop().settle()
    finally:  # a callback of the user may raise anything; the other futures are settled all the same
        futures.reverse()
        _settle_later(link, futures)
