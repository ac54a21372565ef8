"""Copies of a broker's jobs: made while it works, gone on with in another home, refused in words."""

from __future__ import annotations

import json
import os
import sys
import textwrap
import time
from pathlib import Path

import cloudpickle
import pytest

import park
from park.broker.effects import Write
from park.broker.storage.backup import JOB_NUMBER_GAP, back_up, restore
from park.broker.storage.store import JobStore
from park.errors import StoreError
from park.wire import codec
from tests.support.fabric import Fabric, Process, until

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # kernels need not have this folder


def slow(x: int) -> int:
    time.sleep(0.01)
    return x * x


def copied(fabric: Fabric, file: Path) -> Process:
    command = fabric.park("backup", str(file))  # the home is where the connection file is
    command.wait()
    return command


def test_what_is_restored_is_for_its_owner_alone(tmp_path: Path) -> None:
    JobStore(tmp_path / "a").close()
    back_up(tmp_path / "a", tmp_path / "copy")
    home = tmp_path / "new" / "home"
    before = os.umask(0o002)
    try:
        restore(tmp_path / "copy", home)
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (home, *home.iterdir())}
    assert modes == {"home": 0o700, "jobs.mdb": 0o600}


def test_a_copy_of_a_broker_at_work_goes_on_in_another_home(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    file = tmp_path / "copy.park"
    with Fabric(tmp_path / "a") as fabric:
        fabric.start_kernels(1)
        service = fabric.connect()
        done = service.start(abs, [-1, -2])
        assert service.wait(done) == [1, 2]
        half = service.start("".join, [["a"], ["b"]], after=done, when=1000)
        working = service.start(slow, range(200), name="working")
        until(lambda: 5 < service.status(working).done < 150)
        command = copied(fabric, file)
        assert command.popen.returncode == 0, command.text
        assert command.text.startswith("3 jobs, ")
        assert file.stat().st_mode & 0o777 == 0o600
        later = service.start(abs, [-3])
        assert service.wait(working) == [x * x for x in range(200)]
        again = copied(fabric, file)
        assert again.popen.returncode == 1
        assert f"{file} is there already" in again.text
        # when the copy goes on beside its original, whose kernel meets it
        with Fabric(tmp_path / "b", "--restore", str(file)) as other:
            other.options = other.options[2:]  # of its next lives
            assert f"3 jobs were restored from {file}" in other.broker.text
            assert other.endpoints["store"] != fabric.endpoints["store"]
            restored = other.connect()
            assert [job.id for job in restored.jobs()] == [done, half, working]
            assert restored.wait(done) == [1, 2]
            assert restored.status(working).done < 200
            with pytest.raises(park.UnknownJob):
                restored.status(later)
            other.start_kernels(1)
            assert restored.wait(working, 30) == [x * x for x in range(200)]
            assert restored.start(abs, [1], when=1000) > later + JOB_NUMBER_GAP - 20
            # a home that has jobs is not written over
            refused = other.start("-m", "park.cli.broker", "--home", str(other.home), "--restore", str(file))
            assert refused.wait() == 1
            assert f"{other.home} has a store already" in refused.text
            other.broker.end()
            other.start_broker()
            assert restored.wait(done, 20) == [1, 2]
        assert service.status(half).state is park.JobState.WAITING


def test_a_home_without_a_broker_is_copied_too(tmp_path: Path) -> None:
    home, file = tmp_path / "home", tmp_path / "copy"
    store = JobStore(home)
    store.open_epoch()
    store.commit(
        [
            Write("job", (1,), b"one"),
            Write("kernel", (b"k",), b""),
            Write("meta", ("next_job",), codec.pack(17)),
        ]
    )
    store.close()
    copy = back_up(home, file)
    assert (copy.jobs, copy.epoch, copy.size) == (1, 1, file.stat().st_size)
    assert restore(file, tmp_path / "new") == copy
    new = JobStore(tmp_path / "new")
    assert new.id != store.id
    assert new.epoch == 1
    assert new.get("job", (1,)) == b"one"
    assert new.count("kernel") == 0
    assert codec.unpack(new.get("meta", ("next_job",)) or b"") == 17 + JOB_NUMBER_GAP
    new.close()
    assert sorted(os.listdir(tmp_path / "new")) == ["broker.lock", "jobs.mdb", "jobs.mdb-lock"]


def test_what_a_killed_backup_has_left_is_swept_by_the_next(tmp_path: Path) -> None:
    """Given a backup that is killed and one that goes on, when a third is made, then only the first's file is gone."""
    JobStore(tmp_path / "a").close()
    script = """
        import os, sys, time
        from pathlib import Path
        from park.broker.storage import backup
        def stay(part): print("begun", flush=True); time.sleep(600)
        backup._looked_at = stay
        backup.back_up(Path(sys.argv[1]), Path(sys.argv[2]))
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(tmp_path / "a")]
    killed, living = (Process([*command, str(tmp_path / name)], tmp_path / f"{name}.log") for name in "xy")
    try:
        for process in (killed, living):
            until(lambda process=process: "begun" in process.text, why=lambda: killed.text + living.text)  # type: ignore[misc]
        killed.kill()
        assert len(list(tmp_path.glob(".*"))) == 2
        back_up(tmp_path / "a", tmp_path / "copy")
        assert [file.name for file in tmp_path.glob(".*")] == [f".y.{living.pid}.park-backup"]
    finally:
        living.kill()


def test_what_is_no_copy_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    home, file, new = tmp_path / "home", tmp_path / "copy", tmp_path / "new"
    with pytest.raises(StoreError, match=r"there is no store in .*home: name a broker's home with --home"):
        back_up(home, file)
    store = JobStore(home)
    store.commit([Write("results", (1, n), os.urandom(3000)) for n in range(200)])
    store.close()
    with pytest.raises(StoreError, match="cannot copy"):
        back_up(home, tmp_path / "nowhere" / "copy")
    back_up(home, file)
    data = bytearray(file.read_bytes())
    for name, content in {
        "empty": b"",
        "text": b"hello " * 1000,
        "short": bytes(data[:9000]),
        "torn": bytes(data[: len(data) // 2]) + bytes(len(data) - len(data) // 2),
        "flipped": bytes(
            b ^ (1 if len(data) // 2 <= i < len(data) // 2 + 100 else 0) for i, b in enumerate(data)
        ),
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(StoreError, match=name):
            restore(tmp_path / name, new)
        assert not (new / "jobs.mdb").exists()
    with pytest.raises(StoreError, match="missing"):
        restore(tmp_path / "missing", new)
    assert json.dumps(sorted(os.listdir(tmp_path))).count("copy") == 1
