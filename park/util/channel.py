"""Messages of one or two frames over a Unix socket pair, between a kernel and its slot processes.

Each message is a header (length of the head: 4 bytes, of the payload: 8 bytes, a flag: 1 byte), the head and
the payload. A large payload does not pass through the socket: it lies in an anonymous file in memory, whose
descriptor comes along with the header and which the receiver maps. Where the system has no such files, it
goes inline.

A small message costs one system call at each end, and who waits for it one more. A closed peer shows in one
place: reading raises EOFError. What is sent to it is dropped.
"""

from __future__ import annotations

import array
import contextlib
import mmap
import os
import select
import socket
import struct
import time
import weakref
from collections import deque
from collections.abc import Sequence
from typing import Any

from park.errors import ProtocolError
from park.util.waits import Waits

Buffer = bytes | memoryview

#: Payloads from this size on travel as a descriptor: from about here on it is the faster way.
SHARED_FROM = 128 * 1024
#: A map keeps a descriptor open. With so many in use, further payloads are read instead.
MAX_MAPS = 64
MAX_HEAD = 64 * 1024

#: Bytes of a payload that are put into its file at a time, where the caller has others to serve.
FILL = 4 << 20

_EVER = float("inf")
_HEADER = struct.Struct("<IQB")
_READ = 64 * 1024
_maps: weakref.WeakSet[mmap.mmap] = weakref.WeakSet()
#: reads in one `receive`, so that one busy peer cannot hold up the others
_READS = 64
_MESSAGES = hasattr(socket.socket, "recvmsg")
_DESCRIPTORS = _MESSAGES and hasattr(os, "memfd_create") and hasattr(socket, "SCM_RIGHTS")
_ANCILLARY = socket.CMSG_SPACE(32 * 4) if _DESCRIPTORS else 0
# plain numbers: enums take longer to combine than the system to read
_CLOEXEC = int(getattr(socket, "MSG_CMSG_CLOEXEC", 0))
_DONTWAIT = int(getattr(socket, "MSG_DONTWAIT", 0))
_TRUNCATED = int(getattr(socket, "MSG_CTRUNC", 0))


class _Share:
    """A payload on its way into a file of its own."""

    def __init__(self, payload: Buffer) -> None:
        self._rest = memoryview(payload).cast("B")
        self._descriptor = -1

    def __len__(self) -> int:
        return len(self._rest)

    def fill(self, most: int) -> bool:
        """Put some *most* bytes of it there; whether it is all there."""
        if self._descriptor < 0:
            self._descriptor = os.memfd_create("park-payload")
        while len(self._rest) and most > 0:
            done = os.write(self._descriptor, self._rest[:most])
            self._rest = self._rest[done:]
            most -= done
        return not len(self._rest)

    def send(self, sock: socket.socket, data: memoryview) -> int:
        """Send *data* with the file's descriptor."""
        rights = array.array("i", [self._descriptor])
        return sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)


