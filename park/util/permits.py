"""Permits to begin the units of a chunk: bytes in a pipe from a kernel to its slot process.

The process takes a byte before each unit but the first. The kernel may take those that are left, and other processes run
the units then. The system gives each byte to one of the two, so a unit begins at most once, and the kernel need not wait
for the process, whatever its present unit does.
"""

from __future__ import annotations

import contextlib
import os

#: Bytes that are taken at once: more than a pipe holds.
_MANY = 1 << 20


class Permits:
    """The kernel's side. *reader* is the descriptor from which the process takes permits."""

    def __init__(self) -> None:
        self.reader, self._writer = os.pipe()
        for descriptor in (self.reader, self._writer):
            os.set_blocking(descriptor, False)

    def issue(self, count: int) -> None:
        """Add permits. Where the pipe has no room for all of them, the chunk ends early and its rest runs elsewhere."""
        if count > 0:
            with contextlib.suppress(OSError):
                os.write(self._writer, bytes(count))

    def withdraw(self) -> int:
        """Take all permits that are left. Returns their number."""
        return take_all(self.reader)

    def close(self) -> None:
        """Close both ends."""
        os.close(self.reader)
        os.close(self._writer)


def take(reader: int) -> bool:
    """Take one permit; whether there was one."""
    try:
        return bool(os.read(reader, 1))
    except OSError:
        return False


def take_all(reader: int) -> int:
    """Take the permits that are left. Returns their number."""
    try:
        return len(os.read(reader, _MANY))
    except OSError:
        return 0
