"""A place on the local disk for answers that a kernel has to keep, when memory is not for so many of them.

Each lies in a file of its own that has no name any more: nobody else can open it, and it is gone with the kernel however
that ends. What is put here is read where it lies, and takes no memory that the system could not take back.
"""

from __future__ import annotations

import mmap
import os
import tempfile
import weakref

from park.util.outlet import tell
from park.wire.pack import Buffer

#: Bytes that may lie here, and that are left free on the disk.
MOST = 2 << 30
SPARE = 256 << 20


class Shelf:
    """See the module. *folder*: $TMPDIR, else /var/tmp, which is a disk where /tmp is memory."""

    def __init__(self, folder: str | None = None, most: int = MOST) -> None:
        self._folder = (
            folder or os.environ.get("TMPDIR") or ("/var/tmp" if os.path.isdir("/var/tmp") else None)
        )
        self._most = most
        #: bytes that lie here
        self.used = 0
        self._refused = False

    def put(self, data: Buffer) -> Buffer | None:
        """The same bytes, on the disk; they go when nobody holds them any more. None: they were refused, in words."""
        try:
            if self.used + len(data) > self._most:
                raise OSError(f"{self._most >> 20} MB lie there already")
            with tempfile.TemporaryFile(dir=self._folder) as file:
                space = os.fstatvfs(file.fileno()) if hasattr(os, "fstatvfs") else None
                if space is not None and space.f_bavail * space.f_frsize < SPARE + len(data):
                    raise OSError("the disk is nearly full")
                file.write(data)
                file.flush()
                lying = mmap.mmap(file.fileno(), len(data), access=mmap.ACCESS_READ)
        except OSError as error:
            if not self._refused:
                self._refused = True
                tell(
                    f"park-kernel: results wait for the broker, and no more can be kept in {self._folder}: {error}; "
                    "units whose results are not kept run again"
                )
            return None
        self.used += len(data)
        weakref.finalize(lying, self._gone, len(data))
        return memoryview(lying)

    def _gone(self, size: int) -> None:
        self.used -= size
        self._refused = False
