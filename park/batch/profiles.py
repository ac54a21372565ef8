"""Batch systems as data: the script of a job, the commands that submit, list and cancel it, and the form of their answers.

In a template and in a command ``@{name}`` stands for a value; ``$`` is the shell's. A line of a template is left out where
one of its values is empty, so ``#PBS -q @{queue}`` needs no condition.

A table ``[batch.NAME]`` of park.toml changes a profile, or adds one that is based on another::

    [batch.torque]
    submit = ["qsub", "-V", "-N", "@{name}", "-o", "@{output}", "-e", "@{errors}", "@{script}"]

    [batch.cluster2]
    system = "slurm"
    list = ["ssh", "head2", "squeue", "-h", "-o", "'%i|%j|%u|%P|%t|%r'"]
"""

from __future__ import annotations

import dataclasses
import os
import re
import string
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from park import config
from park.errors import InvalidRequest, did_you_mean

#: The states of an allocation. Only "running" and "queued" hold something of the batch system.
QUEUED, RUNNING, ENDED, UNKNOWN = "queued", "running", "ended", "unknown"
#: A job's name that all batch systems take.
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,14}")


@dataclass(frozen=True, slots=True)
class Profile:
    """One batch system.

    *template*: the script. *submit*, *list* and *cancel*: commands. *only_user*: further words of *list* for one user's
    jobs; () where the command has no such option. In *list* itself ``@{user}`` is the user, or ``*`` for all.

    *submitted*: a regular expression whose group is the id in the answer of *submit*. *record*: one that matches where a
    job begins in the answer of *list*. *fields*: for id, name, user, queue, state and reason one whose group is the value,
    sought in a job's part of that answer. *states*: the meaning of each state that the system has. *none*: codes with which
    *list* ends where the system knows no job.
    """

    name: str
    template: str
    submit: tuple[str, ...]
    list: tuple[str, ...]
    cancel: tuple[str, ...]
    submitted: str
    record: str
    fields: Mapping[str, str]
    states: Mapping[str, str]
    only_user: tuple[str, ...] = ()
    none: tuple[int, ...] = ()
    #: the address of the system's server, for ``@{server}`` in the commands
    server: str = ""
    #: the built-in profile on which it is based; "": it is one itself
    base: str = ""

    @property
    def is_local(self) -> bool:
        """Whether its jobs run on this host."""
        return (self.base or self.name) == "local"

    @property
    def has_one_node(self) -> bool:
        """Whether its jobs have one node each."""
        return (self.base or self.name) in ("local", "dask")


@dataclass(frozen=True, slots=True)
class Ask:
    """The allocation that is asked for: *nodes* with *ppn* processors each for a time, and a shell *command* for it.

    The command runs once, on the first node. *lines*: further lines of the script's head, such as ``#PBS -l mem=8gb``.
    """

    command: str
    nodes: int = 1
    ppn: int = 1
    walltime_seconds: float = 3600.0
    queue: str = ""
    account: str = ""
    lines: tuple[str, ...] = ()
    name: str = "park"

    def values(self) -> dict[str, str]:
        """The values for a template."""
        seconds = max(60, round(self.walltime_seconds))  # no batch system counts less than a minute
        return {
            "name": self.name,
            "nodes": str(self.nodes),
            "ppn": str(self.ppn),
            "slots": str(self.nodes * self.ppn),
            "walltime": f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}",
            "seconds": str(seconds),
            "queue": self.queue,
            "account": self.account,
            "lines": "\n".join(self.lines),
            "command": self.command,
        }


class _Text(string.Template):
    """A text with ``@{name}`` in it. Other uses of ``@`` stay as they are."""

    delimiter = "@"
    pattern = r"@(?:(?P<escaped>@(?=\{))|\{(?P<braced>[a-z_]+)\}|(?P<named>(?!))|(?P<invalid>(?!)))"  # type: ignore[assignment]


def filled(text: str, values: Mapping[str, str]) -> str:
    """The text with its values. Raises InvalidRequest for a name that has none.

    >>> filled("-N @{name}", {"name": "fit"})
    '-N fit'
    """
    try:
        return _Text(text).substitute(values)
    except KeyError as error:
        raise InvalidRequest(
            f"{text!r} has @{{{error.args[0]}}}, and there is only {', '.join(values)}"
        ) from None


