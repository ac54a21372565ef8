"""A broker whose disk is full: ``unshare -Urm python -m tests.campaign.full FOLDER``; exit code 0 if all was well.

FOLDER becomes a file system of 40 MB. A job's results fill it, then somebody else does, to the last byte; the broker is
killed and comes back; then there is room again.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from park.core.server import ServerProxy
from park.errors import Refused
from tests.fabric import Fabric, until

UNITS = 50
SIZE = 1_000_000


def unit(number: int) -> bytes:
    return bytes([number]) * SIZE


def refused(service: ServerProxy) -> str:
    try:
        service.start(abs, [-3])
    except Refused as error:
        return str(error)
    return ""


def done(service: ServerProxy, job: int) -> Callable[[], int]:
    return lambda: service.status(job).done


def rests(what: Callable[[], int], seconds: float = 1.0) -> int:
    """What it is once it has not changed for so long."""
    while True:
        before = what()
        time.sleep(seconds)
        if what() == before:
            return before


def fill(file: Path) -> None:
    """Take all that is free."""
    with file.open("wb", buffering=0) as out:
        for size in (1 << 20, 4096):
            try:
                while out.write(b"x" * size) == size:
                    pass
            except OSError:
                pass


def main(folder: Path) -> None:
    home = folder / "home"
    home.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m", "none", str(home)], check=True)
    logs = folder / "logs"
    logs.mkdir()
    with Fabric(logs, home=home, lease=5.0) as fabric:
        fabric.start_kernel(slots=2)
        service = fabric.connect()
        old = service.start(abs, [-1, -2])
        assert service.wait(old, timeout=30) == [1, 2]
        job = service.start(unit, range(UNITS))
        # its own results leave a reserve
        until(lambda: "disk is full" in service.status(job).reason, why=lambda: fabric.broker.text)
        had = rests(done(service, job))
        assert had < UNITS
        assert str(home) in refused(service), fabric.broker.text
        until(lambda: "disk is full" in fabric.broker.text)
        assert os.statvfs(home).f_bavail * 4096 > 8 << 20
        # somebody else leaves nothing
        fill(home / "filler")
        assert refused(service)
        assert service.fetch(old).result == [1, 2]
        assert service.status(job).done == had
        jobs = fabric.park("jobs")
        jobs.wait(20)
        assert f"{had}/{UNITS}" in jobs.text, jobs.text
        assert fabric.broker.running, fabric.broker.text
        # a broker that is killed now has all that was acknowledged, and kernels the rest
        (home / "filler").unlink()
        fabric.broker.kill()
        fabric.start_broker()
        until(lambda: [k for k in service.kernels() if k.slots == 2])
        assert service.status(job).done >= had
        until(lambda: refused(service))
        # room
        subprocess.run(["mount", "-o", "remount,size=200m", str(home)], check=True)
        assert service.wait(job, timeout=30) == [unit(n) for n in range(UNITS)]
        assert service.status(job).done == UNITS
        assert service.wait(service.start(abs, [-7]), timeout=30) == [7]
        until(lambda: "there is room again" in fabric.broker.text)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
