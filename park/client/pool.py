"""A pool like that of `multiprocessing`, for tools that take one. Its processes are the slots of the fabric.

Samplers and optimizers ask a pool for ``map``, and look how many processes it has: in ``size``, ``_processes`` or
``_max_workers``. Functions of the script or notebook travel, and their exceptions come back as themselves. As with
`multiprocessing`, the end of the interpreter waits for no call: a script that wants all results calls ``close`` and
``join``.
"""

from __future__ import annotations

import concurrent.futures
import multiprocessing  # noqa: TID251  # its TimeoutError alone
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Self

from park.body.function_call import value_of
from park.client.executor import Executor, Running


class PoolTimeout(multiprocessing.TimeoutError, TimeoutError):
    """Raised where a result does not come within the *timeout*."""


class AsyncResult:
    """The result of a call to come, as `multiprocessing.pool.AsyncResult`."""

    def __init__(self, future: concurrent.futures.Future[Any]) -> None:
        self._future = future

    def get(self, timeout: float | None = None) -> Any:
        """The result; raises what the call has raised, or `PoolTimeout`."""
        try:
            return self._future.result(timeout)
        except TimeoutError:
            if self._future.done():
                raise
            raise PoolTimeout(f"the result has not come within {timeout} s") from None

    def wait(self, timeout: float | None = None) -> None:
        concurrent.futures.wait([self._future], timeout)

    def ready(self) -> bool:
        return self._future.done()

    def successful(self) -> bool:
        """Whether the call has ended without an exception. Raises ValueError before it is `ready`."""
        if not self.ready():
            raise ValueError("the result is not ready")
        return self._future.exception() is None


class PoolResults:
    """The iterator that ``imap`` returns. ``next`` takes a *timeout*. The error of a call is raised in its place."""

    def __init__(self, running: Running, ordered: bool) -> None:
        self._running = running
        self._ordered = ordered
        self._values: list[Any] = []

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        return self.next()

    def next(self, timeout: float | None = None) -> Any:
        """The next result. Raises StopIteration, or `PoolTimeout`: then it may be asked again."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self._values:
            try:
                taken = self._running.take(self._ordered, deadline)
            except TimeoutError:
                raise PoolTimeout(f"no result has come within {timeout} s") from None
            if taken is None:
                raise StopIteration
            self._values = taken[1][::-1]
        return value_of(self._values.pop())


class Pool:
    """A pool whose workers are slots. *slots* tells their present number. `park.Server.pool` makes one."""

    def __init__(self, executor: Executor, slots: Callable[[], int]) -> None:
        executor.finishes_at_exit = False
        self._executor = executor
        self._slots = slots
        self._over = False

    def __repr__(self) -> str:
        return f"<Pool of {self.size} slots{', closed' * self._over}>"

    def __reduce__(self) -> Any:
        raise NotImplementedError(
            "a pool stays in its process: make one where it is used, with service.pool()"
        )

    def __enter__(self) -> Self:
        self._check()
        return self

    def __exit__(self, *error: object) -> None:
        self.terminate()

    @property
    def size(self) -> int:
        """The slots that there are now, at least one."""
        return max(1, self._slots())

    _processes = _max_workers = size

    # -- all at once -----------------------------------------------------------------------------

    def map(
        self, func: Callable[[Any], Any], iterable: Iterable[Any], chunksize: int | None = None
    ) -> list[Any]:
        """The results of *func* for each input, in order. PARK finds its own *chunksize*."""
        return self.starmap(func, ((x,) for x in iterable))

    def starmap(
        self, func: Callable[..., Any], iterable: Iterable[Iterable[Any]], chunksize: int | None = None
    ) -> list[Any]:
        """`map` for inputs that are each the arguments of a call."""
        self._check()
        running = self._executor.running(func, [(tuple(args), {}) for args in iterable])
        found: list[Any] = []
        while (taken := running.take()) is not None:
            found += map(value_of, taken[1])
        return found

    def map_async(
        self,
        func: Callable[[Any], Any],
        iterable: Iterable[Any],
        chunksize: int | None = None,
        callback: Callable[[Any], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> AsyncResult:
        """`map`, without the wait."""
        return self.starmap_async(func, ((x,) for x in iterable), chunksize, callback, error_callback)

    def starmap_async(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        callback: Callable[[Any], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> AsyncResult:
        """`starmap`, without the wait."""
        self._check()
        calls = list(iterable)
        future = _told(concurrent.futures.Future(), callback, error_callback)

        def collect() -> None:
            try:
                found = self.starmap(func, calls)
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(found)

        threading.Thread(target=collect, name="park-pool", daemon=True).start()
        return AsyncResult(future)

    # -- one by one ------------------------------------------------------------------------------

    def imap(self, func: Callable[[Any], Any], iterable: Iterable[Any], chunksize: int = 1) -> PoolResults:
        """Results as they come, in the order of the inputs, which are read meanwhile."""
        return self._imap(func, iterable, ordered=True)

    def imap_unordered(
        self, func: Callable[[Any], Any], iterable: Iterable[Any], chunksize: int = 1
    ) -> PoolResults:
        """Results as they come, in any order."""
        return self._imap(func, iterable, ordered=False)

    def _imap(self, func: Callable[[Any], Any], iterable: Iterable[Any], ordered: bool) -> PoolResults:
        self._check()
        calls: Iterable[Any] = (((x,), {}) for x in iterable)
        return PoolResults(
            self._executor.running(func, list(calls) if hasattr(iterable, "__len__") else calls), ordered
        )

    def apply(
        self, func: Callable[..., Any], args: Iterable[Any] = (), kwds: Mapping[str, Any] | None = None
    ) -> Any:
        """The result of ``func(*args, **kwds)``."""
        return self.apply_async(func, args, kwds).get()

    def apply_async(
        self,
        func: Callable[..., Any],
        args: Iterable[Any] = (),
        kwds: Mapping[str, Any] | None = None,
        callback: Callable[[Any], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> AsyncResult:
        """`apply`, without the wait."""
        self._check()
        future = self._executor.submit(func, *args, **(kwds or {}))
        return AsyncResult(_told(future, callback, error_callback))

    # -- the end ---------------------------------------------------------------------------------

    def close(self) -> None:
        """Take no more calls; earlier ones go on to their end."""
        self._over = True
        self._executor.shutdown(wait=False)

    def join(self) -> None:
        """Wait until all calls have ended. Raises ValueError before `close` or `terminate`."""
        if not self._over:
            raise ValueError("the pool is still running: close() it first")
        self._executor.shutdown()

    def terminate(self) -> None:
        """End all calls now."""
        self._over = True
        self._executor.terminate_workers()

    def _check(self) -> None:
        if self._over:
            raise ValueError("the pool is not running: it was closed")


def _told(
    future: concurrent.futures.Future[Any],
    callback: Callable[[Any], object] | None,
    error_callback: Callable[[BaseException], object] | None,
) -> concurrent.futures.Future[Any]:
    """The future, which calls the callbacks when the call has ended."""

    def tell(done: concurrent.futures.Future[Any]) -> None:
        error = done.exception()
        if error is None and callback is not None:
            callback(done.result())
        if error is not None and error_callback is not None:
            error_callback(error)

    if callback is not None or error_callback is not None:
        future.add_done_callback(tell)
    return future
