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

from park.cli.common import broker_option, in_words
from park.cli.show import columns, tables

if TYPE_CHECKING:
    from park.core.server import ServerProxy
    from park.net.addresses import BrokerAddresses

#: Seconds by which two clocks may differ before it is a fault: times in tables are the broker's.
CLOCK_FAULT_SECONDS = 2.0
#: Seconds in which a broker that works answers a question.
SLOW_ANSWER_SECONDS = 1.0
#: Seconds in which a broker publishes its time: it does every second.
PUBLISH_SECONDS = 5.0
#: Bytes that should be free on the disk of the store.
LOW_DISK_BYTES = 1 << 30
#: Files that a broker or a kernel may have to hold open at once.
MIN_OPEN_FILES = 1024
#: The name under which PARK is installed.
DISTRIBUTION = "park-fit"

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
        self.addresses: BrokerAddresses | None = None
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
            self._faults,
            self._kernels,
            self._store,
            self._mail,
            self._allocators,
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
        from importlib.metadata import PackageNotFoundError, requires

        from park.cli.dependencies import dependencies, install
        from park.net.curve import has_curve, zeromq

        try:
            found = list(dependencies(requires(DISTRIBUTION) or ()))
        except PackageNotFoundError:
            yield Check("libraries", NOTE, f"{DISTRIBUTION} is not installed: its dependencies are not known")
        else:
            met = ", ".join([f"libzmq {zeromq()}", *(each.state for each in found if each.met)])
            yield Check("libraries", OK, met)
            missing = [each for each in found if each.extra and not each.installed]
            wrong = [each for each in found if not each.met and each not in missing]
            if wrong:
                yield Check("libraries", FAULT, ", ".join(each.state for each in wrong), install(wrong))
            if missing:
                without = ", ".join(each.name for each in missing)
                yield Check(
                    "libraries",
                    NOTE,
                    f"without {without}",
                    f"only fits and plots need them: {install(missing)}",
                )
        if not has_curve():
            remedy = "pip install --force-reinstall --only-binary :all: pyzmq, or stay on one machine"
            yield Check("encryption", FAULT, "this ZeroMQ was built without CURVE, which tcp needs", remedy)

    def _machine(self) -> Iterator[Check]:
        files, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        few = files != resource.RLIM_INFINITY and files < MIN_OPEN_FILES
        remedy = f"ulimit -n {MIN_OPEN_FILES} before a broker or a kernel is started here" if few else ""
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
        from park.cli.commands.settings import settings
        from park.config import VARIABLES, sources

        found = list(sources(os.environ))
        _, faults = settings(os.environ, found)
        for fault in faults:
            yield Check("configuration", FAULT, fault, "park config shows what counts")
        read = [source.name for source in found if source.there and source.name not in VARIABLES]
        if not faults:
            yield Check("configuration", OK, ", ".join(read) if read else "built-in (there is no park.toml)")

    # -- the way to the broker -----------------------------------------------------------------

    def _place(self) -> Iterator[Check]:
        from park.cli.commands.settings import broker_setting
        from park.errors import InvalidRequest, NoBroker
        from park.net.addresses import find_broker

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
            self.addresses = find_broker(self.broker)
        except NoBroker as error:
            yield Check("broker", FAULT, f"{where} (from {source}): {error}", "park-broker starts one")
            return
        yield Check("broker", OK, f"{where} (from {source}): {self.addresses.clients}")

    def _connection_file(self) -> Iterator[Check]:
        from park.cli.commands.settings import broker_setting

        if self.addresses is None:
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
        from park.net.admission import key_for
        from park.net.keys import CLIENT, OBSERVER, Keyring

        if self.addresses is not None and not self.addresses.is_local:
            try:
                key = key_for(self.addresses, (CLIENT, OBSERVER))
            except ParkError as error:
                yield Check("key", FAULT, str(error))
                self.addresses = None
            else:
                assert key is not None
                yield Check("key", OK, f"{key.path}: you are {key.name}")
        elif self.addresses is not None:
            yield Check("key", OK, "none is needed: over ipc only the broker's own user can connect")
        if self.home is not None and (self.home / "keys").is_dir():
            try:
                count = len(Keyring(self.home).entries())
            except ParkError as error:
                yield Check("key files", FAULT, str(error), "")
            else:
                yield Check("key files", OK, f"{count} in {self.home / 'keys'}, for their owner alone")

    def _contact(self) -> Iterator[Check]:
        from park.core.connect import connect
        from park.errors import ParkError
        from park.table.query import Query
        from park.version import __version__

        if self.addresses is None:
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
        slow = took > SLOW_ANSWER_SECONDS
        remedy = "it has too much to do, or its disk is slow: look at its machine" if slow else ""
        yield Check("an answer", FAULT if slow else OK, f"took {1e3 * took:.1f} ms", remedy)

    # -- the broker's side ---------------------------------------------------------------------

    def _clock(self) -> Iterator[Check]:
        if self.service is None:
            return
        give_up = time.monotonic() + PUBLISH_SECONDS
        while (ahead := self.service.about().ahead) is None:
            if self.service.table.closed or time.monotonic() > give_up:
                found = f"the broker did not publish its table within {PUBLISH_SECONDS:g} s"
                yield Check("clock", FAULT, found, "is its third port open, or a proxy in between?")
                return
            time.sleep(0.02)
        far = abs(ahead) > CLOCK_FAULT_SECONDS
        found = f"the broker's is {abs(ahead):.1f} s {'ahead of' if ahead > 0 else 'behind'} the one here"
        remedy = "set them by NTP: only `when` and the times that are shown depend on it" if far else ""
        yield Check("clock", FAULT if far else OK, found, remedy)

    def _faults(self) -> Iterator[Check]:
        if self.service is None:
            return
        count = self.service.about().faults
        found = f"the broker has failed at {count or 'no'} message{'s'[: count != 1]} since it was started"
        remedy = "nothing was lost; its log has what repeats each failure: report it" if count else ""
        yield Check("faults", FAULT if count else OK, found, remedy)

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
        if all(k.standing in ("draining", "paused") for k in kernels):
            found = "all drain or pause: they take no new work"
            yield Check("kernels", FAULT, found, "start another park-kernel, or see `park kernels`")

    def _mail(self) -> Iterator[Check]:
        """The mails that wait, as the broker has written it down."""
        from park.mail.settings import STATUS_FILE

        if self.home is None:
            return
        try:
            status = json.loads((self.home / STATUS_FILE).read_text())
        except FileNotFoundError:
            return
        except (OSError, ValueError) as error:
            yield Check("mail", NOTE, f"{self.home / STATUS_FILE} cannot be read: {error}")
            return
        waits, fault = status["waiting"], status["error"]
        found = f"{waits} mail{'s'[: waits != 1]} wait" + "s" * (waits == 1)
        if fault and waits:
            found = f"{found}: {fault}{_tries(status)}"
            yield Check("mail", FAULT, found, "mend [mail] in the broker's park.toml, or the server")
        else:
            yield Check("mail", OK, found + (f"; the last error: {fault}" if fault else ""))

    def _allocators(self) -> Iterator[Check]:
        """The allocators, as their process has written it down."""
        from park.batch.allocator_files import AllocatorFiles
        from park.cli.commands.alloc import standing
        from park.errors import StoreError

        if self.home is None:
            return
        files = AllocatorFiles(self.home)
        try:
            definitions, record = files.definitions(), files.record()
        except StoreError as error:
            yield Check("allocators", FAULT, str(error), "remove the file, and add the allocators again")
            return
        for name, policy in definitions.items():
            state = record.states.get(name)
            found = f"{name}: {standing(policy, record, files.is_held, time.time())}"
            if state is not None and state.pause:
                yield Check("allocators", FAULT, found, f"mend the cause, then `park alloc resume {name}`")
            else:
                yield Check("allocators", OK, found)

    def _store(self) -> Iterator[Check]:
        if self.service is not None and (full := self.service.about().full):
            remedy = "park delete what is not needed, or make room there (a quota may be used up on a disk with free bytes)"
            yield Check("store", FAULT, f"{full}: new jobs are refused, and kernels keep results", remedy)
        if self.home is None:
            if self.service is not None:
                yield Check("store", NOTE, "it lies on the broker's machine: run park doctor there for it")
            return
        from park.broker.storage.filesystems import mounted_over_network

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
        found = f"{file} takes {_size(size)}, and {_size(free)} are free on its disk"
        if self.service is not None:
            unused = self.service.about().unused_bytes
            found += f"; {_size(unused)} of the file hold nothing, and are used first"
        remedy = (
            f"make room on the disk of {self.home}, or park delete what is not needed"
            if free < LOW_DISK_BYTES
            else ""
        )
        yield Check("store", FAULT if free < LOW_DISK_BYTES else OK, found, remedy)
        if loose:
            yield Check("store", FAULT, f"others can look into {self.home}", f"chmod 700 {self.home}")
        if kind := mounted_over_network(self.home):
            remedy = "move the home to a local disk: such a store can be damaged"
            yield Check("store", FAULT, f"{self.home} is on a network file system ({kind})", remedy)


def _home_of(fields: dict[str, Any]) -> Path | None:
    """The home of a broker on this machine, from its connection file."""
    home = fields.get("home")
    return Path(home) if isinstance(home, str) and Path(home).is_dir() else None


def _tries(status: dict[str, Any]) -> str:
    """The number of tries of the mail that waits longest, and the time of the next one; "": the broker has not said."""
    if "next" not in status:
        return ""
    count, wait = status["tries"], status["next"] - time.time()
    then = (
        "is under way" if wait <= 0 else f"comes in {columns.span(wait)}, at {columns.clock(status['next'])}"
    )
    return f"; tried {count} time{'s'[: count != 1]}, the next try {then}"


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # a process of another user
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
