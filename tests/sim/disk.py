"""The broker's disk: a commit takes its time, and takes along what has come during the last one.

It does in the world's time what `park.broker.storage.writer.Writer` does in a thread.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from park.broker.effects import Write
from park.broker.storage.memory import MemoryStore

if TYPE_CHECKING:
    from tests.sim.world import World

#: Seconds after which a full disk is tried again.
RETRY_SECONDS = 0.5
#: The seconds that a commit takes; None: none, there is no disk.
Pause = Callable[[random.Random], float]


def lame(chance: random.Random) -> float:
    """Half a millisecond mostly, sometimes longer than everything else."""
    return chance.choice([2e-4, 5e-4, 5e-4, 1e-3, 1e-3, 0.05, 3.0 * chance.random()])


class Shelf:
    """A store in memory that outlives its brokers, and can be full.

    *jams*: then it takes not even the writes that are on their way.
    """

    jams = False

    def __init__(self) -> None:
        self.full = False
        self._store = MemoryStore()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def free_bytes(self) -> int:
        return -1 if self.full else self._store.free_bytes()

    def close(self) -> None:
        pass


class Disk:
    """The disk that makes the turns of one life of the broker durable."""

    refused = 0

    def __init__(self, world: World, pause: Pause) -> None:
        self._world = world
        self._pause = pause
        self._store = world.manager.store
        self._waiting: list[tuple[int, list[Write]]] = []
        self._busy = False
        self._done = 0

    @property
    def stuck(self) -> str:
        return "full" if self._world.shelf.full and self._world.shelf.jams else ""

    def put(self, turn: int, writes: list[Write]) -> None:
        self._waiting.append((turn, writes))
        if not self._busy:
            self._begin()

    def done(self) -> int:
        return self._done

    def close(self) -> None:
        """The broker is dead: what was not on disk is lost."""
        self._waiting.clear()
        self._store = None  # type: ignore[assignment]

    def _begin(self) -> None:
        self._busy = bool(self._waiting)
        if self._busy:
            batch, self._waiting = self._waiting, []
            self._world.at(self._world.now + self._pause(self._world.random), self._end, batch)

    def _end(self, batch: list[tuple[int, list[Write]]]) -> None:
        if self._store is None:
            return
        if self.stuck:
            batch += self._waiting
            self._waiting, self.refused = [], batch[-1][0]
            self._world.at(self._world.now + RETRY_SECONDS, self._end, batch)
            self._world.complete()
            return
        self._store.commit([write for _, writes in batch for write in writes])
        self._done = batch[-1][0]
        self._begin()
        self._world.complete()
