"""The orphan killer: it outlives a killed kernel and ends its bodies' programs (``python orphan_killer.py PARENT``).

Slot processes die with their kernel, but programs that bodies have started do not, nor do processes that have left
their process group. All of them inherit the kernel's mark in their environment. The orphan killer waits for the end of
its parent, then kills every process that carries the mark, until none is left. It does not carry the mark itself. It
gets the mark in another variable, and not as an argument, because all users of the machine see the arguments of
processes. A kernel that leaves in good order does the same (`end`). The orphan killer also removes the kernel's folder
of temporary files.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from park.util.spawn import SpawnedProcess

#: The environment variable that holds the mark.
MARK_VARIABLE = "PARK_KERNEL_MARK"
#: The environment variable that holds the number of a slot process.
NUMBER_VARIABLE = "PARK_SLOT_PROCESS"
#: The variables by which the orphan killer knows the mark, and the folder.
_MARK_VARIABLE, _FOLDER_VARIABLE = "PARK_ORPHANS_MARK", "PARK_ORPHANS_FOLDER"
#: Seconds after which the orphan killer gives up on processes that do not die.
KILL_SECONDS = 10.0


def start(mark: str, folder: str = "") -> SpawnedProcess | None:
    """Start an orphan killer of this process; None if the system, unlike Linux, does not report the end of another
    process. *folder*: a folder that it removes then.
    """
    if not hasattr(os, "pidfd_open"):
        return None
    # inside the function, because the orphan killer itself runs without any module of PARK
    from park.util.spawn import DEVNULL, SpawnedProcess

    return SpawnedProcess(
        [sys.executable, "-I", "-S", __file__, str(os.getpid())],
        {name: value for name, value in os.environ.items() if name != MARK_VARIABLE}
        | {_MARK_VARIABLE: mark, _FOLDER_VARIABLE: folder},
        stdout=DEVNULL,
        stderr=DEVNULL,
        start_new_session=True,  # a terminal's signals do not reach it
        blocked=[signal.SIGTERM],  # batch systems send it to every process of a job
    )


def marked(mark: str, number: int = 0) -> list[int]:
    """The processes that carry the mark: all, or those of one slot process."""
    found, entries = [], {f"{MARK_VARIABLE}={mark}".encode()}
    if number:
        entries.add(f"{NUMBER_VARIABLE}={number}".encode())
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{name}/environ", "rb") as file:
                if entries <= set(file.read().split(b"\0")):
                    found.append(int(name))
    return found


def kill(mark: str, number: int = 0) -> bool:
    """Kill the processes that carry the mark. Returns whether there were any."""
    found = marked(mark, number)
    for pid in found:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
    return bool(found)


def end(mark: str, timeout: float) -> None:
    """Kill the processes that carry the mark until none is left, for *timeout* seconds at most."""
    until = time.monotonic() + timeout
    while kill(mark) and time.monotonic() < until:
        time.sleep(0.02)


def main(parent: int, mark: str, folder: str) -> None:
    """The orphan killer's process."""
    for name in os.listdir("/proc/self/fd"):  # the orphan killer holds no file open
        with contextlib.suppress(OSError):
            os.close(int(name))
    with contextlib.suppress(ProcessLookupError):
        descriptor = os.pidfd_open(parent)
        if (
            os.getppid() == parent
        ):  # else the parent had ended before, and the number may be another process's
            select.select([descriptor], [], [])
    end(mark, KILL_SECONDS)
    if folder:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), os.environ[_MARK_VARIABLE], os.environ[_FOLDER_VARIABLE])
