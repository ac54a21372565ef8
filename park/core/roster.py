"""The kernels and clients that are connected: their slots, what they hold, and when they fall silent.

A kernel holds a lease on every attempt it was given; any message of its renews all of them. A kernel
that says nothing for one lease is lost, and so is a client.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from park.core.outcome import Peer
from park.model import KernelRecord

#: Resident drivers a kernel may hold for each of its slots while they wait in a map.
DRIVERS_PER_SLOT = 4


@dataclass(slots=True)
class Kernel:
    """One connected kernel."""

    peer: Peer
    number: int
    incarnation: bytes
    user: str
    host: str
    pid: int
    slots: int
    python: str
    heard: float
    said: float
    #: attempts that occupy a slot now
    running: set[int] = field(default_factory=set)
    #: drivers that wait in a map and occupy none
    parked: set[int] = field(default_factory=set)
    #: code that was sent to it
    known: set[bytes] = field(default_factory=set)
    #: jobs that ran here and may have to clean up
    jobs: set[int] = field(default_factory=set)

    @property
    def free(self) -> int:
        return self.slots - len(self.running)

    @property
    def full_of_drivers(self) -> bool:
        """No further driver may become resident here."""
        return len(self.parked) >= DRIVERS_PER_SLOT * self.slots

    def record(self) -> KernelRecord:
        return KernelRecord(
            kernel=self.number,
            host=self.host,
            pid=self.pid,
            slots=self.slots,
            busy=len(self.running),
            drivers=len(self.parked),
            python=self.python,
        )


@dataclass(slots=True)
class Client:
    """One connected client."""

    peer: Peer
    incarnation: bytes
    user: str
    python: str
    heard: float
    said: float
    #: sessions that end with it
    sessions: set[int] = field(default_factory=set)


class Roster:
    """Who is connected. *heartbeat* and *lease* in seconds."""

    def __init__(self, heartbeat: float, lease: float) -> None:
        self.heartbeat = heartbeat
        self.lease = lease
        self.kernels: dict[Peer, Kernel] = {}
        self.clients: dict[Peer, Client] = {}
        self._next_kernel = 1
        #: no lease ends and no heartbeat is due before this; speaking and hearing only move them later
        self._next_look = float("inf")

    def join_kernel(
        self,
        peer: Peer,
        incarnation: bytes,
        user: str,
        host: str,
        pid: int,
        slots: int,
        python: str,
        now: float,
    ) -> Kernel:
        kernel = Kernel(peer, self._next_kernel, incarnation, user, host, pid, slots, python, now, now)
        self._next_kernel += 1
        self.kernels[peer] = kernel
        self._next_look = min(self._next_look, now)
        return kernel

    def join_client(self, client: Client) -> None:
        """A new client, or one that came back."""
        self.clients[client.peer] = client
        self._next_look = min(self._next_look, client.heard)

    def move_kernel(self, kernel: Kernel, peer: Peer) -> None:
        """The same kernel came back over a new connection."""
        del self.kernels[kernel.peer]
        kernel.peer = peer
        self.kernels[peer] = kernel

    def kernel_of(self, incarnation: bytes) -> Kernel | None:
        return next((k for k in self.kernels.values() if k.incarnation == incarnation), None)

    def client_of(self, incarnation: bytes) -> Client | None:
        return next((c for c in self.clients.values() if c.incarnation == incarnation), None)

    def heard(self, peer: Peer, now: float) -> bool:
        """A message came from *peer*; False if it is not known."""
        member = self.kernels.get(peer) or self.clients.get(peer)
        if member is None:
            return False
        member.heard = now
        return True

    def said(self, peer: Peer, now: float) -> None:
        member = self.kernels.get(peer) or self.clients.get(peer)
        if member is not None:
            member.said = now

    def look(self, now: float) -> tuple[list[Kernel | Client], list[Kernel | Client]]:
        """Those whose lease has run out, and those who should hear a heartbeat."""
        if now < self._next_look:
            return [], []
        members: list[Kernel | Client] = [*self.kernels.values(), *self.clients.values()]
        silent = [m for m in members if now - m.heard >= self.lease]
        due = [m for m in members if now - m.said >= self.heartbeat and now - m.heard < self.lease]
        deadlines = (min(m.heard + self.lease, max(now, m.said) + self.heartbeat) for m in members)
        self._next_look = min(deadlines, default=float("inf"))
        return silent, due

    def next_deadline(self) -> float | None:
        """When `look` may next find something."""
        return None if self._next_look == float("inf") else self._next_look
