"""A place on the local disk for answers that a kernel has to keep and that do not fit into memory.

Each answer lies in a file without a name: no other process can open it, and it disappears with the kernel however that
ends. The file is mapped, so the system can take back the memory of its pages at any time.
"""

from __future__ import annotations

import mmap
import os
import tempfile
import weakref

from park.util.stdio import tell
from park.wire.pack import Buffer

#: Bytes that may lie on the disk.
MAX_SPILL_BYTES = 2 << 30
#: Bytes that stay free on the disk.
MIN_FREE_BYTES = 256 << 20


class Spill:
    """Answers that lie on the disk. *folder*: $TMPDIR, else /var/tmp, which is a disk where /tmp is memory."""

    def __init__(self, folder: str | None = None, max_bytes: int = MAX_SPILL_BYTES) -> None:
        self._folder = (
            folder or os.environ.get("TMPDIR") or ("/var/tmp" if os.path.isdir("/var/tmp") else None)
        )
        self._max_bytes = max_bytes
        #: bytes on the disk
        self.used = 0
        self._warned = False

    def put(self, data: Buffer) -> Buffer | None:
        """Write the bytes to the disk. Returns them from there, for as long as anything refers to them; None: the disk
        refused them, and a warning says why.
        """
        try:
            if self.used + len(data) > self._max_bytes:
                raise OSError(f"{self._max_bytes >> 20} MB lie there already")
            with tempfile.TemporaryFile(dir=self._folder) as file:
                space = os.fstatvfs(file.fileno()) if hasattr(os, "fstatvfs") else None
                if space is not None and space.f_bavail * space.f_frsize < MIN_FREE_BYTES + len(data):
                    raise OSError("the disk is nearly full")
                file.write(data)
                file.flush()
                mapped = mmap.mmap(file.fileno(), len(data), access=mmap.ACCESS_READ)
        except OSError as error:
            if not self._warned:
                self._warned = True
                tell(
                    f"park-kernel: results wait for the broker, and no more can be kept in {self._folder}: {error}; "
                    "units whose results are not kept run again"
                )
            return None
        self.used += len(data)
        weakref.finalize(mapped, self._free, len(data))
        return memoryview(mapped)

    def _free(self, size: int) -> None:
        self.used -= size
        self._warned = False
