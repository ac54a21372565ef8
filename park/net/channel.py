"""Messages of one or two frames over a Unix socket pair, between a kernel and its slot processes.

Each message is a header (length of the head: 4 bytes, length of the payload: 8 bytes, a flag: 1 byte), the head, and the
payload. A large payload does not pass through the socket: it lies in an anonymous file in memory. The descriptor of the
file comes with the header, and the receiver maps the file. Where the system has no such files, the payload goes inline.

A body can write to the socket as well. So a receiver keeps few bytes and descriptors of what is no message yet, and it
maps a file only if that is sealed: a file that shrinks under its map would end the process that reads it.

A small message costs one system call at each end, and a blocked receiver one more. A closed peer shows in one place:
reading raises EOFError. Messages to a closed peer are dropped.
"""

from __future__ import annotations

import array
import contextlib
import os
import select
import socket
import struct
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

from park.errors import ProtocolError
from park.net.spin import SpinWait
from park.util.sealed import (
    HAS_FILES,
    SealedPayload,
    is_sealed,
    read_file,
)
from park.wire.fragments import MAX_PAYLOAD_BYTES
from park.wire.pack import Buffer

#: Payloads from this size on travel as a descriptor, which is faster from about this size on.
MIN_SHARED_BYTES = 128 * 1024
MAX_HEAD_BYTES = 64 * 1024
#: Descriptors of payloads that one read brings, and that may wait for their messages.
MAX_DESCRIPTORS = 32

#: Bytes of a payload that one call writes to its file, where the caller has other peers to serve.
FILL_BYTES = 4 << 20

_EVER = float("inf")
_HEADER = struct.Struct("<IQB")
_READ_BYTES = 64 * 1024
#: reads in one `receive`, so that one busy peer does not hold up the others
_MAX_READS_PER_TURN = 64
_MESSAGES = hasattr(socket.socket, "recvmsg")
_DESCRIPTORS = _MESSAGES and HAS_FILES and hasattr(socket, "SCM_RIGHTS")
_ANCILLARY = socket.CMSG_SPACE(MAX_DESCRIPTORS * 4) if _DESCRIPTORS else 0
# plain integers: to combine enums takes longer than the system call
_CLOEXEC = int(getattr(socket, "MSG_CMSG_CLOEXEC", 0))
_DONTWAIT = int(getattr(socket, "MSG_DONTWAIT", 0))
_TRUNCATED = int(getattr(socket, "MSG_CTRUNC", 0))


