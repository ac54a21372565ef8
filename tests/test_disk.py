"""A real broker on a disk that is full, on one that fails, and killed in the middle of a commit."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from park.core.outcome import Write
from park.core.store import JobStore
from tests.campaign import faults
from tests.fabric import Fabric, Process, until

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
@pytest.mark.parametrize("how", ["fill", pytest.param("delete", marks=pytest.mark.heavy)])
def test_a_full_disk_refuses_what_is_new_keeps_the_rest_waiting_and_loses_nothing(
    how: str, tmp_path: Path
) -> None:
    command = [*UNSHARE, sys.executable, "-m", "tests.campaign.full", str(tmp_path), how]
    trial = Process(command, tmp_path / "log")
    try:
        assert trial.wait(100) == 0, trial.text
    finally:
        trial.end()


@pytest.mark.skipif(not faults.POSSIBLE, reason="there is no C compiler")
@pytest.mark.parametrize(
    ("mood", "code", "said"),
    [
        ("error", 1, "park-broker: cannot write to the store in .*: Input/output error"),
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
        assert service.wait(jobs[0], timeout=30) == [0]
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
