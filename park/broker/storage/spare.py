"""The spare: bytes that the disk has given to the store's file beyond its last page.

LMDB writes changed pages to new places, so that even a deletion needs a few pages first. On a disk that somebody else has
filled to its last byte there would be none, and nobody could make room. So the file is kept longer than its content, by
bytes that are allocated on the disk and that nobody else can take: deletions and other small changes go on there.

A disk that gives no more is full for this user, whatever free bytes it shows: so a quota is seen before it is needed.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

#: Errors of the system for which there is no room: on the disk, in a user's quota, or in the largest file of a process.
FULL_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
#: Bytes of a whole spare.
SPARE_BYTES = 8 << 20
#: Bytes by which the file grows at a time.
_STEP = 1 << 20


class Spare:
    """The spare of *file*, whose content ends at byte *end* now."""

    def __init__(self, file: Path, end: int) -> None:
        self._file = file
        self._allocated = end
        #: whether the disk has refused some of the spare
        self.refused = False
        #: whether the file system allocates at all
        self._possible = hasattr(os, "posix_fallocate")

    def size(self, end: int) -> int:
        """Its bytes, where the content ends at *end* now."""
        return max(0, self._allocated - end)

    def is_short(self, end: int) -> bool:
        """Whether it is less than it should be."""
        return self._possible and self._allocated < end + SPARE_BYTES

    def fill(self, end: int) -> None:
        """Make it whole again, as far as the disk gives something. Nobody may write to the file meanwhile."""
        if not self.is_short(end):
            return
        start = max(self._allocated, end)
        try:
            descriptor = os.open(self._file, os.O_RDWR)
            try:
                while start < end + SPARE_BYTES:
                    os.posix_fallocate(descriptor, start, _STEP)
                    self._allocated = start = start + _STEP
            finally:
                os.close(descriptor)
            self.refused = False
        except OSError as error:
            self.refused = error.errno in FULL_ERRNOS
            self._possible = self.refused
