"""Long payloads: one input and one result of 50 MB, through a job and through a map, beside bytes over a plain TCP socket.

Meanwhile another client, in a process of its own, asks for the state of a job and for one no-op, in turn. *others* is how
long it waited, the longest but one in a hundred. *memory* is by how many times the bytes under way, input and result, the
broker grew at the most (`RssAnon`).
"""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import park
from benchmarks import services
from benchmarks.measures.memory import Watched
from benchmarks.scale import Mark, Rows, Scale
from benchmarks.services import environment
from benchmarks.work import nothing
from park.core.server import ServerProxy

UNITS = {"MB/s": "1/s", "of TCP": "x", "others": "ms", "memory": "x"}
PLAIN = "plain TCP"
SYSTEMS = (PLAIN, *services.NAMES)
#: How often each is done: the best counts, as nothing but the machine's other work makes one slower.
TIMES = 3


def measure(system: str, scale: Scale) -> Rows:
    data = os.urandom(scale.payload)
    if system == PLAIN:
        return _plain(data)
    if system == "local":
        with services.service(system) as service:
            return {f"local {way}": {"MB/s": _rate(run, data)} for way, run in _ways(service, data).items()}
    rows: Rows = {}
    with services.fabric(system) as address, services.remote(address) as service:
        # over tcp the address does not tell the process of the broker
        pid = json.loads(Path(address).read_text())["pid"] if system == "ipc" else 0
        for way, run in _ways(service, data).items():
            with Others(address) as others, Watched(pid or os.getpid()) as watched:
                row = {"MB/s": _rate(run, data)}
            row["others"] = others.longest
            if pid:
                row["memory"] = watched.most / (2 * len(data))
            rows[f"{system} {way}"] = row
    return rows


def derive(rows: Rows) -> None:
    reference = rows.get(PLAIN)
    if reference is not None:
        for columns in rows.values():
            columns["of TCP"] = columns["MB/s"] / reference["MB/s"]


def marks() -> list[Mark]:
    return [
        *(Mark(f"{name} {way}", "others", 100.0) for name in ("ipc", "tcp") for way in ("job", "map")),
        *(Mark(f"ipc {way}", "memory", 1.5) for way in ("job", "map")),
    ]


def echo(data: bytes) -> bytes:
    return data


def _ways(service: ServerProxy, data: bytes) -> dict[str, Callable[[], Any]]:
    list(service.map(nothing, range(100)))
    return {
        "job": lambda: service.wait(service.start(echo, [data]))[0],
        "map": lambda: next(iter(service.map(echo, [data]))),
    }


def _rate(run: Callable[[], Any], data: bytes) -> float:
    """Megabytes a second, there and back."""
    best = float("inf")
    for _ in range(TIMES):
        began = time.perf_counter()
        found = run()
        best = min(best, time.perf_counter() - began)
        assert found == data
    return 2 * len(data) / 1e6 / best


def _plain(data: bytes) -> Rows:
    """There and back over a socket, to a process that does nothing else."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        end = multiprocessing.Process(target=return_all, args=(server.getsockname()[1], len(data)))
        end.start()
        with server.accept()[0] as line:

            def there_and_back() -> bytearray:
                line.sendall(data)
                return all_of(line, len(data))

            rate = _rate(there_and_back, data)
        end.join(10)
    return {PLAIN: {"MB/s": rate}}


def return_all(port: int, size: int) -> None:
    """The other end."""
    with socket.create_connection(("127.0.0.1", port)) as line:
        for _ in range(TIMES):
            line.sendall(all_of(line, size))


def all_of(line: socket.socket, size: int) -> bytearray:
    found = bytearray(size)
    view, have = memoryview(found), 0
    while have < size:
        got = line.recv_into(view[have:])
        if not got:
            raise ConnectionError("the other end has gone")
        have += got
    return found


class Others:
    """A process of another client, which asks for small things, one after the other."""

    def __init__(self, address: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.measures.payloads", address],
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline()
        #: milliseconds, of 99 in 100
        self.longest = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            said, _ = self._process.communicate("", timeout=60)
            self.longest = float(said)
        finally:
            self._process.kill()
            self._process.wait()


def ask(address: str) -> None:
    """The work of that process until its input ends."""
    over = threading.Event()
    took: list[float] = []
    with park.connect(address) as service:
        job = service.start(nothing, [1])
        service.wait(job)
        mapper = service.mapper(nothing)
        print("ready", flush=True)
        threading.Thread(target=_until_told, args=(over,), daemon=True).start()
        while not over.is_set():
            for small in (lambda: service.status(job), lambda: mapper([1])):
                began = time.perf_counter()
                small()
                took.append(1000 * (time.perf_counter() - began))
            time.sleep(0.005)
    print(sorted(took)[int(0.99 * (len(took) - 1))])


def _until_told(over: threading.Event) -> None:
    sys.stdin.read()
    over.set()


if __name__ == "__main__":
    ask(sys.argv[1])
