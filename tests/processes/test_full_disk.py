"""A real broker on a disk that is full, on one that fails, and killed in the middle of a commit."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import lmdb
import pytest

import park
from park.broker.effects import Write
from park.broker.storage.store import NAMESPACES, JobStore
from park.core.server import ServerProxy
from park.errors import JobFailed, Refused
from tests.campaign import faults
from tests.support.fabric import Fabric, Process, until

UNSHARE = ["unshare", "-Urm"]
CAN_MOUNT = (
    shutil.which("unshare") is not None
    and subprocess.run(
        [*UNSHARE, "sh", "-c", "mount -t tmpfs none /mnt"], capture_output=True, check=False
    ).returncode
    == 0
)


@pytest.mark.skipif(not CAN_MOUNT, reason="nobody but root may mount here")
@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    "how", ["fill", "command", *(pytest.param(how, marks=pytest.mark.heavy) for how in ("delete", "words"))]
)
def test_a_full_disk_refuses_what_is_new_keeps_the_rest_waiting_and_loses_nothing(
    how: str, tmp_path: Path
) -> None:
    command = [*UNSHARE, sys.executable, "-m", "tests.campaign.full", str(tmp_path), how]
    trial = Process(command, tmp_path / "log")
    try:
        assert trial.wait(100) == 0, trial.text
    finally:
        trial.end()


@pytest.mark.skipif(not CAN_MOUNT, reason="nobody but root may mount here")
@pytest.mark.parametrize("how", ["read-only", "another's"])
@pytest.mark.parametrize("there", [True, False])
def test_a_home_that_nobody_may_write_to_is_said_in_words(how: str, there: bool, tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    home = place / "home"
    if there:
        store = JobStore(home)
        store.commit([Write("job", (1,), b"x")])
        store.close()
    # inside a user namespace even root has no rights in the folders of an unmapped user
    serve = ["-m", "park.cli.broker", "--home", str(home)]
    if how == "read-only":
        mount = f'mount --bind {place} {place} && mount -o remount,ro,bind {place} {place} && exec "$@"'
        command = [*UNSHARE, "sh", "-c", mount, "sh", sys.executable, *serve]
    else:
        if os.getuid() != 0:
            pytest.skip("only root may give folders away")
        for folder in (home, place) if there else (place,):
            os.chown(folder, 12345, 12345)
        command = ["unshare", "-Ur", sys.executable, *serve]
    broker = Process(command, tmp_path / "log")
    try:
        assert broker.wait() == 1, broker.text
        (line,) = broker.text.splitlines()
        if how == "another's" and there:
            assert line.startswith(f"park-broker: {home} belongs to user ")
            assert line.endswith(": name a folder of your own")
        else:
            assert line.startswith(f"park-broker: cannot open the store in {home}: ")
            assert line.endswith(": name a home that you may write to")
    finally:
        broker.end()
    # and what was there is whole
    if there:
        if how != "read-only":
            os.chown(place, 0, 0)
            os.chown(home, 0, 0)
        store = JobStore(home)
        assert store.get("job", (1,)) == b"x"
        store.close()


@pytest.mark.skipif(not faults.POSSIBLE, reason="there is no C compiler")
@pytest.mark.parametrize(
    ("mood", "code", "said"),
    [
        (
            "error",
            1,
            "park-broker: cannot write to the store in .*: Input/output error: .* look at the disk .dmesg.",
        ),
        ("kill before the sync", -9, ""),
        ("m: kill before the root page", -9, ""),
    ],
)
def test_what_was_acknowledged_outlives_an_error_of_the_disk_and_a_kill_within_a_commit(
    mood: str, code: int, said: str, tmp_path: Path
) -> None:
    file = tmp_path / "mood"
    settings = {"LD_PRELOAD": str(faults.library(tmp_path)), "PARK_DISK_MOOD": str(file)}
    with Fabric(tmp_path, lease=3.0, settings=settings) as fabric:
        fabric.start_kernel(slots=2)
        service = fabric.connect()
        jobs = [service.start(abs, [-n], name=f"job {n}") for n in range(20)]
        assert service.wait(jobs[0], timeout=60) == [0]
        # when the next commit fails
        file.write_text(mood)
        late: list[int] = []
        asker = threading.Thread(target=lambda: late.append(service.start(abs, [-99], name="late")))
        asker.start()
        # then the broker ends
        assert fabric.broker.wait() == code, fabric.broker.text
        if said:
            assert_matches(said, fabric.broker.text)
            assert "Traceback" not in fabric.broker.text
        assert not late
        # and the next one has all that was acknowledged, and what is asked again, once
        file.unlink()
        fabric.start_broker()
        asker.join(20.0)
        wanted = sorted([*(f"job {n}" for n in range(20)), "late"])
        until(lambda: sorted(r.name for r in service.table.jobs.values() if r.state.ended) == wanted)
        assert [service.wait(n) for n in (*jobs, *late)] == [*([n] for n in range(20)), [99]]


@pytest.mark.skipif(not faults.POSSIBLE, reason="there is no C compiler")
def test_while_much_waits_for_a_quota_that_is_used_up_all_are_answered_in_words(tmp_path: Path) -> None:
    class Hears:  # it travels by value
        def run(self) -> str:
            while not park.environment().should_stop:
                time.sleep(0.05)
                park.environment().ready()
            return "stopped"

    mood = tmp_path / "mood"
    settings = {"LD_PRELOAD": str(faults.library(tmp_path)), "PARK_DISK_MOOD": str(mood)}
    command = ("tests.campaign.planted", "has_a_short_backlog")
    with Fabric(tmp_path, lease=3.0, settings=settings, command=command) as fabric:
        fabric.start_kernel(slots=2)
        service = fabric.connect()
        old = [service.start(abs, [-n]) for n in (1, 2)]
        assert [service.wait(n, timeout=60) for n in old] == [[1], [2]]
        run = service.start(Hears())
        until(lambda: service.status(run).state == "running")
        # when many submit at once, and nobody had foreseen that there is no room
        mood.write_text("quota")
        said: list[str] = []

        def submit(mine: ServerProxy, n: int) -> None:
            try:
                mine.start(len, [bytes(1_000_000)], name=f"job {n}")
            except Refused as error:
                said.append(str(error))

        askers = [threading.Thread(target=submit, args=(fabric.connect(), n)) for n in range(60)]
        for asker in askers:
            asker.start()
        for asker in askers:
            asker.join(60.0)
        taken = sum(" is taken" in words for words in said)
        assert all("the broker's disk is full (at " in words for words in said)
        assert taken + sum("no new jobs" in words for words in said) == len(said)
        # then readers are answered, and all else in words
        time.sleep(2 * 3.0)  # longer than a lease
        for command, code, words in (
            (("jobs",), 0, "disk is full"),
            (("show", str(run)), 0, "running"),
            (("why", str(run)), 0, f"job {run} is running"),
            (("kernels",), 0, "2/2"),
            (("fetch", str(old[0])), 0, "[1]"),
            (("doctor",), 1, "disk is full"),
            (("set", str(run), "-p", "high"), 6, "until there is room"),
            (("submit", "os:getpid"), 6, "until there is room"),
            (("stop", str(run)), 6, "takes effect"),
            (("delete", str(old[1])), 6, "takes effect"),
        ):
            ran = fabric.park(*command)
            assert ran.wait(60) == code, (command, ran.text)
            assert words in ran.text, (command, ran.text)
        with pytest.raises(Refused, match=r"disk is full .*, since 20.*until there is room"):
            service.map(abs, [1, 2])
        assert fabric.broker.running, fabric.broker.text
        # and when there is room, nothing is lost
        mood.unlink()
        assert service.wait(run, timeout=60) == "stopped"
        rows = service.table.jobs
        until(lambda: all(row.state == "complete" for row in rows.values()), why=lambda: str(rows))
        assert sum(row.name.startswith("job ") for row in rows.values()) == len(askers) - len(said) + taken
        until(lambda: old[1] not in rows)
        assert list(service.map(abs, [-3])) == [3]


@pytest.mark.skipif(not faults.POSSIBLE, reason="there is no C compiler")
def test_a_request_is_waited_for_while_a_slow_disk_stores_it_or_those_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("park.client.link.ANSWER_SECONDS", 3.0)
    mood = tmp_path / "mood"
    mood.write_text("delays")
    settings = {"LD_PRELOAD": str(faults.library(tmp_path)), "PARK_DISK_MOOD": str(mood)}
    with Fabric(tmp_path, settings=settings) as fabric:
        service, other = fabric.connect(), fabric.connect()
        answers: list[int] = []

        def submit(mine: ServerProxy) -> None:
            answers.append(mine.start(len, [bytes(14 << 20)], name="long"))

        began = time.monotonic()
        askers = [threading.Thread(target=submit, args=(mine,)) for mine in (service, other)]
        for asker in askers:
            asker.start()
        for asker in askers:
            asker.join(100.0)
        # each took longer than a broker has that does not move
        assert time.monotonic() - began > 2 * 3.0
        assert len(set(answers)) == 2, fabric.broker.text
        mood.unlink()
        fabric.start_kernel()
        assert [service.wait(n, timeout=60) for n in answers] == [[14 << 20]] * 2


def assert_matches(pattern: str, text: str) -> None:
    import re

    assert re.search(pattern, text), text


@pytest.mark.parametrize("what", ["zeros", "noise", "a cut"])
def test_a_damaged_store_is_said_in_words(what: str, tmp_path: Path) -> None:
    home = tmp_path / "home"
    store = JobStore(home)
    store.commit([Write("job", (n,), b"x" * 300) for n in range(500)])
    store.close()
    file = home / "jobs.mdb"
    pages = bytearray(file.read_bytes())
    if what == "a cut":
        del pages[40_000:]
    for start in range(8 * 4096, len(pages) - 4096, 3 * 4096):
        pages[start : start + 4096] = bytes(4096) if what == "zeros" else random.Random(1).randbytes(4096)
    file.write_bytes(pages)
    broker = Process([sys.executable, "-m", "park.cli.broker", "--home", str(home)], tmp_path / "log")
    try:
        assert broker.wait() != 0
        until(lambda: "damaged" in broker.text, why=lambda: broker.text)
        assert str(home) in broker.text
    finally:
        broker.end()


def spoil(home: Path, namespace: str, which: int) -> None:
    """Change a bit of a record, by its place in its namespace."""
    with lmdb.open(str(home / "jobs.mdb"), subdir=False, max_dbs=len(NAMESPACES), map_size=1 << 30) as env:
        db = env.open_db(namespace.encode())
        with env.begin(write=True, db=db) as txn:
            key, record = list(txn.cursor(db))[which]
            txn.put(key, record[:-1] + bytes([record[-1] ^ 1]))


@pytest.mark.heavy
def test_a_running_broker_names_damaged_records_and_goes_on(tmp_path: Path) -> None:
    with Fabric(tmp_path) as fabric:
        service = fabric.connect()
        short, long = service.start(abs, [-1]), service.start(len, [bytes(3_000_000)])
        sound = service.start(abs, [-2])
        fabric.broker.kill()
        fabric.start_broker()  # it has nothing in memory
        until(lambda: service.status(sound))
        spoil(fabric.home, "units", 0)
        spoil(fabric.home, "piece", -2)  # which is read when it is sent
        fabric.start_kernel()
        for job, namespace in ((short, "units"), (long, "piece")):
            with pytest.raises(
                JobFailed, match=f"in namespace '{namespace}' .* is damaged .* delete this job"
            ):
                service.wait(job, timeout=60)
        assert service.wait(sound, timeout=60) == [2]
        fabric.broker.kill()
        fabric.start_broker()
        assert service.wait(service.start(abs, [-3]), timeout=60) == [3]
