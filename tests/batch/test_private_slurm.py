"""Private jobs in allocations of a real Slurm, which are asked for with Torque's commands and with Slurm's own."""

from __future__ import annotations

import os
import pickle
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

import park
from park.batch.ask import ask_of
from park.batch.private import allocate
from park.core.server import ServerProxy
from park.errors import BatchError
from tests.support.fabric import Fabric, alive, until
from tests.support.slurm import CPUS, SlurmCluster, missing
from tests.support.steps_script import steps_script

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # kernels need not have this folder

pytestmark = [pytest.mark.heavy, pytest.mark.skipif(bool(missing()), reason=missing() or "it is there")]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    with SlurmCluster(tmp_path_factory.mktemp("slurm") / "cluster") as cluster:
        yield cluster


@pytest.fixture
def fabric(tmp_path: Path, cluster: SlurmCluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fabric]:
    for name, value in cluster.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    with Fabric(tmp_path, lease=5.0) as fabric:
        fabric.callback(cluster.cancel_all)
        yield fabric


def folders(fabric: Fabric) -> list[Path]:
    return list((fabric.folder / "state" / "park" / "allocations").glob("job-*"))


def over(cluster: SlurmCluster, fabric: Fabric) -> None:
    """Wait until nothing is left: no entry in the queue, no keeper."""
    until(lambda: not cluster.run("squeue", "-h").strip(), 60)
    until(lambda: not folders(fabric), 60)


def where(_: Any) -> str:
    time.sleep(0.2)
    return os.environ["SLURMD_NODENAME"]


@pytest.mark.parametrize("system", ["torque", "slurm"])
def test_a_private_job_runs_in_an_allocation_of_its_own(
    cluster: SlurmCluster, fabric: Fabric, system: str
) -> None:
    service = fabric.connect()
    job = service.start(where, range(12), private=True)
    number = allocate(service, job, system, ask_of(f"nodes=2:ppn={CPUS},walltime=0:10:00"), fabric.address)
    until(lambda: len(service.kernels()) == 2, 60)
    kernels = service.kernels()
    assert {(k.job, k.batch, k.slots) for k in kernels} == {(job, f"Slurm {number}", CPUS)}
    assert set(service.wait(job, 60)) == {"n1", "n2"}
    ended = time.monotonic()
    until(lambda: cluster.state(number) in ("", "CG"), 60)
    print(f"{system}: {time.monotonic() - ended:.2f} s from the job's end to the allocation's")
    over(cluster, fabric)
    assert not any(alive(kernel.pid) for kernel in kernels)


def test_a_job_that_waits_in_the_queue_says_so_and_an_abort_takes_it_out(
    cluster: SlurmCluster, fabric: Fabric
) -> None:
    service = fabric.connect()
    ask = ask_of(f"nodes=2:ppn={CPUS},walltime=0:10:00")
    jobs = [service.start(time.sleep, [60.0], private=True) for _ in range(3)]
    numbers = [allocate(service, job, "slurm", ask, fabric.address) for job in jobs]
    reason = f"waiting: its allocation {numbers[2]} is queued, place 2: "
    until(
        lambda: service.fetch(jobs[2]).record.reason.startswith(reason),
        60,
        lambda: reason_of(service, jobs[2]),
    )
    service.abort(jobs[2])
    until(lambda: cluster.state(numbers[2]) == "", 60)
    until(lambda: service.status(jobs[0]).running, 60)
    for job in jobs[:2]:
        service.abort(job)
    over(cluster, fabric)


def reason_of(service: ServerProxy, job: int) -> str:
    return service.fetch(job).record.reason


def test_a_queue_that_refuses_is_quoted_and_the_job_waits(cluster: SlurmCluster, fabric: Fabric) -> None:
    service = fabric.connect()
    job = service.start(where, [1], private=True)
    with pytest.raises(BatchError, match="invalid partition specified: none"):
        allocate(service, job, "torque", ask_of("queue=none"), fabric.address)
    assert "invalid partition specified: none" in reason_of(service, job)
    allocate(service, job, "torque", ask_of("nodes=1:ppn=1"), fabric.address)
    assert service.wait(job, 60) in (["n1"], ["n2"])
    over(cluster, fabric)


LINE = """\
import numpy as np
from bumps.names import Curve, FitProblem

def line(x, m, b):
    return m * x + b

x = np.linspace(0.0, 4.0, 20)
curve = Curve(line, x, 2 * x + 1, np.full(20, 0.1), m=1.5, b=0.5)
curve.m.range(0, 4)
curve.b.range(-5, 5)
problem = FitProblem(curve)
"""


def test_a_fit_of_the_command_line_runs_in_its_own_allocation(cluster: SlurmCluster, fabric: Fabric) -> None:
    (fabric.folder / "line.py").write_text(LINE)
    command = ["submit", "line.py", "--torque", f"nodes=2:ppn={CPUS},walltime=0:10:00", "--method", "dream"]
    command += ["--samples", "2000", "--burn", "100", "--seed", "1", "--wait"]
    environment = {**cluster.environment, "PARK_BROKER": fabric.address}
    environment["XDG_STATE_HOME"] = os.environ["XDG_STATE_HOME"]
    fit = fabric.start("-m", "park.cli.park", *command, env=environment, cwd=fabric.folder)
    assert fit.wait(100) == 0, fit.text
    assert "job 1 runs in allocation" in fit.text
    result = fabric.connect().wait(1)
    assert abs(result["m"].value - 2.0) < 0.1
    over(cluster, fabric)


