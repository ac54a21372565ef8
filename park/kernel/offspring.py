"""Processes that bodies have started: children of a slot process, and those that these have left behind.

A slot process adopts its descendants whose parents end (where the system has that, as Linux does), so that programs in
sessions of their own, and daemons, are found among its children.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from pathlib import Path

_SET_CHILD_SUBREAPER = 36
#: Seconds that children may take to die.
PATIENCE = 1.0
#: Python's own helpers, which go by themselves: no body's.
HELPERS = ("resource_tracker", "semaphore_tracker", "multiprocessing.forkserver")


def adopt() -> None:
    """From now on this process is the parent of its descendants whose own parents end."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def children() -> set[int]:
    """The children that have not ended; none where the system does not tell."""
    found: set[int] = set()
    try:
        for task in os.listdir("/proc/self/task"):
            with open(f"/proc/self/task/{task}/children", "rb") as file:
                found.update(map(int, file.read().split()))
    except OSError:
        return found
    return {pid for pid in found if _lives(pid)}


def left(before: set[int]) -> set[int]:
    """The children that were not there *before*, Python's helpers apart."""
    return {pid for pid in children() - before if not _is_helper(pid)}


def end() -> None:
    """End all children, and theirs, which then become ours."""
    until = time.monotonic() + PATIENCE
    while (found := children()) and time.monotonic() < until:
        for pid in found:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.002)
    with contextlib.suppress(OSError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] not in (b"Z", b"X")
    except OSError:
        return False


def _is_helper(pid: int) -> bool:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return True
    return any(name in command for name in HELPERS)
