"""Images of a crash: what a disk may hold when the power goes, and whether a broker has all it acknowledged there.

A life of a broker is recorded: `disk.c` writes down what its store does with its file, and the recorder when a transaction
begins, with what, and when it is said to be on disk. A crash may come at any of these moments. What was synced by then
is there; of what was written since, any sectors may be, in any order, the one that is being written too. Each such image
must open, hold all transactions up to the last that was acknowledged, or one more, whole; and a broker must come up.
"""

from __future__ import annotations

import argparse
import os
import pickle
import random
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from park.broker.effects import Key, Write
from park.broker.manager import JobManager
from park.broker.storage.store import NAMESPACES, JobStore, make_empty
from park.errors import ParkError
from tests.campaign import faults
from tests.sim.life import Life
from tests.sim.wire import WALL
from tests.sim.world import World

#: Bytes that a disk writes whole or not at all.
SECTOR = 512
#: Kinds and number of events in a recorded life, and the number of images of one life.
HAPPENINGS, EVENTS = 12, 120
IMAGES_A_LIFE = 250
#: Bugs of a store that the checker must notice.
BUGS = ("", "it syncs nothing", "it acknowledges before the commit")

_HEAD = struct.Struct("=cQQ")
Records = dict[tuple[str, Key], bytes]


# -- the recorder, in a process of its own -----------------------------------------------------------


def note(kind: bytes, number: int, data: bytes = b"") -> None:
    """One entry in the disk's log, beside its own."""
    with open(os.environ["PARK_DISK_LOG"], "ab", buffering=0) as log:
        log.write(_HEAD.pack(kind, number, len(data)) + data)


class Noted(JobStore):
    """A store that writes down when a transaction begins, and when it is said to be on disk."""

    early = False
    number = 0

    def commit(self, writes: Iterable[Write]) -> None:
        records = [(w.namespace, w.key, None if w.value is None else bytes(w.value)) for w in writes]  # type: ignore[arg-type]
        Noted.number += 1
        note(b"b", Noted.number, pickle.dumps(records))
        if self.early:
            note(b"a", Noted.number)
        super().commit([Write(*record) for record in records])
        note(b"a", Noted.number)


def record(folder: Path, seed: int, bug: str) -> None:
    """A broker's life, with its deaths, on a store in *folder*."""
    if bug == BUGS[1]:
        import lmdb

        opened = lmdb.open
        lmdb.open = lambda *given, **more: opened(*given, **more, sync=False)  # type: ignore[assignment]
    Noted.early = bug == BUGS[2]
    life = Life(seed, World(seed, store=lambda: Noted(folder), checked=False, watched=False))
    life.run(HAPPENINGS, EVENTS)


# -- the images --------------------------------------------------------------------------------------


@dataclass
class Log:
    """The entries of a life: kind, number or offset, data."""

    entries: list[tuple[bytes, int, bytes]]

    @classmethod
    def read(cls, file: Path) -> Log:
        raw, at, entries = file.read_bytes(), 0, []
        while at < len(raw):
            kind, number, length = _HEAD.unpack_from(raw, at)
            at += _HEAD.size
            entries.append((kind, number, raw[at : at + length]))
            at += length
        return cls(entries)


@dataclass
class Moment:
    """The state at a moment of the log: bytes surely on disk, writes that may be on disk, and promised records."""

    disk: bytearray = field(default_factory=bytearray)
    #: writes that no sync has followed yet
    loose: list[tuple[int, bytes]] = field(default_factory=list)
    #: the values after the last acknowledged transaction, and after the one that has begun since
    promised: Records = field(default_factory=dict)
    begun: Records = field(default_factory=dict)

    def step(self, kind: bytes, number: int, data: bytes) -> None:
        if kind == b"w":
            self.loose.append((number, data))
        elif kind == b"m":
            put(self.disk, number, data)
        elif kind == b"s":
            for offset, written in self.loose:
                put(self.disk, offset, written)
            self.loose.clear()
        elif kind == b"t":
            lengthen(self.disk, number)
        elif kind == b"b":
            for namespace, key, value in pickle.loads(data):
                if value is None:
                    self.begun.pop((namespace, key), None)
                else:
                    self.begun[namespace, key] = value
        else:
            self.promised = dict(self.begun)

    def image(self, chance: random.Random, going: tuple[bytes, int, bytes]) -> bytearray:
        """A possible content of the disk while the entry *going* is under way."""
        disk = bytearray(self.disk)
        kind, number, data = going
        for offset, written in [*self.loose, *([(number, data)] if kind in b"wm" else [])]:
            how = chance.random()
            for start in range(0, len(written), SECTOR):
                if chance.random() < how:
                    put(disk, offset + start, written[start : start + SECTOR])
        return disk


