"""The memory that slot processes hold, where their requests limit it.

A limit of the system on addresses would stop numpy, whose libraries reserve far more than they use. So the kernel
measures the memory of each process and its descendants now and then, and ends a process that holds too much. Memory
that other jobs have left in the process does not count, and `OWN_BYTES` does not either.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from park.util.processes import descendants

#: Seconds between two looks, and between two looks at a process that holds more than `CLOSE_SHARE` of its limit.
MEMORY_POLL_SECONDS, CLOSE_POLL_SECONDS = 0.25, 0.05
CLOSE_SHARE = 0.5
#: Bytes of the interpreter and of libraries such as numpy, which a small unit needs too.
OWN_BYTES = 64 << 20
#: The lines that count in a process's status and in its memory map. Pages of files do not count, because the system can
#: drop them.
_QUICK = ("RssAnon:", "RssShmem:", "VmSwap:")
_EXACT = ("Pss_Anon:", "Pss_Shmem:", "SwapPss:")


class MemoryWatch:
    """The watch over the memory of slot processes. Processes are numbers; *pid_of* knows the system's numbers, None
    for one that has not begun.
    """

    def __init__(self, pid_of: Callable[[int], int | None]) -> None:
        self._pid_of = pid_of
        #: the job of each process, and the bytes that the process held before the job's first chunk
        self._before: dict[int, tuple[int, int]] = {}
        #: when it looks next
        self.due = math.inf

    def begin(self, process: int, job: int, now: float) -> None:
        """A process is about to be given a chunk of a job with a limit."""
        if self._before.get(process, (0, 0))[0] != job:
            pid = self._pid_of(process)
            self._before[process] = job, bytes_of_tree(pid) if pid is not None else 0
        self.due = min(self.due, now + CLOSE_POLL_SECONDS)

    def end(self, process: int) -> None:
        """The process has ended."""
        self._before.pop(process, None)

    def look(self, limits: Mapping[int, int], now: float) -> Iterator[tuple[int, int]]:
        """The processes that hold more than their limit, and how much they hold. *limits*: bytes, by process."""
        self.due = now + MEMORY_POLL_SECONDS if limits else math.inf
        for process, limit in limits.items():
            pid = self._pid_of(process)
            before = self._before.get(process, (0, 0))[1]
            limit += max(0, OWN_BYTES - before)
            size = (bytes_of_tree(pid, limit) if pid is not None else 0) - before
            if size > limit:
                yield process, size
            elif size > CLOSE_SHARE * limit:
                self.due = now + CLOSE_POLL_SECONDS


def bytes_of_tree(pid: int, limit: float = math.inf) -> int:
    """The bytes that a process and those below it hold.

    Children of a fork share pages with their parent. Each page is counted once only where the quick sum is above *limit*,
    because that takes a look at every page.
    """
    family = [pid, *descendants(pid)]
    quick = sum(_sum(Path(f"/proc/{one}/status"), _QUICK) for one in family)
    if quick <= limit or len(family) == 1:
        return quick
    return sum(_sum(Path(f"/proc/{one}/smaps_rollup"), _EXACT) for one in family) or quick


def _sum(file: Path, names: tuple[str, ...]) -> int:
    """The sum of the bytes in the lines with these names; 0 if the system does not tell."""
    try:
        lines = file.read_text().splitlines()
    except OSError:  # the process has ended, or this is not Linux
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(names))
