"""The authenticator of a broker's sockets: it accepts keys, and cuts the connections of keys that are revoked or
expired.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Protocol

import zmq
from zmq.utils import z85

from park.net import zap
from park.net.connections import Connections, ConnectionWatch
from park.net.descriptors import DescriptorReserve
from park.net.keys import RESCAN_SECONDS, KeyEntry, KeyPair, Keyring
from park.net.polled import Polled, open_socket

#: The domain of the table's socket (`park.net.zap`).
TABLE = "table"
#: Seconds between two writings of when keys were used.
WRITE_USED_SECONDS = 5.0


class RevocableSocket(Protocol):
    """A guarded socket that tells its broker of revoked keys."""

    def revoke(self, key: bytes) -> None:
        """The connections of the key with this id were cut."""


class Authenticator(Polled):
    """The component of the broker's reactor that authenticates each connection, for all sockets of its context.

    ZeroMQ asks one authenticator for each context, so this one has a context of its own. *pair* is the broker's.
    """

    def __init__(
        self,
        pair: KeyPair,
        find: Callable[[str, float], KeyEntry | None],
        reserve: DescriptorReserve | None = None,
        keyring: Keyring | None = None,
    ) -> None:
        self.pair = pair
        self._find = find
        #: writes the audit log, and tells which keys count no longer
        self.keyring = keyring
        #: the sockets that it guards, and the connections to them
        self.guarded_sockets: list[RevocableSocket] = []
        self.connections = Connections()
        #: until when keys open no table, by their ids
        self.shut_out: dict[str, float] = {}
        self._look_at = self._write_at = 0.0
        #: shuts the guarded sockets while few descriptors are free, and tells of new connections
        self.reserve = reserve
        self._watch: ConnectionWatch | None = None
        if reserve is not None and sys.platform == "linux":
            self._watch = ConnectionWatch(self.connections, reserve.most // 2, self._tell_cut)
            reserve.opened = self._watch.opened
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = open_socket(self.context, zmq.REP)
        self._socket.bind("inproc://zeromq.zap.01")

    @property
    def watches(self) -> bool:
        """Whether it closes the connections of silent peers."""
        return self._watch is not None

    def turn(self, now: float) -> None:
        while self.waiting() and (frames := self._get()):
            self._put(self._answer(frames, now))
        if self.keyring is not None and now >= self._look_at:
            self._look_at = now + RESCAN_SECONDS
            self._cut_lost(self.keyring, now)
            if now >= self._write_at:
                self._write_at = now + WRITE_USED_SECONDS
                self.keyring.write_used()

    def deadline(self) -> float | None:
        return None if self.keyring is None else self._look_at

    def _answer(self, frames: list[bytes], now: float) -> list[bytes]:
        found: list[KeyEntry] = []

        def find(raw: bytes) -> KeyEntry | None:
            entry = self._find(z85.encode(raw).decode(), now)
            if entry is not None and frames[2] == TABLE.encode() and now < self.shut_out.get(entry.id, 0.0):
                return None
            found.extend((entry,) if entry is not None else ())
            return entry

        reply = zap.answer(frames, find)
        if self.keyring is not None:
            domain, address = frames[2].decode(errors="replace"), frames[3].decode(errors="replace")
            status, text, who = (frame.decode() for frame in reply[2:5])
            if status == "200":
                self.keyring.use(found[0])
                self.keyring.audit.write(f"connected {who} from {address} to {domain}")
            else:
                self.keyring.audit.refused(f"a connection from {address} to {domain}: {text}", now)
        return reply

    def _cut_lost(self, keyring: Keyring, now: float) -> None:
        """Cut the connections of keys that were revoked or have expired."""
        for entry in keyring.lost(now):
            key = entry.id.encode()
            count = self.connections.revoke(key)
            for guarded in self.guarded_sockets:
                guarded.revoke(key)
            keyring.audit.write(f"cut {entry.role} {entry.name} {entry.id}: {count} connections")

    def _tell_cut(self, text: str) -> None:
        if self.keyring is not None:
            self.keyring.audit.refused(text, time.monotonic())

    def close(self) -> None:
        """Close all sockets of the context."""
        if self.reserve is not None:
            self.reserve.close()
        if self._watch is not None:
            self._watch.close()
        if self.keyring is not None:
            self.keyring.write_used()
        self.context.destroy(linger=0)
