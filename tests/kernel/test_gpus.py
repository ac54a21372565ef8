"""GPUs of a kernel: how it learns of them, which process sees which, and made-up ones on a real fabric."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

from park.errors import InvalidRequest
from park.kernel.machine.actions import CloseProcess, StartProcess, ToSlot
from park.kernel.node.gpus import CUDA, NO_GPUS, ROCM, Gpus, gpus_of
from park.wire import messages
from tests.support.bench import Bench, place
from tests.support.fabric import Fabric, until

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # kernels need not have this folder

NVIDIA = """#!/bin/sh
echo 'GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-1)'
echo 'GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-2)'
"""
AMD = """#!/bin/sh
echo '========================= ROCm System Management Interface ========================='
echo 'GPU[0]\t\t: Device Name: \t\tAMD Instinct MI210'
echo 'GPU[0]\t\t: Device ID: \t\t0x740f'
echo 'GPU[2]\t\t: Device ID: \t\t0x740f'
"""


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder of commands."""
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def put(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text)
    (folder / name).chmod(0o755)


# -- what there is ---------------------------------------------------------------------------------------


def test_without_gpus_there_are_none_unless_told_by_hand(commands: Path) -> None:
    assert gpus_of("auto", {}) is NO_GPUS
    assert gpus_of("2", {}) == Gpus(CUDA, ("0", "1"))
    assert NO_GPUS.settings(()) == {}  # a slot process sees what its kernel sees


def test_the_commands_of_the_makers_list_them(commands: Path) -> None:
    put(commands, "rocm-smi", AMD)
    assert gpus_of("auto", {}) == Gpus(ROCM, ("0", "2"))
    put(commands, "nvidia-smi", NVIDIA)
    assert gpus_of("auto", {}) == Gpus(CUDA, ("GPU-1", "GPU-2"))
    assert gpus_of("1", {}) == Gpus(CUDA, ("GPU-1",))
    assert gpus_of("0", {}) is NO_GPUS
    put(commands, "nvidia-smi", "#!/bin/sh\necho 'no driver'; exit 9\n")
    assert gpus_of("auto", {}) == Gpus(ROCM, ("0", "2"))


def test_a_batch_system_may_have_given_some_only(commands: Path) -> None:
    put(commands, "nvidia-smi", NVIDIA)
    assert gpus_of("auto", {CUDA: "1"}) == Gpus(CUDA, ("1",))
    assert gpus_of("auto", {CUDA: ""}).names == gpus_of("auto", {CUDA: "-1"}).names == ()
    assert gpus_of("auto", {ROCM: "GPU-8, GPU-9"}) == Gpus(CUDA, ("GPU-1", "GPU-2"))
    with pytest.raises(InvalidRequest, match="sees 1 only"):
        gpus_of("2", {CUDA: "1"})
    for wrong in ("many", "-1", "65"):
        with pytest.raises(InvalidRequest, match="neither 'auto' nor a number up to 64"):
            gpus_of(wrong, {})


# -- which process sees which ----------------------------------------------------------------------------


def starts(actions: list[Any]) -> list[tuple[int, ...]]:
    return [a.devices for a in actions if isinstance(a, StartProcess)]


def closes(actions: list[Any]) -> list[int]:
    return [a.process for a in actions if isinstance(a, CloseProcess)]


def given(actions: list[Any]) -> list[int]:
    """The attempts that processes got."""
    return [
        a.message.attempt for a in actions if isinstance(a, ToSlot) and isinstance(a.message, messages.Run)
    ]


def test_a_process_is_started_for_its_gpu_and_reused_with_that_one_only() -> None:
    bench = Bench(2)
    actions = bench.run(1, gpus=1.0, devices=[1])
    assert starts(actions) == [(1,)]
    first = place(actions)
    bench.done(first, 1)
    assert place(bench.run(2, gpus=1.0, devices=[1])) == first
    # another GPU, and none, mean other processes
    assert starts(bench.run(3, gpus=1.0, devices=[0])) == [(0,)]
    assert place(bench.run(4)) == 1