def script_of(profile: Profile, ask: Ask) -> str:
    """The script that asks for this allocation. Raises InvalidRequest."""
    if ask.nodes < 1 or ask.ppn < 1:
        raise InvalidRequest(f"nodes={ask.nodes} and ppn={ask.ppn} are no numbers from 1 on")
    if not NAME.fullmatch(ask.name):
        raise InvalidRequest(
            f"{ask.name!r} is no name of a batch job: up to 15 letters, digits, '_', '.' or '-', a letter first"
        )
    for text in (ask.queue, ask.account, *ask.lines):
        if not text.isprintable():
            raise InvalidRequest(f"{text!r} is no printable line of a script")
    values = ask.values()
    lines = []
    for line in profile.template.splitlines():
        if all(values.get(name, "?") for name in _Text(line).get_identifiers()):
            lines.append(filled(line, values))
    return "\n".join(lines) + "\n"


# -- the profiles that there are -----------------------------------------------------------------

_PBS_HEAD = """\
#!/bin/sh
#PBS -N @{name}
#PBS -l @{resources}
#PBS -l walltime=@{walltime}
#PBS -q @{queue}
#PBS -A @{account}
@{lines}
@{command}
"""
#: ``qstat -f`` of Torque and PBS wraps long values, with a tab before the rest of them.
_PBS_FIELDS = {
    "id": r"^Job Id:\s*(\S+)",
    "name": r"^\s+Job_Name = (.*)",
    "user": r"^\s+Job_Owner = ([^@\s]+)",
    "queue": r"^\s+queue = (\S+)",
    "state": r"^\s+job_state = (\S+)",
    "reason": r"^\s+comment = (.*(?:\n\t(?!\s*[\w.]+ ?=).*)*)",
}
_TORQUE = Profile(
    name="torque",
    template=_PBS_HEAD.replace("@{resources}", "nodes=@{nodes}:ppn=@{ppn}"),
    submit=("qsub", "-N", "@{name}", "-o", "@{output}", "-e", "@{errors}", "@{script}"),
    list=("qstat", "-f"),
    cancel=("qdel", "@{id}"),
    submitted=r"(?m)^\s*(\d\S*)\s*$",
    record=r"^Job Id:",
    fields=_PBS_FIELDS,
    states={"Q": QUEUED, "H": QUEUED, "W": QUEUED, "T": QUEUED, "S": QUEUED}
    | {"R": RUNNING, "E": RUNNING, "C": ENDED},
    none=(153,),
)
_PBS = dataclasses.replace(
    _TORQUE,
    name="pbs",
    template=_PBS_HEAD.replace("@{resources}", "select=@{nodes}:ncpus=@{ppn}:mpiprocs=@{ppn}"),
    states={**_TORQUE.states, "B": RUNNING, "U": QUEUED, "M": ENDED, "F": ENDED, "X": ENDED},
)
_SLURM = Profile(
    name="slurm",
    template="""\
#!/bin/sh
#SBATCH --job-name=@{name}
#SBATCH --nodes=@{nodes}
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=@{ppn}
#SBATCH --time=@{walltime}
#SBATCH --partition=@{queue}
#SBATCH --account=@{account}
@{lines}
@{command}
""",
    submit=("sbatch", "--parsable", "--output=@{output}", "--error=@{errors}", "@{script}"),
    list=("squeue", "-h", "-o", "%i|%u|%P|%t|%r|%j"),
    only_user=("-u", "@{user}"),
    cancel=("scancel", "@{id}"),
    submitted=r"(?m)^(\d+)",
    record=r"^(?=\d)",
    fields={
        name: rf"^(?:[^|\n]*\|){{{at}}}(?!None\|)([^|\n]*)"  # None: there is no reason
        for at, name in enumerate(
            ("id", "user", "queue", "state", "reason", "name")  # names may have any letter
        )
    },
    states=dict.fromkeys(("PD", "CF", "RF", "RH", "RQ", "RD", "S", "ST", "RS"), QUEUED)
    | dict.fromkeys(("R", "SI", "SO"), RUNNING)
    | dict.fromkeys(("BF", "CA", "CD", "CG", "DL", "F", "NF", "OOM", "PR", "RV", "TO"), ENDED),
)
_SGE = Profile(
    name="sge",
    template="""\
#!/bin/sh
#$ -S /bin/sh
#$ -N @{name}
#$ -pe mpi @{slots}
#$ -l h_rt=@{walltime}
#$ -q @{queue}
#$ -A @{account}
#$ -notify
@{lines}
@{command}
""",
    submit=("qsub", "-terse", "-o", "@{output}", "-e", "@{errors}", "@{script}"),
    list=("qstat", "-xml", "-u", "@{user}"),
    cancel=("qdel", "@{id}"),
    submitted=r"(?m)^(\d+)",
    record=r"<job_list\b",
    fields={
        "id": r"<JB_job_number>(\d+)<",
        "name": r"<JB_name>([^<]*)<",
        "user": r"<JB_owner>([^<]*)<",
        "queue": r"<queue_name>([^<@]*)",
        "state": r"<state>([^<]*)<",
    },
    states=dict.fromkeys(("qw", "hqw", "hRqw", "hRwq", "Rqw", "Rq", "Eqw", "Ehqw"), QUEUED)
    | dict.fromkeys(("s", "S", "T", "ts", "tS", "tT", "Rs", "RS", "RT"), QUEUED)  # suspended
    | dict.fromkeys(("r", "t", "hr", "ht", "Rr", "Rt", "hRr", "hRt"), RUNNING)
    | dict.fromkeys(("dr", "dt", "dhr", "dRr", "dRt", "ds", "dS", "dT", "dRs", "dRS", "dRT"), ENDED),
)
#: The program behind the profile ``local``, which needs nothing of park.
_LOCAL_PROGRAM = (sys.executable, "-I", str(Path(__file__).with_name("one_host.py")))
_LOCAL = Profile(
    name="local",
    template="""\
#!/bin/sh
#LOCAL slots=@{ppn} seconds=@{seconds}
@{command}
""",
    submit=(*_LOCAL_PROGRAM, "submit", "@{name}", "@{script}", "@{output}", "@{errors}"),
    list=(*_LOCAL_PROGRAM, "list"),
    cancel=(*_LOCAL_PROGRAM, "cancel", "@{id}"),
    submitted=r"(?m)^([\d.]+)$",
    record=r"^(?=\d)",
    fields={name: rf"^(?:\S+ ){{{at}}}(\S+)" for at, name in enumerate(("id", "name", "user", "state"))},
    states={"running": RUNNING},
)
#: The program behind the profile ``dask``. `alloc add` and `park submit` name it as ``dask:tcp://HOST:PORT``.
_DASK_PROGRAM = (sys.executable, "-I", str(Path(__file__).with_name("dask_cluster.py")), "@{server}")
_DASK = dataclasses.replace(
    _LOCAL,
    name="dask",
    template=_LOCAL.template.replace("@{command}", "#DASK resource=@{queue}\n@{lines}\n@{command}"),
    submit=(*_DASK_PROGRAM, "submit", "@{name}", "@{script}", "@{output}", "@{errors}"),
    list=(*_DASK_PROGRAM, "list"),
    cancel=(*_DASK_PROGRAM, "cancel", "@{id}"),
    submitted=r"(?m)^(park-\S+)$",
    record=r"^(?=park-)",
    fields={**_LOCAL.fields, "reason": r"^(?:\S+ ){4}(.*)"},
    states={"queued": QUEUED, "running": RUNNING, "ended": ENDED},
)
BUILT_IN = {each.name: each for each in (_TORQUE, _PBS, _SLURM, _SGE, _LOCAL, _DASK)}


