"""ZeroMQ sockets, opened the one way that PARK uses them, with the face of `park.util.lanes`.

A socket's descriptor only says that something may have happened: the parts look at the socket itself
in each turn, and a cycle ends when no socket has anything left. So a reactor may wait for descriptors alone.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket as plain
from typing import Any

import zmq

from park.errors import NoBroker, ProtocolError, Refused
from park.wire.parts import PIECE, Joiner, split

Frames = list[Any]

#: The largest frame that a socket takes, twice the largest piece it is given, bytes.
MAX_FRAME = 2 * PIECE
#: The largest message that is put together from pieces, bytes.
MAX_MESSAGE = 4 << 30
#: Messages that may wait for a peer.
HIGH_WATER = 10_000
#: Milliseconds that last words have to get out.
LINGER = 300

_POLLIN = int(zmq.POLLIN)


def _open(context: zmq.Context[zmq.Socket[bytes]], kind: int, hwm: int = HIGH_WATER) -> zmq.Socket[bytes]:
    socket: zmq.Socket[bytes] = context.socket(kind)
    socket.linger = 0
    socket.setsockopt(zmq.SNDHWM, hwm)
    socket.setsockopt(zmq.RCVHWM, hwm)
    socket.setsockopt(zmq.MAXMSGSIZE, MAX_FRAME)
    socket.setsockopt(zmq.RECONNECT_IVL, 100)
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, 10_000)
    socket.setsockopt(zmq.HANDSHAKE_IVL, 4_000)
    return socket


def check_address(address: str) -> None:
    """Refuse what would listen beyond this machine. Raises Refused."""
    if address.startswith("ipc://"):
        return
    host = address.removeprefix("tcp://").rpartition(":")[0].strip("[]")
    with contextlib.suppress(ValueError):
        if host == "localhost" or ipaddress.ip_address(host).is_loopback:
            return
    raise Refused(
        f"{address} would listen beyond this machine, where anybody could run code: this release "
        "has no keys yet, so tcp addresses must be of the loopback, as tcp://127.0.0.1:7275"
    )


def check_listener(address: str, seconds: float) -> None:
    """Whether anybody listens there: raises NoBroker with the system's reason, within *seconds* where it can."""
    try:
        if address.startswith("ipc://"):
            with plain.socket(plain.AF_UNIX) as probe:
                probe.settimeout(seconds)
                probe.connect(address.removeprefix("ipc://"))
        else:
            host, _, port = address.removeprefix("tcp://").rpartition(":")
            plain.create_connection((host.strip("[]"), int(port)), seconds).close()
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else "") or str(error)
        raise NoBroker(
            f"no broker answers at {address} ({reason[:1].lower()}{reason[1:]}): is it running (`park-broker`), "
            "and is the address right?"
        ) from None


class _Socket:
    def __init__(self, kind: int, context: zmq.Context[zmq.Socket[bytes]] | None = None) -> None:
        self._socket = _open(context if context is not None else zmq.Context.instance(), kind)

    def fileno(self) -> int:
        return int(self._socket.fileno())

    def bind(self, address: str) -> str:
        """Listen; the address as it is now (a port 0 is a free one)."""
        check_address(address)
        if address.startswith("ipc://"):
            path = address.removeprefix("ipc://")
            with contextlib.suppress(
                FileNotFoundError
            ):  # the lock on the home is held: it is a dead broker's
                os.unlink(path)
        self._socket.setsockopt(zmq.IPV6, int("[" in address))
        try:
            self._socket.bind(address)
        except zmq.ZMQError as error:
            raise NoBroker(f"cannot listen at {address}: {os.strerror(error.errno or 0)}") from error
        return str(self._socket.getsockopt_string(zmq.LAST_ENDPOINT))

    def _connect(self, address: str) -> None:
        self._socket.setsockopt(zmq.IPV6, int("[" in address))
        try:
            self._socket.connect(address)
        except zmq.ZMQError as error:
            self.close()
            raise NoBroker(
                f"{address!r} is no address of a broker ({os.strerror(error.errno or 0).lower()}): "
                "give tcp://HOST:PORT, ipc://FOLDER, or the path of a connection file"
            ) from error

    def _waiting(self) -> bool:
        return bool(int(self._socket.get(zmq.EVENTS)) & _POLLIN)

    def close(self) -> None:
        self._socket.close()


class Router(_Socket):
    """The broker's end towards clients, or towards kernels."""

    def __init__(self) -> None:
        super().__init__(zmq.ROUTER)
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        #: messages of which a part is missing, by peer
        self._joiners: dict[bytes, Joiner] = {}

    def send(self, name: bytes, frames: Frames) -> None:
        """To a peer that has gone, or that does not read: dropped; its lease will run out."""
        with contextlib.suppress(zmq.ZMQError):
            for piece in split(frames):
                self._socket.send_multipart([name, *piece], zmq.DONTWAIT, copy=len(piece[1]) < 65536)

    def receive(self) -> tuple[bytes, Frames] | None:
        while self._waiting():
            name, *frames = self._socket.recv_multipart(zmq.DONTWAIT)
            joiner = self._joiners.pop(name, None) or Joiner(MAX_MESSAGE)
            try:
                whole = joiner.feed(frames)
            except ProtocolError:
                whole = frames  # the loop decodes it again, and counts it
            if whole is not None:
                return name, list(whole)
            self._joiners[name] = joiner
        return None


class Dealer(_Socket):
    """A client's or a kernel's end. Its context is its own, so that `close` can wait until the last words are out."""

    def __init__(self, address: str) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        super().__init__(zmq.DEALER, self._context)
        self._socket.setsockopt(zmq.IMMEDIATE, 1)
        # what waits here is what the caller has asked for: nothing of it may be dropped
        self._socket.setsockopt(zmq.SNDHWM, 0)
        self._connect(address)
        self._joiner = Joiner(MAX_MESSAGE)

    def send(self, frames: Frames) -> None:
        """Without a connection: dropped; whoever said it says it again when the broker is back."""
        with contextlib.suppress(zmq.Again):
            for piece in split(frames):
                self._socket.send_multipart(piece, zmq.DONTWAIT, copy=len(piece[1]) < 65536)

    def receive(self) -> Frames | None:
        while self._waiting():
            frames = self._socket.recv_multipart(zmq.DONTWAIT)
            try:
                whole = self._joiner.feed(frames)
            except ProtocolError:
                whole = frames  # the loop decodes it again, and says so
            if whole is not None:
                return list(whole)
        return None

    def close(self) -> None:
        self._socket.close(LINGER)
        self._context.term()


class Publisher(_Socket):
    """The broker's end towards mirrors."""

    def __init__(self) -> None:
        super().__init__(zmq.XPUB)

    def publish(self, frames: Frames) -> None:
        while self._waiting():  # subscriptions; nobody needs to know
            self._socket.recv(zmq.DONTWAIT)
        with contextlib.suppress(zmq.Again):
            self._socket.send_multipart(frames, zmq.DONTWAIT)


class Subscriber(_Socket):
    """A mirror's end."""

    def __init__(self, address: str) -> None:
        super().__init__(zmq.SUB)
        self._socket.setsockopt(zmq.SUBSCRIBE, b"")
        self._connect(address)

    def receive(self) -> Frames | None:
        return self._socket.recv_multipart(zmq.DONTWAIT) if self._waiting() else None
