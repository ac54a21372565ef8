"""The description of its node that a kernel announces: memory, installed packages, labels, and whose jobs it runs.

The broker matches it against the requirements of requests. The local service describes its node at each start, so this
has to be quick: packages are read from the names of their folders, some 2 ms instead of importlib.metadata's 100.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from msgspec import Struct, field
from msgspec.structs import replace

from park.kernel.node.allocation import NodeAllocation
from park.kernel.node.gpus import NO_GPUS, Gpus
from park.kernel.node.interpreter import Interpreter, own_interpreter
from park.kernel.node.memory import memory

#: Bytes of package names and versions that are announced at most: they travel in the head of one message.
MAX_PACKAGE_BYTES = 24 * 1024
_FOLDER = re.compile(r"(?P<name>.+?)-(?P<version>[^-]+)(-py\d[^-]*(-.+)?)?\.(dist|egg)-info")


class Node(Struct, frozen=True):
    """The resources of a kernel, and the owner whose jobs it runs."""

    #: bytes; 0: unknown
    memory: int = 0
    #: versions by name
    packages: dict[str, str] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    #: the Python interpreter that runs units
    interpreter: Interpreter = field(default_factory=own_interpreter)
    #: the owner whose jobs come first; "": all owners are equal
    owner: str = ""
    #: it runs no other owners' jobs
    only: bool = False
    #: the batch job in whose allocation it is, and its name there; "": none
    batch: str = ""
    name: str = ""
    #: the private job that it serves alone; 0: none
    job: int = 0
    gpus: Gpus = NO_GPUS
    #: further environments by name
    environments: Mapping[str, Interpreter] = field(default_factory=dict)


def this_node(
    labels: tuple[str, ...] = (),
    owner: str = "",
    only: bool = False,
    allocation: NodeAllocation | None = None,
    interpreter: Interpreter | None = None,
    gpus: Gpus = NO_GPUS,
) -> Node:
    """The node of this process, as it is now; in an *allocation* it has no more than that gives.

    *interpreter* runs the units; None: that of this process.
    """
    python = interpreter or own_interpreter()
    node = Node(memory(), packages(python.path), labels, python, owner, only, gpus=gpus)
    if allocation is None or allocation.job is None:
        return node
    job = allocation.job
    return replace(node, memory=allocation.bytes, batch=f"{job.system} {job.number}", name=job.node)


# -- packages ------------------------------------------------------------------------------------


def packages(path: Iterable[str]) -> dict[str, str]:
    """The versions of the packages that are installed on a *path* such as sys.path; the first one found counts."""
    found: dict[str, str] = {}
    bytes_left = MAX_PACKAGE_BYTES
    for folder in path:
        for name, version in _installed(folder or "."):
            bytes_left -= len(name) + len(version) + 4
            if bytes_left < 0:
                return found
            found.setdefault(name, version)
    return found


def _installed(folder: str) -> Iterable[tuple[str, str]]:
    try:
        entries = sorted(os.listdir(folder))
    except OSError:  # an archive, or no folder
        return
    for entry in entries:
        if not entry.endswith("-info"):
            continue
        match = _FOLDER.fullmatch(entry)
        if match is not None:
            yield match["name"], match["version"]
        elif entry.endswith(".egg-info"):
            yield from _checkout(Path(folder, entry))


def _checkout(info: Path) -> Iterable[tuple[str, str]]:
    """A package that is used from its checkout: a file inside tells its version."""
    try:
        lines = (info / "PKG-INFO").read_text(errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        if line.startswith("Version: "):
            yield info.stem, line.removeprefix("Version: ").strip()
            return
