"""joblib on the fabric, for scikit-learn and other users of `joblib.Parallel`.

``import park`` registers it, where joblib was imported before, and so do a service's ``with`` and ``import park.joblib``::

    with park.local_service, joblib.parallel_config(backend="park"):
        search.fit(X, y)

The service is the one of the innermost ``with``, or ``service=``; other words are those of `park.Request`:
``joblib.parallel_config(backend="park", priority="low")``.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from joblib._parallel_backends import FallbackToBackend
from joblib.parallel import (
    AutoBatchingMixin,
    ParallelBackendBase,
    SequentialBackend,
    register_parallel_backend,
)

from park.body import environment
from park.client.executor import Executor
from park.core.server import Server, default_service
from park.errors import InvalidRequest


class ParkBackend(AutoBatchingMixin, ParallelBackendBase):  # type: ignore[misc]
    """A backend of joblib. Each ``Parallel`` call is one session; what it nests runs in threads of its slot."""

    supports_retrieve_callback = True
    supports_inner_max_num_threads = True
    default_n_jobs = -1

    def __init__(
        self,
        service: Server | None = None,
        nesting_level: int | None = None,
        inner_max_num_threads: int | None = None,
        initializer: Callable[..., Any] | None = None,
        initargs: tuple[Any, ...] = (),
        **fields: Any,
    ) -> None:
        super().__init__(nesting_level=nesting_level, inner_max_num_threads=inner_max_num_threads)
        self._begin = initializer, initargs
        if service is not None and not isinstance(service, Server):
            raise InvalidRequest(f"service={service!r} is no service")
        self._service = service
        self._fields = fields
        self._executor: Executor | None = None

    @property
    def service(self) -> Server:
        """The host on which it runs."""
        return default_service() if self._service is None else self._service

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """The number of calls that run at once: *n_jobs*; -1: as many as there are slots, -2: one less, and so on."""
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        n_jobs = self.default_n_jobs if n_jobs is None else n_jobs
        return n_jobs if n_jobs > 0 else max(1, self.service.slots + 1 + n_jobs)

    def configure(
        self,
        n_jobs: int = 1,
        parallel: Any = None,
        initializer: Callable[..., Any] | None = None,
        initargs: tuple[Any, ...] = (),
        **_: Any,
    ) -> int:
        """Open a session for the calls of *parallel*. In a slot, which is one of those already, they run one by one."""
        if self._service is None and environment.inside():
            raise FallbackToBackend(SequentialBackend(nesting_level=self.nesting_level))
        self.parallel = parallel
        if initializer is not None:
            self._begin = initializer, initargs
        self._open()
        return self.effective_n_jobs(n_jobs)

    def _open(self) -> Executor:
        threads = {} if self.inner_max_num_threads is None else {"cpus": self.inner_max_num_threads}
        self._executor = self.service.executor(**threads | self._fields)
        self._key = os.urandom(16)
        return self._executor

    def submit(self, func: Callable[[], Any], callback: Callable[[Any], Any] | None = None) -> Future[Any]:
        """Run a batch of calls."""
        executor = self._executor or self._open()
        future = executor.submit(_batch, func, self._key, *self._begin)
        if callback is not None:
            future.add_done_callback(callback)
        return future

    apply_async = submit  # the name in joblib before 1.5

    def retrieve_result_callback(self, future: Future[Any]) -> Any:
        """The results of the batch; raises what it has raised."""
        return future.result()

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """End all calls now; the next one gets a new session."""
        executor, self._executor = self._executor, None
        if executor is not None:
            executor.terminate_workers()

    def terminate(self) -> None:
        """The ``Parallel`` call is over."""
        executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown(wait=False)
        self.reset_batch_stats()


#: Sessions whose initializer has run in this process.
_begun: set[bytes] = set()


def _batch(
    func: Callable[[], Any], key: bytes, initializer: Callable[..., Any] | None, args: tuple[Any, ...]
) -> Any:
    """Run a batch of calls in a slot, before the first one the initializer. (Here its process learns of the backend,
    too.)
    """
    if initializer is not None and key not in _begun:
        initializer(*args)
        _begun.add(key)
    return func()


register_parallel_backend("park", ParkBackend)