class Channel:
    """One end. Not for several threads at once: whoever shares it holds a lock."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._shares = _DESCRIPTORS and sock.family == socket.AF_UNIX
        #: what is not out yet: bytes, and the payload that goes as a descriptor with the first of them
        self._out: deque[tuple[memoryview, _Share | None]] = deque()
        #: a message of which only a part is here
        self._partial = bytearray()
        self._descriptors: deque[int] = deque()
        self._ready: deque[list[Any]] = deque()
        self._ended = False
        self._waits = Waits()
        self._poll: Any = None
        if hasattr(select, "poll"):
            self._poll = select.poll()
            self._poll.register(sock, select.POLLIN)

    def __repr__(self) -> str:
        here = f"{len(self._ready)} messages here" if not self._ended else "ended"
        return f"<Channel {self.fileno()}: {self.pending} bytes to send, {here}>"

    def fileno(self) -> int:
        """For a poller; -1 once closed."""
        return self._sock.fileno()

    def close(self) -> None:
        """Close this end; what was not sent is dropped."""
        self._sock.close()
        self._drop()
        while self._descriptors:
            os.close(self._descriptors.popleft())

    def finish(self) -> None:
        """Nothing more will be sent: the peer sees the end of the file; reading goes on."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)

    # -- out -------------------------------------------------------------------------------------

    @property
    def pending(self) -> int:
        """How many bytes wait for `flush`."""
        return sum(len(data) + (len(shared) if shared is not None else 0) for data, shared in self._out)

    def send(self, frames: Sequence[Any]) -> bool:
        """Send head and payload, if there is one; whether all is out. On a non-blocking socket what does not fit waits
        for `flush`.
        """
        head, payload = frames if len(frames) == 2 else (frames[0], b"")
        size = len(payload)
        if size >= SHARED_FROM and self._shares:
            self._out.append((memoryview(_HEADER.pack(len(head), size, 1) + head), _Share(payload)))
        else:
            data = b"".join((_HEADER.pack(len(head), size, 0), head, payload))
            self._out.append((memoryview(data), None))
        return self.flush()

    def flush(self) -> bool:
        """Send what waits; whether all of it is out now. On a non-blocking socket it takes little time: call it again."""
        out = self._out
        try:
            while out:
                data, share = out[0]
                if share is None:
                    sent = self._sock.send(data)
                else:
                    while not share.fill(FILL):
                        if not self._sock.getblocking():
                            return False
                    sent = share.send(self._sock, data)
                    share.close()
                if sent == len(data):
                    out.popleft()
                else:
                    out[0] = (data[sent:], None)
        except (BlockingIOError, InterruptedError):
            return False
        except (BrokenPipeError, ConnectionError):
            self._drop()
        return True

    def _drop(self) -> None:
        """Nothing more gets out."""
        for _, share in self._out:
            if share is not None:
                share.close()
        self._out.clear()

    # -- in --------------------------------------------------------------------------------------

    def receive(self) -> list[list[Any]]:
        """All messages that are here, without waiting; EOFError when the peer is gone and all were read."""
        try:
            for _ in range(_READS):
                if self._ended or self._read(_DONTWAIT):
                    break
        except (BlockingIOError, InterruptedError):
            pass
        if self._ended and not self._ready:
            raise EOFError("the other end is closed")
        messages = list(self._ready)
        self._ready.clear()
        return messages

    def recv(self, timeout: float | None = None) -> list[Any]:
        """The next message: its head, and its payload, if there is one, as bytes or a memoryview.

        Waits *timeout* seconds (None: for ever), then raises TimeoutError; EOFError when the peer is gone.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self._ready:
            if self._ended:
                raise EOFError("the other end is closed")
            # whoever waits in the reading itself is also woken when the peer has read what was sent to it
            left = _EVER if deadline is None else max(0.0, deadline - time.monotonic())
            if not self._waits.wait(self._readable, left):
                raise TimeoutError(f"no message within {timeout} s")
            with contextlib.suppress(BlockingIOError):
                self._read(_DONTWAIT)
        return self._ready.popleft()

    def _readable(self, seconds: float) -> bool:
        """Whether there is something to read within *seconds*."""
        if self._poll is None:
            return bool(select.select([self._sock], [], [], None if seconds == _EVER else seconds)[0])
        return bool(self._poll.poll(None if seconds == _EVER else seconds * 1000))

    def _read(self, flags: int) -> bool:
        """Read once and take apart what came; whether that was all there was."""
        try:
            if self._shares:
                data, ancillary, told, _ = self._sock.recvmsg(_READ, _ANCILLARY, flags | _CLOEXEC)
                if ancillary or told & _TRUNCATED:
                    self._take(ancillary, told)
            else:
                data, ancillary = self._sock.recv(_READ, flags), []
        except (ConnectionResetError, BrokenPipeError):
            data, ancillary = b"", []
        if not data:
            self._ended = True
            return True
        if self._partial:
            self._partial += data
            del self._partial[: self._parse(self._partial)]
        elif (done := self._parse(data)) < len(data):
            self._partial += memoryview(data)[done:]
        return len(data) < _READ and not ancillary

    def _take(self, ancillary: list[tuple[int, int, bytes]], told: int) -> None:
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                self._descriptors.extend(array.array("i", data[: len(data) - len(data) % 4]))
        if told & _TRUNCATED:
            raise OSError("no file descriptor is left for a payload: raise the limit (ulimit -n)")

    def _parse(self, data: bytes | bytearray) -> int:
        """Queue the whole messages at the start of *data*; how many bytes they were."""
        done, have = 0, len(data)
        while have - done >= _HEADER.size:
            head, size, flag = _HEADER.unpack_from(data, done)
            if head > MAX_HEAD or flag > 1:
                raise ProtocolError("what came through the socket is not a message")
            start = done + _HEADER.size
            stop = start + head + (0 if flag else size)
            if stop > have:
                break
            frames: list[Any] = [bytes(data[start : start + head])]
            if flag:
                frames.append(self._map(size))
            elif size:
                frames.append(bytes(memoryview(data)[start + head : stop]))
            self._ready.append(frames)
            done = stop
        return done

    def _map(self, size: int) -> Buffer:
        """The content of the next descriptor; it lives as long as somebody holds it."""
        if not self._descriptors:
            raise ProtocolError("a payload's descriptor did not come with it")
        descriptor = self._descriptors.popleft()
        try:
            if not 0 < size == os.fstat(descriptor).st_size:
                raise ProtocolError("a payload's file is not as long as its header says")
            if len(_maps) < MAX_MAPS:
                content = mmap.mmap(descriptor, size, access=mmap.ACCESS_READ)
                _maps.add(content)
                return memoryview(content)
            data = bytearray(size)
            rest = memoryview(data)
            while len(rest):
                rest = rest[os.preadv(descriptor, [rest], size - len(rest)) :]
            return memoryview(data)
        finally:
            os.close(descriptor)
