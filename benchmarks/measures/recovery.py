"""The time in which a broker comes back to a home with many jobs: ``python -m benchmarks recovery``.

One job of each kind is made by a real broker's core; its records are copied into the store under other numbers, and
a real ``park-broker`` is started on it until a client has the table.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from benchmarks import services
from benchmarks.measures.decisions import HASH
from benchmarks.scale import Mark, Rows, Scale
from park.broker.effects import Event, Tick, Write
from park.broker.manager import JobManager
from park.broker.storage.store import JobStore
from park.wire import codec, messages, pack

UNITS = {"seconds": "s", "MB": "MB"}
#: The states of the jobs of a home when their broker died.
SYSTEMS = ("ended", "half done")
#: Units of a job, and in a chunk; bytes of an input and of a result.
COUNT, CHUNK, SIZE = 100, 10, 100
WALL = 1_700_000_000.0
_OF_JOBS = ("job", "submit", "units", "results")


def measure(system: str, scale: Scale) -> Rows:
    with tempfile.TemporaryDirectory(prefix="park-bench-") as folder:
        home = Path(folder) / "home"
        fill(home, scale.jobs, COUNT if system == "ended" else COUNT // 2)
        size = (home / "jobs.mdb").stat().st_size / 1e6
        began = time.perf_counter()
        file = home / "connection.json"
        with services.Processes(Path(folder)) as processes:
            processes.start("broker", "-m", "park.cli.broker", "--home", str(home))
            services.until(file.exists, 60.0)
            with services.remote(str(file), kernels=0) as found:
                assert found.status(scale.jobs).job == scale.jobs
                seconds = time.perf_counter() - began
    return {f"{scale.jobs:,} jobs, {system}": {"seconds": seconds, "MB": size}}


def fill(home: Path, jobs: int, answered: int) -> None:
    """A store with jobs, each with a number of answered units."""
    store = JobStore(home)
    records = _job(store, answered)
    store.commit([Write("meta", ("next_job",), codec.pack(jobs + 1))])
    for first in range(1, jobs + 1, 500):
        store.commit([w for n in range(first, min(first + 500, jobs + 1)) for w in _copied(records, n)])
    store.close()


def _job(store: JobStore, answered: int) -> list[tuple[str, Any, bytes]]:
    """The records of one job."""
    manager = JobManager(store)
    manager.restore(0.0, WALL)

    def do(*events: Any) -> list[Any]:
        turn = manager.decide(events, 1.0)
        manager.hand_in(turn)
        sends = [*turn.sends, *(s for t in manager.completed() for s in t.sends_after_commit)]
        return [s.message for s in sends if isinstance(s.message, messages.Run)]

    store.commit([Write("blob", (HASH,), b"code")])
    do(Tick(WALL), Event(b"c", messages.Hello(bytes(16), "ann", "3.11")))
    do(Event(b"k", messages.KernelHello(b"k" * 16, "kay", "node", 1, CHUNK, "3.11")))
    do(Event(b"c", messages.Blob(HASH), b"code"))
    submit = messages.Submit(id=1, key=bytes(16), body=HASH, python="3.11", count=COUNT)
    runs = do(Event(b"c", submit, pack.pack_entries([bytes(SIZE)] * COUNT)))
    done = 0
    while runs and done < answered:
        run = runs.pop(0)
        answer = messages.Finished(run.attempt, run.map, run.start, run.count, 0.01 * run.count)
        runs += do(Event(b"k", answer, pack.pack_entries([bytes(SIZE)] * run.count)))
        done += run.count
    records = [
        (namespace, key, value) for namespace in _OF_JOBS for key, value in store.scan(namespace, (1,))
    ]
    gone = [Write("kernel", (b"k" * 16,), None)]
    store.commit(gone)
    return records


def _copied(records: list[tuple[str, Any, bytes]], number: int) -> list[Write]:
    writes = []
    for namespace, key, value in records:
        if namespace == "job":
            value = codec.pack(codec.unpack(value) | {"job": number})
        elif namespace == "submit":
            request = codec.build(messages.Submit, codec.unpack(value))
            value = codec.pack(codec.fields(replace(request, key=number.to_bytes(16, "big"))))
        writes.append(Write(namespace, (number, *key[1:]), value))
    return writes


def derive(rows: Rows) -> None:
    pass


def marks() -> list[Mark]:
    return [Mark(f"{Scale().jobs:,} jobs, {system}", "seconds", 5.0) for system in SYSTEMS]
