"""The TCP connections of a broker's sockets: the key of each, the bytes that ZeroMQ holds of it, and how to cut it.

ZeroMQ gives out a message when all of its frames have come. It bounds the size of a frame and the number of messages,
but not the number of frames, so it would hold one message of very many frames whole. The system counts the bytes of
each connection. They tell how many bytes ZeroMQ has read since it gave out the last message. A connection with too many
is cut. This needs Linux.

The sockets tell nothing of an incomplete message, so a thread looks at the connections. It rests while no bytes arrive.
It also cuts connections whose peers have been silent for long, connections of a key that has too many (no key may take
all descriptors), and those whose peers are gone, stopped, or do not read.
"""

from __future__ import annotations

import array
import contextlib
import os
import select
import socket as plain
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import zmq

from park.net.packet_filters import drop_all

try:
    import fcntl
    import termios
except ImportError:  # Windows
    fcntl = termios = None  # type: ignore[assignment]

#: Bytes that ZeroMQ may hold of one connection without giving out a message, and of all connections together. A full
#: queue of the longest frames that honest peers send takes half of the former.
MAX_HELD_BYTES, MAX_ALL_HELD_BYTES = 32 << 20, 1 << 30
#: Seconds between two looks while bytes arrive.
HELD_POLL_SECONDS = 0.05
#: Seconds in which a connection has to give out its first message, and between two looks for those that have not.
FIRST_MESSAGE_SECONDS, SWEEP_SECONDS = 20.0, 5.0
#: Seconds without a sign of the peer's system, or in which a peer does not read what waits for it, after which it is
#: cut.
SILENCE_SECONDS = 20
#: An option of sockets, which Python does not name.
_SO_COOKIE = 57
#: Where fields stand in the system's `struct tcp_info`: milliseconds since the last bytes and the last acknowledgement came
#: (32 bits), bytes that the peer has acknowledged and bytes that have come from it (64 bits).
_SILENT_AT, _TAKEN_AT, _RECEIVED_AT = 52, 120, 128


class Connection(NamedTuple):
    """A descriptor, and the system's number of its socket, because another socket may get the same descriptor later."""

    descriptor: int
    #: 0: the system gives no such numbers
    cookie: int

    def is_open(self) -> bool:
        """Whether the descriptor still is this connection's."""
        return _cookie(self.descriptor) == self.cookie

    def hang_up(self) -> str:
        """Cut the connection, if it goes over TCP. Returns the address of its peer; "": there was none.

        It closes the incoming direction, so that ZeroMQ reads to the end and closes the connection. Closing both
        directions at once would be an error to ZeroMQ, as a reset is (see `park.net.packet_filters`).
        """
        with contextlib.suppress(OSError), socket_at(self.descriptor) as found:
            if found.family in (plain.AF_INET, plain.AF_INET6) and _cookie_of(found) == self.cookie:
                drop_all(found)
                place = str(found.getpeername()[0])
                found.shutdown(plain.SHUT_RD)
                return place
        return ""


class Connections:
    """The connections that have given out a message, by descriptor, with the id of the key of each."""

    def __init__(self) -> None:
        self._users: dict[int, tuple[bytes, Connection]] = {}
        #: the ids of keys that were revoked, or have expired
        self.revoked: set[bytes] = set()
        #: descriptors of connections that have given out a message since they were looked at
        self.heard: set[int] = set()

    def add(self, key: bytes, frame: Any) -> Connection:
        """Note that a message with this key has come. Returns the connection, which *frame* names."""
        connection = connection_of(descriptor_of(frame))
        self._users[connection.descriptor] = key, connection
        self.heard.add(connection.descriptor)
        return connection

    def key_of(self, connection: Connection) -> str:
        """The id of the connection's key; "": it has given out no message."""
        user, known = self._users.get(connection.descriptor, (b"", None))
        return user.decode() if known == connection else ""

    def revoke(self, key: bytes) -> int:
        """Cut the connections of a key. Returns how many there were."""
        self.revoked.add(key)
        found = [connection for user, connection in self._users.values() if user == key]
        for connection in found:
            del self._users[connection.descriptor]
        return sum(bool(connection.hang_up()) for connection in found)


