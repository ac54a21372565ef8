"""Each unit runs once. Where a request says that its units are pure, a late one may run twice, and no process is ended."""

from __future__ import annotations

import importlib
import os
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import park
from park.local import LocalService
from tests.support.fabric import until


class Noted:
    """Notes its units in a file as they begin; the last is *late*."""

    def __init__(self, file: Path, late: float) -> None:
        self.file, self.late = file, late

    def __call__(self, x: int) -> int:
        with self.file.open("a") as file:
            file.write(f"{x}\n")
        time.sleep(self.late if x == 9 else 0.001)
        return x

    @property
    def runs(self) -> list[int]:
        return sorted(map(int, self.file.read_text().split()))


def driven(unit: Noted) -> list[int]:
    return list(park.environment().map(unit, range(10)))


def submitted(service: Any, unit: Noted) -> list[int]:
    with service.executor() as pool:
        return [call.result() for call in [pool.submit(unit, x) for x in range(10)]]


WAYS: dict[str, Callable[[Any, Noted], Any]] = {
    "job": lambda service, unit: service.wait(service.start(unit, range(10))),
    "executor": submitted,
    "driver": lambda service, unit: service.wait(service.start(lambda: driven(unit))),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_late_unit_runs_once(service: LocalService, way: str, tmp_path: Path) -> None:
    unit = Noted(tmp_path / "runs", 0.7)
    assert WAYS[way](service, unit) == list(range(10))
    assert unit.runs == list(range(10))


def test_a_late_unit_of_a_pure_request_is_started_again_and_the_table_says_so(
    service: LocalService, tmp_path: Path
) -> None:
    unit = Noted(tmp_path / "runs", 1.0)
    job = service.job(service.start(unit, range(10), pure=True))
    assert job.wait() == list(range(10))
    # a slow machine may take others for late too
    assert {*unit.runs} == {*range(10)}
    assert unit.runs.count(9) == 2
    doubled = service.status(job).doubled  # chunks, of one unit or more
    assert doubled is not None
    assert 1 <= doubled <= len(unit.runs) - 10
    assert service.fetch(job).request.pure


@pytest.fixture
def slow_module(tmp_path: Path) -> Iterator[Any]:
    """A module that the client has imported, and that takes its time in the process that comes second."""
    text = f"""
        import os, time

        folder = {str(tmp_path)!r}

        def note(name):
            with open(os.path.join(folder, name), "a") as file:
                file.write(f"{{os.getpid()}}\\n")

        try:
            os.mkdir(os.path.join(folder, "first"))
        except FileExistsError:
            note("begun")
            time.sleep(1.2)
            note("imported")

        def square(x):
            time.sleep(0.002)
            return x * x
    """
    name = f"slow_{tmp_path.name}"  # another one than the processes have already
    (tmp_path / f"{name}.py").write_text(textwrap.dedent(text))
    sys.path.insert(0, str(tmp_path))
    try:
        module = importlib.import_module(name)
        (tmp_path / "first").rmdir()
        yield module
    finally:
        sys.path.remove(str(tmp_path))
        sys.modules.pop(name, None)


def test_a_process_that_imports_slowly_is_kept(
    service: LocalService, slow_module: Any, tmp_path: Path
) -> None:
    def lines(name: str) -> list[str]:
        file = tmp_path / name
        return file.read_text().split() if file.exists() else []

    doubled = []

    def note(old: Any, new: Any) -> None:
        doubled.append(getattr(new, "doubled", None))

    end, forget = time.monotonic() + 30, service.table.subscribe(note)
    while not lines("imported") and time.monotonic() < end:
        # maps of many sessions, which end before the import has
        assert list(service.map(slow_module.square, range(8), pure=True)) == [x * x for x in range(8)]
    until(lambda: all(kernel.busy == 0 for kernel in service.kernels()))
    forget()
    assert 1 in doubled
    assert lines("begun") == lines("imported")
    for pid in lines("begun"):
        os.kill(int(pid), 0)  # it is there


def test_pure_and_what_must_not_run_again_contradict_each_other() -> None:
    with pytest.raises(park.InvalidRequest, match="say one of them"):
        park.Request(abs, [1], pure=True, idempotent=False)
    with pytest.raises(park.InvalidRequest, match="pure=1 is no bool"):
        park.Request(abs, [1], pure=1)  # type: ignore[arg-type]
