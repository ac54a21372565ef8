"""Kernels in allocations of a real Slurm, submitted with Torque's commands."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

import park
from park.core.server import ServerProxy
from tests.support.fabric import Fabric, alive, until
from tests.support.slurm import CPUS, SlurmCluster, missing

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # kernels need not have this folder

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing() or "it is there")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    with SlurmCluster(tmp_path_factory.mktemp("slurm") / "cluster") as cluster:
        yield cluster


@pytest.fixture
def fabric(tmp_path: Path, cluster: SlurmCluster) -> Iterator[Fabric]:
    with Fabric(tmp_path, lease=5.0) as fabric:
        fabric.callback(cluster.cancel_all)
        yield fabric


class Allocation:
    """A batch job that runs kernels for the fabric."""

    def __init__(
        self, cluster: SlurmCluster, fabric: Fabric, command: str, minutes: int = 10, nodes: int = 2
    ) -> None:
        self.cluster = cluster
        self.output = fabric.folder / f"out-{time.monotonic_ns()}"
        script = fabric.folder / "kernels.pbs"
        kernel = command.format(kernel=f"{sys.executable} -m park.cli.kernel --broker {fabric.address}")
        limit = f"#PBS -l nodes={nodes}:ppn={CPUS},walltime=00:{minutes:02}:00"
        script.write_text(f"#!/bin/bash\n#PBS -N kernels\n{limit}\nexec 2>&1\n{kernel}\n")
        self.number = cluster.submit(script, self.output)

    @property
    def text(self) -> str:
        return self.output.read_text(errors="replace") if self.output.exists() else ""

    def delete(self) -> None:
        self.cluster.run("qdel", self.number)

    def ended(self) -> None:
        until(lambda: self.cluster.state(self.number) in ("", "CG"), 60, lambda: self.text)


def pids(service: ServerProxy) -> list[int]:
    return [kernel.pid for kernel in service.kernels()]


def where(_: Any) -> str:
    import os

    time.sleep(0.2)
    return os.environ.get("SLURMD_NODENAME", "here")


def test_one_command_starts_a_kernel_on_each_node_and_qdel_leaves_none(
    cluster: SlurmCluster, fabric: Fabric
) -> None:
    service = fabric.connect()
    job = Allocation(cluster, fabric, "{kernel} --nodes")
    until(lambda: len(service.kernels()) == 2, 60, lambda: job.text)
    found = sorted((k.node, k.slots, k.batch) for k in service.kernels())
    assert found == [("n1", CPUS, f"Slurm {job.number}"), ("n2", CPUS, f"Slurm {job.number}")]
    assert re.search("which ends in 0:(09|10):", job.text)
    running = service.start(where, range(24))
    until(lambda: service.status(running).done >= 2 * CPUS, 60)
    kernels = pids(service)
    job.delete()
    fabric.start_kernel()
    until(lambda: not any(map(alive, kernels)), 50)
    assert "n1: park-kernel: has left: " in job.text
    assert set(service.wait(running, 60)) == {"n1", "n2", "here"}
    assert service.status(running).failed == 0
    job.ended()


class Steps:
    """A driver that makes a checkpoint when it is asked to, and never otherwise."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def run(self) -> list[int]:
        env = park.environment()
        state = env.restored or {"step": 0, "began": [0]}
        if state["step"]:
            state["began"].append(state["step"])
        while state["step"] < self.steps:
            assert list(env.map(abs, [-state["step"]])) == [state["step"]]
            time.sleep(0.1)
            state["step"] += 1
            if env.should_checkpoint:
                env.checkpoint(state)
        return list(state["began"])


@pytest.mark.heavy
def test_a_driver_goes_on_in_the_next_allocation(cluster: SlurmCluster, fabric: Fabric) -> None:
    service = fabric.connect()
    job = service.start(Steps(60))
    for _ in range(3):
        allocation = Allocation(cluster, fabric, "srun --ntasks=1 --nodes=1 {kernel}", nodes=1)
        until(lambda: [k.busy + k.drivers for k in service.kernels()] == [1], 60)
        time.sleep(1.0)
        allocation.delete()
        allocation.ended()
        until(lambda: not service.kernels(), 50)
    last = Allocation(cluster, fabric, "srun --ntasks=1 --nodes=1 {kernel}", nodes=1)
    began = service.wait(job, 60)
    assert len(began) == 4
    assert began == sorted(set(began)), "each allocation goes on where the one before it has come to"
    last.delete()
    last.ended()


@pytest.mark.heavy
def test_an_allocation_is_left_before_its_end(cluster: SlurmCluster, fabric: Fabric) -> None:
    service = fabric.connect()
    job = service.start(Steps(10_000))
    allocation = Allocation(
        cluster, fabric, "srun --ntasks=1 --nodes=1 {kernel} --grace 2", minutes=1, nodes=1
    )
    until(lambda: "leaves, because its time is over" in allocation.text, 80, lambda: allocation.text)
    until(lambda: "has left: job" in allocation.text, 50, lambda: allocation.text)
    allocation.ended()
    last = Allocation(cluster, fabric, "srun --ntasks=1 --nodes=1 {kernel}", nodes=1)
    until(lambda: service.status(job).running and service.kernels(), 60, lambda: last.text)
    service.abort(job)
    last.delete()
    last.ended()


@pytest.mark.heavy
def test_a_node_is_given_back_when_its_kernel_has_left(cluster: SlurmCluster, fabric: Fabric) -> None:
    service = fabric.connect()
    job = Allocation(cluster, fabric, "{kernel} --nodes")
    until(lambda: len(service.kernels()) == 2, 60, lambda: job.text)
    second = next(kernel for kernel in service.kernels() if kernel.node == "n2")
    service.drain(second.kernel)
    work = service.start(where, range(400))
    until(lambda: "is given back to the batch system" in job.text, 60, lambda: job.text)
    assert cluster.run("squeue", "-h", "-j", job.number, "-o", "%N").strip() == "n1"
    assert cluster.run("sinfo", "-h", "-n", "n2", "-o", "%t").strip() == "idle"
    done = service.status(work).done
    until(lambda: service.status(work).done > done, 60)
    service.abort(work)
    job.delete()
    job.ended()


@pytest.mark.heavy
def test_more_slots_than_there_are_are_allowed_with_a_warning(cluster: SlurmCluster, fabric: Fabric) -> None:
    service = fabric.connect()
    allocation = Allocation(cluster, fabric, "srun --ntasks=1 --nodes=1 {kernel} --slots 9", nodes=1)
    until(lambda: [k.slots for k in service.kernels()] == [9], 60, lambda: allocation.text)
    assert f"9 slots are more than the {CPUS} that " in allocation.text
    allocation.delete()
    allocation.ended()
