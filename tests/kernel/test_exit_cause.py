"""Units that kill their slot processes: they fail alone, with their story, and those beside them are not blamed."""

from __future__ import annotations

import ctypes
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

import park
from park.broker.entities.maps import MAX_KILLS
from park.errors import UnitError
from tests.support.fabric import Fabric, alive, until

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # kernels need not have this folder


@pytest.fixture
def fabric(tmp_path: Path) -> Iterator[Fabric]:
    with Fabric(tmp_path) as fabric:
        fabric.start_kernel(slots=2)
        yield fabric


def among(killers: set[int], folder: str) -> Any:
    """A unit that kills its process if it is one of the *killers*, and writes down that it does."""

    def unit(x: int) -> int:
        if x in killers:
            (Path(folder) / f"{x}-{os.getpid()}").touch()
            print("about to read from nowhere", file=sys.stderr, flush=True)
            ctypes.string_at(0)
        return x + 1

    return unit


def some_kill(fabric: Fabric, folder: Path, killers: int, units: int) -> park.JobFailed:
    """Some of the units kill their processes. AssertionError where not exactly those fail."""
    folder.mkdir()
    chosen = set(random.Random(1).sample(range(units), killers))
    service = fabric.connect()
    job = service.start(among(chosen, str(folder)), range(units))
    with pytest.raises(park.JobFailed) as caught:
        service.wait(job, 500)
    results = caught.value.results
    assert results is not None
    assert {x for x, result in enumerate(results) if isinstance(result, UnitError)} == chosen
    assert all(result == x + 1 for x, result in enumerate(results) if x not in chosen)
    assert len(list(folder.iterdir())) <= MAX_KILLS * killers
    assert service.status(job).failed == killers
    return caught.value


def test_of_many_units_only_those_fail_that_kill(fabric: Fabric, tmp_path: Path) -> None:
    failed = some_kill(fabric, tmp_path / "deaths", 3, 300)
    assert "signal 11 (SIGSEGV) (it held " in failed.cause
    assert "about to read from nowhere" in failed.traceback
    assert "Fatal Python error: Segmentation fault" in failed.traceback


@pytest.mark.heavy
@pytest.mark.timeout(600)
def test_of_ten_thousand_units_only_those_fail_that_kill(fabric: Fabric, tmp_path: Path) -> None:
    some_kill(fabric, tmp_path / "deaths", 20, 10_000)


def test_a_death_says_how_much_memory_was_held(fabric: Fabric) -> None:
    def greedy(x: int) -> None:
        hoard = bytearray(300_000_000)
        hoard[::4096] = b"x" * len(hoard[::4096])
        os.kill(os.getpid(), signal.SIGKILL)

    service = fabric.connect()
    # a kernel that was started by a process with more memory than that (this one, late in a long run) cannot tell
    words = r"signal 9 \(SIGKILL\) \(it held (up to 3\d\d|less than (3\d\d|[4-9]\d\d)) MB of memory\)"
    with pytest.raises(park.JobFailed, match=words):
        service.wait(service.start(greedy, [1]), 30)


def test_a_kernel_that_is_killed_takes_along_what_its_bodies_have_started(tmp_path: Path) -> None:
    def starter(x: int) -> None:
        command = [sys.executable, "-c", "import time; time.sleep(100)"]
        for session in (False, True):
            child = subprocess.Popen(command, start_new_session=session)
            (tmp_path / f"child{child.pid}").touch()
        time.sleep(100)

    with Fabric(tmp_path) as fabric:
        kernel = fabric.start_kernel()
        fabric.connect().start(starter, [1])
        until(lambda: len(list(tmp_path.glob("child*"))) == 2)
        children = [int(file.name.removeprefix("child")) for file in tmp_path.glob("child*")]
        assert all(map(alive, children))
        kernel.kill()
        until(lambda: not any(map(alive, children)))


def test_a_cleanup_that_never_ends_is_nobody_else_s_crash(tmp_path: Path) -> None:
    class Stuck:
        def run(self, x: int) -> int:
            return x

        def cleanup(self, env: Any) -> None:
            time.sleep(1000)

    with Fabric(tmp_path) as fabric:
        fabric.start_kernel(slots=1)
        service = fabric.connect()
        assert service.wait(service.start(Stuck(), [1, 2]), 60) == [1, 2]
        # the next unit finds the slot free, also one that must not run twice: the cleanup would keep it for 30 s
        for _ in range(3):
            assert service.wait(service.start(abs, [-1], idempotent=False), 60) == [1]
