"""``park-kernel --private TARGET``: a fabric inside an allocation, for one job, without any broker elsewhere.

The broker runs on the first node, with its home on the local disk. Results are carried into a folder beside the target
when their job ends; so is the store of the broker, then, at the end of the allocation, and each minute. The same command
in a later allocation begins with that store: a job that had not ended goes on from its newest checkpoint.
"""

from __future__ import annotations

import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from park.cli.carry import COPY, Carrier
from park.errors import InvalidRequest, NoBroker
from park.util.file_lock import locked

if TYPE_CHECKING:
    from park.batch.own_broker import OwnBroker

#: Seconds that kernels have to leave.
KERNELS_LEAVE_SECONDS = 60.0
#: Seconds without the broker after which kernels leave: this command has been killed.
BROKER_AWAY_SECONDS = 60
#: Seconds for which the broker, which is on this node, may be away before a question to it fails.
QUESTION_PATIENCE_SECONDS = 10.0


def carried_folder(target: str) -> Path:
    """The folder that is carried back to: beside the target's file, or in the working folder.

    >>> carried_folder("models/fit.py:run").name
    'fit.park'
    """
    place = Path(target.partition(":")[0])
    return (place.parent if place.suffix == ".py" else Path()).absolute() / f"{place.stem}.park"


def run_private(target: str, options: Sequence[str], kernels: Sequence[str], host: str) -> int:
    """Run the target, submitted with these *options*, and carry back what there is; the exit code. Raises ParkError.

    *kernels*: arguments of the kernels. *host*: the address of this node for the others.
    """
    from park.batch.own_broker import OwnBroker
    from park.core.connect import connect
    from park.util.stdio import tell

    nodes = allocated_nodes()
    carried = carried_folder(target)
    with ExitStack() as stack:
        log = stack.enter_context(hold(carried))
        scratch = Path(tempfile.mkdtemp(prefix="park-private-", dir=local_folder()))
        tidy = stack.enter_context(ExitStack())
        tidy.callback(shutil.rmtree, scratch, ignore_errors=True)
        copy = carried / COPY
        begun = copy if copy.exists() else None
        try:
            broker = OwnBroker(scratch / "home", log, host if len(nodes) > 1 else "", begun)
        except NoBroker as error:
            raise NoBroker(f"{error}; without {copy} the job begins anew" if begun else str(error)) from None
        stack.enter_context(broker)
        command = [sys.executable, "-m", "park.cli.kernel", *kernels, "--broker", broker.address]
        if len(nodes) > 1:
            key = broker.new_key(carried / f"kernels-{os.getpid()}.key")
            stack.callback(key.unlink, missing_ok=True)
            command += ["--key", str(key)]
        command += ["--away-timeout", str(BROKER_AWAY_SECONDS), "--nodes" if nodes else "--until-eof"]
        os.environ["PARK_BROKER"] = str(broker.connection)
        service = connect(broker.connection, patience=QUESTION_PATIENCE_SECONDS)
        stack.callback(service.close)
        left = [str(job.id) for job in service.jobs(owner="*") if not job.state.ended]
        if left:
            tell(f"park-kernel: goes on with job {', '.join(left)}, from {copy}")
        carrier = Carrier(service, broker.home, carried)
        words = ["wait", *left] if left else ["submit", target, "--wait", *options]
        code = _run_to_end(broker, carrier, command, [sys.executable, "-m", "park.cli.park", *words])
        if not carrier.is_copied:  # the results would be lost with it
            tidy.pop_all()
            tell(
                f"park-kernel: the home of the broker stays in {broker.home} of {platform.node()}", "warning"
            )
            return 1
        why = "the allocation ended" if broker.is_running else f"the broker ended (its output is in {log})"
    if code is None:
        tell(f"park-kernel: {why} before the job; the same command goes on with it, from {copy}", "warning")
        return 1
    tell(f"park-kernel: results and the broker's store are in {carried}")
    return code


@contextmanager
def hold(carried: Path) -> Iterator[Path]:
    """Have the folder for this process alone meanwhile; the file for the output of the broker. Raises InvalidRequest."""
    log = carried / "broker.log"
    try:
        carried.mkdir(mode=0o700, exist_ok=True)
        log.touch(mode=0o600)
    except OSError as error:
        raise InvalidRequest(
            f"--private: {error.filename}, for the results, cannot be made: {error.strerror}"
        ) from error
    with locked(log) as free:
        if not free:
            raise InvalidRequest(
                f"--private: another park-kernel works with {carried} now: wait for its end, or give the target another "
                "name or folder"
            )
        yield log


def _run_to_end(
    broker: OwnBroker, carrier: Carrier, kernels: Sequence[str], job: Sequence[str]
) -> int | None:
    """Run the commands of the kernels and of the job until one of them or the broker ends, or this process is told to stop.

    Returns the exit code of the job's command; None: it was cut short, and the results up to then were carried.
    """
    with told_to_stop() as stopped, child(kernels, subprocess.PIPE) as fabric:
        with child(job) as waiting:
            while waiting.poll() is None and fabric.poll() is None and broker.is_running and not stopped():
                time.sleep(0.1)
                carrier.turn(time.monotonic())
            code = waiting.poll()
        if fabric.poll() is None:
            fabric.terminate()
        if broker.is_running:
            carrier.results()
        carrier.copy_store()  # a batch system may kill this process before the kernels have left
        if fabric.poll() is None:
            with suppress(subprocess.TimeoutExpired):
                fabric.wait(KERNELS_LEAVE_SECONDS)
            carrier.copy_store()
        return None if code is None or code < 0 or stopped() else code


def local_folder() -> Path:
    """A folder for the home of the broker: the one of temporary files, unless that is on a network file system."""
    from park.broker.storage.filesystems import mounted_over_network

    usual = Path(tempfile.gettempdir()).resolve()
    others = (Path(name) for name in ("/var/tmp", "/tmp", "/dev/shm") if os.access(name, os.W_OK))
    return next((each for each in (usual, *others) if not mounted_over_network(each)), usual)


def allocated_nodes() -> list[str]:
    """The different nodes of the batch job; none: this is no batch job. Raises InvalidRequest."""
    from park.kernel.node.allocation import batch_job
    from park.kernel.node.read_allocation import allocated_hosts

    job = batch_job(os.environ, platform.node())
    if job is None:
        return []
    try:
        return list(dict.fromkeys(allocated_hosts(job, os.environ)))
    except ValueError as error:
        raise InvalidRequest(f"--private: {error}") from error


@contextmanager
def child(command: Sequence[str], stdin: int = subprocess.DEVNULL) -> Iterator[subprocess.Popen[bytes]]:
    """A process that has ended behind the ``with``."""
    process = subprocess.Popen(command, stdin=stdin)
    try:
        yield process
    finally:
        if process.stdin is not None:
            process.stdin.close()
        if process.poll() is None:
            process.terminate()
        try:
            process.wait(KERNELS_LEAVE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def told_to_stop() -> Iterator[Callable[[], bool]]:
    """Whether SIGTERM or SIGINT has come since."""
    came: list[int] = []
    before = {
        number: signal.signal(number, lambda number, _: came.append(number))
        for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield lambda: bool(came)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
