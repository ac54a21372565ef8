"""A mirror that follows what the broker publishes, and must equal the broker's table or say that it is stale."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from park.table.mirror import Mirror
from park.wire import messages
from park.wire.messages import Message
from park.wire.presence import Contact
from tests.sim.peer import Peer
from tests.sim.wire import PYTHON

if TYPE_CHECKING:
    from tests.sim.world import World

#: Seconds between two looks at the clock.
LOOK = 1.0


class Watcher(Peer):
    """The real `Mirror` at the end of a connection and of the broker's board."""

    side = b"c"

    def __init__(self, world: World, name: str) -> None:
        self.mirror = Mirror()
        self._looked = world.now
        super().__init__(world, name)

    def hello(self) -> Message:
        return messages.Hello(self.incarnation, "eve", PYTHON)

    def arrive(self, message: Message, payload: Any) -> None:
        if isinstance(message, messages.Deltas | messages.Head):  # the board is not the connection
            self.mirror.feed(message, payload, self.world.now)
            self.check()
        else:
            super().arrive(message, payload)

    def take(self, message: Message, payload: Any) -> None:
        if isinstance(message, messages.Header):
            self.mirror.feed(message, payload, self.world.now)
            self.check()

    def attend(self) -> None:
        super().attend()
        now = self.world.now
        self._looked = now
        self.mirror.tick(now)
        if self.presence.state is Contact.LIVE and self.mirror.wants_snapshot(now):
            self.send(messages.Snapshot(1))
        self._arm()

    def deadline(self) -> float:
        return min(super().deadline(), self._looked + LOOK)

    @property
    def current(self) -> bool:
        """Whether it knows all that the broker has published."""
        manager, mirror = self.world.manager, self.mirror
        return not mirror.stale and (mirror.epoch, mirror.seq) == (manager.store.epoch, manager.table.seq)

    def check(self) -> None:
        """Assert that the mirror equals the broker's table at that number of that life."""
        mirror = self.mirror
        if mirror.store and not mirror.stale:
            rows = self.world.past[mirror.store, mirror.epoch, mirror.seq]
            assert rows == tables(mirror), f"{mirror!r} shows what the broker's table never was"


def tables(shown: Any) -> tuple[dict[Any, Any], ...]:
    """All rows of a table or a mirror."""
    return dict(shown.jobs.items()), dict(shown.kernels.items()), dict(shown.owners.items())
