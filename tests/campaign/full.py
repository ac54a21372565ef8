"""A broker whose disk is full: ``unshare -Urm python -m tests.campaign.full FOLDER HOW``; exit code 0 if all was well.

FOLDER becomes a file system of 40 MB. HOW is *fill*: a job's results fill it, then somebody else does, to the last byte;
the broker is killed and comes back; then there is room again. Or *delete*: a job's results fill it while another one prints
all the time; deletions make room, and once more when somebody else has taken all that was left. Or *command*: while
somebody else has filled it, all requests that change a job take effect. Or *words*: the same where the broker has no spare
bytes; then they are answered in words.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import park
from park.core.server import ServerProxy
from park.errors import Refused
from tests.support.fabric import Fabric, until

UNITS = 50
SIZE = 1_000_000


def unit(number: int) -> bytes:
    return bytes([number]) * SIZE


class Talk:
    """Prints all the time, until it is stopped."""

    def run(self) -> int:
        lines = 0
        while not park.environment().should_stop:
            lines += 1
            print(f"{lines:9}", "x" * 2000)
            time.sleep(0.005)
            park.environment().ready()
        return lines


def refused(service: ServerProxy) -> str:
    try:
        service.start(abs, [-3])
    except Refused as error:
        return str(error)
    return ""


def done(service: ServerProxy, job: int) -> Callable[[], int]:
    return lambda: service.status(job).done


def rests(what: Callable[[], int], seconds: float = 1.0) -> int:
    """The number, once it has not changed for *seconds*."""
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


def small_disk(folder: Path) -> tuple[Path, Path]:
    """A home of 40 MB, and a place for logs beside it."""
    home, logs = folder / "home", folder / "logs"
    home.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m,mode=700", "none", str(home)], check=True)
    logs.mkdir()
    return home, logs


def larger_disk(home: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=200m", str(home)], check=True)


def delete(folder: Path) -> None:
    home, logs = small_disk(folder)
    with Fabric(logs, home=home, lease=5.0) as fabric:
        fabric.start_kernel(slots=3)
        service = fabric.connect()
        old = [service.start(unit, range(4)) for _ in range(3)]
        for number in old:
            service.wait(number, timeout=60)
        talk = service.start(Talk(), priority="urgent")  # so it does not lend its slot
        job = service.start(unit, range(UNITS))

        def command(*words: object) -> None:
            began = time.monotonic()
            ran = fabric.park(*map(str, words))
            assert ran.wait(50) == 0, ran.text + fabric.broker.text
            print(*words, f"{time.monotonic() - began:.1f} s", flush=True)

        until(lambda: "disk is full" in service.status(job).reason, why=lambda: fabric.broker.text)
        had = rests(done(service, job), 3.0)
        # printed lines leave the reserve as it is
        free = os.statvfs(home).f_bavail * 4096
        time.sleep(5.0)
        assert os.statvfs(home).f_bavail * 4096 == free
        command("jobs")
        # a deletion makes room, and all goes on by itself
        command("delete", old[0])
        until(lambda: service.status(job).done >= had + 2, why=lambda: fabric.broker.text)
        had = rests(done(service, job))
        # also when somebody else has left nothing, and what is small has begun to wait for room
        fill(home / "filler")
        time.sleep(3.0)
        command("jobs")
        command("delete", old[1], old[2])
        assert service.status(job).done == had
        (home / "filler").unlink()
        until(lambda: service.status(job).done >= had + 4, why=lambda: fabric.broker.text)
        # nothing is lost
        larger_disk(home)
        assert service.wait(job, timeout=60) == [unit(n) for n in range(UNITS)]
        service.stop(talk)
        lines = service.wait(talk, timeout=60)
        said = [line.text for line in service.job(talk).logs()]
        assert f"{lines:9} x" in said[-1], (lines, said[-1][:20])
        assert lines > 300, lines
        print(f"{lines} lines", flush=True)


class Hears:
    """Works until it is stopped."""

    def run(self) -> str:
        while not park.environment().should_stop:
            time.sleep(0.05)
            park.environment().ready()
        return "stopped"


def asked(request: Callable[[], Any]) -> str:
    """The words in which a request is refused, "" if it is not."""
    try:
        request()
    except Refused as error:
        return str(error)
    return ""


def command(folder: Path, spare: bool = True) -> None:
    home, logs = small_disk(folder)
    how = {} if spare else {"command": ("tests.campaign.planted", "has_no_spare")}
    with Fabric(logs, home=home, lease=5.0, **how) as fabric:  # type: ignore[arg-type]
        fabric.start_kernel(slots=3)
        service = fabric.connect()
        old = [service.start(abs, [-n]) for n in (1, 2)]
        assert [service.wait(number, timeout=60) for number in old] == [[1], [2]]
        run = [service.start(Hears(), tags=["of the old"]) for _ in range(3)]
        until(lambda: all(service.status(n).state == "running" for n in run))
        held = [service.start(abs, [-n], requires={"nothing-of-that-name": ">=1"}) for n in (3, 4)]
        fill(home / "filler")
        until(lambda: refused(service))
        requests: list[Callable[[], Any]] = [
            lambda: service.set(held[0], priority="high", tags=["of the new"]),
            lambda: service.pause(run[0]),
            lambda: service.stop(run[1]),
            lambda: service.abort(run[2]),
            lambda: service.abort(held[1]),
            lambda: service.grant("tester", 77.0),
            lambda: service.delete(old[0]),
        ]
        for request in requests:
            words = asked(request)
            print(words or "done", flush=True)
            assert ("takes effect, but it is not on disk" in words) != spare, words
        unread = asked(lambda: service.fetch(held[0]))
        assert (f"job {held[0]} can be read when its changes are on disk" in unread) != spare, unread
        for refusal in (refused(service), asked(lambda: service.control(run[0], "hear"))):
            assert "until there is room" in refusal, refusal
        if spare:  # a broker that is killed comes back, and knows all of it
            fabric.broker.kill()
            fabric.start_broker()
            until(lambda: [k for k in service.kernels() if k.slots == 3])
            assert refused(service)
        (home / "filler").unlink()
        assert service.wait(run[1], timeout=60) == "stopped"
        until(lambda: [service.status(n).state for n in (run[2], held[1])] == ["aborted"] * 2)
        until(lambda: service.status(run[0]).state == "paused")
        kept = service.status(held[0])
        assert (kept.priority, kept.tags) == (4, ("of the new",)), kept
        until(lambda: asked(lambda: service.start(abs, [-5])) == "")
        assert {old[0], old[1]} - {job.id for job in service.jobs(owner="*")} == {old[0]}
        assert service.credits("tester")[0].balance > 36_000.0


def main(folder: Path) -> None:
    home, logs = small_disk(folder)
    with Fabric(logs, home=home, lease=5.0) as fabric:
        fabric.start_kernel(slots=2)
        service = fabric.connect()
        old = service.start(abs, [-1, -2])
        assert service.wait(old, timeout=60) == [1, 2]
        job = service.start(unit, range(UNITS))
        # its own results leave a reserve
        until(lambda: "disk is full" in service.status(job).reason, why=lambda: fabric.broker.text)
        had = rests(done(service, job), 3.0)
        assert had < UNITS
        assert str(home) in refused(service), fabric.broker.text
        until(lambda: "disk is full" in fabric.broker.text)
        # somebody else leaves nothing
        fill(home / "filler")
        assert refused(service)
        assert service.fetch(old).result == [1, 2]
        assert service.status(job).done == had
        jobs = fabric.park("jobs")
        jobs.wait(50)
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
        larger_disk(home)
        assert service.wait(job, timeout=60) == [unit(n) for n in range(UNITS)]
        assert service.status(job).done == UNITS
        assert service.wait(service.start(abs, [-7]), timeout=60) == [7]
        until(lambda: "there is room again" in fabric.broker.text)


if __name__ == "__main__":
    ways = {
        "fill": main,
        "delete": delete,
        "command": command,
        "words": lambda folder: command(folder, False),
    }
    ways[sys.argv[2]](Path(sys.argv[1]))