def test_an_idle_process_ends_before_another_owner_gets_its_gpu() -> None:
    bench = Bench(2)
    first = place(bench.run(1, owner="ann", gpus=1.0, devices=[0]))
    bench.done(first, 1)
    actions = bench.run(2, owner="bob", gpus=1.0, devices=[0])
    assert closes(actions) == [first]
    assert given(actions) == []
    # a broker that starts again counts it as running: it has its slot, and its GPU
    assert bench.machine.describe_attempts()[-1][5:] == ["runs", 0.0, 0, 1.0, [0]]
    actions = bench.exited(first, "its process exited with code 0")
    assert (starts(actions), given(actions)) == ([(0,)], [2])


def test_parts_of_a_gpu_begin_beside_each_other() -> None:
    bench = Bench(3)
    assert given(bench.run(1, owner="ann", gpus=0.5, devices=[0])) == [1]
    assert given(bench.run(2, owner="bob", gpus=0.5, devices=[0])) == [2]
    assert given(bench.run(3, owner="bob", gpus=0.5, devices=[0])) == []  # its owner's other process runs
    assert given(bench.exited(place(bench.run(4)))) == []
    assert 3 in bench.machine.state.queued


# -- made-up ones ----------------------------------------------------------------------------------------


@pytest.fixture
def fabric(tmp_path: Path) -> Iterator[Fabric]:
    with Fabric(tmp_path) as fabric:
        yield fabric


def holds(folder: str, part: float, kill: bool = False) -> str:
    """A unit that writes down for how long it had which GPU."""
    device = os.environ[CUDA]
    if kill and not (Path(folder) / "killed").exists():
        (Path(folder) / "killed").touch()
        os.kill(os.getpid(), 9)
    with (Path(folder) / "held").open("a") as file:
        print(time.monotonic(), device, part, file=file, flush=True)
        time.sleep(0.03)
        print(time.monotonic(), device, -part, file=file, flush=True)
    return device


def test_units_have_gpus_for_themselves_and_parts_share_them(fabric: Fabric, tmp_path: Path) -> None:
    kernel = fabric.start_kernel("--gpus", "2", slots=4)
    service = fabric.connect()
    none = service.start(lambda _: os.environ[CUDA], [0], gpus=0)
    jobs = [
        service.start(lambda n: holds(str(tmp_path), 1.0, n == 3), range(6), gpus=1),
        service.start(lambda n: holds(str(tmp_path), 0.5), range(6), gpus=0.5),
    ]
    assert service.wait(none, 20) == [""]
    for job in jobs:
        assert set(service.wait(job, 30)) <= {"0", "1"}
    assert (tmp_path / "killed").exists()
    given: Counter[str] = Counter()
    lines = [line.split() for line in (tmp_path / "held").read_text().splitlines()]
    for _, device, part in sorted(lines, key=lambda words: float(words[0])):
        given[device] += float(part)  # type: ignore[assignment]
        assert given[device] <= 1.0
    assert len(lines) == 24
    until(lambda: [(k.gpus, k.gpus_busy) for k in service.kernels()] == [(2, 0.0)])
    assert "4 slots and 2 GPUs for the broker at" in kernel.text
    shown = fabric.park("kernels")
    assert shown.wait() == 0
    assert "0/2" in shown.text
    assert service.status(service.start(holds, [("", 0.0)], gpus=3)).reason == "no kernel has 3 GPUs"


def test_the_local_service_has_the_gpus_that_its_user_names(fabric: Fabric) -> None:
    text = """
        import os
        import park

        with park.local_service as service:
            print(*service.map(lambda n: os.environ["CUDA_VISIBLE_DEVICES"], [0], gpus=1))
    """
    script = fabric.script(text, env={"PARK_GPUS": "1", "PARK_SLOTS": "1", "CUDA_VISIBLE_DEVICES": "7"})
    assert script.wait() == 0, script.text
    assert script.text == "7\n"
