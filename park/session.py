"""Sessions: jobs whose driver is the client itself. `service.map`, mappers and executors.

Nothing of a session is stored, and it ends with its client. It does not end with its broker: the client keeps what has not
been answered, opens the session anew where the broker has lost it, and gets each result once (`park.wire.calls`).
Inputs are read as results come, so that a lazy iterable of any length needs little memory on either side.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import itertools
import os
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from park import payload
from park.batches import LARGEST_BATCH, batches_of, windows_of
from park.errors import Abort, ParkError, UnitError
from park.kernel.env import mix
from park.link import Link, MapCall
from park.results import decode_results
from park.wire import calls, messages
from park.wire.pack import Pack

#: Units in the first batch.
FIRST_BATCH = 64
#: Batches under way, and bytes of the results of all of them, as far as they can be foreseen.
BATCHES, AHEAD_BYTES = 4, 64 << 20


class Session:
    """An open session: makes maps, and closes itself when it is not used any more."""

    def __init__(self, link: Link, kept: calls.Session, seed: int) -> None:
        self.link = link
        self._kept = kept
        self._seed = seed
        self._maps = itertools.count()
        self._finalizer = weakref.finalize(self, _close, link, kept)
        self._finalizer.atexit = False

    def open(
        self,
        code: bytes,
        blob: bytes,
        data: bytes,
        count: int,
        closed: bool = True,
        on_result: Callable[[MapCall], None] | None = None,
    ) -> MapCall:
        """Start a map of the function *blob* over the pack *data*."""
        seed = mix(self._seed, next(self._maps))
        message = messages.Map(os.urandom(16), 0, code, count, closed, seed)
        return self.link.open_map(self._kept, message, data, blob, on_result)

    def close(self) -> None:
        self._finalizer()


def _close(link: Link, kept: calls.Session) -> None:
    with contextlib.suppress(ParkError):
        link.close_session(kept)


class _Pace:
    """How fast results are taken, and how large a batch may therefore be. (No part of the iterator: that would be a
    cycle, and an iterator that is dropped must end its map at once.)
    """

    __slots__ = ("size", "taken")

    def __init__(self) -> None:
        #: units, and bytes of their results
        self.taken = self.size = 0

    def batch_size(self) -> int:
        most = AHEAD_BYTES * self.taken // (BATCHES * self.size) if self.size else LARGEST_BATCH
        return max(1, min(LARGEST_BATCH, max(FIRST_BATCH, self.taken // 4), most))


class MapIterator:
    """The results of ``service.map``, in order or as they come. Closing it cancels what has not run."""

    def __init__(self, session: Session, function: Any, inputs: Iterable[Any], ordered: bool) -> None:
        self._session = session
        self._ordered = ordered
        blob = payload.dump_code(function, "the function")
        self._pace = _Pace()
        self._batches = batches_of(inputs, self._pace.batch_size)
        self._call: MapCall | None = None
        self._code = (payload.code_hash(blob), blob)
        self._sent = 0
        self._closed = False
        self._over = False
        #: results that came before those that are due, by first unit
        self._early: dict[int, list[Any]] = {}
        #: the results at hand, and the unit of the next one
        self._values: Iterator[Any] = iter(())
        self._unit = 0
        self._fill()

    def __iter__(self) -> MapIterator:
        return self

    def __next__(self) -> Any:
        while not self._over:
            for value in self._values:
                unit, self._unit = self._unit, self._unit + 1
                if type(value) is UnitError:
                    self.close()
                    raise UnitError(value.cause, value.traceback, unit)
                return value
            try:
                self._advance()
            except BaseException:
                self.close()
                raise
        raise StopIteration

    def __del__(self) -> None:
        with contextlib.suppress(Exception):  # also when it was never made whole, or at the interpreter's end
            self.close()

    def close(self) -> None:
        """End the map: what has not run will not."""
        if self._over:
            return
        self._over = True
        self._values = iter(())
        if self._call is not None:
            with contextlib.suppress(ParkError):
                self._session.link.end_map(
                    self._call, cancel=not self._closed or self._pace.taken < self._sent
                )
        self._session.close()

    def _fill(self) -> None:
        """Send inputs until enough are ahead of what the caller has taken."""
        while not self._closed and self._sent - self._pace.taken <= (BATCHES - 1) * self._pace.batch_size():
            data, self._closed = next(self._batches)
            count = Pack(data).count
            if self._call is None:
                self._call = self._session.open(*self._code, data, count, self._closed)
            else:
                units = messages.Units(self._sent, count, self._closed, map=self._call.key)
                self._session.link.feed_map(self._call, units, data)
            self._sent += count

    def _advance(self) -> None:
        """Get the next results; at the end, close."""
        self._fill()
        if self._closed and self._pace.taken == self._sent:
            self.close()
            return
        if not self._ordered or self._pace.taken not in self._early:
            assert self._call is not None
            got = self._call.get()
            assert got is not None
            start, values = got[0], decode_results(got[2], got[0])
            self._pace.size += len(got[2])
            if self._ordered:
                self._early[start] = values
                return
        else:
            start, values = self._pace.taken, self._early.pop(self._pace.taken)
        self._pace.taken += len(values)
        self._values, self._unit = iter(values), start


class Mapper:
    """A callable that maps one function over points: ``mapper(points) -> list``. Many calls, one session."""

    def __init__(self, session: Session, function: Any) -> None:
        self._session = session
        self._blob = payload.dump_code(function, "the function")
        self._code = payload.code_hash(self._blob)

    def __call__(self, points: Iterable[Any]) -> list[Any]:
        """The results in order. Raises UnitError at the first point that failed."""
        values = self._run(points)
        for unit, value in enumerate(values):
            if type(value) is UnitError:
                raise UnitError(value.cause, value.traceback, unit)
        return values

    def _run(self, points: Iterable[Any]) -> list[Any]:
        values: list[Any] = []
        for data in windows_of(points):
            values += self._map(data, Pack(data).count)
        return values

    def _map(self, data: bytes, count: int) -> list[Any]:
        """The results of one message of points."""
        call = self._session.open(self._code, self._blob, data, count)
        done = False
        try:
            values: list[Any] = [None] * count
            missing = count
            while missing:
                got = call.get()
                assert got is not None
                values[got[0] : got[0] + got[1]] = decode_results(got[2], got[0])
                missing -= got[1]
            done = True
            return values
        finally:
            self._session.link.end_map(call, cancel=not done)

    def close(self) -> None:
        """End the session."""
        self._session.close()


class _Raised:
    """An exception of the user's, on its way back as itself."""

    def __init__(self, error: BaseException, text: str) -> None:
        self.error = error
        self.text = text


