"""`concurrent.futures` on the fabric: an executor whose workers are slots.

It keeps the promises of the standard library's executors. Each call runs once. Leaving its ``with``, ``shutdown``, and
the end of the interpreter wait for all calls, those of maps too. ``cancel`` says whether the call will never run; a
call that has begun goes on. If a call cannot travel, or raises, its future has the exception.
"""

from __future__ import annotations

import atexit
import concurrent.futures
import contextlib
import itertools
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

from park.body import payload
from park.body.code_memory import CodeMemory
from park.body.function_call import FunctionCall, value_of
from park.client.call_futures import CallBatch, CallFuture
from park.client.input_feed import CONTAINERS
from park.client.maps import MapRun, MapSession
from park.client.pending import Reply
from park.errors import NotPicklable, ParkError, ServiceClosed
from park.util.sealed import SealedBuffer
from park.util.stdio import tell
from park.wire import messages

#: Seconds after which a script that waits for calls at its end says so.
EXIT_NOTICE_SECONDS = 3.0
#: Seconds within which the broker must say whether a call has begun; later the call counts as begun.
CANCEL_ANSWER_SECONDS = 5.0
#: While fewer calls have not ended, each call is sent at once; later ones are gathered until the loop's next turn.
CALLS_SENT_AT_ONCE = 8
#: Calls, and bytes of their arguments, that are gathered at most.
MAX_GATHERED_CALLS, MAX_GATHERED_BYTES = 1000, 1 << 20
#: Functions whose calls are numbered, at most; then the numbers begin anew.
MAX_NUMBERED_FUNCTIONS = 4096


