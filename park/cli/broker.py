"""``park-broker``: the one process that knows all jobs."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from park.cli.common import HELP_OPTIONS, ServiceCommand, in_words, log_option

if TYPE_CHECKING:
    from park.mail.postman import Postman
    from park.mail.settings import MailSettings
    from park.service import ServiceManager


@click.command("park-broker", cls=ServiceCommand, context_settings=HELP_OPTIONS)
@click.option(
    "--home",
    type=click.Path(path_type=Path, readable=False),
    help="Folder that keeps the jobs (default: $PARK_HOME, else the user's state folder).",
)
@click.option(
    "--bind",
    metavar="tcp://HOST:PORT",
    help="Listen on TCP too, for those with a key (see `park keys`): clients here, kernels at PORT + 1, the table "
    "at PORT + 2.",
)
@click.option(
    "--connection-file",
    type=click.Path(path_type=Path),
    help="The connection file to write (default: connection.json in the home).",
)
@click.option(
    "--heartbeat",
    type=click.FloatRange(0.05, 3600),
    default=2.0,
    show_default=True,
    help="Seconds between signs of life.",
)
@click.option(
    "--lease",
    type=click.FloatRange(0.2, 86400),
    default=20.0,
    show_default=True,
    help="Seconds of silence after which a kernel or a client is lost.",
)
@click.option(
    "--keep",
    "kept",
    metavar="AGE|SIZE",
    multiple=True,
    help="Delete ended jobs of this age, as 30d, or the oldest beyond this size in all, as 10GB; may be given for both.",
)
@click.option(
    "--restore",
    "copy",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Begin a new home with the jobs that `park backup` has written to FILE.",
)
@click.option("--until-eof", is_flag=True, hidden=True, help="Stop when standard input ends, not at SIGTERM.")
@log_option
@click.version_option(package_name="park-fit")
def main(
    home: Path | None,
    bind: str | None,
    connection_file: Path | None,
    heartbeat: float,
    lease: float,
    kept: tuple[str, ...],
    copy: Path | None,
    until_eof: bool,
    log_file: Path | None,
) -> None:
    """Serve jobs until it is stopped (Ctrl-C or SIGTERM); stored jobs stay in the home.

    The terms of credit and the limits of owners come from park.toml, in /etc/xdg/park and then in ~/.config/park, and
    from PARK_CREDITS_CAP, PARK_CREDITS_RATE, PARK_LIMITS_JOBS, PARK_LIMITS_UNITS and PARK_LIMITS_BYTES. The options above
    may stand in the same files, under [park-broker].
    """
    from park.broker.manager import JobManager
    from park.broker.storage.store import JobStore
    from park.cli.broker_terms import credit_policy, keep_policy, limit_policy, mail_settings
    from park.config import default_home
    from park.net.addresses import check_bind
    from park.service import ServiceManager
    from park.util.stdio import keep_numbers, log_to

    # most objects of a broker live long, and almost none are in cycles, so garbage collection runs rarely and briefly
    gc.set_threshold(50_000, 20)
    with in_words("park-broker"):
        log_to(log_file)
        if bind is not None:
            check_bind(bind)  # before a home is made for it
        mail = mail_settings()
        policy, limits, keep = credit_policy(), limit_policy(), keep_policy(kept)
        home = (home or default_home()).expanduser().absolute()
        if copy is not None:
            _restore(copy, home)
        keep_numbers()
        with _witness(home):
            store = JobStore(home)
            try:
                postman = None if mail is None else _postman(mail, store.id, home)
                jobs = JobManager(
                    store, heartbeat, lease, policy=policy, limits=limits, keep=keep, postman=postman
                )
                manager = ServiceManager(jobs).listen(bind, home)
                file = (connection_file or home / "connection.json").absolute()
                manager.write_connection(file)
            except BaseException:
                store.close()
                raise
        _serve(manager, home, file, until_eof)


def _restore(copy: Path, home: Path) -> None:
    """Begin a new home with the jobs of a backup."""
    from park.broker.storage.backup import restore
    from park.util.stdio import tell

    found = restore(copy.expanduser(), home)
    tell(f"park-broker: {found.jobs:,} jobs were restored from {copy} to {home}")


def _postman(mail: MailSettings, store_id: str, home: Path) -> Postman:
    from park.mail.postman import Postman
    from park.mail.settings import STATUS_FILE

    return Postman(mail, store_id, home / STATUS_FILE)


def _serve(manager: ServiceManager, home: Path, connection: Path, until_eof: bool) -> None:
    """Run the broker, and the process of its allocators, until a signal or the end of its input stops it."""
    from park.batch.allocator_files import AllocatorFiles
    from park.batch.allocator_keeper import AllocatorKeeper
    from park.util.stdio import tell
    from park.util.systemd import Supervision

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: manager.reactor.stop())
    if until_eof:  # a batch system ends all processes of a job, and kernels still have checkpoints to bring
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        manager.reactor.listen(0, lambda _: manager.reactor.stop())
    places = [where["clients"] for where in (manager.endpoints, manager.tcp) if where]
    tell(f"park-broker: serving at {' and '.join(places)}, connection file {connection}")
    systemd = Supervision()
    manager.reactor.add(systemd)
    systemd.say("READY=1")
    keeper = AllocatorKeeper(AllocatorFiles(home), allocator_command(home, connection))
    keeper.start()
    try:
        manager.reactor.run()
    finally:
        systemd.say("STOPPING=1")
        keeper.close()
        manager.close()
        if _is_mine(connection):
            connection.unlink(missing_ok=True)
        tell("park-broker: has ended")


def allocator_command(home: Path, connection: Path) -> list[str]:
    """The command of the process that runs the allocators of the broker in *home*."""
    words = ["alloc", "run", "--home", str(home), "--connection-file", str(connection)]
    return [sys.executable, "-m", "park.cli.park", *words]


@contextlib.contextmanager
def _witness(home: Path) -> Iterator[None]:
    """A process reports the death of this one while it reads the store: damaged pages can kill a process that maps
    them before it writes a word.
    """
    if not hasattr(os, "fork"):
        yield
        return
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.close(writer)
        if not os.read(reader, 1):
            os.write(
                2,
                f"park-broker: it died while it read the store in {home}: unless a signal was sent to it, jobs.mdb is "
                "damaged; go on with a copy from `park backup` (park-broker --restore), or in another home\n".encode(),
            )
        os._exit(0)
    os.close(reader)
    try:
        yield
    finally:
        os.write(writer, b".")
        os.close(writer)
        os.waitpid(child, 0)


def _is_mine(file: Path) -> bool:
    try:
        return f'"pid": {os.getpid()},' in file.read_text()
    except OSError:
        return False


if __name__ == "__main__":
    main()
