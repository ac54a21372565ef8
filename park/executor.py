"""`concurrent.futures` on the fabric: an executor whose workers are slots.

It keeps the promises of the standard library's. Each call runs once. Leaving its ``with``, ``shutdown``, and the end of the
interpreter wait for all calls, those of maps too. ``cancel`` says whether the call will never run: one that has begun
goes on. A call that cannot travel, or raises, is its future's exception.
"""

from __future__ import annotations

import atexit
import concurrent.futures
import contextlib
import itertools
import os
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

from park import payload
from park.errors import Abort, NotPicklable, ParkError, ServiceClosed, UnitError
from park.feeding import HOLDERS
from park.link import MapCall
from park.results import decode_results
from park.session import Run, Session
from park.util.outlet import tell
from park.wire import messages

#: Seconds after which a script that waits for calls at its end says so.
NOTICE = 3.0
#: Seconds in which the broker says whether a call has begun; else it is taken to have.
ANSWER = 5.0


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


def value_of(result: Any) -> Any:
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
        #: it was to be cancelled, and had begun
        self._begun = False

    def arrived(self, call: MapCall) -> None:
        """In the loop: the result is here."""
        self._call = call
        if call.dropped or self._observed or not self._attended.locked():
            self._executor._session.link.call_back(self.settle)

    def settle(self) -> None:
        """Take the result, once."""
        call = self._call
        assert call is not None
        if not self._settling.acquire(False):
            return
        try:
            if call.dropped:
                super().cancel()
                self.set_running_or_notify_cancel()
            elif self.set_running_or_notify_cancel():
                try:
                    got = call.get()
                    assert got is not None
                    value = value_of(decode_results(got[2], 0)[0])
                except BaseException as error:
                    self.set_exception(error)
                else:
                    self.set_result(value)
        finally:  # a callback of the user's may raise anything
            self._executor._end(self)

    def cancel(self) -> bool:
        """Whether the call will never run. One that has begun goes on."""
        if self.done():
            return super().cancel()
        return self._executor._cancel([self])

    def running(self) -> bool:
        return super().running() or (self._begun and not self.done())

    def add_done_callback(self, fn: Callable[[concurrent.futures.Future[Any]], object]) -> None:
        self._observed = True
        super().add_done_callback(fn)

    def result(self, timeout: float | None = None) -> Any:
        return super().result(self._attend(timeout))

    def exception(self, timeout: float | None = None) -> BaseException | None:
        return super().exception(self._attend(timeout))

    def join(self) -> None:
        """Help to settle it."""
        self._attend(None)

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
            if call.ready:  # also if it came just now, and the loop has left it to us
                if self._observed:
                    self._executor._session.link.call_back(self.settle)
                else:
                    self.settle()
        return None if timeout is None else max(0.0, timeout - (time.monotonic() - began))


class Running:
    """A map of an executor. *run* is there once its first inputs were sent."""

    def __init__(self, buffered: bool) -> None:
        self.run: Run | None = None
        self._buffered = buffered
        self._lock = threading.Lock()

    def take(self, ordered: bool = True, deadline: float | None = None) -> tuple[int, list[Any]] | None:
        """The next results (`value_of`), with the first one's place; None: there are no more. Raises TimeoutError."""
        run = self.run
        assert run is not None
        try:
            return run.take(ordered, deadline)
        except ServiceClosed:
            if run.dropped:  # by `Executor.shutdown`
                raise concurrent.futures.CancelledError from None
            raise

    def put(self, call: Any, closed: bool) -> None:
        """One more input; or, with *closed*, none."""
        with self._lock:
            if self.run is not None and not self.run.closed:
                self.run.put(payload.encode_units([] if closed else [call]), 0 if closed else 1, closed)

    def join(self) -> None:
        """Send the rest of its inputs. Of those that are read as results are taken, none is due any more."""
        if self._buffered:
            self.put(None, closed=True)
        elif self.run is not None:
            self.run.join()


#: Executors with calls that have not ended, and whether the interpreter ends.
_busy: set[Executor] = set()
_exiting = False