def put(disk: bytearray, offset: int, data: bytes) -> None:
    lengthen(disk, offset)
    disk[offset : offset + len(data)] = data


def lengthen(disk: bytearray, length: int) -> None:
    disk.extend(bytes(max(0, length - len(disk))))


@dataclass
class Report:
    """The counts of images, and for each failed one: seed, entry, flaw."""

    images: int = 0
    torn: int = 0
    wrong: list[tuple[int, int, str]] = field(default_factory=list)


def survey(folder: Path, images: int, seed: int = 0, bug: str = "") -> Report:
    """Record as many lives as *images* need, and look at this number of their images; in *folder*, which is emptied."""
    library = faults.library(folder)
    report = Report()
    while report.images < images:
        here = folder / "life"
        shutil.rmtree(here, ignore_errors=True)
        (here / "home").mkdir(parents=True)
        make_empty(here / "empty")
        shutil.copy(here / "empty", here / "home" / "jobs.mdb")
        command = [
            sys.executable,
            "-m",
            "tests.campaign.images",
            "record",
            str(here / "home"),
            str(seed),
            bug,
        ]
        environment = os.environ | {"LD_PRELOAD": str(library), "PARK_DISK_LOG": str(here / "log")}
        subprocess.run(command, check=True, env=environment, timeout=120)
        look(Log.read(here / "log"), here, min(IMAGES_A_LIFE, images - report.images), seed, report)
        seed += 1
    return report


def look(log: Log, folder: Path, images: int, seed: int, report: Report) -> None:
    """Make *images* of the life and look at each."""
    chance = random.Random(seed)
    moments = sorted(chance.choices(range(len(log.entries)), k=images))
    moment = Moment(bytearray((folder / "empty").read_bytes()))
    reached = 0
    for at in moments:
        while reached < at:
            moment.step(*log.entries[reached])
            reached += 1
        going = log.entries[at]
        image = moment.image(chance, going)
        report.images += 1
        report.torn += bool(moment.loose) or going[0] in b"wm"
        allowed = [moment.promised, moment.begun]
        if going[0] == b"b":
            later = Moment(begun=dict(moment.begun))
            later.step(*going)
            allowed.append(later.begun)
        home = folder / "image"
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir()
        (home / "jobs.mdb").write_bytes(image)
        report.wrong += [(seed, at, wrong) for wrong in apart(home, allowed)]


def apart(home: Path, allowed: list[Records]) -> list[str]:
    """The `flaws`, looked for in a process of its own: a broken store may be the end of it."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.close(reader)
        with os.fdopen(writer, "wb") as out:
            out.write(pickle.dumps(list(flaws(home, allowed))))
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as told:
        said = told.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return [f"whoever opens it is killed by signal {os.WTERMSIG(status)}"]
    return list(pickle.loads(said))


def flaws(home: Path, allowed: list[Records]) -> Iterator[str]:
    """The flaws of the store in *home*, which should hold one of the *allowed* contents."""
    try:
        store = JobStore(home)
    except ParkError as error:
        yield f"it does not open: {error}"
        return
    try:
        found = {(namespace, key): value for namespace in NAMESPACES for key, value in store.scan(namespace)}
        fresh = not allowed[0] and {namespace for namespace, _ in found} <= {
            "meta"
        }  # it was just given an id
        if found not in allowed and not fresh:
            lost = [where for where, value in allowed[0].items() if found.get(where) != value]
            yield f"records differ from what was promised, {len(lost)} of them: {lost[:3]}"
            return
        manager = JobManager(store)
        manager.restore(0.0, WALL)
        manager.dispatcher.check()
        jobs = {key[0] for namespace, key in found if namespace == "job"}
        if missing := jobs - set(manager.dispatcher.state.jobs):
            yield f"jobs are missing: {sorted(missing)}"
    except ParkError as error:
        yield f"no broker comes up: {error}"
    finally:
        store.close()


def main(arguments: list[str]) -> int:
    """Print the flaws of the images of a campaign. Returns the exit code."""
    parser = argparse.ArgumentParser("python -m tests.campaign.images", description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=1000, help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bug", choices=BUGS, default="", help="plant one: it must be noticed")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="park-images-") as folder:
        found = survey(Path(folder), options.images, options.seed, options.bug)
    for seed, entry, wrong in found.wrong[:20]:
        print(f"life {seed}, entry {entry}: {wrong}")
    print(f"{found.images} images of a crash, {found.torn} with torn writes: {len(found.wrong)} are wrong")
    return 1 if found.wrong else 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["record"]:
        record(Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
    else:
        sys.exit(main(sys.argv[1:]))
