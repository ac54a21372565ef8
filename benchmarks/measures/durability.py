"""The cost of the disk: map jobs that are stored, and submits, with a broker on a disk and with one in memory.

A submit is set beside three commits of another store on that disk and one request that the disk has no part in. They take
turns, so that all find the disk, the processors and their caches in the same state: alone and in a row each of them takes
half as long. *later*: of jobs whose time comes later; the others run meanwhile, on the same processors and disk.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks import services
from benchmarks.scale import SLOTS, Mark, Rows, Scale
from benchmarks.work import nothing
from park.broker.effects import Write
from park.broker.manager import JobManager
from park.broker.storage.memory import MemoryStore
from park.broker.storage.store import JobStore
from park.core.server import ServerProxy
from park.service import ServiceManager

UNITS = {"units/s": "1/s", "of memory": "x", "submit": "ms", "commit": "ms", "trip": "ms", "of bound": "x"}
SYSTEMS = ("both",)
#: Units of a job, and jobs a round; each is measured in turn.
JOBS = 3


def measure(system: str, scale: Scale) -> Rows:
    count = scale.units // 10
    rows: Rows = {"memory": {}, "disk": {}}
    with tempfile.TemporaryDirectory(prefix="park-bench-") as folder, _both(Path(folder)) as found:
        rates: dict[str, list[float]] = {name: [] for name in found}
        for turn in range(JOBS + 1):
            for name, service in found.items():
                seconds = _timed(lambda s=service: s.wait(s.start(nothing, list(range(count)))))  # type: ignore[misc]
                if turn:  # the first one is to warm up
                    rates[name].append(count / seconds)
        for name in found:
            rows[name]["units/s"] = statistics.median(rates[name])
        rows["later"] = _submits(Path(folder) / "later", found["disk"], scale.calls, when=1e6)
        rows["disk"] |= _submits(Path(folder) / "now", found["disk"], scale.calls)
    rows["disk"]["of memory"] = rows["disk"]["units/s"] / rows["memory"]["units/s"]
    return rows


def derive(rows: Rows) -> None:
    pass


def marks() -> list[Mark]:
    return [
        Mark("disk", "of memory", 0.8, at_least=True),
        *(Mark(row, "of bound", 1.0) for row in ("later", "disk")),
    ]


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _submits(home: Path, service: ServerProxy, times: int, **fields: float) -> dict[str, float]:
    """Medians, in ms, of submits, of commits of a small job to a store in *home*, and of trips to the broker; and how
    long a submit takes, in those of three commits and a trip.
    """
    store = JobStore(home)
    took: dict[str, list[float]] = {"submit": [], "commit": [], "trip": []}
    for number in range(times):
        writes = [Write(namespace, (number,), bytes(300)) for namespace in ("job", "submit", "units", "blob")]
        took["submit"].append(_timed(lambda: service.start(nothing, [1], **fields)))
        took["commit"].append(_timed(lambda w=writes: store.commit(w)))  # type: ignore[misc]
        took["trip"].append(_timed(service.credits))
    store.close()
    row = {name: 1e3 * statistics.median(values) for name, values in took.items()}
    return row | {"of bound": row["submit"] / (3 * row["commit"] + row["trip"])}


@contextmanager
def _both(folder: Path) -> Iterator[dict[str, ServerProxy]]:
    """Two brokers, each with a kernel of its own."""
    with services.Processes(folder) as processes:
        addresses = {}
        for name in ("memory", "disk"):
            home = folder / name
            processes.start(name, "-m", "benchmarks.measures.durability", str(home), name)
            file = home / "connection.json"
            services.until(file.exists)
            addresses[name] = str(file)
            processes.start(
                f"{name}-kernel", "-m", "park.cli.kernel", "--broker", str(file), "--slots", str(SLOTS)
            )
        with services.remote(addresses["memory"]) as memory, services.remote(addresses["disk"]) as disk:
            yield {"memory": memory, "disk": disk}


def serve(home: Path, kind: str) -> None:
    """A broker, with a store in memory or on disk."""
    home.mkdir()
    store = JobStore(home) if kind == "disk" else MemoryStore()
    manager = ServiceManager(JobManager(store)).listen(home=home)
    manager.write_connection(home / "connection.json")
    manager.reactor.run()


if __name__ == "__main__":
    serve(Path(sys.argv[1]), sys.argv[2])
