"""The base of PARK's ZeroMQ sockets: how they are opened, polled, read and written.

A socket's descriptor is edge-triggered: it signals once that something may have happened, and any use of the
socket resets it. So a socket looks for a message when its descriptor has signalled, and asks ZeroMQ for events after each
use until none is left. A reactor may therefore wait for descriptors alone, and the question, which costs some 5 us, is
asked only where the answer may be yes.

Liveness. A TCP connection is closed whose peer takes nothing that waits for it for `SILENCE_SECONDS`, and ZeroMQ drops
all that it holds for that peer. `park.net.connections` closes those of a broker: an end by the system would be an error
to ZeroMQ, as a reset is (see `park.net.packet_filters`). The system ends those of callers, which connect anew; by
itself it would try a connection that a cut link has broken for minutes, with growing pauses. ZeroMQ's own heartbeats
are off: a peer that fills its queue and closes its connection would make one of them end the process (libzmq 4.3.5
asserts ``!_io_error``). Pieces of an unfinished message are signs of life, so PARK's heartbeats need not pass them.
"""

from __future__ import annotations

from typing import Any

import zmq

from park.net.connections import SILENCE_SECONDS
from park.net.outbox import Frames
from park.wire.fragments import PIECE_BYTES

#: The largest frame that a socket takes, twice the largest piece it is given, bytes.
MAX_FRAME_BYTES = 2 * PIECE_BYTES
#: Messages that ZeroMQ holds for a client or a kernel to read.
READ_AHEAD_MESSAGES = 1000
#: Messages that ZeroMQ holds from the broker for each peer, and for the broker from each peer.
HIGH_WATER_MESSAGES = 32
#: Bytes of pieces that one turn receives, or sends to one peer, before other peers get their turn.
TURN_BYTES = 4 << 20
#: Seconds between the questions of the system whether a silent peer is there, and seconds after which it closes a
#: connection that is watched, if PARK has not closed it before.
PROBE_SECONDS, SYSTEM_SECONDS = 5, 86_400
#: The most milliseconds between two attempts to reach a broker that is away. Kernels that hold work have one lease to
#: reconnect once the broker is back.
MAX_RECONNECT_MILLISECONDS = 2_000
# plain integers: to combine enums takes longer than to send
_EVENTS, _POLLIN, _RCVMORE = int(zmq.EVENTS), int(zmq.POLLIN), int(zmq.RCVMORE)
_DONTWAIT, _MORE = int(zmq.DONTWAIT), int(zmq.DONTWAIT | zmq.SNDMORE)
#: Frames from this size on are not copied into ZeroMQ.
_MIN_UNCOPIED_BYTES = 65536


def open_socket(
    context: zmq.Context[zmq.Socket[bytes]], kind: int, hwm: int = READ_AHEAD_MESSAGES
) -> zmq.Socket[bytes]:
    """A socket of *kind* with the options of all PARK sockets. *hwm*: messages that ZeroMQ holds in each direction."""
    socket: zmq.Socket[bytes] = context.socket(kind)
    socket.linger = 0
    socket.setsockopt(zmq.SNDHWM, hwm)
    socket.setsockopt(zmq.RCVHWM, hwm)
    socket.setsockopt(zmq.MAXMSGSIZE, MAX_FRAME_BYTES)
    socket.setsockopt(zmq.RECONNECT_IVL, 100)
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, MAX_RECONNECT_MILLISECONDS)
    socket.setsockopt(zmq.HANDSHAKE_IVL, 4_000)
    return socket


class Polled:
    """A socket that a reactor listens to."""

    _socket: zmq.Socket[bytes]
    #: the socket was used, so ZeroMQ must be asked for events; and, if not used, whether it may have a message
    _used, _full = True, False

    def fileno(self) -> int:
        return int(self._socket.fileno())

    def stir(self, ready: int = 0) -> None:
        """The descriptor has signalled, nearly always because there is a message."""
        self._used, self._full = False, True

    def waiting(self) -> bool:
        """Whether there may be a message to receive."""
        if self._used:
            self._used = False
            self._full = bool(self._socket.get(_EVENTS) & _POLLIN)  # type: ignore[operator]
        return self._full

    def _put(self, frames: Frames) -> None:
        """Send one message. Raises the errors of ZeroMQ."""
        self._used = True
        send = self._socket.send
        for frame in frames[:-1]:
            send(frame, _MORE)
        last = frames[-1]
        send(last, _DONTWAIT, copy=len(last) < _MIN_UNCOPIED_BYTES)

    def _get(self, copy: bool = True, named: bool = False) -> list[Any]:
        """The frames of the next message; [] if there is none. Unless *copy*, the first is a frame object of ZeroMQ.

        *named*: the first frame is the name of a peer, and always followed by another, so ZeroMQ need not be asked for
        more. Unless *copy*, that is a frame object, too: libzmq 4.3.4 does not tell of each name who has sent it. (ZeroMQ's
        own recv_multipart takes twice as long.)
        """
        socket = self._socket
        try:
            frames: list[Any] = [socket.recv(_DONTWAIT, copy)]
        except zmq.Again:  # the descriptor signalled another event
            self._used = self._full = False
            return []
        self._used = True
        if named:
            frames.append(socket.recv(_DONTWAIT, copy))
        while socket.get(_RCVMORE):
            frames.append(socket.recv(_DONTWAIT))
        return frames


class Socket(Polled):
    """The base of sockets for messages."""

    def __init__(
        self, kind: int, context: zmq.Context[zmq.Socket[bytes]] | None = None, hwm: int = READ_AHEAD_MESSAGES
    ) -> None:
        self._socket = open_socket(context if context is not None else zmq.Context.instance(), kind, hwm)

    def _end_silence(self) -> None:
        """Disconnect peers over TCP that are gone, stopped, or do not read."""
        self._socket.setsockopt(zmq.TCP_MAXRT, 1000 * SILENCE_SECONDS)
        self._socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
        self._socket.setsockopt(zmq.TCP_KEEPALIVE_IDLE, PROBE_SECONDS)
        self._socket.setsockopt(zmq.TCP_KEEPALIVE_INTVL, PROBE_SECONDS)
        self._socket.setsockopt(zmq.TCP_KEEPALIVE_CNT, SILENCE_SECONDS // PROBE_SECONDS - 1)

    def close(self) -> None:
        self._socket.close()