class ConnectionWatch:
    """Cuts connections, as the module says. *share*: connections of one key. *tell* gets the reason of each cut."""

    def __init__(self, connections: Connections, share: int, tell: Callable[[str], None]) -> None:
        self._connections = connections
        self._share = share
        self._tell = tell
        #: by descriptor
        self._opened: dict[int, Connection] = {}
        #: by descriptor: until when the connection has to give out its first message
        self._silent: dict[int, float] = {}
        #: by descriptor: the bytes that had been read of the connection when it gave out its last message
        self._given: dict[int, int] = {}
        #: by descriptor: the bytes that the peer has acknowledged, and since when it acknowledges no more although
        #: bytes wait
        self._taken: dict[int, tuple[int, float]] = {}
        #: by descriptor: the id of the key, where the connection has given out a message
        self._keys: dict[int, str] = {}
        #: by descriptor: the bytes held when the connection was last looked at, where there were any
        self._held: dict[int, int] = {}
        self._poll = select.epoll()
        self._closed = threading.Event()
        self._wake = os.pipe()
        self._poll.register(self._wake[0], select.EPOLLIN)
        self._thread = threading.Thread(target=self._run, name="park connections", daemon=True)
        self._thread.start()

    def opened(self, descriptor: int) -> None:
        """Look at a new connection."""
        self._opened[descriptor] = connection_of(descriptor)
        self._given[descriptor] = 0
        self._taken.pop(descriptor, None)
        self._keys.pop(descriptor, None)
        self._silent[descriptor] = time.monotonic() + FIRST_MESSAGE_SECONDS
        with contextlib.suppress(OSError):  # it has gone again, or was known under this number
            self._poll.register(descriptor, select.EPOLLIN | select.EPOLLET)

    def close(self) -> None:
        self._closed.set()
        os.close(self._wake[1])
        self._thread.join()
        self._poll.close()
        os.close(self._wake[0])

    def _run(self) -> None:
        sweep_at = 0.0
        while not self._closed.is_set():
            for descriptor, _ in self._poll.poll(SWEEP_SECONDS):
                self.look(descriptor)
            if sum(list(self._held.values())) > MAX_ALL_HELD_BYTES:
                self._make_room()
            if (now := time.monotonic()) >= sweep_at:
                sweep_at = now + SWEEP_SECONDS
                self._sweep(now)
            self._closed.wait(HELD_POLL_SECONDS)

    def look(self, descriptor: int) -> None:
        """Count what ZeroMQ holds of the connection, and cut it if that is too much."""
        if descriptor not in self._given:
            return
        read = _bytes_read(descriptor)
        heard = self._connections.heard
        # without a key, the message came from another connection that has or had this descriptor
        if descriptor in heard and (key := self._connections.key_of(self._opened[descriptor])):
            heard.discard(descriptor)
            self._given[descriptor] = read
            self._keys[descriptor] = key
        held = self._held[descriptor] = read - self._given[descriptor]
        if held <= 0:
            del self._held[descriptor]
        elif held > MAX_HELD_BYTES:
            self._cut(descriptor, f"it sent {held >> 20} MB and no complete message")

    def _make_room(self) -> None:
        """Cut connections until the held bytes are within the limit for all; those with most bytes go first."""
        for descriptor in list(self._held):
            self.look(descriptor)
        for descriptor in sorted(self._held, key=self._held.__getitem__, reverse=True):
            if sum(self._held.values()) <= MAX_ALL_HELD_BYTES:
                break
            self._cut(
                descriptor, "the incomplete messages of all connections are too long, and it has the longest"
            )

    def _sweep(self, now: float) -> None:
        """Cut connections that have been silent for long, and the newest connections of keys that have too many."""
        for descriptor, until in list(self._silent.items()):
            if descriptor in self._connections.heard:
                self.look(descriptor)
            if self._keys.get(descriptor):
                del self._silent[descriptor]
            elif now >= until:
                self._cut(descriptor, "it has said nothing")
        for descriptor in list(self._given):
            if self._opened[descriptor].is_open() and (reason := self._silence(descriptor, now)):
                self._cut(descriptor, reason)
        if len(self._keys) > self._share:
            for descriptor in [d for d in list(self._keys) if not self._opened[d].is_open()]:
                self._keys.pop(descriptor, None)
            by_key: dict[str, list[int]] = {}
            for descriptor, key in list(self._keys.items()):
                by_key.setdefault(key, []).append(descriptor)
            for found in by_key.values():
                for descriptor in found[self._share :]:
                    self._cut(descriptor, f"its key has more than {self._share:,} connections")

    def _silence(self, descriptor: int, now: float) -> str:
        """Why the peer seems to be gone or stopped; "": it does not."""
        silent, taken, waits = _signs(descriptor)
        before, since = self._taken.get(descriptor, (-1, now))
        if not waits or taken != before:
            since = now
        self._taken[descriptor] = taken, since
        if silent > SILENCE_SECONDS:
            return f"there is no sign of it for {silent:.0f} s"
        return f"it takes nothing for {now - since:.0f} s" if now - since > SILENCE_SECONDS else ""

    def _cut(self, descriptor: int, reason: str) -> None:
        for known in (self._held, self._given, self._silent, self._taken):
            known.pop(descriptor, None)
        key = self._keys.pop(descriptor, "")
        whose = f"with the key {key}" if key else "without a message"
        if place := self._opened[descriptor].hang_up():
            self._tell(f"a connection from {place} {whose}: {reason}")


