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

from park.kernel.memory import memory

#: Bytes of package names and versions that are announced at most: they travel in one head of a message.
MAX_PACKAGES = 24 * 1024
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
