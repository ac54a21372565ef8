"""How much memory the processes of this node may use, and whether the system had to kill for want of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

#: More bytes than a limit of memory can be: it stands for no limit.
_NO_LIMIT = 1 << 60


def memory(root: Path = Path("/")) -> int:
    """Bytes that the processes of this node may use: all that it has, or the limit of their control group.

    *root* is where the file system begins. 0 where nobody can tell.
    """
    try:
        whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not on Linux
        return 0
    limits = []
    # a group is limited by those around it too; inside a container only the outermost may be seen
    for folder, new in _groups(root):
        found = _number(folder / ("memory.max" if new else "memory.limit_in_bytes"))
        if 0 < found < _NO_LIMIT:
            limits.append(found)
    return max(0, min([whole, *limits]))


def oom_kills(root: Path = Path("/")) -> int:
    """How many processes the system has killed for want of memory: of this control group, else of the machine.

    0 where nobody can tell.
    """
    files = [folder / ("memory.events" if new else "memory.oom_control") for folder, new in _groups(root)]
    for file in [*files, root / "proc/vmstat"]:
        try:
            lines = file.read_text().splitlines()
        except OSError:
            continue
        for line in lines:
            name, _, number = line.partition(" ")
            if name == "oom_kill" and number.isdigit():
                return int(number)
    return 0


def _groups(root: Path) -> Iterator[tuple[Path, bool]]:
    """The folders of the control groups that this process is in, the innermost first, and whether of version 2."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if not controllers:
            mount = root / "sys/fs/cgroup"
        elif "memory" in controllers.split(","):
            mount = root / "sys/fs/cgroup/memory"
        else:
            continue
        folder = mount / group.strip("/")
        for place in (folder, *folder.parents):
            yield place, not controllers
            if place == mount:
                break


def _number(file: Path) -> int:
    """The number in a file; 0: there is none."""
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return 0
