"""``park-broker``: the one process that knows all jobs."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Callable
from pathlib import Path

import click

from park.cli.common import HELP, Service, in_words, log_option


@click.command("park-broker", cls=Service, context_settings=HELP)
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
    help="Where to write how to connect (default: connection.json in the home).",
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
    log_file: Path | None,
) -> None:
    """Serve jobs until it is stopped (Ctrl-C or SIGTERM); stored jobs stay in the home.

    The terms of credit and the limits of owners come from park.toml, in /etc/xdg/park and then in ~/.config/park, and
    from PARK_CREDITS_CAP, PARK_CREDITS_RATE, PARK_LIMITS_JOBS, PARK_LIMITS_UNITS and PARK_LIMITS_BYTES. The options above
    may stand in the same files, under [park-broker].
    """
    from park.cli.config import credit_policy, keep_policy, limit_policy
    from park.core.manager import JobManager
    from park.core.store import JobStore
    from park.service import ServiceManager
    from park.util.addresses import check_bind, default_home
    from park.util.outlet import keep_numbers, log_to, tell

    # most objects of a broker live long, and next to none are in cycles: few looks for those, each of them short
    gc.set_threshold(50_000, 20)
    with in_words("park-broker"):
        log_to(log_file)
        if bind is not None:
            check_bind(bind)  # before a home is made for it
        policy, limits, keep = credit_policy(), limit_policy(), keep_policy(kept)
        home = (home or default_home()).expanduser().absolute()
        if copy is not None:
            from park.core.backup import restore

            found = restore(copy.expanduser(), home)
            tell(f"park-broker: {found.jobs:,} jobs were restored from {copy} to {home}")
        keep_numbers()
        came_up = _witness(home)
        try:
            store = JobStore(home)
        except BaseException:
            came_up()
            raise
        try:
            jobs = JobManager(store, heartbeat, lease, policy=policy, limits=limits, keep=keep)
            manager = ServiceManager(jobs).listen(bind, home)
            file = (connection_file or home / "connection.json").absolute()
            manager.write_connection(file)
        except BaseException:
            store.close()
            raise
        finally:
            came_up()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: manager.reactor.stop())
        places = [manager.endpoints["clients"], *([manager.tcp["clients"]] if bind is not None else [])]
        tell(f"park-broker: serving at {' and '.join(places)}, connection file {file}")
        try:
            manager.reactor.run()
        finally:
            manager.close()
            if _is_mine(file):
                file.unlink(missing_ok=True)
            tell("park-broker: has ended")


def _witness(home: Path) -> Callable[[], None]:
    """Somebody who says what happened should this process die while it reads the store: damaged pages can be the end of
    whoever maps them, without a chance of a word. What is returned is called when it is over.
    """
    if not hasattr(os, "fork"):
        return lambda: None
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.close(writer)
        if not os.read(reader, 1):
            os.write(
                2,
                f"park-broker: it died while it read the store in {home}: unless somebody killed it, jobs.mdb is "
                "damaged; go on with a copy from `park backup` (park-broker --restore), or in another home\n".encode(),
            )
        os._exit(0)
    os.close(reader)

    def over() -> None:
        os.write(writer, b".")
        os.close(writer)
        os.waitpid(child, 0)

    return over


def _is_mine(file: Path) -> bool:
    try:
        return f'"pid": {os.getpid()},' in file.read_text()
    except OSError:
        return False


if __name__ == "__main__":
    main()
