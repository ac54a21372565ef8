"""``park alloc`` with a real Slurm, by its own commands and by Torque's."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.allocator_site import Site, opened, survive_kills
from tests.support.fabric import alive, until
from tests.support.slurm import CPUS, SlurmCluster, missing

pytestmark = [pytest.mark.heavy, pytest.mark.skipif(bool(missing()), reason=missing() or "it is there")]
#: Times that suit a Slurm that looks at its queue each second.
FAST = ("--spacing", "1s", "--min-life", "5s", "--idle-timeout", "5s", "--grace", "5s")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    with SlurmCluster(tmp_path_factory.mktemp("slurm") / "cluster") as cluster:
        yield cluster


@pytest.fixture
def site(cluster: SlurmCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    settings = {"SLURM_CONF": cluster.environment["SLURM_CONF"]}
    with opened(tmp_path_factory.mktemp("site"), "slurm", settings, keys=True) as site:
        yield site


@pytest.mark.parametrize("system", ["slurm", "torque"])
def test_from_none_to_two_to_none_and_nothing_is_left(cluster: SlurmCluster, site: Site, system: str) -> None:
    site.alloc("add", system, "fast", "--ppn", str(CPUS), "--max", "2", "--walltime", "10m", *FAST)
    service = site.fabric.connect()
    job = service.start(time.sleep, [0.1] * 3000)
    until(lambda: site.stages("fast") == ["up", "up"], 90, site.story("fast"))
    kernels = service.kernels()
    assert sorted((kernel.node, kernel.slots) for kernel in kernels) == [("n1", CPUS), ("n2", CPUS)]
    assert sorted(kernel.batch for kernel in kernels) == sorted(f"Slurm {a.id}" for a in site.held)
    until(lambda: service.status(job).done > 20, 60)
    service.abort(job)
    until(lambda: not site.stages("fast"), 90, site.story("fast"))
    assert not site.held
    assert not cluster.run("squeue", "-h", "-t", "PD,R").strip()
    assert not any(alive(kernel.pid) for kernel in kernels)
    site.remove("fast")


def test_what_the_batch_system_refuses_or_lets_wait_is_quoted(cluster: SlurmCluster, site: Site) -> None:
    site.alloc("add", "slurm", "no", "--queue", "nowhere", *FAST)
    site.alloc("add", "slurm", "large", "--nodes", "2", "--ppn", "1", "--walltime", "10m", *FAST)
    for node in ("n1", "n2"):
        cluster.run("scontrol", "update", f"nodename={node}", "state=drain", "reason=test")
    try:
        service = site.fabric.connect()
        job = service.start(time.sleep, [0.1] * 3000)
        until(lambda: "sbatch has failed with code 1" in site.why("no"), 60, site.story("no"))
        assert "invalid partition specified: nowhere" in site.why("no")
        until(lambda: "is a probe, and queued: " in site.why("large"), 60, site.story("large"))
        service.abort(job)
        until(lambda: not site.stages("large"), 60, site.story("large"))
        assert "is cancelled: no work is left for it" in site.alloc("log", "large")
        assert not site.held
    finally:
        for node in ("n1", "n2"):
            cluster.run("scontrol", "update", f"nodename={node}", "state=resume")


def test_two_nodes_are_found_again_after_kills(cluster: SlurmCluster, tmp_path: Path) -> None:
    settings = {"SLURM_CONF": cluster.environment["SLURM_CONF"]}
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    bind = ("--bind", f"tcp://127.0.0.1:{port}")
    with opened(tmp_path, "slurm", settings, options=bind) as site:
        survive_kills(site, "--nodes", "2", "--ppn", str(CPUS), "--walltime", "10m")
    assert not cluster.run("squeue", "-h", "-t", "PD,R").strip()
