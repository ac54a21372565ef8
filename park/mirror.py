"""A copy of the broker's table that follows it: equal to it at some change, or stale and saying so.

The broker publishes each turn's changes with the number of the first (Deltas), and every second the
number of the last (Head). What is published may be lost, and nothing tells the subscriber; only the
numbers do. So a mirror is in one of three states:

initial  It has asked nothing yet.
syncing  It has asked for the whole table (a Snapshot, answered by a Header over another connection) and keeps
         what is published meanwhile. When the Header comes, what it already contains is dropped and the rest
         follows it; then it is live.
live     Each change has the number after the last one. A gap, a Head beyond it (the tail was lost), another
         store or a later epoch of the broker, or a change that does not fit: back to syncing. What one mirror has
         lost others may have lost too: each waits a little while of its own (*jitter*) before it asks.

Numbers order changes only within one life of one broker, so (store, epoch) comes first; what an
earlier life still had under way is ignored. While it syncs, the table stays readable as it was, and
`stale` is True; it is True too when a live mirror has heard nothing for `SILENCE` seconds.

No clock and no socket: its owner feeds it every message with the time, sends a Snapshot when `wants_snapshot`
says so, and tells it the time (`tick`) about once a second even while it cannot send: the mirror knows
no other.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from enum import StrEnum

from park.errors import ProtocolError
from park.model import JobRecord, KernelRecord, OwnerRecord
from park.table import AnyRecord, Rows, Table, unpack_deltas
from park.wire.codec import Buffer
from park.wire.messages import Deltas, Head, Header, Message

#: Seconds without news after which a live mirror is stale; the broker speaks every second.
SILENCE = 5.0
#: Seconds after which an unanswered Snapshot is asked for again.
PATIENCE = 5.0
#: Seconds between two Snapshots at least, even where every change is lost.
PACE = 1.0
#: Seconds over which mirrors that have lost the same change spread their questions.
SPREAD = 0.5
#: Messages kept while syncing; with more the oldest go, and if the Header lacks them, the gap shows.
KEPT = 4096

Change = tuple[AnyRecord | None, AnyRecord | None]
Callback = Callable[[AnyRecord | None, AnyRecord | None], object]

_log = logging.getLogger("park")


class State(StrEnum):
    """Where a mirror stands."""

    INITIAL = "initial"
    SYNCING = "syncing"
    LIVE = "live"


class Mirror:
    """The table of a broker, followed; see the module for the rules. *jitter* gives the seconds to wait after a loss."""

    def __init__(self, jitter: Callable[[], float] = lambda: 0.0) -> None:
        self._jitter = jitter
        self.state = State.INITIAL
        #: equal to the broker's at its `seq` in the life (`store`, `epoch`); replaced by each Header
        self.table = Table()
        self.store = ""
        self.epoch = 0
        #: when the last Snapshot was asked for, and from when on the next may be
        self._asked = float("-inf")
        self._due = float("-inf")
        self._heard = float("-inf")
        self._now = float("-inf")
        #: what was published while syncing; empty while live
        self._kept: deque[tuple[Deltas | Head, Buffer]] = deque(maxlen=KEPT)
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
        """Whether the broker's table may have moved on, as far as this mirror was told the time."""
        return self.state is not State.LIVE or self._now - self._heard > SILENCE

    def subscribe(self, callback: Callback) -> Callable[[], None]:
        """Call ``callback(old, new)`` after each change of a row (None: no such row); returns its end.

        After a Header, once for each row that differs from what was shown before. What it raises is logged.
        """
        token = object()
        self._callbacks[token] = callback

        def unsubscribe() -> None:
            self._callbacks.pop(token, None)

        return unsubscribe

    def tick(self, now: float) -> None:
        """It is *now*; what makes a mirror stale while nothing comes."""
        self._now = max(now, self._now)

    def deadline(self) -> float:
        """When `wants_snapshot` may next be True."""
        return float("inf") if self.state is State.LIVE else self._due

    def wants_snapshot(self, now: float) -> bool:
        """Whether to send a Snapshot now; True counts as sent."""
        self.tick(now)
        if self.state is State.LIVE or now < self._due:
            return False
        self.state = State.SYNCING
        self._asked, self._due = now, now + PATIENCE
        return True

    def lost(self) -> None:
        """What was asked went with a connection that is over: ask again, and do not wait for the answer."""
        if self.state is State.SYNCING:
            self._due = min(self._due, self._soon())

    def feed(self, message: Message, payload: Buffer, now: float) -> list[Change]:
        """Take in a Header, Deltas or Head that came at *now*; the changes of the table that it caused."""
        self.tick(now)
        if isinstance(message, Header):
            return self._adopt(message, payload)
        if isinstance(message, Deltas | Head):
            return self._follow(message, payload)
        return []

    def _follow(self, message: Deltas | Head, payload: Buffer) -> list[Change]:
        if message.store == self.store and message.epoch < self.epoch:
            return []  # of an earlier life
        if self.state is not State.LIVE:
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
        """Apply those of the changes that are new; the first new one is the next."""
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
        """Begin again from the whole table."""
        if self.state is State.LIVE:
            return []  # the second answer of two
        if message.store == self.store and (message.epoch, message.seq) < (self.epoch, self.table.seq):
            return []  # asked for before what is known by now
        try:
            table = Table.from_header(payload, message.seq)
        except ProtocolError:
            _log.exception("the broker's table cannot be read")
            return []
        changes = self.table.changes(table)
        self.table, self.store, self.epoch = table, message.store, message.epoch
        self.state, self._heard = State.LIVE, self._now
        for change in changes:
            self._tell(change)
        kept, self._kept = self._kept, deque(maxlen=KEPT)
        for later, its_payload in kept:
            # What another store said is either older than this Header, and would make the mirror ask for
            # ever, or newer, and then that store's next Head will say so again.
            if later.store == self.store:
                changes += self._follow(later, its_payload)
        return changes

    def _resync(self) -> None:
        self.state = State.SYNCING
        self._due = self._soon()

    def _soon(self) -> float:
        """When to ask for what was lost."""
        return max(self._asked + PACE, self._now + self._jitter())

    def _tell(self, change: Change) -> None:
        for callback in list(self._callbacks.values()):
            try:
                callback(*change)
            except Exception:
                _log.exception("a subscriber to the table failed")
