"""The memory that the processes of this node may use, and the processes that the system has killed because memory was
short.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

#: A limit of at least this many bytes stands for no limit.
_NO_LIMIT = 1 << 60
#: Seconds between two looks at the number of killed processes.
OOM_CHECK_SECONDS = 2.0


def memory(root: Path = Path("/")) -> int:
    """Bytes that the processes of this node may use: all of its memory, or the limit of their control group; 0: unknown.

    *root* is where the file system begins.
    """
    try:
        whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not on Linux
        return 0
    limits = []
    # the groups around a group limit it too; inside a container only the outermost may be visible
    for folder, new in control_groups("memory", root):
        found = _number(folder / ("memory.max" if new else "memory.limit_in_bytes"))
        if 0 < found < _NO_LIMIT:
            limits.append(found)
    return max(0, min([whole, *limits]))


def oom_kills(root: Path = Path("/")) -> int:
    """The number of processes that the system has killed because memory was short; 0: unknown.

    It counts processes of this control group, or else of the machine.
    """
    files = [
        folder / ("memory.events" if new else "memory.oom_control")
        for folder, new in control_groups("memory", root)
    ]
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


class OomWatch:
    """Whether the system has just killed a process because memory was short. The system does not say which process."""

    def __init__(self) -> None:
        self._kills = oom_kills()
        #: when the last kill was seen, and when the watch looked last
        self._killed_at, self._looked_at = -1e9, 0.0

    def turn(self, now: float) -> None:
        """Look, if it is time."""
        if now >= self._looked_at + OOM_CHECK_SECONDS:
            self.look(now)

    def look(self, now: float) -> bool:
        """Whether there was a kill within the last `OOM_CHECK_SECONDS`."""
        kills = oom_kills()
        if kills > self._kills:
            self._kills, self._killed_at = kills, now
        self._looked_at = now
        return now < self._killed_at + OOM_CHECK_SECONDS


def control_groups(controller: str, root: Path = Path("/")) -> Iterator[tuple[Path, bool]]:
    """The folders of a controller's groups that this process is in, the innermost first, and whether of version 2."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if not controllers:
            mount = root / "sys/fs/cgroup"
        elif controller in controllers.split(","):
            mount = root / "sys/fs/cgroup" / controller
        else:
            continue
        folder = mount / group.strip("/")
        for place in (folder, *folder.parents):
            yield place, not controllers
            if place == mount:
                break


def _number(file: Path) -> int:
    """The number in a file; 0: the file holds none."""
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return 0
