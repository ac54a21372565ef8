"""What the disk costs: map jobs that are stored, and submits, with a broker on a disk and with one in memory."""

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
from park.core.manager import JobManager
from park.core.outcome import Write
from park.core.server import ServerProxy
from park.core.store import JobStore, MemoryStore
from park.service import ServiceManager

UNITS = {"units/s": "1/s", "of memory": "x", "submit": "ms", "of bound": "x"}
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
        for name, service in found.items():
            rows[name]["units/s"] = statistics.median(rates[name])
            # what the kernel does with these jobs is over before it matters: it has no slots left
            submits = [_timed(lambda s=service: s.start(nothing, [1])) for _ in range(scale.calls)]  # type: ignore[misc]
            rows[name]["submit"] = 1e3 * statistics.median(submits)
        trips = [_timed(lambda: found["disk"].credits()) for _ in range(scale.calls)]
        bound = 3 * _commit(Path(folder), scale.calls) + statistics.median(trips)
    rows["disk"]["of memory"] = rows["disk"]["units/s"] / rows["memory"]["units/s"]
    rows["disk"]["of bound"] = rows["disk"]["submit"] / (1e3 * bound)
    return rows


def derive(rows: Rows) -> None:
    pass


def marks() -> list[Mark]:
    return [Mark("disk", "of memory", 0.8, at_least=True), Mark("disk", "of bound", 1.0)]


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _commit(folder: Path, times: int) -> float:
    """Seconds that a commit of a small job takes on this disk."""
    store = JobStore(folder / "alone")
    writes = [Write(room, (1,), bytes(300)) for room in ("job", "submit", "units", "blob")]
    took = statistics.median(_timed(lambda: store.commit(writes)) for _ in range(times))
    store.close()
    return took


@contextmanager
def _both(folder: Path) -> Iterator[dict[str, ServerProxy]]:
    """Two brokers, each with a kernel of its own."""
    with services.Processes(folder) as processes:
        addresses = {}
        for name in ("memory", "disk"):
            home = folder / name
            processes.start(name, "-m", "benchmarks.durability", str(home), name)
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
