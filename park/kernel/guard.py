"""What outlives a kernel that is killed, to end what its bodies have started: ``python guard.py PARENT MARK``.

Slot processes die with their supervisor, but the programs that bodies start do not, nor do those that left their process
group. All of them carry the kernel's mark in their environment, from which nothing falls out by accident. The guard waits
for its parent's end, then kills whatever carries the mark, until there is nothing left. It has no mark itself. A kernel
that leaves in good order does the same (`end`).
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from park.kernel.child import Child

#: The variable that holds the mark.
MARK = "PARK_KERNEL_MARK"
#: Seconds after which the guard gives up on what does not die.
PATIENCE = 10.0


def start(mark: str) -> Child | None:
    """A guard of this process; None where the system cannot tell of the end of another process, as only Linux does."""
    if not hasattr(os, "pidfd_open"):
        return None
    # not for the guard itself, which runs without any module of PARK
    from park.kernel.child import NOWHERE, Child

    return Child(
        [sys.executable, "-I", "-S", __file__, str(os.getpid()), mark],
        {name: value for name, value in os.environ.items() if name != MARK},
        stdout=NOWHERE,
        stderr=NOWHERE,
        start_new_session=True,  # what ends a terminal's or a batch job's processes in good order is not for it
    )


def marked(mark: str) -> list[int]:
    """The processes that carry the mark."""
    found, entry = [], f"{MARK}={mark}".encode()
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{name}/environ", "rb") as file:
                if entry in file.read().split(b"\0"):
                    found.append(int(name))
    return found


def end(mark: str, patience: float) -> None:
    """End what carries the mark, until there is nothing left, for *patience* seconds at most."""
    until = time.monotonic() + patience
    while (left := marked(mark)) and time.monotonic() < until:
        for pid in left:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


def main(parent: int, mark: str) -> None:
    """The guard's process."""
    for name in os.listdir("/proc/self/fd"):  # it holds nothing open
        with contextlib.suppress(OSError):
            os.close(int(name))
    with contextlib.suppress(ProcessLookupError):
        descriptor = os.pidfd_open(parent)
        if os.getppid() == parent:  # else it had ended before, and the number may be another's
            select.select([descriptor], [], [])
    end(mark, PATIENCE)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