class Channel:
    """One end. It is not thread-safe: threads that share it hold a lock."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._shares = _DESCRIPTORS and sock.family == socket.AF_UNIX
        #: messages that are not out yet: their bytes, and the payload whose descriptor goes with the first byte
        self._out: deque[tuple[memoryview, SealedPayload | None]] = deque()
        #: the bytes of an unfinished message
        self._partial = bytearray()
        self._descriptors: deque[int] = deque()
        self._ready: deque[list[Any]] = deque()
        self._ended = False
        self._waits = SpinWait()
        self._poll: Any = None
        if hasattr(select, "poll"):
            self._poll = select.poll()
            self._poll.register(sock, select.POLLIN)

    def __repr__(self) -> str:
        here = f"{len(self._ready)} messages here" if not self._ended else "ended"
        return f"<Channel {self.fileno()}: {self.pending} bytes to send, {here}>"

    def fileno(self) -> int:
        """The descriptor, for a poller; -1 once closed."""
        return self._sock.fileno()

    def close(self) -> None:
        """Close this end; messages that were not sent are dropped."""
        self._sock.close()
        self._drop()
        while self._descriptors:
            os.close(self._descriptors.popleft())

    def finish(self) -> None:
        """Send no more: the peer reads the end of the file. Reading goes on."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)

    # -- out -------------------------------------------------------------------------------------

    @property
    def pending(self) -> int:
        """The number of bytes that wait for `flush`."""
        return sum(len(data) + (shared.left if shared is not None else 0) for data, shared in self._out)

    def send(self, frames: Sequence[Any]) -> bool:
        """Send a head and, if there is one, a payload. Returns whether all bytes are out: on a non-blocking socket the
        others wait for `flush`.
        """
        head, payload = frames if len(frames) == 2 else (frames[0], b"")
        size = len(payload)
        if size >= MIN_SHARED_BYTES and self._shares:
            self._out.append((memoryview(_HEADER.pack(len(head), size, 1) + head), SealedPayload(payload)))
        else:
            data = b"".join((_HEADER.pack(len(head), size, 0), head, payload))
            self._out.append((memoryview(data), None))
        return self.flush()

    def flush(self) -> bool:
        """Send the waiting bytes. Returns whether all are out. On a non-blocking socket a call takes little time, so call
        it again.
        """
        out = self._out
        try:
            while out:
                data, share = out[0]
                if share is None:
                    sent = self._sock.send(data)
                else:
                    while share.left:
                        share.fill(FILL_BYTES)
                        if share.left and not self._sock.getblocking():
                            return False
                    rights = array.array("i", [share.descriptor])
                    sent = self._sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
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
        """Drop all waiting bytes: the peer is closed."""
        for _, share in self._out:
            if share is not None:
                share.close()
        self._out.clear()

    # -- in --------------------------------------------------------------------------------------

    def receive(self) -> list[list[Any]]:
        """All messages that have arrived, without waiting. Raises EOFError when the peer is closed and all messages were
        read.
        """
        try:
            for _ in range(_MAX_READS_PER_TURN):
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

        Blocks for at most *timeout* seconds (None: no limit), then raises TimeoutError. Raises EOFError when the peer is
        closed.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self._ready:
            if self._ended:
                raise EOFError("the other end is closed")
            # poll, and do not block in the read: a blocked read also wakes when the peer has read from the socket
            left = _EVER if deadline is None else max(0.0, deadline - time.monotonic())
            if not self._waits.wait(self._readable, left):
                raise TimeoutError(f"no message within {timeout} s")
            with contextlib.suppress(BlockingIOError):
                self._read(_DONTWAIT)
        return self._ready.popleft()

    def _readable(self, seconds: float) -> bool:
        """Whether bytes can be read within *seconds*."""
        if self._poll is None:
            return bool(select.select([self._sock], [], [], None if seconds == _EVER else seconds)[0])
        return bool(self._poll.poll(None if seconds == _EVER else seconds * 1000))

    def _read(self, flags: int) -> bool:
        """Read once and parse the bytes. Returns whether no more bytes were there."""
        try:
            if self._shares:
                data, ancillary, told, _ = self._sock.recvmsg(_READ_BYTES, _ANCILLARY, flags | _CLOEXEC)
                if ancillary or told & _TRUNCATED:
                    self._take(ancillary, told)
            else:
                data, ancillary = self._sock.recv(_READ_BYTES, flags), []
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
        if len(self._descriptors) > MAX_DESCRIPTORS:
            raise ProtocolError("descriptors came without a payload")
        return len(data) < _READ_BYTES and not ancillary

    def _take(self, ancillary: list[tuple[int, int, bytes]], told: int) -> None:
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                self._descriptors.extend(array.array("i", data[: len(data) - len(data) % 4]))
        if told & _TRUNCATED:
            raise ProtocolError("no file descriptor is left for a payload: raise the limit (ulimit -n)")

    def _parse(self, data: bytes | bytearray) -> int:
        """Queue the whole messages at the start of *data*. Returns their number of bytes."""
        done, have = 0, len(data)
        while have - done >= _HEADER.size:
            head, size, flag = _HEADER.unpack_from(data, done)
            inline = MIN_SHARED_BYTES - 1 if self._shares else MAX_PAYLOAD_BYTES
            if head > MAX_HEAD_BYTES or flag > 1 or size > (MAX_PAYLOAD_BYTES if flag else inline):
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
        """The content of the next descriptor. It lives as long as it is referenced."""
        if not self._descriptors:
            raise ProtocolError("a payload's descriptor did not come with it")
        descriptor = self._descriptors.popleft()
        try:
            if not 0 < size == os.fstat(descriptor).st_size:
                raise ProtocolError("a payload's file is not as long as its header says")
            if not is_sealed(descriptor):
                raise ProtocolError("a payload's file could still change")
            return read_file(descriptor, size)
        except BaseException:
            os.close(descriptor)
            raise
