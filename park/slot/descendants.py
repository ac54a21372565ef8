"""Processes that bodies have started: children of a slot process, and orphans that it has adopted.

A slot process adopts its descendants whose parents end, where the system supports that, as Linux does. So programs in
sessions of their own, and daemons, are found among its children.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from pathlib import Path

from park.util.processes import children

_SET_CHILD_SUBREAPER = 36
#: Seconds that killed children may take to die.
END_SECONDS = 1.0
#: Parts of the command lines of Python's own helper processes, which end by themselves.
PYTHON_HELPERS = ("resource_tracker", "semaphore_tracker", "multiprocessing.forkserver")


def adopt() -> None:
    """Adopt descendants whose own parents end, from now on."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def own() -> set[int]:
    """The children of this process; where it has none, the system says so at once."""
    with contextlib.suppress(ChildProcessError):
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        return children(os.getpid())
    return set()


def left(before: set[int]) -> set[int]:
    """The children that were not there *before*, without Python's helpers."""
    return {pid for pid in own() - before if not _is_helper(pid)}


def end() -> None:
    """Kill all children, and then their children, which this process adopts."""
    until = time.monotonic() + END_SECONDS
    while (found := own()) and time.monotonic() < until:
        for pid in found:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.002)
    with contextlib.suppress(OSError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _is_helper(pid: int) -> bool:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return True
    return any(name in command for name in PYTHON_HELPERS)