class _Call:
    """Runs a function with positional and keyword arguments, and hands its exception over as a value."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def __call__(self, call: tuple[tuple[Any, ...], dict[str, Any]]) -> Any:
        try:
            return self.function(*call[0], **call[1])
        except Abort:
            raise
        except BaseException as error:
            raised = _Raised(error, traceback.format_exc())
            try:
                payload.loads(payload.dumps(raised))
            except BaseException:  # the exception itself cannot travel: its text can
                raise error from None
            return raised


def _value(result: Any) -> Any:
    """The result of a `_Call`, or the exception that it raised."""
    if isinstance(result, _Raised):
        raise result.error from UnitError("raised in a slot process", result.text)
    if isinstance(result, UnitError):
        raise result
    return result


class _Future(concurrent.futures.Future[Any]):
    """The future of a call. The thread that waits in `result` settles it, which saves waking another.

    Where none waits, or where there are callbacks of the user's, the callbacks' thread does: no code of the user's
    may hold up the loop.
    """

    def __init__(self, executor: Executor) -> None:
        super().__init__()
        self._executor = executor
        self._call: MapCall | None = None
        #: held by the thread that waits, and taken for good by the one that settles
        self._attended, self._settling = threading.Lock(), threading.Lock()
        self._observed = False

    def arrived(self, call: MapCall) -> None:
        """In the loop: the result is here."""
        self._call = call
        if self._observed or not self._attended.locked():
            self._executor._session.link.call_back(self.settle)

    def settle(self) -> None:
        """Take the result, once."""
        assert self._call is not None
        if not self._settling.acquire(False):
            return
        if self.set_running_or_notify_cancel():
            try:
                got = self._call.get()
                assert got is not None
                value = _value(decode_results(got[2], 0)[0])
            except BaseException as error:
                self.set_exception(error)
            else:
                self.set_result(value)
            self._executor._forget(self)

    def cancel(self) -> bool:
        cancelled = super().cancel()
        if cancelled:
            self._executor._forget(self)
        return cancelled

    def add_done_callback(self, fn: Callable[[concurrent.futures.Future[Any]], object]) -> None:
        self._observed = True
        super().add_done_callback(fn)

    def result(self, timeout: float | None = None) -> Any:
        return super().result(self._attend(timeout))

    def exception(self, timeout: float | None = None) -> BaseException | None:
        return super().exception(self._attend(timeout))

    def _attend(self, timeout: float | None) -> float | None:
        """Wait and settle, if nobody else does; the time that is left."""
        call = self._call
        if call is None or self.done() or self._observed or not self._attended.acquire(False):
            return timeout
        began = time.monotonic()
        try:
            call.wait(timeout)
        finally:
            self._attended.release()
            if call.wait(0):  # also if it came just now, and the loop has left it to us
                if self._observed:
                    self._executor._session.link.call_back(self.settle)
                else:
                    self.settle()
        return None if timeout is None else max(0.0, timeout - (time.monotonic() - began))


class Executor(concurrent.futures.Executor):
    """A `concurrent.futures.Executor` whose workers are the fabric's slots. Close it with `shutdown` or ``with``.

    A future is not told when its call begins: ``running()`` is False until it is done, and ``cancel()`` ends a call that
    runs. Callbacks of futures run one after the other, in one thread.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._open: set[_Future] = set()
        self._lock = threading.Lock()
        self._idle = threading.Condition(self._lock)
        self._shut = False

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> concurrent.futures.Future[Any]:
        """Run ``fn(*args, **kwargs)`` on the fabric."""
        blob = payload.dump_code(_Call(fn), "the function")
        data = payload.encode_units([(args, kwargs)])
        future = _Future(self)
        with self._lock:
            if self._shut:
                raise RuntimeError("cannot schedule new futures after shutdown")
            self._open.add(future)
        try:
            code = payload.code_hash(blob)
            future._call = self._session.open(code, blob, data, 1, on_result=future.arrived)
        except BaseException:  # nobody will settle it: `shutdown` must not wait for it
            with self._idle:
                self._open.discard(future)
                self._idle.notify_all()
            raise
        return future

    def map(
        self,
        fn: Callable[..., Any],
        *iterables: Any,
        timeout: float | None = None,
        chunksize: int = 1,
        **_: Any,
    ) -> Iterator[Any]:
        """As `concurrent.futures.Executor.map`, in one request; PARK finds its own *chunksize*."""
        if chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        with self._lock:
            if self._shut:
                raise RuntimeError("cannot schedule new futures after shutdown")
        deadline = None if timeout is None else time.monotonic() + timeout
        given: list[Any] = [(args, {}) for args in zip(*iterables, strict=False)]
        return self._results(Mapper(self._session, _Call(fn)), given, deadline)

    def _results(self, mapper: Mapper, given: list[Any], deadline: float | None) -> Iterator[Any]:
        if not given:
            return iter(())
        call = self._session.open(mapper._code, mapper._blob, payload.encode_units(given), len(given))
        return self._in_order(call, len(given), deadline)

    def _in_order(self, call: MapCall, count: int, deadline: float | None) -> Iterator[Any]:
        early: dict[int, list[Any]] = {}
        taken = 0
        try:
            while taken < count:
                while taken not in early:
                    got = call.get(None if deadline is None else max(0.0, deadline - time.monotonic()))
                    if got is None:
                        raise TimeoutError
                    early[got[0]] = decode_results(got[2], got[0])
                values = early.pop(taken)
                taken += len(values)
                yield from map(_value, values)
        finally:
            self._session.link.end_map(call, cancel=taken < count)

    def _forget(self, future: _Future) -> None:
        """It is settled, or cancelled."""
        if future._call is not None:
            with contextlib.suppress(ParkError):
                self._session.link.end_map(future._call, cancel=future.cancelled())
        with self._idle:
            self._open.discard(future)
            self._idle.notify_all()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """No more calls; with *wait* until all have ended."""
        with self._lock:
            self._shut = True
            waiting = list(self._open)
        if cancel_futures:
            for future in waiting:
                future.cancel()
        if wait:
            with self._idle:
                self._idle.wait_for(lambda: not self._open)
            self._session.close()
