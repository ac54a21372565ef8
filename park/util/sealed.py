"""Files in memory that nothing can change any more, for bytes that several processes read.

A sealed file has no name. A process gets it with a message over a Unix socket (`park.net.channel`), or opens it as the
descriptor of the process that holds it, which the system allows to the same Unix user in the same machine. A file that
is not sealed is refused: a file that shrinks under its map would end the process that reads it.

The bytes of a sealed file are a memoryview of a `SealedMap`, which keeps the descriptor open as long as someone holds
the bytes. So the bytes are passed on as their descriptor, and nothing is copied.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import sys
import weakref
from typing import Any

from park.wire.pack import Buffer

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

#: Whether this system has files without names in memory.
HAS_FILES = hasattr(os, "memfd_create")
#: The seals of a file that nothing may change any more; 0: this system has no seals.
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE if hasattr(fcntl, "F_SEAL_WRITE") else 0
#: Sealed files that this process maps at the same time, at most: each keeps one or two descriptors open.
MAX_OPEN_MAPS = 64
#: Bytes that one call writes to a file (a payload on the disk is read by as many).
FILL_STEP_BYTES = 1 << 20
#: The beginning of the link to a file in memory, among the descriptors of a process.
_LINK = "/memfd:"
_BUFFERS = (bytes, bytearray, memoryview)


class SealedMap(mmap.mmap):
    """The map of a sealed file, with the *descriptor* of the file."""

    descriptor: int


_maps: weakref.WeakSet[SealedMap] = weakref.WeakSet()


def new_file() -> int:
    """The descriptor of an empty file that can be sealed. Raises OSError."""
    return os.memfd_create("park-payload", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)


def seal(descriptor: int) -> None:
    """Let nothing change the file any more."""
    if _SEALS:
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)


def is_sealed(descriptor: int) -> bool:
    """Whether nothing can change the file any more."""
    if not _SEALS:
        return True
    try:
        return fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & _SEALS == _SEALS
    except OSError:  # it is no file in memory
        return False


def has_room() -> bool:
    """Whether this process may map one more sealed file."""
    return len(_maps) < MAX_OPEN_MAPS


def map_file(descriptor: int, size: int) -> memoryview:
    """The bytes of a sealed file; they keep *descriptor* open. Raises OSError."""
    # without `trackfd` the map has a copy of the descriptor, and both stay open
    options = {"trackfd": False} if sys.version_info >= (3, 13) else {}
    found = SealedMap(descriptor, size, access=mmap.ACCESS_READ, **options)
    found.descriptor = descriptor
    weakref.finalize(found, os.close, descriptor)
    _maps.add(found)
    return memoryview(found)


def private_copy(data: Buffer) -> memoryview:
    """The same bytes, which this process may change for itself. Of a sealed file, only the changed pages are copied."""
    if (descriptor := descriptor_of(data)) >= 0:
        with contextlib.suppress(OSError):
            return memoryview(mmap.mmap(descriptor, len(data), access=mmap.ACCESS_COPY))
    return memoryview(bytearray(data))


def descriptor_of(data: Buffer) -> int:
    """The descriptor of the sealed file whose bytes *data* is; -1: *data* is no sealed file, or only a part of one."""
    owner = data.obj if isinstance(data, memoryview) else None
    return owner.descriptor if isinstance(owner, SealedMap) and len(owner) == len(data) else -1


def sealed(data: Buffer) -> memoryview:
    """The same bytes in a sealed file. Raises OSError if the system cannot make one."""
    if isinstance(data, memoryview) and descriptor_of(data) >= 0:
        return data
    target = SealedBuffer(len(data))
    target.put(0, data)
    return target.done()


class SealedBuffer:
    """A file of *size* bytes that will be sealed when it is complete. Raises OSError if the system cannot make one."""

    def __init__(self, size: int) -> None:
        if not (HAS_FILES and _SEALS and has_room()):
            raise OSError("no further sealed file can be made")
        self._size = size
        self._descriptor = new_file()
        self._guard = weakref.finalize(self, os.close, self._descriptor)

    def __len__(self) -> int:
        return self._size

    def put(self, at: int, piece: Buffer) -> None:
        """Write *piece* at this place. Raises OSError."""
        rest = memoryview(piece)
        while len(rest):
            done = os.pwrite(self._descriptor, rest, at)
            rest, at = rest[done:], at + done

    def done(self) -> memoryview:
        """The bytes of the file, which is sealed now. Raises OSError."""
        os.ftruncate(self._descriptor, self._size)
        seal(self._descriptor)
        found = map_file(self._descriptor, self._size)
        self._guard.detach()
        return found


class SealedPayload:
    """A payload in a sealed file, for other processes: the file in which it lies already, or a copy that grows.

    A payload that is no buffer, because it lies on the disk, is read slice by slice, unless its *memory* has the bytes.
    """

    def __init__(self, payload: Any) -> None:
        if (memory := getattr(payload, "memory", None)) is not None:
            payload = memory
        self._payload = memoryview(payload).cast("B") if isinstance(payload, _BUFFERS) else payload
        self._descriptor = descriptor_of(payload)
        self._done = len(self._payload) if self._descriptor >= 0 else 0
        #: closes the copy; None: there is none
        self._guard: weakref.finalize[[int], SealedPayload] | None = None

    def __len__(self) -> int:
        return len(self._payload)

    @property
    def descriptor(self) -> int:
        """The file's descriptor, which is open until `close`."""
        return self._descriptor

    @property
    def left(self) -> int:
        """The number of bytes that the file lacks."""
        return len(self._payload) - self._done

    def fill(self, most: int) -> int:
        """Write about *most* more bytes; the last ones seal the file. Returns their number.

        Raises OSError, and what the payload raises where it cannot be read.
        """
        if self._descriptor < 0:
            self._descriptor = new_file()
            self._guard = weakref.finalize(self, os.close, self._descriptor)
        began = self._done
        stop = min(len(self._payload), began + most)
        while self._done < stop:
            piece = self._payload[self._done : min(stop, self._done + FILL_STEP_BYTES)]
            self._done += os.write(self._descriptor, piece)
        if not self.left and self._guard is not None:
            seal(self._descriptor)
        return self._done - began

    def close(self) -> None:
        """Close the copy; what others have opened stays open there."""
        if self._guard is not None:
            self._guard()


def open_of(process: int, descriptor: int, size: int, inode: int | None = None) -> memoryview:
    """The bytes of a sealed file that another *process* of this machine holds, and which is *inode* where that is known.

    They are a copy where this process maps many files already. Raises OSError if it cannot open the file.
    """
    path = f"/proc/{process}/fd/{descriptor}"
    # to open a device may have effects, and to look at a file of the network may take for ever
    if not os.readlink(path).startswith(_LINK):
        raise OSError("it is no file in memory")
    own = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        found = os.fstat(own)
        if found.st_size != size or inode not in (None, found.st_ino) or not is_sealed(own):
            raise OSError("it is no sealed file of this size")
        return read_file(own, size)
    except BaseException:
        os.close(own)
        raise


def read_file(descriptor: int, size: int) -> memoryview:
    """The bytes of a sealed file. They keep *descriptor*; where many files are mapped already they are a copy.

    Raises OSError, and leaves the descriptor open.
    """
    if has_room():
        return map_file(descriptor, size)
    data = bytearray(size)
    rest = memoryview(data)
    while len(rest):
        rest = rest[os.preadv(descriptor, [rest], size - len(rest)) :]
    os.close(descriptor)
    return memoryview(data).toreadonly()
