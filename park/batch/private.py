"""An allocation for one private job: the script with its kernels, its submission, and the process that keeps it.

The job is in the broker's table before the batch system is asked, and says there how it stands with its allocation.
"""

from __future__ import annotations

import platform
import shlex
import shutil
import sys
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path

from msgspec import json

from park.batch.ask import with_command
from park.batch.left_over import ORDER, start
from park.batch.profiles import Ask, Profile, filled, profile, script_of
from park.batch.systems import submit
from park.config import default_home, said_broker
from park.core.server import ServerProxy
from park.errors import BatchError
from park.net.addresses import find_broker
from park.net.admission import key_for
from park.net.keys import KERNEL, POOL

#: Seconds without a broker after which kernels leave their allocation, and the keeper gives it back.
BROKER_AWAY_SECONDS = 600.0
#: Characters of a batch system's words that the table shows.
MAX_CAUSE_CHARS = 300


@dataclass(frozen=True, slots=True)
class KeeperOrder:
    """A keeper's order: the private *job* of a *broker*, the *ask* for a batch *system*, and the *id* of the allocation.

    *id* is "" as long as none was submitted. *more*: allocations that may follow, each when the one before has ended and
    the job has not. *host*: the machine of the keeper.
    """

    broker: str
    job: int
    system: str
    ask: Ask
    id: str = ""
    more: int = 0
    host: str = field(default_factory=platform.node)

    @property
    def name(self) -> str:
        """The name of the batch job."""
        return f"park-{self.job}"

    def script(self, profile: Profile) -> str:
        return script_of(profile, with_command(self.ask, kernels_command(self.broker, self.job), self.name))

    def write(self, folder: Path) -> None:
        (folder / ORDER).write_bytes(json.encode(self))

    @classmethod
    def read(cls, folder: Path) -> KeeperOrder:
        return json.decode((folder / ORDER).read_bytes(), type=cls)


def kernels_command(broker: str, job: int | str) -> str:
    """The shell command that starts the kernels of a private job on all nodes of its allocation."""
    words = [sys.executable, "-m", "park.cli.kernel", "--nodes", "--broker", broker]
    return f"exec {shlex.join([*words, '--job', str(job), '--away-timeout', f'{BROKER_AWAY_SECONDS:.0f}'])}"


def broker_for_nodes(broker: str | None) -> str:
    """The broker as nodes find it: an address, or the whole path of a file, because nodes have another working folder."""
    where = said_broker()[0] if broker is None else broker
    return where if "://" in where else str(Path(where).expanduser().absolute())


def unreachable(system: str, broker: str | None) -> str:
    """Why kernels on other nodes would not reach the broker, in words; "": nothing is known to keep them from it.

    Raises NoBroker or Refused where they have no key for it.
    """
    if system == "local":
        return ""
    place = find_broker(broker_for_nodes(broker), elsewhere=True)
    if place.is_local:
        return (
            "the broker listens on this machine only, and kernels on other nodes do not reach it: "
            "`park-broker --bind tcp://HOST:7275` listens for them, too"
        )
    key_for(place, (KERNEL, POOL))
    return ""


def check_owner(system: str, broker: str | None, owner: str) -> None:
    """Raises BatchError where kernels on the nodes would show the key of another owner than the job's."""
    place = find_broker(broker_for_nodes(broker), elsewhere=True)
    if system == "local" or place.is_local:
        return
    key = key_for(place, (KERNEL, POOL))
    if key is not None and key.role == KERNEL and key.name != owner:
        raise BatchError(
            f"{key.path} is {key.name}'s kernel key, and kernels with it do not run {owner}'s jobs: replace it by one of "
            f"`park keys new {owner} --kernel` on the broker's machine"
        )


def foreseen(system: str, ask: Ask, broker: str | None) -> str:
    """The script and the command for a job that is still to be submitted, for people. Raises InvalidRequest."""
    found = profile(system)
    name = "park-JOB"
    script = script_of(found, with_command(ask, kernels_command(broker_for_nodes(broker), "JOB"), name))
    values = {"name": name, "script": f"{name}.sh", "output": f"{name}.out", "errors": f"{name}.err"}
    return f"{script}\n{shlex.join(filled(word, values) for word in found.submit)}\n"


def allocate(
    service: ServerProxy, job: int, system: str, ask: Ask, broker: str | None = None, more: int = 0
) -> str:
    """Ask a batch system for the kernels of a private job; the id of the allocation, "" where its time is still to come.

    Raises BatchError; then the job says in the table that it waits without an allocation, and why.
    """
    found = profile(system)
    order = KeeperOrder(broker_for_nodes(broker), job, system, ask, more=more)
    script = order.script(found)
    service.set(job, allocation=f"is asked for at {found.name}")  # refuses a job that is not private
    above = default_home() / "allocations"
    above.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f"job-{job}-", dir=above))
    if service.status(job).state == "waiting":  # an allocation would be idle until its turn comes
        service.set(job, allocation="is asked for when the job's turn comes")
    else:
        try:
            check_owner(system, broker, service.status(job).owner)
            order = replace(order, id=submit(found, script, folder, order.name))
        except BatchError as error:
            shutil.rmtree(folder, ignore_errors=True)
            service.set(job, allocation=refused(job, error))
            raise
        service.set(job, allocation=f"{order.id} was submitted to {found.name}")
    order.write(folder)
    start("park.batch.keeper", folder)
    return order.id


def refused(job: int, error: BatchError) -> str:
    """The state of an allocation that the batch system did not give, in words."""
    words = "".join(letter if letter.isprintable() else " " for letter in str(error))
    if len(words) > MAX_CAUSE_CHARS:  # the cause stands at the end
        words = f"{words[: MAX_CAUSE_CHARS // 3]} ... {words[-MAX_CAUSE_CHARS * 2 // 3 :]}"
    return f"is not to be had ({words}); `park alloc give {job}` asks again"
