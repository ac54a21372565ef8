"""The network: connections that carry encoded frames, each first in, first out, until they are cut.

When a connection is cut all that was on its way is lost, and the next message comes from a peer that the broker
does not know, as with ZeroMQ. Published changes go another way, and may be lost without a word.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from park.broker.effects import Event
from park.wire import codec
from park.wire.messages import Message

if TYPE_CHECKING:
    from tests.sim.world import World

PYTHON = "3.11"
#: The time of the wall clock when a world begins.
WALL = 1_700_000_000.0

#: The seconds that a message is under way.
Latency = Callable[[random.Random], float]


def brisk(chance: random.Random) -> float:
    return 1e-4


def fitful(chance: random.Random) -> float:
    """A tenth of a millisecond mostly, sometimes a hundred times that."""
    seconds = 2e-4 * chance.random()
    return seconds if chance.random() < 0.97 else 100 * seconds


def carried(message: Message, payload: Any = b"") -> tuple[Message, Any]:
    """The message as it comes out at the other end."""
    return codec.decode(codec.encode(message, payload))


class Wire:
    """A peer's connection: two queues of frames, and the routing id that the broker sees.

    *receive* takes what arrives at the peer's end.
    """

    def __init__(self, world: World, side: bytes, receive: Callable[[Message, Any], None]) -> None:
        self._world = world
        self._side = side
        self._receive = receive
        self._life = 0
        self.peer = b""
        self.cut()

    def cut(self) -> None:
        """All that is on its way is lost; the broker will see another peer."""
        self._life += 1
        before, self.peer = self.peer, self._side + b"%d" % next(self._world.numbers)
        self.up: deque[list[Any]] = deque()
        self.down: deque[list[Any]] = deque()
        self._up_at = self._down_at = self._board_at = self._world.now
        self._world.connected(self, before)

    def hold_up(self, seconds: float) -> None:
        """Messages from now on arrive *seconds* later."""
        self._up_at = self._down_at = self._world.now + seconds

    def send(self, message: Message, payload: Any = b"") -> None:
        self.put_up(codec.encode(message, payload))

    def put_up(self, frames: list[Any]) -> None:
        self.up.append(frames)
        self._up_at = max(self._up_at, self._world.now + self._world.latency(self._world.random))
        self._world.at(self._up_at, self._take_up, self._life)

    def put_down(self, frames: list[Any]) -> None:
        """The broker sends."""
        self.down.append(frames)
        self._down_at = max(self._down_at, self._world.now + self._world.latency(self._world.random))
        self._world.at(self._down_at, self._take_down, self._life)

    def put_out(self, frames: list[Any]) -> None:
        """The broker publishes."""
        self._board_at = max(self._board_at, self._world.now + self._world.latency(self._world.random))
        self._world.at(self._board_at, self._take_published, self._life, frames)

    def _take_up(self, life: int) -> None:
        if life == self._life and self.up:
            self._world.hear(Event(self.peer, *codec.decode(self.up.popleft())))

    def _take_down(self, life: int) -> None:
        if life == self._life and self.down:
            self._receive(*codec.decode(self.down.popleft()))

    def _take_published(self, life: int, frames: list[Any]) -> None:
        if life == self._life:
            self._receive(*codec.decode(frames))

    def let_arrive(self) -> None:
        """Let all messages of the broker arrive now."""
        while self.down:
            self._receive(*codec.decode(self.down.popleft()))
