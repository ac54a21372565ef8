"""Ciphertexts of code for other kernels, over plain TCP: the end that serves them, and the end that fetches one.

The server greets each connection with a challenge. The fetcher answers with the name of a ticket and a proof that it
knows the ticket. The ticket itself never crosses the wire, so that an eavesdropper cannot use it. A ticket is for one
kernel and one ciphertext, counts once, and expires. Then the server sends the bytes of the ciphertext straight from
their file.

A connection has a limited time for its answer, and another one for its bytes. The number of connections is limited,
too. After any other answer the server closes the connection without a reply.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import socket
import tempfile
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Iterator

from msgspec import Struct

from park.net.ciphertext import encrypted_size
from park.wire.pack import Buffer

#: The first bytes of a server, and the bytes of its challenge.
GREETING, CHALLENGE_BYTES = b"PARKcode", 16
_ID_BYTES, _PROOF_BYTES = 8, 32
#: Connections at the same time, those of them that get bytes, and tickets that were not used.
MAX_CONNECTIONS, MAX_SENDING, MAX_TICKETS = 32, 4, 1024
#: Seconds for a connection, for an answer, and without progress.
CONNECT_SECONDS, ANSWER_SECONDS, STALL_SECONDS = 2.0, 2.0, 5.0
#: Seconds until the next attempt to accept a connection, where one has failed.
RETRY_SECONDS = 0.1
#: Bytes a second that a connection must reach.
MIN_RATE = 1 << 20
#: Bytes of ciphertexts on the disk; the least recently used ones are deleted first.
MAX_STORED_BYTES = 2 << 30
#: Bytes that stay free on the disk.
MIN_FREE_BYTES = 256 << 20
_SLICE_BYTES = 4 << 20


class NamelessFile:
    """A file of *size* bytes without a name on the local disk. It ends with the kernel. Raises OSError."""

    def __init__(self, size: int) -> None:
        folder = os.environ.get("TMPDIR") or ("/var/tmp" if os.path.isdir("/var/tmp") else None)
        with tempfile.TemporaryFile(dir=folder) as file:
            space = os.fstatvfs(file.fileno())
            if space.f_bavail * space.f_frsize < MIN_FREE_BYTES + size:
                raise OSError("the disk is nearly full")
            self.descriptor = os.dup(file.fileno())
        weakref.finalize(self, os.close, self.descriptor)

    def write(self, data: Buffer) -> None:
        """Add these bytes. Raises OSError."""
        rest = memoryview(data)
        while len(rest):
            rest = rest[os.write(self.descriptor, rest) :]


class Ciphertext(Struct, frozen=True):
    """An encrypted code of *size* bytes in a *file* without a name. *secret*: with it the broker makes tickets."""

    code: bytes
    name: bytes
    key: bytes
    secret: bytes
    size: int
    file: NamelessFile


def interface_to(host: str, port: int) -> str:
    """The address of this machine from which it reaches *host*. Raises OSError."""
    family, kind, _, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind) as probe:
        probe.connect(where)  # sends nothing
        return str(probe.getsockname()[0])


def _id_of(ticket: bytes) -> bytes:
    return hashlib.blake2b(ticket, digest_size=_ID_BYTES).digest()


def _proof(ticket: bytes, challenge: bytes, name: bytes) -> bytes:
    return hmac.digest(ticket, challenge + name, "sha256")


class CodeServer:
    """Serves ciphertexts at a port of *host* that the system chooses, from its first use on. Raises OSError."""

    def __init__(self, host: str) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.create_server((host, 0), family=family, backlog=MAX_CONNECTIONS)
        self.port = int(self._socket.getsockname()[1])
        self._stored: OrderedDict[bytes, Ciphertext] = OrderedDict()
        #: by the id of a ticket: the ticket, the name of its ciphertext, and until when it counts
        self._tickets: OrderedDict[bytes, tuple[bytes, bytes, float]] = OrderedDict()
        self._changed = threading.Condition()
        self._closed = threading.Event()
        self._free = threading.BoundedSemaphore(MAX_CONNECTIONS)
        self._sending = threading.BoundedSemaphore(MAX_SENDING)
        threading.Thread(target=self._accept, name="park-code-server", daemon=True).start()

    def close(self) -> None:
        """Accept no more connections."""
        self._closed.set()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def store(self, ciphertext: Ciphertext) -> None:
        """Serve the ciphertext, until others have taken its place."""
        with self._changed:
            self._stored[ciphertext.name] = ciphertext
            while len(self._stored) > 1 and sum(c.size for c in self._stored.values()) > MAX_STORED_BYTES:
                self._stored.popitem(last=False)  # a thread that sends it now has its file

    def find(self, code: bytes) -> Ciphertext | None:
        """The ciphertext of this code, if it is stored."""
        with self._changed:
            return next((c for c in self._stored.values() if c.code == code), None)

    def admit(self, name: bytes, ticket: bytes, seconds: float) -> None:
        """The ticket is good for one fetch of the ciphertext *name*, for some seconds."""
        with self._changed:
            while len(self._tickets) >= MAX_TICKETS:
                self._tickets.popitem(last=False)
            self._tickets[_id_of(ticket)] = ticket, name, time.monotonic() + seconds
            self._changed.notify_all()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                if self._closed.wait(RETRY_SECONDS):
                    return
                continue  # no descriptor is free now, or the caller has gone
            if self._free.acquire(blocking=False):
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()
            else:
                connection.close()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection, contextlib.suppress(OSError, EOFError):
                connection.settimeout(ANSWER_SECONDS)
                challenge = os.urandom(CHALLENGE_BYTES)
                connection.sendall(GREETING + challenge)
                answer = b"".join(_receive(connection, _ID_BYTES + _PROOF_BYTES, ANSWER_SECONDS))
                found = self._redeem(answer[:_ID_BYTES], answer[_ID_BYTES:], challenge)
                if found is not None and self._sending.acquire(blocking=False):
                    try:
                        _send(connection, found)
                    finally:
                        self._sending.release()
        finally:
            self._free.release()

    def _redeem(self, id_: bytes, proof: bytes, challenge: bytes) -> Ciphertext | None:
        """The ciphertext for which the ticket is good. The fetcher may come before the broker's message about its
        ticket.
        """
        until = time.monotonic() + ANSWER_SECONDS
        with self._changed:
            while (given := self._tickets.get(id_)) is None and (left := until - time.monotonic()) > 0:
                self._changed.wait(left)
            if given is None:
                return None
            ticket, name, good_until = given
            if not hmac.compare_digest(_proof(ticket, challenge, name), proof):
                return None  # a guess costs its holder nothing
            del self._tickets[id_]
            if time.monotonic() > good_until or name not in self._stored:
                return None
            self._stored.move_to_end(name)
            return self._stored[name]


def _send(connection: socket.socket, ciphertext: Ciphertext) -> None:
    """Send the whole ciphertext. Raises OSError where that takes too long."""
    connection.settimeout(STALL_SECONDS)
    size, start = encrypted_size(ciphertext.size), 0
    deadline = time.monotonic() + STALL_SECONDS + size / MIN_RATE
    with open(ciphertext.file.descriptor, "rb", buffering=0, closefd=False) as file:
        while start < size and time.monotonic() < deadline:
            if not (sent := connection.sendfile(file, start, min(_SLICE_BYTES, size - start))):
                return
            start += sent


def _receive(connection: socket.socket, size: int, seconds: float) -> Iterator[Buffer]:
    """The next *size* bytes as they come, within some *seconds* in all. Raises OSError, or EOFError before their end."""
    deadline = time.monotonic() + seconds
    while size:
        if (left := deadline - time.monotonic()) <= 0:
            raise TimeoutError("the bytes come too slowly")
        connection.settimeout(min(left, STALL_SECONDS))
        data = connection.recv(min(size, 1 << 18))
        if not data:
            raise EOFError("the other end has closed the connection")
        size -= len(data)
        yield data


def fetch(address: str, name: bytes, ticket: bytes, size: int) -> Iterator[Buffer]:
    """The bytes of the ciphertext of *size* bytes of code, as they come. Raises OSError, EOFError or ValueError."""
    host, _, port = address.rpartition(":")
    with socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS) as connection:
        hello = b"".join(_receive(connection, len(GREETING) + CHALLENGE_BYTES, ANSWER_SECONDS))
        if not hello.startswith(GREETING):
            raise ValueError(f"{address} serves no code")
        connection.sendall(_id_of(ticket) + _proof(ticket, hello[len(GREETING) :], name))
        whole = encrypted_size(size)
        yield from _receive(connection, whole, ANSWER_SECONDS + STALL_SECONDS + whole / MIN_RATE)
