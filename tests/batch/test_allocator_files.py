"""The files of allocators: definitions, record, logs, scripts and keys, each bounded or whole."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from park.batch.allocator import AllocatorState, Policy, TrackedAllocation
from park.batch.allocator_files import MAX_LOG_BYTES, NO_DEFINITIONS, AllocatorFiles, AllocatorRecord
from park.batch.allocator_kernels import (
    MAX_ENDED_ALLOCATIONS,
    BrokerAccess,
    access,
    clean,
    forget,
    last_words,
    make_key,
    script,
)
from park.batch.profiles import BUILT_IN
from park.errors import NoBroker, StoreError
from park.net.keys import KERNEL, POOL, Keyring, read_key

POLICY = Policy(name="fast", system="slurm", nodes=2, ppn=8, walltime=7200.0, labels=("big",))


def test_definitions_and_record_come_back_as_they_were(tmp_path: Path) -> None:
    files = AllocatorFiles(tmp_path)
    assert (files.definitions(), files.record(), files.changed) == ({}, AllocatorRecord(), NO_DEFINITIONS)
    with files.change() as definitions:
        definitions["fast"] = POLICY
    seen = files.changed
    with files.change():
        pass
    assert (files.definitions(), files.changed) == ({"fast": POLICY}, seen)
    state = AllocatorState(allocations=[TrackedAllocation(name="park-opia-1", asked=3.5)])
    files.write_record(AllocatorRecord(broker="opia", number=1, states={"fast": state}), durable=True)
    assert files.record().states == {"fast": state}
    with files.change() as definitions:
        definitions.clear()
    assert files.changed == NO_DEFINITIONS


def test_a_failed_change_changes_nothing(tmp_path: Path) -> None:
    files = AllocatorFiles(tmp_path)

    def fail() -> None:
        with files.change() as definitions:
            definitions["fast"] = POLICY
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert files.definitions() == {}


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    files = AllocatorFiles(tmp_path)
    files.folder.mkdir()
    (files.folder / "record.json").write_text('{"broker": 7}')
    with pytest.raises(StoreError, match=r"record.json is damaged, or of another release of PARK"):
        files.record()


def test_one_process_holds_the_allocators(tmp_path: Path) -> None:
    files = AllocatorFiles(tmp_path)
    assert not files.is_held
    with files.hold() as first, AllocatorFiles(tmp_path).hold() as second:
        assert (first, second, files.is_held) == (True, False, True)
    assert not files.is_held


def test_logs_are_bounded_and_keep_the_newest(tmp_path: Path) -> None:
    files = AllocatorFiles(tmp_path)
    files.folder.mkdir()
    for number in range(2000):
        files.log("fast", 0.0, [f"{number} {'x' * 100}"])
    size = sum(len(line) + 1 for line in files.log_lines("fast"))
    assert MAX_LOG_BYTES / 4 < size <= MAX_LOG_BYTES
    assert " 1999 x" in files.log_lines("fast")[-1]
    files.drop_log("fast")
    assert files.log_lines("fast") == []


def test_the_files_of_ended_allocations_are_bounded(tmp_path: Path) -> None:
    for number in range(MAX_ENDED_ALLOCATIONS + 10):
        for ending in ("sh", "out", "err", "out.nodes"):
            file = tmp_path / f"park-opia-{number}.{ending}"
            file.write_text(f"line\nlast of {number} {ending}\n\n")
            os.utime(file, (number, number))
    clean(tmp_path, ["park-opia-0"])
    left = {int(file.name.split(".")[0].split("-")[2]) for file in tmp_path.iterdir()}
    assert left == {0, *range(10, MAX_ENDED_ALLOCATIONS + 10)}
    assert last_words(tmp_path, "park-opia-15") == "last of 15 err"
    (tmp_path / "park-opia-15.err").write_text("\n")
    assert last_words(tmp_path, "park-opia-15") == "last of 15 out"
    assert last_words(tmp_path, "park-opia-1") == ""


def test_kernels_get_a_key_of_their_own_until_their_allocator_is_removed(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    make_key(tmp_path, POLICY, folder / "kernel.key")
    key = read_key(folder / "kernel.key")
    assert (key.name, key.role) == ("alloc-fast", POOL)
    make_key(tmp_path, POLICY, folder / "kernel.key")
    assert read_key(folder / "kernel.key") == key
    own = Policy(name="fast", system="slurm", owner="ada", only=True)
    make_key(tmp_path, own, folder / "kernel.key")
    assert [(e.name, e.role) for e in Keyring(tmp_path).entries()] == [("ada", KERNEL)]
    forget(tmp_path, folder)
    assert Keyring(tmp_path).entries() == []
    assert not folder.exists()


def test_the_script_starts_kernels_that_know_their_broker_and_their_allocation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", "/a checkout")
    tcp = {"tcp": {"clients": "tcp://head:7275"}}
    way = access(tmp_path / "connection.json", tcp, POLICY, tmp_path, is_local=False)
    assert way == BrokerAccess("tcp://head:7275", tmp_path / "kernel.key")
    text = script(BUILT_IN["slurm"], POLICY, "park-opia-1", way).splitlines()
    assert "#SBATCH --time=02:00:00" in text
    assert text[-2] == "export PYTHONPATH='/a checkout'"
    assert text[-1].endswith(
        f"-m park.cli.kernel --nodes --broker tcp://head:7275 --key {tmp_path}/kernel.key --label park-opia-1 "
        "--label alloc:fast --label big --idle-timeout 300s"
    )
    with pytest.raises(NoBroker, match="start it with --bind"):
        access(tmp_path / "connection.json", {}, POLICY, tmp_path, is_local=False)
    assert access(tmp_path / "c.json", {}, POLICY, tmp_path, is_local=True) == BrokerAccess(
        f"{tmp_path}/c.json"
    )
    told = Policy(name="fast", system="slurm", options=("--broker=tcp://relay",))
    assert access(tmp_path / "c.json", {}, told, tmp_path, is_local=False) is None
