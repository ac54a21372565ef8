"""``park doctor``: what works, what does not, and what to do about it. It needs no broker."""

from __future__ import annotations

import json
import os
import platform
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from park.cli import columns, tables
from park.cli.common import broker_option, in_words

if TYPE_CHECKING:
    from park.core.server import ServerProxy
    from park.util.addresses import Place

#: Seconds by which two clocks may differ before it is a fault: times in tables are the broker's.
CLOCK = 2.0
#: Seconds in which a broker that works answers a question.
PROMPT = 1.0
#: Seconds in which a broker says what its clock shows: it does every second.
HEARD = 5.0
#: Bytes that should be free where the store lies, and open files that a broker or a kernel may need.
ROOM, FILES = 1 << 30, 1024
#: What PARK is built on, and what only some of it needs.
LIBRARIES = ("pyzmq", "msgpack", "lmdb", "cloudpickle", "click", "rich")
OPTIONAL = ("numpy", "scipy", "bumps", "matplotlib")

OK, FAULT, NOTE = "ok", "fault", "note"


class Check(NamedTuple):
    """One thing that was looked at: *how* it is, what was found, and what to do."""

    name: str
    how: str
    found: str
    remedy: str = ""


@click.command()
@broker_option
@click.option("--json", "as_json", is_flag=True, help="One JSON array of checks.")
def doctor(broker: str | None, as_json: bool) -> None:
    """Say what works, what does not, and what to do about it.

    The exit code is 0 if all is well, 4 if no broker answers, 1 for any other fault.
    """
    with in_words():
        exam = Exam(broker)
        found = list(exam.checks())
        if as_json:
            click.echo(json.dumps([check._asdict() for check in found], indent=2))
        else:
            _print(found)
        sys.exit(4 if exam.service is None else int(any(check.how == FAULT for check in found)))


def _print(found: list[Check]) -> None:
    room = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    rows = tables.layout(("CHECK", "OF", "FOUND"), [(c.how, c.name, c.found) for c in found], room)
    lines = [rows[0]]
    for row, check in zip(rows[1:], found, strict=True):
        lines.append(row)
        if check.how == FAULT and room is not None and tables.width(tables.flat(row)) >= room:
            lines.append([(f"       {tables.plain(check.found)}", "")])  # a fault is said in full
        if check.remedy:
            lines.append([(f"       -> {tables.plain(check.remedy)}", "bold")])
    tables.print_lines(lines)


