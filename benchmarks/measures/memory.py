"""The memory of a broker whose peers do not take their messages.

A broker over ipc with a kernel, and beside a client that reads: a client that has a map and never reads, a client that
has asked for large results and never reads them, and a mirror that is stopped. The figure is the largest growth of
the broker in megabytes (`RssAnon`: pages of its database that the system caches are not its own).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from msgspec.structs import replace

import park
from benchmarks.scale import Mark, Rows, Scale
from benchmarks.services import environment, fabric, remote, until
from benchmarks.work import nothing
from park.body import payload
from park.core.server import ServerProxy
from park.model import PYTHON
from park.net.addresses import find_broker
from park.net.callers import Dealer
from park.wire import codec, messages

UNITS = {"grew by": "MB", "units": "1/s"}
SYSTEMS = ("small results", "large results")
#: Units of a map in one message, and bytes of a large result.
BATCH, LARGE = 5000, 1 << 20


def measure(system: str, scale: Scale) -> Rows:
    with fabric("ipc") as address, remote(address) as service, ExitStack() as stack:
        list(service.map(nothing, range(10_000)))
        list(service.map(large, range(8)))
        watched = Watched(json.loads(Path(address).read_text())["pid"])
        work = small_results if system == SYSTEMS[0] else large_results
        with watched:
            units, seconds = work(service, address, scale, stack)
    return {system: {"grew by": watched.most / 1e6, "units": units / seconds}}


def small_results(service: ServerProxy, address: str, scale: Scale, stack: ExitStack) -> tuple[int, float]:
    """A lazy map, beside a client that does not read what its map has given, and a mirror that is stopped."""
    mirror = stack.enter_context(Stopped(address))
    deaf = stack.enter_context(Deaf(address))
    deaf.map(nothing, scale.memory)
    until(lambda: service.job(deaf.session).record.done > 0)
    began = time.perf_counter()
    total = sum(service.map(nothing, iter(range(scale.memory))))
    seconds = time.perf_counter() - began
    assert total == scale.memory * (scale.memory - 1) // 2
    assert mirror.stopped
    return scale.memory, seconds


def large_results(service: ServerProxy, address: str, scale: Scale, stack: ExitStack) -> tuple[int, float]:
    """300 results of a megabyte: through a map, through the store, and for two clients that do not read them."""
    count = max(8, scale.memory * 300 // 1_000_000)
    deaf = stack.enter_context(Deaf(address))
    deaf.map(large, count)
    began = time.perf_counter()
    for result in service.map(large, range(count)):
        assert len(result) == LARGE
        time.sleep(0.001)
    job = service.start(large, range(count))
    assert sum(map(len, service.wait(job))) == count * LARGE
    fetcher = stack.enter_context(Deaf(address))
    for _ in range(10):
        fetcher.say(messages.Fetch(next(fetcher.ids), job))
    seconds = time.perf_counter() - began
    assert list(service.mapper(nothing)(range(1000))) == [*range(1000)]
    time.sleep(1.0)
    return 2 * count, seconds


def large(x: int) -> bytes:
    return bytes(1 << 20)


def derive(rows: Rows) -> None:
    """Nothing is worked out from several."""


def marks() -> list[Mark]:
    return [Mark(system, "grew by", 64.0) for system in SYSTEMS]


class Watched:
    """The growth of a process meanwhile, bytes."""

    def __init__(self, pid: int) -> None:
        self._status = Path(f"/proc/{pid}/status")
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._first = self._anonymous()
        self.most = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.05):
            self.most = max(self.most, self._anonymous() - self._first)

    def _anonymous(self) -> int:
        lines = self._status.read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


class Deaf:
    """A client that says what it wants and that it is there, and never reads an answer after the first few."""

    def __init__(self, address: str) -> None:
        self._line = Dealer(find_broker(address).clients)
        self.ids = iter(range(1, 1 << 30))
        assert self._line.wait(5.0)
        self.say(messages.Hello(os.urandom(16), "deaf", PYTHON))
        submit = messages.Submit(0, os.urandom(16), session=True, python=PYTHON)
        self.say(replace(submit, id=next(self.ids)))
        self.session = self._accepted()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._live)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        self._line.close()

    def say(self, message: messages.Message, data: Any = b"") -> None:
        self._line.send(codec.encode(message, data))

    def map(self, function: Any, count: int) -> None:
        """A map of this number of numbers."""
        blob = payload.dumps(function)
        code, key = payload.code_hash(blob), os.urandom(16)
        self.say(messages.Blob(code), blob)
        self.say(messages.Map(key, self.session, code, 0, closed=False))
        for start in range(0, count, BATCH):
            some = range(start, min(start + BATCH, count))
            units = messages.Units(start, len(some), some.stop == count, map=key)
            self.say(units, payload.encode_units(list(some)))

    def _accepted(self) -> int:
        deadline = time.monotonic() + 10.0
        while time.monotonic() < deadline:
            self._line.wait(0.01)
            frames = self._line.receive()
            message = codec.decode(frames)[0] if frames is not None else None
            if isinstance(message, messages.Accepted):
                return message.job
        raise TimeoutError("the broker has opened no session")

    def _live(self) -> None:
        while not self._over.wait(1.0):
            self.say(messages.Heartbeat())


class Stopped:
    """A process with a mirror, which is stopped."""

    def __init__(self, address: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.measures.memory", address],
            env=environment(),
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline()
        self._process.send_signal(signal.SIGSTOP)

    @property
    def stopped(self) -> bool:
        state = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()[0]
        return state == "T"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()


if __name__ == "__main__":
    with park.connect(sys.argv[1], user="mirror") as service:
        print(len(service.table.jobs), flush=True)
        time.sleep(1000.0)