class Executor(concurrent.futures.Executor):
    """A `concurrent.futures.Executor` whose workers are the fabric's slots. Close it with `shutdown` or ``with``.

    A future is not told when its call begins: ``running()`` is False until it is done, or ``cancel()`` was refused.
    Callbacks of futures run one after the other, in one thread.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        #: calls and maps that have not ended
        self._open: set[_Future | Running] = set()
        self._changed = threading.Condition()
        self._shut = False

    def __reduce__(self) -> Any:
        raise TypeError(
            "an executor stays in its process: open one where it is used, with service.executor()"
        )

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> concurrent.futures.Future[Any]:
        """Run ``fn(*args, **kwargs)`` on the fabric."""
        future = _Future(self)
        self._begin(future)
        try:
            blob = payload.dump_code(_Call(fn), "the function")
            data = payload.encode_units([(args, kwargs)])
            code = payload.code_hash(blob)
            future._call = self._session.open(code, blob, data, 1, on_result=future.arrived)
        except NotPicklable as error:
            future.set_exception(error)
            self._end(future)
        except BaseException:  # nobody will settle it: `shutdown` must not wait for it
            self._end(future)
            raise
        return future

    def map(
        self,
        fn: Callable[..., Any],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[Any]:
        """As `concurrent.futures.Executor.map`; PARK finds its own *chunksize*.

        What an iterator gives is read by a thread of its own: results come while it takes its time, or waits for them. With
        *buffersize* it is read by the caller: so many inputs now, and one more for each result that is taken.
        """
        if buffersize is not None and not isinstance(buffersize, int):
            raise TypeError("buffersize must be an integer or None")
        if buffersize is not None and buffersize < 1:
            raise ValueError("buffersize must be None or > 0")
        if chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        deadline = None if timeout is None else time.monotonic() + timeout
        calls: Iterable[Any] = ((args, {}) for args in zip(*iterables, strict=False))
        if buffersize is not None:
            rest = iter(calls)
            map_ = self.running(fn, None)
            for call in itertools.islice(rest, buffersize):
                map_.put(call, closed=False)
            return self._results(map_, deadline, rest)
        if all(type(given) in HOLDERS for given in iterables):
            calls = list(calls)
        return self._results(self.running(fn, calls), deadline)

    def running(self, fn: Callable[..., Any], calls: Iterable[Any] | None) -> Running:
        """A map over *calls*, pairs of arguments and keywords; None: they are put one by one."""
        map_ = Running(buffered=calls is None)
        self._begin(map_)
        try:
            map_.run = Run(self._session, _Call(fn), calls, eager=True, on_end=partial(self._end, map_))
        except BaseException:
            self._end(map_)
            raise
        return map_

    def _results(
        self, map_: Running, deadline: float | None, rest: Iterator[Any] | None = None
    ) -> Iterator[Any]:
        run = map_.run
        assert run is not None
        try:
            while True:
                if rest is not None:
                    self._put_next(map_, rest)
                taken = map_.take(deadline=deadline)
                if taken is None:
                    return
                values = taken[1][::-1]
                del taken
                yield value_of(values.pop())
                while values:
                    if rest is not None:
                        self._put_next(map_, rest)
                    yield value_of(values.pop())
        finally:
            run.cancel(spare=True)

    def _put_next(self, map_: Running, rest: Iterator[Any]) -> None:
        """A result is due to be taken: send one more input."""
        for call in itertools.islice(rest, 1):
            if self._shut:
                raise RuntimeError("cannot schedule new futures after shutdown")
            map_.put(call, closed=False)
            return
        map_.put(None, closed=True)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """No more calls; with *wait* until all have ended. *cancel_futures*: those that have not begun never will."""
        with self._changed:
            self._shut = True
            waiting = list(self._open)
        if cancel_futures:
            self._cancel([item for item in waiting if isinstance(item, _Future)])
            for item in waiting:
                if isinstance(item, Running) and item.run is not None:
                    item.run.cancel(spare=True)
        if wait:
            self._join()
        with self._changed:
            over = not self._open
        if over:
            self._session.close()

    def terminate_workers(self) -> None:
        """End all calls now, also those that run; as of Python 3.14."""
        with self._changed:
            self._shut = True
        self._session.close()

    def _join(self) -> None:
        """Wait until all calls have ended."""
        while True:
            with self._changed:
                item = next(iter(self._open), None)
            if item is None:
                return
            item.join()
            with self._changed:
                while item in self._open:
                    self._changed.wait()

    def _begin(self, item: _Future | Running) -> None:
        with self._changed:
            if _exiting:
                raise RuntimeError("cannot schedule new futures after interpreter shutdown")
            if self._shut:
                raise RuntimeError("cannot schedule new futures after shutdown")
            self._open.add(item)
            _busy.add(self)

    def _end(self, item: _Future | Running) -> None:
        """It has ended. Also in the loop."""
        with self._changed:
            self._open.discard(item)
            self._changed.notify_all()
            if self._open:
                return
            _busy.discard(self)
        if self._shut:
            self._session.link.call_back(self._session.close)

    def _cancel(self, futures: list[_Future]) -> bool:
        """Let those not begin that have not; whether all of them never will."""
        link, asked = self._session.link, []
        with contextlib.suppress(ParkError):
            asked = [(f, (f._call is not None and link.spare_map(f._call)) or None) for f in futures]
        dropped = 0
        for future, reply in asked:
            with contextlib.suppress(ParkError):
                answer = reply.value()[0] if reply is not None and reply.wait(ANSWER) else None
                if isinstance(answer, messages.Dropped) and answer.units:
                    dropped += 1
                    future.settle()
                    concurrent.futures.wait([future], 1.0)  # perhaps another thread does it
                elif answer is not None:
                    future._begun = True
        return dropped == len(futures)


def _finish() -> None:
    """The interpreter ends: first all calls do, as those of the standard library's executors."""
    global _exiting
    _exiting = True
    notice = threading.Timer(NOTICE, _say_so)
    notice.daemon = True
    try:
        if _busy:
            notice.start()
        while _busy:
            next(iter(_busy))._join()
    finally:
        notice.cancel()


def _say_so() -> None:
    count = sum(len(executor._open) for executor in _busy)
    which = "the call" if count == 1 else f"the {count:,} calls and maps"
    tell(f"park: waiting for {which} of an executor before Python ends (Ctrl-C: no longer)")


def _forked() -> None:
    """In a child that has forked: what runs is its parent's."""
    for executor in _busy:
        executor._changed = threading.Condition()
        executor._open.clear()
    _busy.clear()


# before threads are joined, and before whatever is registered with `atexit`: the service closes there
getattr(threading, "_register_atexit", atexit.register)(_finish)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
