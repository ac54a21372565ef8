"""Engines that deal tasks out to two processes, PARK among them, each with the same two calls: `Engine`.

An engine that is not installed raises `Missing`, with the name of its package. Each is opened as its documentation shows
it for one machine, and with its own defaults.
"""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from benchmarks import peers, services
from benchmarks.scale import SLOTS
from park.version import __version__


class Missing(Exception):
    """The package of an engine is not installed."""


@dataclass(frozen=True)
class Engine:
    """*map* returns the values of a function at points. *submit* begins one call; the answer's ``result`` waits for it.

    *mapper* makes of a function one that is called with points again and again, where the engine has such a thing.
    """

    map: Callable[[Callable[[Any], Any], Sequence[Any]], list[Any]]
    submit: Callable[..., Any]
    mapper: Callable[[Callable[[Any], Any]], Callable[[Sequence[Any]], list[Any]]] | None = None


#: How to open each engine.
_OPENERS: dict[str, Callable[[], Any]] = {}
#: The package of each engine, and "": it comes with Python.
PACKAGES: dict[str, str] = {}


def _engine(name: str, package: str = "") -> Callable[[Callable[[], Iterator[Engine]]], None]:
    def register(opener: Callable[[], Iterator[Engine]]) -> None:
        _OPENERS[name] = contextmanager(opener)
        PACKAGES[name] = package

    return register


@contextmanager
def opened(name: str) -> Iterator[Engine]:
    """The engine *name* with two processes. Raises Missing."""
    if PACKAGES[name]:
        _need(PACKAGES[name])
    with _OPENERS[name]() as engine:
        yield engine


def version(name: str) -> str:
    """The version of an engine. Raises Missing."""
    if PACKAGES[name]:
        return str(getattr(_need(PACKAGES[name]), "__version__", "?"))
    return __version__ if name.startswith("PARK") else "of Python"


def _need(package: str) -> Any:
    """The package; loky is a part of joblib, too."""
    for place in (package, *(["joblib.externals.loky"] if package == "loky" else [])):
        try:
            return importlib.import_module(place)
        except ImportError:
            continue
    raise Missing(f"{package} is not installed")


def _of_executor(executor: Executor) -> Engine:
    return Engine(lambda function, points: list(executor.map(function, points)), executor.submit)


def _park(name: str) -> Iterator[Engine]:
    with services.service(name) as service, service.executor() as executor:
        yield Engine(
            lambda function, points: list(service.map(function, points)), executor.submit, service.mapper
        )


for _name in services.NAMES:
    _engine(f"PARK {_name}")(partial(_park, _name))


@_engine("Pool")
def _pool() -> Iterator[Engine]:
    with peers.pool() as pool:

        def submit(function: Callable[..., Any], *given: Any) -> Any:
            call = pool.apply_async(function, given)
            call.result = call.get  # type: ignore[attr-defined]
            return call

        yield Engine(lambda function, points: list(pool.imap(function, points)), submit)


@_engine("ProcessPoolExecutor")
def _process_pool() -> Iterator[Engine]:
    with peers.process_pool() as executor:
        yield _of_executor(executor)


@_engine("loky", "loky")
def _loky() -> Iterator[Engine]:
    with _need("loky").get_reusable_executor(SLOTS, timeout=300) as executor:
        yield _of_executor(executor)


@_engine("Dask", "distributed")
def _dask() -> Iterator[Engine]:
    distributed = _need("distributed")
    with ExitStack() as stack:
        cluster = stack.enter_context(
            distributed.LocalCluster(SLOTS, threads_per_worker=1, host="127.0.0.1", dashboard_address=None)
        )
        client = stack.enter_context(distributed.Client(cluster))
        submit = partial(client.submit, pure=False)
        yield Engine(
            lambda function, points: list(client.gather(client.map(function, list(points), pure=False))),
            submit,
        )


@_engine("executorlib", "executorlib")
def _executorlib() -> Iterator[Engine]:
    with _need("executorlib").SingleNodeExecutor(max_workers=SLOTS, block_allocation=True) as executor:
        yield _of_executor(executor)


@_engine("mpi4py", "mpi4py")
def _mpi4py() -> Iterator[Engine]:
    with importlib.import_module("mpi4py.futures").MPIPoolExecutor(SLOTS) as executor:
        yield _of_executor(executor)


@_engine("Ray", "ray")
def _ray() -> Iterator[Engine]:
    ray = _need("ray")
    ray.init(num_cpus=SLOTS, include_dashboard=False, logging_level="error")
    known: dict[Any, Any] = {}

    class Call:
        def __init__(self, function: Any, *given: Any) -> None:
            if function not in known:
                known[function] = ray.remote(function)
            self._reference = known[function].remote(*given)

        def result(self) -> Any:
            return ray.get(self._reference)

    try:
        yield Engine(lambda function, points: [c.result() for c in [Call(function, p) for p in points]], Call)
    finally:
        ray.shutdown()


@_engine("Parsl", "parsl")
def _parsl() -> Iterator[Engine]:
    parsl = _need("parsl")
    executors = importlib.import_module("parsl.executors")
    providers = importlib.import_module("parsl.providers")
    executor = executors.HighThroughputExecutor(
        address="127.0.0.1",
        max_workers_per_node=SLOTS,
        provider=providers.LocalProvider(init_blocks=1, max_blocks=1),
    )
    with (
        tempfile.TemporaryDirectory() as folder,
        parsl.load(parsl.Config(executors=[executor], strategy="none", run_dir=folder)),
    ):
        known: dict[Any, Any] = {}

        def submit(function: Any, *given: Any) -> Any:
            if function not in known:
                known[function] = parsl.python_app(function)
            return known[function](*given)

        yield Engine(
            lambda function, points: [f.result() for f in [submit(function, p) for p in points]], submit
        )


@_engine("ipyparallel", "ipyparallel")
def _ipyparallel() -> Iterator[Engine]:
    with _need("ipyparallel").Cluster(n=SLOTS) as client:
        view = client.load_balanced_view()

        def submit(function: Any, *given: Any) -> Any:
            call = view.apply_async(function, *given)
            call.result = call.get
            return call

        yield Engine(
            lambda function, points: list(view.map_sync(function, list(points), chunksize=1)), submit
        )


NAMES = tuple(_OPENERS)
