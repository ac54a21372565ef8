"""``park-kernel --nodes``: one kernel on each node of an allocation."""

from __future__ import annotations

import os
import platform
import shutil
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from park.errors import InvalidRequest

if TYPE_CHECKING:
    from park.kernel.node.allocation import BatchJob

#: Seconds beside the grace after which a kernel that was told to leave is killed.
ENDING_SECONDS = 20.0


#: Seconds from which on it is told that a node was idle at the end.
IDLE_SECONDS = 2.0

#: Options of this command that the kernels do not get: flags, and those with a value.
_FLAGS, _VALUES = ("--nodes",), ("--private", "--private-host", "--relay")


def kernel_arguments(arguments: Sequence[str]) -> list[str]:
    """The arguments of the kernels: all but those of the command that starts them, and what follows ``--``.

    >>> kernel_arguments(["--slots", "4", "--private", "fit.py", "--grace=2", "--", "--method", "dream"])
    ['--slots', '4', '--grace=2']
    """
    given = list(arguments)
    words = iter(given[: given.index("--")] if "--" in given else given)
    kept: list[str] = []
    for word in words:
        if word in _VALUES:
            next(words, None)
        elif word not in _FLAGS and not word.startswith(tuple(f"{name}=" for name in _VALUES)):
            kept.append(word)
    return kept


@contextmanager
def relayed(through: str | None, broker: str | None, key: Path | None) -> Iterator[list[str]]:
    """Meanwhile a relay *through* a host is there; the arguments by which kernels use it. None: there is no relay.

    Raises InvalidRequest where it cannot be had, and what a missing key raises.
    """
    if through is None:
        yield []
        return
    from park.kernel.relay import Relay
    from park.net.addresses import find_broker
    from park.net.admission import key_for
    from park.net.keys import KERNEL, POOL
    from park.util.stdio import tell

    place = find_broker(broker, elsewhere=True)
    if place.is_local:
        raise InvalidRequest(
            "--relay: the broker listens on its own machine only: give its address, tcp://HOST:PORT"
        )
    shown = key_for(place, (KERNEL, POOL), file=key)
    assert shown is not None
    try:
        with Relay(
            through,
            platform.node(),
            place.kernels.removeprefix("tcp://"),
            lambda line: tell(f"park-kernel: {line}", "warning"),
        ) as relay:
            yield ["--broker", relay.broker, "--key", str(shown.path)]
    except OSError as error:
        raise InvalidRequest(f"--relay: {error}") from error


def run_nodes(arguments: list[str], grace: float) -> int:
    """Start the kernels with these *arguments*, and stay until all have left; the exit code. Raises InvalidRequest."""
    from park.cli.run_kernel import batch_signals
    from park.kernel.node.allocation import batch_job
    from park.kernel.node.read_allocation import allocated_hosts
    from park.kernel.node_watch import NodeWatch
    from park.kernel.nodes import STARTER, launches, write_environment
    from park.util.stdio import tell

    job = batch_job(os.environ, platform.node())
    try:
        hosts = allocated_hosts(job, os.environ)
    except ValueError as error:
        raise InvalidRequest(f"--nodes: {error}") from error
    kernel = [
        sys.executable,
        "-m",
        "park.cli.kernel",
        *arguments,
        "--this-node",
    ]
    file = _environment_file(job.number if job is not None else "")
    try:
        write_environment(file, os.environ, os.getcwd())
        starter = [sys.executable, str(STARTER), str(file)]
        pbsdsh = "PBS_JOBID" in os.environ and shutil.which("pbsdsh") is not None
        found = launches(job, hosts, platform.node(), kernel, starter, pbsdsh)

        def say(node: str, line: str) -> None:
            tell(f"{node}: {line}" if node else f"park-kernel: {line}", "info" if node else "warning")

        watch = NodeWatch(found, say, grace + ENDING_SECONDS, partial(give_back, job))
        for number in (*batch_signals(job), signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda *_: watch.end())
        watch.run()
    finally:
        file.unlink(missing_ok=True)
    idle = ", ".join(f"{node} for {time:.0f} s" for node, time in watch.idle.items() if time >= IDLE_SECONDS)
    words = f"; idle at the end: {idle}" if idle else ""
    if watch.came_up < len(found):  # the last line is what allocators and keepers quote
        words = f"{words}; {watch.failure}"
    tell(f"park-kernel: {watch.came_up} of {len(found)} nodes came up, and all have left{words}")
    return 0 if watch.came_up == len(found) else 1


def give_back(job: BatchJob | None, node: str, kept: Sequence[str]) -> tuple[bool, str]:
    """Give an idle node of the allocation back; whether that was done, and what is to be said about it."""
    import subprocess
    import tempfile

    from park.kernel.node.read_allocation import COMMAND_SECONDS
    from park.kernel.nodes import release_command

    command = release_command(job, node, kept, shutil.which("pbs_release_nodes") is not None)
    if not command:
        return False, "stays idle until the others have ended, too"
    try:
        with tempfile.TemporaryDirectory() as folder:  # Slurm leaves scripts where its command ran
            done = subprocess.run(
                command, cwd=folder, capture_output=True, text=True, errors="replace", timeout=COMMAND_SECONDS
            )
    except (OSError, subprocess.SubprocessError) as error:
        return False, f"stays idle, since it cannot be given back: {error}"
    if done.returncode:
        return (
            False,
            f"stays idle, since {command[0]} does not give it back: {' '.join(done.stderr.split())[:300]}",
        )
    return True, "is given back to the batch system"


def _environment_file(number: str) -> Path:
    """The file from which other nodes read the environment: in a folder of this user that the nodes share."""
    cache = os.environ.get("XDG_CACHE_HOME")
    folder = Path(cache) if cache else Path.home() / ".cache"
    return folder / "park" / f"environment-{number.replace('/', '_') or 'none'}-{os.getpid()}.json"