class Running:
    """A map of an executor. *run* is there once its first inputs were sent."""

    def __init__(self, buffered: bool) -> None:
        self.run: MapRun | None = None
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
                self.run.put(
                    payload.encode_units([] if closed else [call], place=SealedBuffer),
                    0 if closed else 1,
                    closed,
                )

    def join(self) -> None:
        """Send the rest of its inputs. Inputs that are read as results are taken are not sent any more."""
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

    def __init__(self, session: MapSession) -> None:
        self._session = session
        self.link = session.link
        #: calls and maps that have not ended
        self._open: set[CallFuture | Running] = set()
        self._changed = threading.Condition()
        self._shut = False
        #: the end of the interpreter waits for its calls
        self.finishes_at_exit = True
        self._codes = CodeMemory(FunctionCall)
        #: held while calls are numbered and gathered
        self._gathering = threading.Lock()
        #: calls that have not been sent, by the hash of their function
        self._gathered: dict[bytes, CallBatch] = {}
        #: the seed of each function, and the number of its next call, by hash
        self._numbers: dict[bytes, tuple[int, int]] = {}

    def __reduce__(self) -> Any:
        raise TypeError(
            "an executor stays in its process: open one where it is used, with service.executor()"
        )

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> concurrent.futures.Future[Any]:
        """Run ``fn(*args, **kwargs)`` on the fabric."""
        future = CallFuture(self)
        self._begin(future)
        try:
            code = self._codes.dump(fn)
            pieces = payload.entry_pieces((args, kwargs), "an input")
        except NotPicklable as error:
            future.set_exception(error)
            self._end(future)
            return future
        except BaseException:  # no thread will settle it: `shutdown` must not wait for it
            self._end(future)
            raise
        self._gather(future, code, pieces)
        return future

    def _gather(self, future: CallFuture, code: tuple[bytes, bytes], pieces: list[Any]) -> None:
        """Send the call, alone or with those that follow it. Raises ParkError if it cannot be sent."""
        with self._gathering:
            seed, number = self._numbers.get(code[0]) or self._first_number()
            self._numbers[code[0]] = seed, number + 1
            batch = self._gathered.get(code[0])
            if batch is None:
                batch = self._gathered[code[0]] = CallBatch(self._session, code, number, seed)
            batch.add(future, pieces)
            # one of several pieces may be a buffer of the user's, which may change after this call
            full = len(batch) >= MAX_GATHERED_CALLS or batch.bytes >= MAX_GATHERED_BYTES or len(pieces) > 1
            now = full or len(self._open) <= CALLS_SENT_AT_ONCE
            batches = self._take_gathered() if now else []
        if not now:
            if len(batch) == 1:
                self.link.defer(self.send_gathered)
            return
        for error in [batch.send() for batch in batches][-1:]:
            if error is not None:
                raise error

    def _first_number(self) -> tuple[int, int]:
        if len(self._numbers) >= MAX_NUMBERED_FUNCTIONS:
            self._numbers.clear()
        return self._session.next_seed(), 0

    def _take_gathered(self) -> list[CallBatch]:
        """The batches that have not been sent; the caller, who holds the lock, sends them after letting it go."""
        batches = list(self._gathered.values())
        self._gathered.clear()
        return batches

    def send_gathered(self) -> None:
        """Send the calls that were gathered and have not been sent. Errors are those of their futures."""
        if self._gathered:
            with self._gathering:
                batches = self._take_gathered()
            for batch in batches:
                batch.send()

    def map(
        self,
        fn: Callable[..., Any],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[Any]:
        """Do the same as `concurrent.futures.Executor.map`; PARK finds its own *chunksize*.

        A thread of its own reads iterators, so that results come even while an iterator is slow or waits for them. With
        *buffersize* the calling thread reads that number of inputs now, and one more for each result that it takes.
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
        if all(type(given) in CONTAINERS for given in iterables):
            calls = list(calls)
        return self._results(self.running(fn, calls), deadline)

    def running(self, fn: Callable[..., Any], calls: Iterable[Any] | None) -> Running:
        """A map over *calls*, pairs of arguments and keywords; None: they are put one by one."""
        map_ = Running(buffered=calls is None)
        self._begin(map_)
        try:
            map_.run = MapRun(
                self._session, FunctionCall(fn), calls, eager=True, on_end=partial(self._end, map_)
            )
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
        """Take no more calls; with *wait* return when all have ended. *cancel_futures*: cancel calls that have not
        begun.
        """
        with self._changed:
            self._shut = True
            waiting = list(self._open)
        if cancel_futures:
            self.cancel([item for item in waiting if isinstance(item, CallFuture)])
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

    def _begin(self, item: CallFuture | Running) -> None:
        with self._changed:
            if _exiting:
                raise RuntimeError("cannot schedule new futures after interpreter shutdown")
            if self._shut:
                raise RuntimeError("cannot schedule new futures after shutdown")
            self._open.add(item)
            if self.finishes_at_exit:
                _busy.add(self)

    def forget(self, future: CallFuture) -> None:
        """The call has ended."""
        self._end(future)

    def _end(self, item: CallFuture | Running) -> None:
        """Forget a call or map that has ended. The loop calls this, too."""
        with self._changed:
            self._open.discard(item)
            self._changed.notify_all()
            if self._open:
                return
            _busy.discard(self)
        if self._shut:
            self._session.link.call_back(self._session.close)

    def cancel(self, futures: list[CallFuture]) -> bool:
        """Cancel the calls that have not begun. Returns whether none of *futures* will ever begin."""
        self.send_gathered()
        batches: dict[CallBatch, list[CallFuture]] = {}
        for future in futures:
            if (batch := future.batch) is not None:
                batches.setdefault(batch, []).append(future)
        asked = []
        with contextlib.suppress(ParkError):
            for batch, group in batches.items():
                if batch.call is not None:
                    units = [edge for future in group for edge in (future.unit, future.unit + 1)]
                    asked.append((group, self.link.maps.spare(batch.call, units)))
        return sum(self._dropped(*answer) for answer in asked) == len(futures)

    def _dropped(self, futures: list[CallFuture], reply: Reply | None) -> int:
        """The number of *futures* that will never begin, by the answer of the broker."""
        answer: Any = None
        with contextlib.suppress(ParkError):
            answer = reply.value()[0] if reply is not None and reply.wait(CANCEL_ANSWER_SECONDS) else None
        if not isinstance(answer, messages.Dropped):
            return 0
        units = set(itertools.chain(*map(range, answer.units[::2], answer.units[1::2])))
        dropped = [future for future in futures if future.unit in units]
        for future in futures:
            if future.unit in units:
                future.settle()
            else:
                future.begun = True
        concurrent.futures.wait(dropped, 1.0)  # perhaps another thread settles them
        return len(dropped)


def _finish() -> None:
    """Wait for all calls before the interpreter ends, as executors of the standard library do."""
    global _exiting
    _exiting = True
    notice = threading.Timer(EXIT_NOTICE_SECONDS, _say_so)
    notice.daemon = True
    try:
        if _busy:
            with contextlib.suppress(RuntimeError):  # Python 3.12.0 and 3.12.1 start no threads at their end
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
    """Forget the calls in a forked child: they are its parent's."""
    for executor in _busy:
        executor._changed = threading.Condition()
        executor._open.clear()
    _busy.clear()


# registered to run before threads are joined and before `atexit` functions, because the service closes there
getattr(threading, "_register_atexit", atexit.register)(_finish)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