class Steps:
    """A driver that makes a checkpoint when it is asked to."""

    def run(self) -> list[int]:
        env = park.environment()
        state = env.restored or {"step": 0, "began": []}
        state["began"].append(state["step"])
        while state["step"] < 600:
            time.sleep(0.1)
            state["step"] += 1
            env.ready()
            if env.should_checkpoint:
                env.checkpoint(state)
        return list(state["began"])


@pytest.mark.timeout(240)
def test_a_job_that_outlives_its_allocation_goes_on_in_the_next(
    cluster: SlurmCluster, fabric: Fabric
) -> None:
    service = fabric.connect()
    job = service.start(Steps(), private=True)
    ask = ask_of("nodes=1:ppn=1,walltime=1:00")
    first = allocate(service, job, "torque", ask, fabric.address, more=2)
    began = service.wait(job, 200)
    assert len(began) == 2
    assert 0 == began[0] < began[1]
    assert not service.status(job).allocation.startswith(f"{first} ")
    over(cluster, fabric)


def test_a_script_has_a_fabric_in_an_allocation(cluster: SlurmCluster, fabric: Fabric) -> None:
    with park.batch.torque(nodes=2, ppn=CPUS, walltime="10m", host="127.0.0.1") as service:
        assert set(service.wait(service.start(where, range(12)), 90)) == {"n1", "n2"}
        kernels = service.kernels()
    assert [kernel.slots for kernel in kernels] == [CPUS, CPUS]
    until(lambda: not cluster.run("squeue", "-h").strip(), 60)
    until(lambda: not any(alive(kernel.pid) for kernel in kernels))


def test_a_script_s_allocation_stands_in_the_table_of_the_broker(
    cluster: SlurmCluster, fabric: Fabric
) -> None:
    blocker = cluster.submit(sleeping(fabric.folder), fabric.folder / "blocker")
    until(lambda: cluster.state(blocker) == "R", 60)
    with park.batch.torque(nodes=2, ppn=CPUS, walltime="10m", broker=fabric.address) as service:
        table = fabric.connect()
        (host,) = table.jobs(owner="*")
        until(lambda: "is queued, place 1" in host.reason, 60, lambda: host.reason)
        cluster.run("qdel", blocker)
        assert set(service.wait(service.start(where, range(12)), 90)) == {"n1", "n2"}
        assert {kernel.job for kernel in service.kernels()} == {host.id}
    over(cluster, fabric)


def sleeping(folder: Path) -> Path:
    """A job script that takes both nodes."""
    script = folder / "sleep.pbs"
    script.write_text(f"#!/bin/sh\n#PBS -l nodes=2:ppn={CPUS},walltime=00:10:00\nexec sleep 600\n")
    return script


WORK = """\
import os, time

def where(x):
    time.sleep(0.2)
    return os.environ["SLURMD_NODENAME"]
"""


def test_a_whole_fabric_inside_an_allocation(cluster: SlurmCluster, fabric: Fabric) -> None:
    (fabric.folder / "work.py").write_text(WORK)
    (fabric.folder / "inputs.json").write_text(str(list(range(12))))
    script = fabric.folder / "job.pbs"
    script.write_text(
        f"#!/bin/bash\n#PBS -l nodes=2:ppn={CPUS},walltime=00:10:00\ncd {fabric.folder}\nexec 2>&1\n"
        f"{sys.executable} -m park.cli.kernel --private work.py:where --private-host 127.0.0.1 -- "
        "--inputs inputs.json\n"
    )
    output = fabric.folder / "out"
    number = cluster.submit(script, output)
    until(lambda: cluster.state(number) in ("", "CG"), 100, output.read_text)
    assert "2 of 2 nodes came up, and all have left" in output.read_text()
    with (fabric.folder / "work.park" / "job-1.pickle").open("rb") as file:
        assert set(pickle.load(file)) == {"n1", "n2"}
    assert {each.name for each in (fabric.folder / "work.park").iterdir()} == {
        "broker.log",
        "job-1.pickle",
        "jobs.backup",
    }


def test_a_fabric_that_is_deleted_goes_on_in_the_next_allocation(
    cluster: SlurmCluster, fabric: Fabric
) -> None:
    (fabric.folder / "steps.py").write_text(steps_script(100, 0.1))
    script = fabric.folder / "job.pbs"
    script.write_text(
        f"#!/bin/bash\n#PBS -l nodes=2:ppn={CPUS},walltime=00:10:00\ncd {fabric.folder}\nexec 2>&1\n"
        f"{sys.executable} -m park.cli.kernel --private steps.py:steps --private-host 127.0.0.1\n"
    )
    outputs = [fabric.folder / name for name in ("first", "second")]
    number = cluster.submit(script, outputs[0])
    until(lambda: outputs[0].exists() and "begins at 0" in outputs[0].read_text(), 60, outputs[0].read_text)
    time.sleep(2.0)
    cluster.run("qdel", number)
    until(lambda: cluster.state(number) in ("", "CG"), 60)
    number = cluster.submit(script, outputs[1])
    until(lambda: cluster.state(number) in ("", "CG"), 100, outputs[1].read_text)
    assert "goes on with job 1" in outputs[1].read_text(), outputs[0].read_text() + outputs[1].read_text()
    with (fabric.folder / "steps.park" / "job-1.pickle").open("rb") as file:
        began, again = pickle.load(file)
    assert began == 0 < again, "from its checkpoint"
