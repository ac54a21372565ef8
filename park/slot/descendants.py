"""Processes and threads that bodies have started: children of a slot process, and orphans that it has adopted.

A slot process adopts its descendants whose parents end, where the system supports that, as Linux does. So programs in
sessions of their own, and daemons, are found among its children.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import threading
import time
from pathlib import Path
from typing import NamedTuple

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
    """The children of this process. If there are none, one system call says so."""
    with contextlib.suppress(ChildProcessError):
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        return children(os.getpid())
    return set()


class ChildrenAndThreads(NamedTuple):
    """The children and the threads of this process at one time."""

    children: set[int]
    threads: set[threading.Thread]


def started() -> ChildrenAndThreads:
    """All that there is now."""
    return ChildrenAndThreads(own(), set(threading.enumerate()))


def left(before: ChildrenAndThreads) -> bool:
    """Whether there are children or threads that were not there *before*, other than helpers that harm no other job."""
    threads = set(threading.enumerate()) - before.threads
    return any(not _is_helper(pid) for pid in own() - before.children) or any(map(_may_go_on, threads))


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


def _may_go_on(thread: threading.Thread) -> bool:
    """Whether the thread is one of Python's that a body has started. The watch of tqdm's bars sleeps most of the time."""
    module = type(thread).__module__.partition(".")[0]
    return not isinstance(thread, threading._DummyThread) and module != "tqdm"


def _is_helper(pid: int) -> bool:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return True
    return any(name in command for name in PYTHON_HELPERS)
