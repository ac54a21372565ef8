"""The spare: allocated bytes of the store's file beyond its last page.

LMDB writes changed pages to new places, so that even a deletion needs a few pages first. On a disk that others have
filled to the last byte, there would be no such pages, and even a deletion would fail. So the store's file is longer
than its content: the further bytes are allocated on the disk, no other program can take them, and deletions and small
changes use them.

If the disk refuses to allocate the spare, it counts as full, whatever free bytes it shows. So a disk quota is noticed
in time.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

#: Errors of the system that mean "full": the disk, the user's disk quota, or the largest file that the process may
#: write.
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
        """The bytes of the spare if the content ends at *end*."""
        return max(0, self._allocated - end)

    def is_short(self, end: int) -> bool:
        """Whether it is less than it should be."""
        return self._possible and self._allocated < end + SPARE_BYTES

    def fill(self, end: int) -> None:
        """Allocate the spare again, as far as the disk allows. No other thread may write to the file meanwhile."""
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
