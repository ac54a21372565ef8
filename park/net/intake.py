"""Room for long messages at a broker: the bytes that are kept of them from their first piece until they are decided.

Long messages come faster than a disk takes them. So each counts with all its bytes, of one peer, of one payer (the peers
with one key) and of all, from its first piece on; a message that does not fit waits for room. A peer sends at most
`WINDOW_BYTES` of messages for which it was not told that there is room (`park.wire.messages.Proceed`). A message that has
room needs nothing more to come to its end, so no two of them wait for each other.

Messages that wait get room in the order in which they began. A message longer than a budget gets room when nothing else
counts. While a message of one payer waits for those of others, a peer must go on with what it has begun: one that is
slower than `SLOWEST_BYTES` a second gives its room back.

The module is pure: time is an argument.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable

from msgspec import Struct

#: Bytes of long messages without room that a peer sends, at most.
WINDOW_BYTES = 8 << 20
#: Of more bytes without room a peer breaks the rule: it may have forgotten what it sent before its last hello.
MAX_EARLY_BYTES = 4 * WINDOW_BYTES
#: Bytes that have got room before a peer is told so; it has sent no more than `WINDOW_BYTES` of them meanwhile.
TELL_BYTES = WINDOW_BYTES // 2
#: Bytes a second, and seconds without a piece, of a message that others wait for.
SLOWEST_BYTES, LONGEST_REST_SECONDS = 128 << 10, 10.0


class ReceiveBudgets(Struct, frozen=True):
    """Budgets in bytes: of *all* long messages, of those of one *payer*, and of one *peer*."""

    all: int = 4 << 30
    payer: int = 1 << 30
    peer: int = 512 << 20


class IncomingMessage(Struct, eq=False):
    """One long message on its way. *go_on* is called once there is room for it."""

    keys: tuple[Hashable, Hashable, Hashable]
    size: int
    go_on: Callable[[], None]
    #: when it got room, and when its last piece came
    since: float
    at: float
    #: bytes that have come
    have: int = 0
    has_room: bool = False
    whole: bool = False


class Intake:
    """The long messages of all peers of a broker."""

    def __init__(self, room: ReceiveBudgets | None = None) -> None:
        room = room or ReceiveBudgets()
        self._limits = (room.all, room.payer, room.peer)
        #: bytes with room, and of whole messages, by key; bytes that came early, by payer
        self._used: Counter[Hashable] = Counter()
        self._early: Counter[Hashable] = Counter()
        #: messages without room, in the order in which they began; unfinished ones with room
        self._waiting: dict[IncomingMessage, None] = {}
        self._open: dict[IncomingMessage, None] = {}
        #: whether one waits for those of other payers
        self._crowded = False

    def __repr__(self) -> str:
        return f"<Intake: {self._used['']:,} bytes, {len(self._waiting)} messages wait>"

    @property
    def used(self) -> int:
        """The bytes that count now."""
        return self._used[""]

    def begin(
        self, peer: Hashable, payer: Hashable, size: int, go_on: Callable[[], None], now: float
    ) -> IncomingMessage:
        """The first piece of a message of *size* bytes has come."""
        incoming = IncomingMessage(("", ("payer", payer), ("peer", peer)), size, go_on, now, now)
        self._waiting[incoming] = None
        self._admit(now)
        return incoming

    def came(self, incoming: IncomingMessage, have: int, now: float) -> bool:
        """The message has *have* bytes now. False: they are more than a peer sends without room."""
        more, incoming.have, incoming.at = have - incoming.have, have, now
        if incoming.has_room:
            return True
        payer = incoming.keys[1]
        self._early[payer] += more
        return have <= MAX_EARLY_BYTES and self._early[payer] <= self._limits[1]

    def complete(self, incoming: IncomingMessage, now: float) -> None:
        """The message is whole; its bytes count until `release`."""
        if incoming.has_room:
            del self._open[incoming]
        else:
            self._forget_early(incoming)
            self._use(incoming.keys, incoming.size)
        incoming.whole = True
        self._admit(now)

    def drop(self, incoming: IncomingMessage, now: float) -> None:
        """The unfinished message is no longer kept."""
        if incoming.has_room:
            del self._open[incoming]
            self._use(incoming.keys, -incoming.size)
        else:
            del self._waiting[incoming]
            self._forget_early(incoming)
        self._admit(now)

    def keep(self, peer: Hashable, payer: Hashable, size: int) -> None:
        """A whole message of *size* bytes has come without pieces."""
        self._use(("", ("payer", payer), ("peer", peer)), size)

    def release(self, peer: Hashable, payer: Hashable, size: int, now: float) -> None:
        """A whole message of *size* bytes was decided."""
        self._use(("", ("payer", payer), ("peer", peer)), -size)
        self._admit(now)

    def release_all(self, now: float) -> None:
        """No whole message is kept any longer."""
        self._used.clear()
        for incoming in self._open:
            self._use(incoming.keys, incoming.size)
        self._admit(now)

    def slow(self, now: float) -> list[IncomingMessage]:
        """The unfinished messages that are too slow, while others wait for them."""
        return [incoming for incoming in self._open if _is_slow(incoming, now)] if self._crowded else []

    def _admit(self, now: float) -> None:
        """Give room to messages that wait."""
        self._crowded = False
        full: set[Hashable] = set()
        for incoming in list(self._waiting):
            if full.intersection(incoming.keys):
                continue
            keys = zip(incoming.keys, self._limits, strict=True)
            over = [key for key, limit in keys if self._is_over(incoming, key, limit)]
            if over:
                full.add(over[-1])
                self._crowded |= over[-1] == ""
                continue
            del self._waiting[incoming]
            if not incoming.whole:
                self._forget_early(incoming)
                self._use(incoming.keys, incoming.size)
                incoming.has_room, incoming.since = True, now
                self._open[incoming] = None
            incoming.go_on()

    def _is_over(self, incoming: IncomingMessage, key: Hashable, limit: int) -> bool:
        used = self._used[key]
        return (
            used > max(limit, incoming.size)
            if incoming.whole
            else bool(used) and used + incoming.size > limit
        )

    def _forget_early(self, incoming: IncomingMessage) -> None:
        payer = incoming.keys[1]
        self._early[payer] -= incoming.have
        if not self._early[payer]:
            del self._early[payer]

    def _use(self, keys: tuple[Hashable, ...], size: int) -> None:
        for key in keys:
            self._used[key] += size
            if not self._used[key]:
                del self._used[key]


def _is_slow(incoming: IncomingMessage, now: float) -> bool:
    seconds = now - incoming.since - LONGEST_REST_SECONDS
    return now - incoming.at > LONGEST_REST_SECONDS or incoming.have < seconds * SLOWEST_BYTES
