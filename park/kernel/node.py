"""What a kernel announces of its node: memory, installed packages, labels, and for whom it is.

The broker matches it against what requests need. It has to be quick, because the local service looks too when it
starts: packages are read from the names of their folders, some 2 ms instead of importlib.metadata's 100.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

#: Bytes of package names and versions that are announced at most: they travel in one head of a message.
MAX_PACKAGES = 24 * 1024
#: More bytes than a limit of memory can be: it stands for no limit.
_NO_LIMIT = 1 << 60

_FOLDER = re.compile(r"(?P<name>.+?)-(?P<version>[^-]+)(-py\d[^-]*(-.+)?)?\.(dist|egg)-info")


@dataclass(frozen=True, slots=True)
class Node:
    """What a kernel has, and whom it serves."""

    #: bytes; 0: unknown
    memory: int = 0
    #: versions by name
    packages: dict[str, str] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    #: this owner's jobs come first; "": nobody's
    owner: str = ""
    #: it runs no others
    only: bool = False


def this_node(labels: tuple[str, ...] = (), owner: str = "", only: bool = False) -> Node:
    """The node of this process, as it is now."""
    return Node(memory(), packages(sys.path), labels, owner, only)


# -- memory --------------------------------------------------------------------------------------


def memory(root: Path = Path("/")) -> int:
    """Bytes that the processes of this node may use: all that it has, or the limit of their control group.

    *root* is where the file system begins. 0 where nobody can tell.
    """
    try:
        whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not on Linux
        return 0
    return max(0, min([whole, *_limits(root)]))


def _limits(root: Path) -> Iterable[int]:
    """The limits of the control groups that this process is in, of version 1 and 2."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if not controllers:
            mount, name = root / "sys/fs/cgroup", "memory.max"
        elif "memory" in controllers.split(","):
            mount, name = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes"
        else:
            continue
        # a group is limited by those around it too; inside a container only the outermost may be seen
        folder = mount / group.strip("/")
        for place in (folder, *folder.parents):
            limit = _number(place / name)
            if 0 < limit < _NO_LIMIT:
                yield limit
            if place == mount:
                break


def _number(file: Path) -> int:
    """The number in a file; 0: there is none."""
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return 0


# -- packages ------------------------------------------------------------------------------------


def packages(path: Iterable[str]) -> dict[str, str]:
    """The versions of the packages that are installed on a *path* such as sys.path; the first one found counts."""
    found: dict[str, str] = {}
    room = MAX_PACKAGES
    for folder in path:
        for name, version in _installed(folder or "."):
            room -= len(name) + len(version) + 4
            if room < 0:
                return found
            found.setdefault(name, version)
    return found


def _installed(folder: str) -> Iterable[tuple[str, str]]:
    try:
        entries = sorted(os.listdir(folder))
    except OSError:  # an archive, or nothing
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
    """A package that is used from its checkout: only a file inside says its version."""
    try:
        lines = (info / "PKG-INFO").read_text(errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        if line.startswith("Version: "):
            yield info.stem, line.removeprefix("Version: ").strip()
            return