def profile(name: str, environment: Mapping[str, str] | None = None) -> Profile:
    """The profile of that name: a built-in one, as park.toml changes it, or one of park.toml. Raises InvalidRequest.

    ``NAME:ADDRESS`` is that profile with the address of its server.
    """
    given, (name, _, server) = name, name.partition(":")
    tables = config.read(os.environ if environment is None else environment).get("batch", {})
    known = [*BUILT_IN, *(own for own in tables if own not in BUILT_IN)]
    if name not in known:
        raise InvalidRequest(
            f"{name!r} is no batch system that is known here; there are {', '.join(known)}{did_you_mean(name, known)}"
        )
    changes: dict[str, Any] = dict(tables.get(name, {}))
    base = changes.pop("system", name if name in BUILT_IN else "")
    if base not in BUILT_IN:
        raise InvalidRequest(
            f'[batch.{name}] of park.toml needs system = "...", one of {", ".join(BUILT_IN)}, on which it is based'
        )
    for key, value in changes.items():
        if isinstance(value, dict):
            changes[key] = {**getattr(BUILT_IN[base], key), **value}
        elif isinstance(value, list):
            changes[key] = tuple(value)
    found = dataclasses.replace(BUILT_IN[base], name=given if server else name, base=base, **changes)
    return _with_server(dataclasses.replace(found, server=server or found.server))


def _with_server(profile: Profile) -> Profile:
    """The profile with the address of its server in its commands. Raises InvalidRequest where it is missing."""
    commands = {key: getattr(profile, key) for key in ("submit", "list", "cancel")}
    if bool(profile.server) != any("@{server}" in word for words in commands.values() for word in words):
        raise InvalidRequest(
            f"{profile.name} has no server whose address could be given"
            if profile.server
            else f"{profile.name} needs the address of its scheduler: {profile.name}:tcp://HOST:PORT"
        )
    for key, words in commands.items():
        commands[key] = tuple(word.replace("@{server}", profile.server) for word in words)
    return dataclasses.replace(profile, **commands)
