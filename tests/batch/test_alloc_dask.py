"""``park alloc add dask`` with a real scheduler and its workers, and its refusals without one."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from park.batch.profiles import Ask, profile, script_of
from park.batch.systems import cancel, look, own_user, submit
from park.errors import BatchError, InvalidRequest
from tests.support.allocator_site import Site, opened, survive_kills
from tests.support.dask_site import DaskCluster, dask_cluster
from tests.support.fabric import alive, until

#: Times that suit a program that takes a second to connect.
FAST = ("--spacing", "1s", "--min-life", "2s", "--idle-timeout", "2s", "--grace", "5s")
NOBODY = "dask:tcp://127.0.0.1:9"


def test_a_profile_of_dask_needs_the_address_of_its_scheduler() -> None:
    for name, words in (
        ("dask", "^dask needs the address of its scheduler: dask:tcp://HOST:PORT"),
        ("dask:", "^dask needs the address of its scheduler: dask:tcp://HOST:PORT"),
        ("slurm:tcp://head:8786", "slurm:tcp://head:8786 has no server whose address could be given"),
    ):
        with pytest.raises(InvalidRequest, match=words):
            profile(name, {})
    found = profile(NOBODY, {})
    assert "tcp://127.0.0.1:9" in found.list
    assert script_of(found, Ask("exec kernel", ppn=2, queue="PARK")).splitlines() == [
        "#!/bin/sh",
        "#LOCAL slots=2 seconds=3600",
        "#DASK resource=PARK",
        "exec kernel",
    ]


def test_a_missing_library_and_an_address_that_is_none_are_errors_in_words() -> None:
    with pytest.raises(BatchError, match="head is no address of a scheduler, such as tcp://HOST:8786"):
        look(profile("dask:head", {}))
    program = next(word for word in profile(NOBODY, {}).list if word.endswith(".py"))
    bare = (sys.executable, "-I", "-S", program, "tcp://127.0.0.1:9", "list")  # -S: no installed library
    done = subprocess.run(bare, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "pip install 'park-fit[dask]'" in done.stderr


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaskCluster]:
    with dask_cluster(tmp_path_factory.mktemp("dask") / "cluster") as cluster:
        yield cluster


@pytest.fixture
def site(cluster: DaskCluster, tmp_path: Path) -> Iterator[Site]:
    with opened(tmp_path, f"dask:{cluster.address}", keys=True) as site:
        yield site


@pytest.mark.heavy
@pytest.mark.timeout(240)
def test_from_none_to_two_to_none_on_workers(cluster: DaskCluster, site: Site) -> None:
    assert "no scheduler of Dask answers" in site.alloc(
        "add", "dask", "--scheduler", "tcp://127.0.0.1:9", "no", code=6
    )
    assert "dask needs the address" in site.alloc("add", "dask", "no", code=2)
    site.alloc(
        "add", "dask", "--scheduler", cluster.address, "fast", "--max", "3", "--walltime", "10m", *FAST
    )
    until(lambda: "no unit waits" in site.why("fast"), 50, site.story("fast"))
    service = site.fabric.connect()
    job = service.start(time.sleep, [0.1] * 3000)
    until(lambda: sorted(site.stages("fast")) == ["queued", "up", "up"], 60, site.story("fast"))
    until(lambda: "it waits for " in str(site.shown("fast")["allocations"]), 50, site.story("fast"))
    kernels = service.kernels()
    until(lambda: service.status(job).done > 20, 60)
    service.abort(job)
    until(lambda: not site.stages("fast"), 60, site.story("fast"))
    assert not site.held
    assert not any(alive(kernel.pid) for kernel in kernels)
    assert site.shown("fast")["why"] == "no unit waits that could run here"
    site.remove("fast")


@pytest.mark.heavy
@pytest.mark.timeout(240)
def test_a_kernel_ends_with_its_worker_and_comes_up_in_the_next(tmp_path: Path) -> None:
    folder = tmp_path / "site"
    folder.mkdir()
    with (
        dask_cluster(tmp_path / "cluster", workers=1) as cluster,
        opened(folder, f"dask:{cluster.address}", keys=True) as site,
    ):
        site.alloc("add", "dask", "--scheduler", cluster.address, "one", *FAST, "--idle-timeout", "60s")
        service = site.fabric.connect()
        job = service.start(time.sleep, [0.1] * 3000)
        until(lambda: site.stages("one") == ["up"], 60, site.story("one"))
        (first,), (held,) = service.kernels(), site.held
        cluster.workers[0].kill()
        until(lambda: not alive(first.pid), 50, site.story("one"))
        until(lambda: [(a.id, a.state) for a in site.held] == [(held.id, "queued")], 50, site.story("one"))
        cluster.add_worker()
        until(lambda: first.pid not in {k.pid for k in service.kernels()} != set(), 60, site.story("one"))
        (second,) = service.kernels()
        service.abort(job)
        site.remove("one")
        until(lambda: not alive(second.pid), 50, site.story("one"))


@pytest.mark.heavy
@pytest.mark.timeout(240)
def test_a_task_outlives_allocator_and_broker_that_are_killed(cluster: DaskCluster, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        bind = ("--bind", f"tcp://127.0.0.1:{free.getsockname()[1]}")
    with opened(tmp_path, f"dask:{cluster.address}", options=bind) as site:
        survive_kills(site, "--grace", "5s")


@pytest.mark.heavy
def test_slots_take_a_resource_of_workers(cluster: DaskCluster, tmp_path: Path) -> None:
    found = profile(f"dask:{cluster.address}", {})
    asked = Ask("exec sleep 60", ppn=2, queue="GPU")
    id = submit(found, script_of(found, asked), tmp_path, "park")
    until(lambda: look(found, own_user())[id].reason == "no worker has GPU=2", 60)
    cancel(found, id)
    assert id not in look(found, own_user())