class Exam:
    """The checks, one after the other; each may need what those before it have found."""

    def __init__(self, broker: str | None) -> None:
        self.broker = broker
        #: None: it is not known, or there is no way to it
        self.place: Place | None = None
        #: the broker's home, if it is on this machine
        self.home: Path | None = None
        self.service: ServerProxy | None = None

    def checks(self) -> Iterator[Check]:
        """All checks that can be made."""
        parts: tuple[Callable[[], Iterator[Check]], ...] = (
            self._python,
            self._libraries,
            self._machine,
            self._config,
            self._place,
            self._connection_file,
            self._keys,
            self._contact,
            self._clock,
            self._kernels,
            self._store,
        )
        for part in parts:
            yield from part()

    # -- here ----------------------------------------------------------------------------------

    def _python(self) -> Iterator[Check]:
        from park.version import __version__
        from park.wire.messages import VERSION

        found = f"Python {platform.python_version()}, PARK {__version__}, protocol {VERSION}, on {platform.node()}"
        yield Check("this side", OK, found)

    def _libraries(self) -> Iterator[Check]:
        from importlib.metadata import PackageNotFoundError, version

        from park.util.sockets import has_curve, zeromq

        there, missing = [f"libzmq {zeromq()}"], []
        for name in (*LIBRARIES, *OPTIONAL):
            try:
                there.append(f"{name} {version(name)}")
            except PackageNotFoundError:
                missing.append(name)
        needed = [name for name in missing if name in LIBRARIES]
        remedy = f"pip install {' '.join(needed)}" if needed else ""
        yield Check("libraries", FAULT if needed else OK, ", ".join(there), remedy)
        if missing and not needed:
            remedy = f"only fits and plots need them: pip install {' '.join(missing)}"
            yield Check("libraries", NOTE, f"without {', '.join(missing)}", remedy)
        if not has_curve():
            remedy = "pip install --force-reinstall --only-binary :all: pyzmq, or stay on one machine"
            yield Check("encryption", FAULT, "this ZeroMQ was built without CURVE, which tcp needs", remedy)

    def _machine(self) -> Iterator[Check]:
        files, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        few = files != resource.RLIM_INFINITY and files < FILES
        remedy = f"ulimit -n {FILES} before a broker or a kernel is started here" if few else ""
        yield Check("open files", FAULT if few else OK, f"{files:,} at once, up to {most:,}", remedy)
        try:
            os.close(os.memfd_create("park"))
        except (AttributeError, OSError) as error:
            yield Check(
                "shared memory", NOTE, f"none ({error}): large inputs and results are copied once more"
            )
        shm = Path("/dev/shm")
        if shm.is_dir():
            free = shutil.disk_usage(shm).free
            yield Check(
                "/dev/shm",
                OK if free else FAULT,
                f"{_size(free)} free",
                "" if free else f"make room in {shm}",
            )

    def _config(self) -> Iterator[Check]:
        from park.cli.config import VARIABLES, sources
        from park.cli.settings import settings

        found = list(sources(os.environ))
        _, faults = settings(os.environ, found)
        for fault in faults:
            yield Check("configuration", FAULT, fault, "park config shows what counts")
        read = [source.name for source in found if source.there and source.name not in VARIABLES]
        if not faults:
            yield Check("configuration", OK, ", ".join(read) if read else "built-in (there is no park.toml)")

    # -- the way to the broker -----------------------------------------------------------------

    def _place(self) -> Iterator[Check]:
        from park.cli.settings import broker_setting
        from park.errors import InvalidRequest, NoBroker
        from park.util.addresses import find_broker

        try:
            where, source = (
                (self.broker, "--broker") if self.broker is not None else broker_setting(os.environ)
            )
        except InvalidRequest as error:
            yield Check(
                "broker", FAULT, str(error), "mend the file, or name the broker with PARK_BROKER or --broker"
            )
            return
        try:
            self.place = find_broker(self.broker)
        except NoBroker as error:
            yield Check("broker", FAULT, f"{where} (from {source}): {error}", "park-broker starts one")
            return
        yield Check("broker", OK, f"{where} (from {source}): {self.place.clients}")

    def _connection_file(self) -> Iterator[Check]:
        from park.cli.settings import broker_setting

        if self.place is None:
            return
        where = self.broker if self.broker is not None else broker_setting(os.environ)[0]
        if "://" in where:
            return
        file = Path(where).expanduser()
        file = file / "connection.json" if file.is_dir() else file
        fields: dict[str, Any] = json.loads(file.read_text())
        host, pid = fields.get("host"), fields.get("pid")
        mode = file.stat().st_mode & 0o777
        if mode & 0o077:
            yield Check("connection file", FAULT, f"{file} has mode {mode:04o}", f"chmod 600 {file}")
        if host != platform.node():
            yield Check(
                "connection file", OK, f"written on {host} by process {pid}, which is not looked at from here"
            )
        elif isinstance(pid, int) and not _lives(pid):
            remedy = f"start it again: park-broker --home {file.parent}"
            yield Check("connection file", FAULT, f"its process {pid} on this machine has ended", remedy)
        else:
            yield Check("connection file", OK, f"its process {pid} lives on this machine")
            self.home = _home_of(fields)

    def _keys(self) -> Iterator[Check]:
        from park.errors import ParkError
        from park.service import key_for
        from park.util.keys import CLIENT, Keyring

        if self.place is not None and not self.place.is_local:
            try:
                key = key_for(self.place, (CLIENT,))
            except ParkError as error:
                yield Check("key", FAULT, str(error))
                self.place = None
            else:
                assert key is not None
                yield Check("key", OK, f"{key.path}: you are {key.name}")
        elif self.place is not None:
            yield Check("key", OK, "none is needed: over ipc only the broker's own user can connect")
        if self.home is not None and (self.home / "keys").is_dir():
            try:
                count = len(Keyring(self.home).entries())
            except ParkError as error:
                yield Check("key files", FAULT, str(error), "")
            else:
                yield Check("key files", OK, f"{count} in {self.home / 'keys'}, for their owner alone")

    def _contact(self) -> Iterator[Check]:
        from park.errors import ParkError
        from park.search import Query
        from park.service import connect
        from park.version import __version__

        if self.place is None:
            return
        began = time.monotonic()
        try:
            self.service = service = connect(self.broker)
        except ParkError as error:
            yield Check(
                "contact", FAULT, str(error), "see what the broker says on its terminal or in its log"
            )
            return
        took = time.monotonic() - began
        about = service.about()
        yield Check("contact", OK, f"you are {service.user}; it answered in {1e3 * took:.0f} ms")
        since = columns.clock(about.since)
        life = (
            f"PARK {about.release}, life {about.epoch} of its store, since {since}, lease {about.lease:g} s"
        )
        same = about.release == __version__
        remedy = "" if same else f"here is PARK {__version__}: install the same on both ends"
        yield Check("its release", OK if same else FAULT, life, remedy)
        began = time.monotonic()
        service.records(Query(newest=1))
        took = time.monotonic() - began
        slow = took > PROMPT
        remedy = "it has too much to do, or its disk is slow: look at its machine" if slow else ""
        yield Check("an answer", FAULT if slow else OK, f"took {1e3 * took:.1f} ms", remedy)

    # -- the broker's side ---------------------------------------------------------------------

    def _clock(self) -> Iterator[Check]:
        if self.service is None:
            return
        give_up = time.monotonic() + HEARD
        while (ahead := self.service.about().ahead) is None:
            if self.service.table.closed or time.monotonic() > give_up:
                found = f"the broker did not publish its table within {HEARD:g} s"
                yield Check("clock", FAULT, found, "is its third port open, or a proxy in between?")
                return
            time.sleep(0.02)
        far = abs(ahead) > CLOCK
        found = f"the broker's is {abs(ahead):.1f} s {'ahead of' if ahead > 0 else 'behind'} the one here"
        remedy = "set them by NTP: only `when` and the times that are shown depend on it" if far else ""
        yield Check("clock", FAULT if far else OK, found, remedy)

    def _kernels(self) -> Iterator[Check]:
        from park.model import PYTHON

        if self.service is None or self.service.table.stale:
            return
        kernels = self.service.kernels()
        slots = sum(k.slots for k in kernels)
        if not kernels:
            remedy = f"park-kernel --broker {self.broker or self.service.about().place}"
            yield Check("kernels", FAULT, "none is connected: nothing runs", remedy)
            return
        busy = sum(k.busy for k in kernels)
        yield Check("kernels", OK, f"{len(kernels)} with {slots} slots, {busy} busy")
        pythons = sorted({k.python for k in kernels})
        fits = PYTHON in pythons
        remedy = (
            "" if fits else f"start kernels with Python {PYTHON}, or use Python {' or '.join(pythons)} here"
        )
        found = f"kernels run {', '.join(pythons)}, here is {PYTHON}"
        yield Check("Python minor", OK if fits else FAULT, found, remedy)
        if all(k.draining for k in kernels):
            yield Check(
                "kernels", FAULT, "all are draining: they take no new work", "start another park-kernel"
            )

    def _store(self) -> Iterator[Check]:
        if self.home is None:
            if self.service is not None:
                yield Check("store", NOTE, "it lies on the broker's machine: run park doctor there for it")
            return
        from park.core.store import mounted_over_network

        file = self.home / "jobs.mdb"
        try:
            size = file.stat().st_blocks * 512
            free = shutil.disk_usage(self.home).free
            loose = self.home.stat().st_mode & 0o077
        except OSError as error:
            yield Check(
                "store", FAULT, f"{file}: {(error.strerror or '').lower()}", f"is {self.home} still there?"
            )
            return
        found = f"{file} takes {_size(size)}, and {_size(free)} are free"
        remedy = (
            f"make room on the disk of {self.home}, or park delete what is not needed" if free < ROOM else ""
        )
        yield Check("store", FAULT if free < ROOM else OK, found, remedy)
        if loose:
            yield Check("store", FAULT, f"others can look into {self.home}", f"chmod 700 {self.home}")
        if kind := mounted_over_network(self.home):
            remedy = "move the home to a local disk: such a store can be damaged"
            yield Check("store", FAULT, f"{self.home} is on a network file system ({kind})", remedy)


def _home_of(fields: dict[str, Any]) -> Path | None:
    """The home of a broker on this machine, from its connection file."""
    home = fields.get("home")
    return Path(home) if isinstance(home, str) and Path(home).is_dir() else None


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        return True
    return True


def _size(count: float) -> str:
    """Bytes for people.

    >>> _size(1_234_567_890), _size(12)
    ('1.23 GB', '12 bytes')
    """
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:.0f} bytes"
