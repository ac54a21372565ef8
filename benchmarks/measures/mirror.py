"""The time until a change of the table reaches its mirrors.

A broker over ipc; mirrors, ten to a process, each a connection of its own with its copy of the table. Jobs that wait get
new tags at a steady rate, and each tag tells the moment at which its sender asked for it: what is measured is the whole
way, from the call on, over the broker's disk, to a callback of each mirror.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from typing import Any

import park
from benchmarks.scale import Mark, Rows, Scale
from benchmarks.services import end, environment, fabric, remote, until
from park.core.server import ServerProxy
from park.model import JobRecord

UNITS = {"p50": "ms", "p99": "ms", "changes": "1/s", "unseen": ""}
#: The fraction of the mirrors, and the changes a second, that the mark asks for.
LOADS = {"all mirrors, 200 a second": (1.0, 200), "a fifth of them, 1,000 a second": (0.2, 1000)}
SYSTEMS = tuple(LOADS)
#: Mirrors in one process at the most, and threads that ask for changes, each of a job of its own.
TOGETHER, THREADS = 10, 8
#: The tag that begins with this tells when it was asked for, on the machine's monotonic clock.
AT = "at="


def measure(system: str, scale: Scale) -> Rows:
    part, rate = LOADS[system]
    mirrors = round(part * scale.mirrors)
    with fabric("ipc") as address, remote(address, "bench") as service, ExitStack() as stack:
        counts = [min(TOGETHER, mirrors - n) for n in range(0, mirrors, TOGETHER)]
        watchers = [stack.enter_context(Watcher(address, count)) for count in counts]
        jobs = [service.start(abs, [-1], when=10_000.0) for _ in range(THREADS)]
        seconds = change(service, jobs, rate, scale.mirror)
        made = rate * scale.mirror
        last = {job: service.status(job).tags for job in jobs}
        delays = [delay for watcher in watchers for delay in watcher.delays(last)]
    return {
        system: {
            "p50": 1e3 * statistics.median(delays),
            "p99": 1e3 * statistics.quantiles(delays, n=100)[98],
            "changes": made / seconds,
            "unseen": mirrors * made - len(delays),
        }
    }


def derive(rows: Rows) -> None:
    """Nothing is worked out from several."""


def marks() -> list[Mark]:
    return [Mark(system, "p99", 50.0) for system in SYSTEMS]


def change(service: ServerProxy, jobs: list[int], rate: int, seconds: int) -> float:
    """*rate* changes a second, for as many *seconds*; those that it took."""
    began = time.monotonic() + 0.1
    step = len(jobs) / rate

    def keep_on(number: int) -> None:
        for n in range(rate * seconds // len(jobs)):
            time.sleep(max(0.0, began + number * step / len(jobs) + n * step - time.monotonic()))
            service.set(jobs[number], tags=[f"{AT}{time.monotonic()}"])

    threads = [threading.Thread(target=keep_on, args=(n,)) for n in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.monotonic() - began


class Watcher:
    """A process with this number of mirrors."""

    def __init__(self, address: str, count: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.measures.mirror", address, str(count)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment(),
            text=True,
        )
        assert self._process.stdout is not None
        assert self._process.stdin is not None
        self._out, self._in = self._process.stdout, self._process.stdin

    def __enter__(self) -> Watcher:
        if self._out.readline() != "following\n":
            raise RuntimeError("a process with mirrors did not come up")
        return self

    def __exit__(self, *_: object) -> None:
        self._in.close()
        end(self._process)  # type: ignore[arg-type]
        self._out.close()

    def delays(self, last: dict[int, tuple[str, ...]]) -> list[float]:
        """Of all that its mirrors have seen, once each has seen the *last* tags of these jobs; seconds."""
        self._in.write(json.dumps(sorted(last.items())) + "\n")
        self._in.flush()
        found: list[float] = json.loads(self._out.readline())
        return found


def watch(address: str, count: int) -> None:
    """The process of a `Watcher`."""
    delays: list[float] = []

    def changed(old: Any, new: Any) -> None:
        now = time.monotonic()
        if isinstance(new, JobRecord) and (old is None or old.tags != new.tags):
            delays.extend(now - float(tag.removeprefix(AT)) for tag in new.tags if tag.startswith(AT))

    services = [park.connect(address, user=f"mirror{n}") for n in range(count)]
    for service in services:
        service.table.subscribe(changed)
    print("following", flush=True)
    last = json.loads(sys.stdin.readline())
    until(lambda: all(list(s.table.jobs[job].tags) == tags for s in services for job, tags in last))
    time.sleep(0.2)  # callbacks come after the table
    print(json.dumps(delays), flush=True)
    sys.stdin.read()
    for service in services:
        service.close()  # type: ignore[attr-defined]


if __name__ == "__main__":
    watch(sys.argv[1], int(sys.argv[2]))
