"""``park alloc`` with real brokers, kernels and processes: from none to two to none, and through kills and refusals."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.allocator_site import FAST, Site, opened, survive_kills
from tests.support.fabric import until


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with opened(tmp_path_factory.mktemp("site")) as site:
        yield site


def test_from_none_to_two_to_none(site: Site) -> None:
    site.alloc("add", "local", "fast", "--max", "2", *FAST)
    until(lambda: "no unit waits" in site.why("fast"), why=site.story("fast"))
    service = site.fabric.connect()
    job = service.start(time.sleep, [0.1] * 500)
    until(lambda: site.stages("fast") == ["up", "up"], 50, site.story("fast"))
    until(lambda: site.why("fast") == "it has as many allocations as it may: 2", why=site.story("fast"))
    labels = [sorted(kernel.labels) for kernel in service.kernels()]
    assert sorted(labels) == [["alloc:fast", name] for name in sorted(a.name for a in site.held)]
    service.abort(job)
    until(lambda: not site.stages("fast"), 50, site.story("fast"))
    assert not site.held
    assert site.shown("fast")["why"] == "no unit waits that could run here"
    assert "park-kernel: has left" in site.alloc("log", "fast")
    site.remove("fast")


def test_a_queue_that_refuses_is_asked_seldom_and_quoted(site: Site) -> None:
    asked = site.commands / "refused"
    site.command("qsub", f"echo >> {asked}; echo 'qsub: Unauthorized Request  MSG=group limit' >&2; exit 159")
    site.command("qstat", "")
    site.alloc("add", "torque", "no", "--max", "9", *FAST, "--", "--broker", str(site.fabric.connection))
    job = site.fabric.connect().start(time.sleep, [0.1] * 10)
    until(lambda: "after 3 refused submissions in a row" in site.why("no"), why=site.story("no"))
    shown = site.shown("no")
    assert "qsub: Unauthorized Request MSG=group limit" in shown["why"]
    assert shown["allocations"] == []
    assert len(asked.read_text().splitlines()) == 3
    assert "qsub has failed with code 159" in site.alloc("log", "no")
    site.fabric.connect().abort(job)
    site.remove("no")


@pytest.mark.heavy
def test_a_node_that_never_comes_up_pauses_the_allocator_with_its_last_words(site: Site) -> None:
    site.alloc("add", "local", "dead", "--max", "9", *FAST, "--", "--broker", "/nowhere/connection.json")
    job = site.fabric.connect().start(time.sleep, [0.1] * 10)
    until(lambda: "paused itself" in site.why("dead"), 50, site.story("dead"))
    why = site.why("dead")
    assert site.shown("dead")["state"] == "paused"
    doctor = site.fabric.park("doctor")
    doctor.wait()
    assert "dead: it has paused itself, as 3 starts" in doctor.text
    assert why.startswith("it has paused itself, as 3 starts in a row have failed; the last one: park-")
    assert "park-kernel: no broker: /nowhere/connection.json does not exist" in why
    assert "`park alloc resume dead` tries again" in why
    assert not site.held
    site.fabric.connect().abort(job)
    site.remove("dead")


def test_what_cannot_be_is_refused_in_words(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    for words, text in (
        (("add", "lsf", "fast"), "'lsf' is no batch system that is known here"),
        (("add", "local", "a/b"), "'a/b' is no name of an allocator"),
        (("add", "local", "fast", "--only-own"), "--only-own needs --owner NAME"),
        (("add", "local", "fast", "--walltime", "5s"), "no batch system counts less than a minute"),
        (("add", "local", "fast", "--nodes", "2"), "local has one node"),
        (("pause", "fast"), "there is no allocator 'fast'; there are"),
        (("log", "fast"), "there is no allocator 'fast'"),
    ):
        assert text in site.alloc(*words, code=2)
    monkeypatch.setenv("PATH", str(site.commands))
    assert "the command squeue of slurm is not on the path" in site.alloc("add", "slurm", "fast", code=6)


def test_a_dry_run_submits_nothing_and_says_what_would_be_done(site: Site) -> None:
    assert "the broker listens on its own machine only" in site.alloc(
        "add", "pbs", "dry", "--dry-run", code=4
    )
    text = site.alloc(
        *("add", "torque", "dry", "--dry-run", "--nodes", "2", "--ppn", "8", "--line", "#PBS -l mem=8gb"),
        *("--", "--broker", "tcp://head:7275", "--setup", "module load gcc"),
    )
    assert "#PBS -l nodes=2:ppn=8\n" in text
    assert "#PBS -l mem=8gb\n" in text
    assert "--nodes --label park-" in text
    assert "--broker tcp://head:7275 --setup 'module load gcc'" in text
    assert "$ qsub -N park-" in text
    site.alloc("add", "local", "dry")
    assert "there is an allocator dry already" in site.alloc("add", "local", "dry", code=2)
    site.alloc("pause", "dry")
    assert "nothing more: it is paused: `park alloc resume dry`" in site.alloc("dry-run", "dry")
    site.remove("dry")


@pytest.mark.heavy
def test_of_two_allocators_for_the_same_work_one_submits(site: Site) -> None:
    for name in ("first", "second"):
        site.alloc("add", "local", name, *FAST)
    service = site.fabric.connect()
    job = service.start(time.sleep, [3.0])
    until(lambda: "way of first will do" in site.why("second"), 50, site.story("second"))
    service.wait(job, 60)
    assert "is submitted" in site.alloc("log", "first")
    assert "is submitted" not in site.alloc("log", "second")
    for name in ("first", "second"):
        site.remove(name)


@pytest.mark.heavy
def test_what_was_submitted_when_allocator_and_broker_were_killed_is_found_again(tmp_path: Path) -> None:
    with opened(tmp_path) as site:
        survive_kills(site)


@pytest.mark.heavy
def test_an_allocation_that_no_record_knows_is_cancelled(tmp_path: Path) -> None:
    with opened(tmp_path) as site:
        site.alloc("add", "local", "one", *FAST, "--idle-timeout", "60s")
        job = site.fabric.connect().start(time.sleep, [0.1] * 500)
        until(lambda: site.stages("one") == ["up"], 50, site.story("one"))
        (held,) = site.held
        site.fabric.broker.kill()
        until(lambda: not site.process())
        (site.fabric.home / "alloc" / "record.json").write_text("{}}")
        site.fabric.start_broker()
        until(lambda: "is in no record, and is cancelled" in site.alloc("log", "one"), 50)
        assert "record.json is damaged" in site.fabric.broker.text
        until(lambda: site.stages("one") == ["up"], 60, site.story("one"))
        (other,) = site.held
        assert int(other.name.rpartition("-")[2]) > int(held.name.rpartition("-")[2])
        site.fabric.connect().abort(job)
        site.remove("one")
