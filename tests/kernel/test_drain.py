"""Kernels that leave in good order: real ones, told by a signal, a command, their time or their idleness."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

import park
from park.core.server import ServerProxy
from tests.support.fabric import Fabric, Process, until

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # kernels need not have this folder


@pytest.fixture
def fabric(tmp_path: Path) -> Iterator[Fabric]:
    with Fabric(tmp_path) as fabric:
        yield fabric


def slow_square(x: float) -> float:
    time.sleep(0.02)
    return x * x


class Notes:
    """A body that writes down what becomes of it."""

    def __init__(self, folder: Path, seconds: float) -> None:
        self.folder = folder
        self.seconds = seconds

    def note(self, text: str) -> None:
        with (self.folder / "notes").open("a") as file:
            file.write(text + "\n")

    def prepare(self, env: Any) -> None:
        self.note("prepare")

    def run(self, x: float = 0.0) -> float:
        self.note("run")
        end = time.monotonic() + (self.seconds if (self.folder / "slow").exists() else 0.0)
        while time.monotonic() < end:
            time.sleep(0.01)
        return x + 1

    def cleanup(self, env: Any) -> None:
        self.note("cleanup")


def drive(folder: str) -> list[float]:
    with Path(folder, "drivers").open("a") as file:
        file.write("begun\n")
    return list(park.environment().map(slow_square, range(100)))


def step_by_step(folder: str) -> int:
    env = park.environment()
    first = env.restored or 0
    with Path(folder, "drivers").open("a") as file:
        file.write(f"{first}\n")
    for step in range(first, 60):
        assert list(env.map(slow_square, [step])) == [step * step]
        env.checkpoint(step + 1, wait=60)
        with Path(folder, "steps").open("a") as file:
            file.write(f"{step}\n")
    return first


def notes(folder: Path, name: str = "notes") -> list[str]:
    file = folder / name
    return file.read_text().split() if file.exists() else []


def kernel_at(service: ServerProxy, process: Process) -> int:
    """The number of a kernel that is connected."""
    return int(until(lambda: [k.kernel for k in service.kernels() if k.pid == process.pid])[0])


def test_a_kernel_that_is_told_to_stop_ends_its_units_and_others_go_on(fabric: Fabric) -> None:
    first, second = fabric.start_kernels(2)
    service = fabric.connect()
    job = service.start(slow_square, range(150))
    until(lambda: service.status(job).done > 20)
    first.signal(signal.SIGTERM)
    assert first.wait() == 0
    assert "leaves, because it was told to stop (SIGTERM)" in first.text
    assert "handed back" in first.text
    assert service.wait(job, 30) == [x * x for x in range(150)]
    assert [k.pid for k in service.kernels()] == [second.pid]


def test_what_does_not_end_within_the_grace_is_handed_back_and_cleaned_up(
    fabric: Fabric, tmp_path: Path
) -> None:
    leaving = fabric.start_kernel("--grace", "0.3")
    service = fabric.connect()
    (tmp_path / "slow").touch()
    job = service.start(Notes(tmp_path, 60.0), [1.0])
    until(lambda: notes(tmp_path) == ["prepare", "run"])
    leaving.signal(signal.SIGTERM)
    (tmp_path / "slow").unlink()
    assert leaving.wait() == 0
    assert f"1 unit of job {job} handed back" in leaving.text
    assert notes(tmp_path) == ["prepare", "run", "cleanup"]
    fabric.start_kernel()
    assert service.wait(job, 60) == [2.0]
    until(lambda: notes(tmp_path).count("cleanup") == 2)


def test_a_driver_that_waits_for_its_map_is_handed_back(fabric: Fabric, tmp_path: Path) -> None:
    leaving = fabric.start_kernel("--grace", "0.1")
    service = fabric.connect()
    job = service.start(drive, [str(tmp_path)])
    until(lambda: service.status(job).running and notes(tmp_path, "drivers"))
    fabric.start_kernels(1)
    service.drain(kernel_at(service, leaving), 0.1)
    assert leaving.wait() == 0
    assert "it was asked to leave" in leaving.text
    assert service.wait(job, 60) == [[x * x for x in range(100)]]
    assert len(notes(tmp_path, "drivers")) == 2


def test_a_driver_that_is_handed_back_goes_on_from_its_newest_checkpoint(
    fabric: Fabric, tmp_path: Path
) -> None:
    leaving = fabric.start_kernel("--grace", "0.1")
    service = fabric.connect()
    job = service.start(step_by_step, [str(tmp_path)])
    until(lambda: notes(tmp_path, "drivers"))  # it runs on the kernel that leaves
    fabric.start_kernels(1)
    until(lambda: len(notes(tmp_path, "steps")) > 3)
    leaving.signal(signal.SIGTERM)
    assert leaving.wait() == 0
    assert service.wait(job, 60)[0] > 3
    assert len(notes(tmp_path, "drivers")) == 2


def test_a_second_signal_ends_it_at_once(fabric: Fabric, tmp_path: Path) -> None:
    leaving = fabric.start_kernel("--grace", "1h")
    service = fabric.connect()
    (tmp_path / "slow").touch()
    job = service.start(Notes(tmp_path, 60.0), [1.0])
    until(lambda: "run" in notes(tmp_path))
    leaving.signal(signal.SIGTERM)
    until(lambda: [k.draining for k in service.kernels()] == [True])
    assert (
        "all kernels that are connected are draining"
        in service.status(service.start(slow_square, [1.0])).reason
    )
    leaving.signal(signal.SIGTERM)
    assert leaving.wait(50) == 0
    assert f"1 unit of job {job} handed back" in leaving.text
    (tmp_path / "slow").unlink()
    fabric.start_kernel()
    assert service.wait(job, 60) == [2.0]


def test_what_must_not_run_twice_fails_in_words(fabric: Fabric, tmp_path: Path) -> None:
    leaving = fabric.start_kernel("--grace", "0")
    service = fabric.connect()
    (tmp_path / "slow").touch()
    job = service.start(Notes(tmp_path, 60.0), [1.0], idempotent=False)
    until(lambda: "run" in notes(tmp_path))
    leaving.signal(signal.SIGINT)
    assert leaving.wait() == 0
    with pytest.raises(park.JobFailed, match="its kernel has left while it ran, and idempotent=False"):
        service.wait(job, 60)


def test_a_kernel_leaves_when_it_has_no_work_and_before_its_time_is_over(fabric: Fabric) -> None:
    idle = fabric.start_kernel("--idle-timeout", "1s")
    limited = fabric.start_kernel("--time-limit", "12.5s", "--grace", "0.5s")
    service = fabric.connect()
    job = service.start(slow_square, range(100))
    assert service.wait(job, 60) == [x * x for x in range(100)]
    assert idle.wait() == 0
    assert "leaves, because it had no work for 1 s" in idle.text
    assert limited.wait() == 0
    assert "leaves, because its time is over" in limited.text
    too_short = fabric.start_kernel("--time-limit", "10")
    assert too_short.wait() == 2
    assert "leaves no time for work" in too_short.text


def test_the_commands(fabric: Fabric) -> None:
    (kernel,) = fabric.start_kernels(1)
    service = fabric.connect()
    number = kernel_at(service, kernel)
    listed, shown = fabric.park("kernels"), fabric.park("kernels", "--json")
    assert (listed.wait(), shown.wait()) == (0, 0)
    assert str(kernel.pid) in listed.text
    assert [(r["kernel"], r["draining"]) for r in json.loads(shown.text)] == [(number, False)]
    drained = fabric.park("kernels", "drain", str(number), "--grace", "1m")
    assert drained.wait() == 0
    assert kernel.wait() == 0  # nothing held it
    until(lambda: service.kernels() == [])
    unknown = fabric.park("kernels", "drain", str(number))
    assert unknown.wait() == 3
    assert f"no kernel {number} is connected" in unknown.text


def test_only_its_owner_and_the_admin_send_a_kernel_away(tmp_path: Path) -> None:
    with Fabric(tmp_path, keys=True) as fabric:
        (kernel,) = fabric.start_kernels(1)
        fabric.new_key("eve")
        number = kernel_at(fabric.connect(), kernel)
        with pytest.raises(park.Refused, match="is not yours: only tester and the broker's own user"):
            fabric.connect("eve").drain(number)  # type: ignore[attr-defined]
        fabric.connect("tester").drain(number)  # type: ignore[attr-defined]
        assert kernel.wait() == 0
