"""A copy of the broker's table that follows it: equal to it at some change, or stale and saying so.

The broker publishes each turn's changes with the number of the first (Deltas), and every second the
number of the last (Head). A published change may be lost, and only the numbers tell the
subscriber. So a mirror is in one of three states:

initial  It has asked nothing yet.
syncing  It has asked for the whole table (a Snapshot, answered by a Header over another connection) and keeps
         what is published meanwhile. When the Header comes, what it already contains is dropped and the rest
         follows it; then it is live.
live     Each change has the number after the last one. A gap, a Head beyond it (the tail was lost), another
         store or a later epoch of the broker, or a change that does not fit: back to syncing. Other mirrors may
         have lost it, too: each waits a little while of its own (*jitter*) before it asks.

Numbers order changes only within one life of one broker, so (store, epoch) comes first; what an earlier life still had
under way is ignored. While the mirror syncs, the old table stays readable, and `stale` is True. `stale` is also True if
a live mirror gets no message for `STALE_SECONDS` seconds.

The mirror has no clock and no socket. Its owner passes it every message with the time, sends a Snapshot when
`wants_snapshot` says so, and calls `tick` with the time about once a second, even while it cannot send.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from enum import StrEnum

from park.errors import ProtocolError
from park.model import JobRecord, KernelRecord, OwnerRecord
from park.table.table import AnyRecord, Rows, Table, unpack_deltas
from park.wire.codec import Buffer
from park.wire.messages import Deltas, Head, Header, Message

#: Seconds without a message after which a live mirror is stale; the broker sends one every second.
STALE_SECONDS = 5.0
#: Seconds after which an unanswered Snapshot is sent again.
SNAPSHOT_TIMEOUT_SECONDS = 5.0
#: Seconds between two Snapshots, at least, even where every change is lost.
SNAPSHOT_PACE_SECONDS = 1.0
#: Seconds over which mirrors that have lost the same change spread their Snapshots.
RESYNC_SPREAD_SECONDS = 0.5
#: Messages that are kept while syncing, at most. Beyond that the oldest are dropped; the gap shows if the Header lacks
#: them.
MAX_KEPT_MESSAGES = 4096

Change = tuple[AnyRecord | None, AnyRecord | None]
Callback = Callable[[AnyRecord | None, AnyRecord | None], object]

_log = logging.getLogger("park")


class MirrorState(StrEnum):
    """The state of a mirror."""

    INITIAL = "initial"
    SYNCING = "syncing"
    LIVE = "live"


class Mirror:
    """A copy of the broker's table that follows it; the module has the rules. *jitter* gives seconds to wait after a
    loss.
    """

    def __init__(self, jitter: Callable[[], float] = lambda: 0.0) -> None:
        self._jitter = jitter
        self.state = MirrorState.INITIAL
        #: equal to the broker's at its `seq` in the life (`store`, `epoch`); replaced by each Header
        self.table = Table()
        self.store = ""
        self.epoch = 0
        #: the time of the last Snapshot, and the earliest time of the next
        self._asked = float("-inf")
        self._due = float("-inf")
        self._heard = float("-inf")
        self._now = float("-inf")
        #: messages published while syncing; empty while live
        self._kept: deque[tuple[Deltas | Head, Buffer]] = deque(maxlen=MAX_KEPT_MESSAGES)
        self._callbacks: dict[object, Callback] = {}

    def __repr__(self) -> str:
        return f"<Mirror {self.state}{' (stale)' if self.stale else ''} at {self.epoch}.{self.table.seq}>"

    @property
    def jobs(self) -> Rows[int, JobRecord]:
        return self.table.jobs

    @property
    def kernels(self) -> Rows[int, KernelRecord]:
        return self.table.kernels

    @property
    def owners(self) -> Rows[str, OwnerRecord]:
        return self.table.owners

    @property
    def seq(self) -> int:
        return self.table.seq

    @property
    def stale(self) -> bool:
        """Whether the broker's table may have changed since, as of the last `tick`."""
        return self.state is not MirrorState.LIVE or self._now - self._heard > STALE_SECONDS

    def subscribe(self, callback: Callback) -> Callable[[], None]:
        """Call ``callback(old, new)`` after each change of a row (None: no such row). Returns a function that ends the
        subscription.

        After a Header the callback runs once for each row that differs. Exceptions of the callback are logged.
        """
        token = object()
        self._callbacks[token] = callback

        def unsubscribe() -> None:
            self._callbacks.pop(token, None)

        return unsubscribe

    def tick(self, now: float) -> None:
        """Note the time *now*, which makes a mirror stale while no message comes."""
        self._now = max(now, self._now)

    def deadline(self) -> float:
        """The time at which `wants_snapshot` may next be True."""
        return float("inf") if self.state is MirrorState.LIVE else self._due

    def wants_snapshot(self, now: float) -> bool:
        """Whether to send a Snapshot now; True counts as sent."""
        self.tick(now)
        if self.state is MirrorState.LIVE or now < self._due:
            return False
        self.state = MirrorState.SYNCING
        self._asked, self._due = now, now + SNAPSHOT_TIMEOUT_SECONDS
        return True

    def lost(self) -> None:
        """The connection is lost, and with it any unanswered Snapshot: ask again without waiting for the answer."""
        if self.state is MirrorState.SYNCING:
            self._due = min(self._due, self._soon())

    def feed(self, message: Message, payload: Buffer, now: float) -> list[Change]:
        """Take in a Header, Deltas or Head that arrived at *now*. Returns the changes of the table."""
        self.tick(now)
        if isinstance(message, Header):
            return self._adopt(message, payload)
        if isinstance(message, Deltas | Head):
            return self._follow(message, payload)
        return []

    def _follow(self, message: Deltas | Head, payload: Buffer) -> list[Change]:
        if message.store == self.store and message.epoch < self.epoch:
            return []  # from an earlier life of the broker
        if self.state is not MirrorState.LIVE:
            self._kept.append((message, payload))
            return []
        if (message.store, message.epoch) == (self.store, self.epoch):
            self._heard = self._now
            last = message.seq if isinstance(message, Head) else message.seq + message.count - 1
            if last <= self.seq:
                return []
            if isinstance(message, Deltas) and message.seq <= self.seq + 1:
                return self._fold(message, payload)
        self._resync()
        self._kept.append((message, payload))
        return []

    def _fold(self, message: Deltas, payload: Buffer) -> list[Change]:
        """Apply the deltas that are new; the first new one has the next number."""
        changes: list[Change] = []
        try:
            deltas = unpack_deltas(payload)
            if len(deltas) != message.count:
                raise ProtocolError(f"{len(deltas)} deltas came, {message.count} were announced")
            for delta in deltas[self.seq + 1 - message.seq :]:
                changes.append(self.table.apply(delta))
                self._tell(changes[-1])
        except ProtocolError:
            _log.exception("the broker's changes do not fit this mirror at %d", self.table.seq)
            self._resync()
        return changes

    def _adopt(self, message: Header, payload: Buffer) -> list[Change]:
        """Replace the table by the whole table of a Header."""
        if self.state is MirrorState.LIVE:
            return []  # the second answer of two
        if message.store == self.store and (message.epoch, message.seq) < (self.epoch, self.table.seq):
            return []  # older than the table that this mirror has
        try:
            table = Table.from_header(payload, message.seq)
        except ProtocolError:
            _log.exception("the broker's table cannot be read")
            return []
        changes = self.table.changes(table)
        self.table, self.store, self.epoch = table, message.store, message.epoch
        self.state, self._heard = MirrorState.LIVE, self._now
        for change in changes:
            self._tell(change)
        kept, self._kept = self._kept, deque(maxlen=MAX_KEPT_MESSAGES)
        for later, its_payload in kept:
            # A message of another store is either older than this Header, and would make the mirror ask for
            # ever, or newer, and then that store's next Head will say so again.
            if later.store == self.store:
                changes += self._follow(later, its_payload)
        return changes

    def _resync(self) -> None:
        self.state = MirrorState.SYNCING
        self._due = self._soon()

    def _soon(self) -> float:
        """The time at which to ask for lost changes."""
        return max(self._asked + SNAPSHOT_PACE_SECONDS, self._now + self._jitter())

    def _tell(self, change: Change) -> None:
        for callback in list(self._callbacks.values()):
            try:
                callback(*change)
            except Exception:
                _log.exception("a subscriber to the table failed")