@contextlib.contextmanager
def socket_at(descriptor: int) -> Iterator[plain.socket]:
    """A second socket object on the descriptor, which is closed at the end. Raises OSError if the descriptor is no
    socket.
    """
    own = os.dup(descriptor)
    try:
        found = plain.socket(fileno=own)
    except OSError:  # it is a file now
        os.close(own)
        raise
    with found:
        yield found


def descriptor_of(frame: Any) -> int:
    """The descriptor of the connection through which a frame has come; -1: not known."""
    try:
        return int(frame.get(zmq.SRCFD))
    except (zmq.ZMQError, ValueError, TypeError):
        return -1


def connection_of(descriptor: int) -> Connection:
    """The connection that has the descriptor now."""
    return Connection(descriptor, _cookie(descriptor))


def _cookie(descriptor: int) -> int:
    with contextlib.suppress(OSError), socket_at(descriptor) as found:
        return _cookie_of(found)
    return 0


def _cookie_of(socket: plain.socket) -> int:
    with contextlib.suppress(OSError):
        return int.from_bytes(socket.getsockopt(plain.SOL_SOCKET, _SO_COOKIE, 8), sys.byteorder)
    return 0


def _signs(descriptor: int) -> tuple[float, int, int]:
    """The signs of a TCP connection: seconds without a sign of its peer, bytes that the peer has taken, and bytes that
    wait.
    """
    waiting = array.array("i", [0])
    with contextlib.suppress(OSError, struct.error), socket_at(descriptor) as connection:
        found = connection.getsockopt(plain.IPPROTO_TCP, plain.TCP_INFO, 256)
        fcntl.ioctl(connection, termios.TIOCOUTQ, waiting)
        (taken,) = struct.unpack_from("Q", found, _TAKEN_AT)
        return min(struct.unpack_from("II", found, _SILENT_AT)) / 1000, int(taken), waiting[0]
    return 0.0, 0, 0


def _bytes_read(descriptor: int) -> int:
    """The bytes that this process has read of a connection over TCP; 0: there is none."""
    waiting = array.array("i", [0])
    with contextlib.suppress(OSError, struct.error), socket_at(descriptor) as connection:
        counts = connection.getsockopt(plain.IPPROTO_TCP, plain.TCP_INFO, 256)
        fcntl.ioctl(connection, termios.FIONREAD, waiting)
        return int(struct.unpack_from("Q", counts, _RECEIVED_AT)[0]) - waiting[0]
    return 0
