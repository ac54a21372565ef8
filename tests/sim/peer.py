"""The common base of clients, kernels and mirrors: a connection, and contact that they keep."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from park.wire import messages
from park.wire.messages import Message
from park.wire.presence import Presence
from tests.sim.wire import Wire

if TYPE_CHECKING:
    from tests.sim.world import World


class Peer(ABC):
    """One end of a `Wire`. It has an alarm: set to the next time at which it has something to do by itself."""

    side: bytes

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.presence = Presence()
        self.incarnation = world.random.randbytes(16)
        self.wire = Wire(world, self.side, self.arrive)
        self.alive = True
        self._alarm = float("inf")
        self._arm()

    def __repr__(self) -> str:
        return f"<{self.name}>"

    def send(self, message: Message, payload: Any = b"") -> None:
        self.presence.say(self.world.now)
        self.wire.send(message, payload)

    def arrive(self, message: Message, payload: Any) -> None:
        if self.alive:
            self.presence.hear(message, self.world.now)
            self.take(message, payload)
            self.attend()

    def attend(self) -> None:
        """Say what is due."""
        due = self.presence.due(self.world.now)
        if due:
            if due == "hello":
                self.send(self.hello(), self.credentials())
            else:
                self.send(self.heartbeat())
        self._arm()

    def _arm(self) -> None:
        deadline = self.deadline()
        if deadline < self._alarm:
            self._alarm = deadline
            self.world.at(deadline, self._ring, deadline, quiet=True)

    def _ring(self, alarm: float) -> None:
        if alarm == self._alarm:
            self._alarm = float("inf")
            if self.alive:
                self.attend()

    def deadline(self) -> float:
        return self.presence.deadline()

    @abstractmethod
    def take(self, message: Message, payload: Any) -> None:
        """A message has come."""

    @abstractmethod
    def hello(self) -> Message:
        """Its first message."""

    def credentials(self) -> bytes:
        """The payload of its hello."""
        return b""

    def heartbeat(self) -> Message:
        return messages.Heartbeat(self.presence.epoch)
