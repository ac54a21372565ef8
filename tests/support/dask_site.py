"""A cluster of Dask on this machine: a scheduler and workers, as their commands start them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.fabric import until


class DaskCluster:
    """A scheduler and its workers, one thread each."""

    def __init__(self, folder: Path, workers: int) -> None:
        self._folder = folder
        self._file = folder / "scheduler.json"
        self.scheduler = self._start("scheduler", "--port", "0", "--scheduler-file", str(self._file))
        until(lambda: self._file.exists() and self._file.read_text().endswith("}"), 50, self.story)
        self.address: str = json.loads(self._file.read_text())["address"]
        self.workers: list[subprocess.Popen[bytes]] = []
        for _ in range(workers):
            self.add_worker()

    def add_worker(self) -> None:
        """Start one more, without a nanny, so that its end is final."""
        self.workers.append(self._start("worker", "--no-nanny", "--nthreads", "1", self.address))

    def story(self) -> str:
        """The output of all, for a test that fails."""
        return (self._folder / "log").read_text()

    def close(self) -> None:
        for process in (*self.workers, self.scheduler):
            process.terminate()
        for process in (*self.workers, self.scheduler):
            process.wait(50)

    def _start(self, kind: str, *options: str) -> subprocess.Popen[bytes]:
        command = (sys.executable, "-m", "dask", kind, "--host", "127.0.0.1", "--no-dashboard", *options)
        with (self._folder / "log").open("ab") as log:
            return subprocess.Popen(
                command, cwd=self._folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )


@contextmanager
def dask_cluster(folder: Path, workers: int = 2) -> Iterator[DaskCluster]:
    """A cluster that leaves no process."""
    folder.mkdir()
    cluster = DaskCluster(folder, workers)
    try:
        yield cluster
    finally:
        cluster.close()
