"""The exchange of long code with other kernels, beside the kernel's loop.

On one machine a kernel lends its code as a sealed file in memory: a kernel of the same Unix user opens it and copies
nothing. Kernels of other machines fetch it over TCP, encrypted (`park.net.ciphertext`, `park.net.code_server`). The
server listens at the address from which this machine reaches the broker, and only once the broker has asked for it.
A kernel checks the hash of code that it takes, unless the other one has shown the same key. All that takes time happens
in threads.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

from park.net import ciphertext
from park.net.code_server import Ciphertext, CodeServer, NamelessFile, fetch
from park.net.reactor import Reactor
from park.util import sealed
from park.wire.fragments import MemoryBuffer, PayloadBuffer
from park.wire.messages import Offer, Serve, Shared
from park.wire.pack import Buffer, code_hash


def this_machine() -> str:
    """A name of this machine and its Unix user, the same for all processes that can open each other's files; "": they
    cannot.
    """
    if not sealed.HAS_FILES:
        return ""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()
        spaces = [os.stat(f"/proc/self/ns/{kind}").st_ino for kind in ("pid", "user", "net")]
    except OSError:
        return ""
    return hashlib.blake2b(f"{boot} {spaces} {os.getuid()}".encode(), digest_size=16).hexdigest()


class CodeExchange:
    """The exchange of code with other kernels. *machine*: the name of this machine, as `this_machine` has it. *host*:
    the address at which other machines reach this one; "": they do not, and it fetches nothing from them.
    """

    def __init__(self, reactor: Reactor, machine: str, host: str = "") -> None:
        self._reactor = reactor
        self.machine = machine
        self.host = host
        #: started when the first code is encrypted
        self._server: CodeServer | None = None
        self._starting = threading.Lock()

    def share(
        self, code: bytes, data: Buffer, abroad: bool, done: Callable[[Buffer, Shared | None], None]
    ) -> None:
        """Let other kernels take the code. Kernels of other machines may, too, with *abroad* or if that costs nothing.

        *done* gets the same bytes in a file that others may open, and the data by which they find it; None: they cannot
        have it.
        """
        known = self._server.find(code) if self._server is not None else None
        if not (abroad and self.host) or known is not None:
            done(*self._shared(code, data, known))
        else:
            self._in_thread(lambda: self._shared(code, data, self._encrypt(code, data)), done)

    def take(self, offer: Offer, done: Callable[[Buffer | None], None]) -> None:
        """Take code from another kernel. *done* gets its bytes in the reactor's thread; None: they cannot be had."""
        self._in_thread(lambda: (self._take(offer),), done)

    def serve(self, message: Serve) -> None:
        """Another kernel will fetch a ciphertext."""
        if self._server is not None:
            self._server.admit(message.cipher, message.ticket, message.seconds)

    def close(self) -> None:
        """Serve no more."""
        if self._server is not None:
            self._server.close()

    def _in_thread(self, work: Callable[[], tuple[object, ...]], done: Callable[..., None]) -> None:
        """Do *work* in a thread, and pass its result to *done* in the thread of the reactor."""

        def run() -> None:
            self._reactor.in_thread(partial(done, *work()))

        threading.Thread(target=run, name="park-code", daemon=True).start()

    def _shared(self, code: bytes, data: Buffer, found: Ciphertext | None) -> tuple[Buffer, Shared | None]:
        try:
            data = sealed.sealed(data)
        except OSError:
            return data, None
        shared = Shared(code, os.getpid(), sealed.descriptor_of(data))
        if found is None or self._server is None:
            return data, shared
        return data, Shared(
            code, shared.process, shared.file, self._server.port, found.name, found.key, found.secret
        )

    def _encrypt(self, code: bytes, data: Buffer) -> Ciphertext | None:
        """The stored ciphertext of the code; None: the disk has no room for it."""
        try:
            file = NamelessFile(len(data))
            name, key = ciphertext.encrypt(data, file.write)
            return self._store(Ciphertext(code, name, key, os.urandom(32), len(data), file))
        except OSError:
            return None

    def _store(self, found: Ciphertext) -> Ciphertext:
        with self._starting:
            if self._server is None:
                self._server = CodeServer(self.host)
        self._server.store(found)
        return found

    def _take(self, offer: Offer) -> Buffer | None:
        try:
            if offer.address:
                return self._fetch(offer)
            data = sealed.open_of(offer.process, offer.file, offer.size)
            return data if offer.trusted or code_hash(data) == offer.hash else None
        except (OSError, EOFError, ValueError):  # its holder is gone, or is no kernel
            return None

    def _fetch(self, offer: Offer) -> Buffer | None:
        """Fetch the ciphertext of the code, keep it for others, and return the code."""
        if not self.host:
            return None
        file, target = NamelessFile(offer.size), _place_for(offer.size)
        cipher, number, piece = ciphertext.Cipher(offer.key, offer.size), 0, bytearray()
        sizes = list(ciphertext.piece_sizes(offer.size))
        for data in fetch(offer.address, offer.cipher, offer.ticket, offer.size):
            piece += data
            while number < len(sizes) and len(piece) >= sizes[number]:
                whole = bytes(memoryview(piece)[: sizes[number]])
                del piece[: sizes[number]]
                target.put(number * ciphertext.PIECE_BYTES, cipher.decrypt(number, whole))
                file.write(whole)
                number += 1
        found = target.done()
        if cipher.name != offer.cipher or not (offer.trusted or code_hash(found) == offer.hash):
            return None
        with contextlib.suppress(OSError):  # others have to take it elsewhere
            self._store(Ciphertext(offer.hash, offer.cipher, offer.key, os.urandom(32), offer.size, file))
        return found


def _place_for(size: int) -> PayloadBuffer:
    try:
        return sealed.SealedBuffer(size)
    except OSError:
        return MemoryBuffer(size)
