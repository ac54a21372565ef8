"""One kernel on each node of an allocation: the commands that start them. Pure but for `write_environment`."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from park.kernel.node.allocation import PBS, SLURM, BatchJob, short_name

#: Options of srun that give a step all resources of the job on one node, even if other steps run there.
SRUN = ("srun", "--overlap", "--nodes=1", "--ntasks=1", "--cpu-bind=none", "--mem=0", "--unbuffered")
#: Options of ssh that let it fail instead of asking a question, and notice a node that is gone.
SSH = ("ssh", "-T", "-o", "BatchMode=yes", "-o", "ServerAliveInterval=15", "-o", "ConnectTimeout=20")
#: The program that sets up the environment of a kernel on another node.
STARTER = Path(__file__).with_name("start_on_node.py")
#: A kernel has come up when it has said this.
CAME_UP = " for the broker at "
#: Variables that each node has for itself.
_OWN = (
    "HOSTNAME",
    "PBS_NODENUM",
    "PBS_VNODENUM",
    "PBS_TASKNUM",
    "TMPDIR",
    "DISPLAY",
    "SSH_AUTH_SOCK",
    "XDG_RUNTIME_DIR",
)


@dataclass(frozen=True, slots=True)
class Launch:
    """The command that starts the kernel of one *node*. *held*: the kernel leaves when the command's input ends."""

    node: str
    command: tuple[str, ...]
    held: bool = True


def launches(
    job: BatchJob | None,
    hosts: Sequence[str],
    here: str,
    kernel: Sequence[str],
    starter: Sequence[str],
    pbsdsh: bool = False,
) -> list[Launch]:
    """One launch for each different host of a node file, or of Slurm's list.

    *kernel*: the kernel's command. *starter*: the command that runs it in the environment of this process; it comes first
    where a node gets no environment from its batch system. *here*: this node. *pbsdsh*: the batch system has this command.
    """
    unique = list(dict.fromkeys(hosts))
    if job is not None and job.system == SLURM:
        return [Launch(host, (*SRUN, f"--nodelist={host}", *kernel, "--until-eof")) for host in unique]
    if pbsdsh:
        return [
            Launch(host, ("pbsdsh", "-n", str(hosts.index(host)), "--", *starter, *kernel), held=False)
            for host in unique
        ]
    started = []
    for host in unique:
        command = [*starter, *kernel, "--until-eof"]
        if short_name(host) != short_name(here):
            command = [*SSH, host, shlex.join(command)]
        started.append(Launch(host, tuple(command)))
    return started


def release_command(
    job: BatchJob | None, host: str, kept: Sequence[str], releases: bool = False
) -> tuple[str, ...]:
    """The command that gives one *host* of the allocation back, and keeps the others; () where there is none.

    The first node, where the job script runs, can never be given back. *releases*: PBS has its command for it.
    """
    if job is None or short_name(host) == short_name(job.node):
        return ()
    if job.system == SLURM:
        return "scontrol", "update", f"JobId={job.number}", f"NodeList={','.join(kept)}"
    return ("pbs_release_nodes", "-j", job.number, host) if job.system == PBS and releases else ()


def shipped(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables for a kernel on another node: all except those that each node sets for itself."""
    return {name: value for name, value in environment.items() if name not in _OWN}


def write_environment(file: Path, environment: Mapping[str, str], folder: str) -> None:
    """Write what `start_on_node` reads, for this user alone."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as out:
        json.dump({"folder": folder, "environment": shipped(environment)}, out)
