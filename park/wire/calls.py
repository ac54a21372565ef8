"""Maps under way, on the side that waits for their results: a client, or the kernel of a driver.

Messages about a map, and its results, may be lost with a connection or with a life of the broker. So a `Call` keeps the
units without an answer, and knows which units are answered. When contact is made anew, `Call.again` gives the messages
that repeat the map under the same key. `Call.news` passes each result on once, however often it arrives. All units
before the first kept one are answered, so an endless map takes no more memory than its units under way.

A `ClientSession` holds the maps of one session of a client. A broker that does not know the client knows none of its
sessions: the client opens each of them anew, under another number, and then repeats its maps.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from msgspec import Struct, field
from msgspec.structs import replace

from park.errors import ParkError
from park.wire.codec import Buffer
from park.wire.messages import Map, MapFailed, Message, Submit, Units
from park.wire.pack import Pack

#: Numbers in the list of answered ranges that a repeated map sends, at most: two for each range.
MAX_ANSWERED_RANGES = 2000


class Call:
    """One map: *message* is its first form, and *data* the pack of its first units."""

    __slots__ = ("_base", "_seen", "_segments", "closed", "epoch", "map", "total")

    def __init__(self, message: Map, data: Buffer) -> None:
        self.map = message
        #: no more units will come
        self.closed = message.closed
        #: the life of the broker in which the map was sent first; 0: it has not been sent
        self.epoch = message.epoch
        #: kept packs in order: first unit -> (count, pack)
        self._segments: dict[int, tuple[int, Buffer]] = {}
        #: the first kept unit, and the unit behind the last one so far
        self._base = self.total = message.start
        #: a byte for each unit from `_base` on: 1 where its result has been passed on
        self._seen = bytearray()
        self._keep(message.count, data)

    def __repr__(self) -> str:
        more = "" if self.closed else " and more"
        return (
            f"<Call {self.map.map.hex()[:8]}: {self._seen.count(0)} of {self.total} units{more} unanswered>"
        )

    def add(self, units: Units, data: Buffer) -> None:
        """Add *units*, which follow the last ones; *data* is their pack."""
        assert units.start == self.total
        self.closed = units.closed
        self._keep(units.count, data)

    def _keep(self, count: int, data: Buffer) -> None:
        if count:
            self._segments[self.total] = (count, data)
            self._seen += bytes(count)
            self.total += count

    @property
    def begun(self) -> bool:
        """Whether any result has been passed on."""
        return self._base > 0 or 1 in self._seen

    @property
    def complete(self) -> bool:
        """Whether all results have been passed on."""
        return self.closed and not self._segments

    def news(self, start: int, stop: int) -> list[tuple[int, int]]:
        """The ranges of units from *start* to *stop* without a result so far. From now on these units count as answered."""
        found: list[tuple[int, int]] = []
        seen, base = self._seen, self._base
        at, end = max(start - base, 0), min(stop - base, len(seen))
        while at < end and (lo := seen.find(0, at, end)) >= 0:
            hi = seen.find(1, lo, end)
            at = hi = hi if hi >= 0 else end
            seen[lo:hi] = b"\1" * (hi - lo)
            found.append((base + lo, base + hi))
        self._let_go()
        return found

    def fresh(self, start: int, data: Buffer, count: int) -> list[tuple[int, int, Buffer]]:
        """The new ones among *count* results from unit *start* on: (first unit, count, pack) for each range of them."""
        news = self.news(start, start + count)
        if news == [(start, start + count)]:
            return [(start, count, data)]
        pack = Pack(data) if news else None
        return [(lo, hi - lo, pack.slice(lo - start, hi - start)) for lo, hi in news if pack is not None]

    def _let_go(self) -> None:
        """Drop the leading packs whose units are all answered."""
        while self._segments:
            first = next(iter(self._segments))
            count = self._segments[first][0]
            if self._seen.find(0, 0, count) >= 0:
                return
            del self._segments[first], self._seen[:count]
            self._base = first + count

    def answered(self) -> list[int]:
        """The ranges of kept units that are answered: [first, stop, first, stop ...]; of too many ranges the first ones."""
        found: list[int] = []
        seen = self._seen
        at = seen.find(1)
        while at >= 0 and len(found) < MAX_ANSWERED_RANGES:
            stop = seen.find(0, at)
            stop = stop if stop >= 0 else len(seen)
            found += [self._base + at, self._base + stop]
            at = seen.find(1, stop)
        return found

    def again(self, job: int, epoch: int) -> Iterator[tuple[Message, Buffer]]:
        """The messages that tell the broker of life *epoch* about this map of *job*: the first time, and each time contact
        is made anew.
        """
        self.epoch = self.epoch or epoch
        packs = [(start, count, data) for start, (count, data) in self._segments.items()]
        start, count, data = packs[0] if packs else (self.total, 0, b"")
        yield (
            replace(
                self.map,
                job=job,
                start=start,
                count=count,
                closed=self.closed and len(packs) < 2,
                epoch=self.epoch,
                answered=self.answered(),
            ),
            data,
        )
        for start, count, data in packs[1:]:
            closed = self.closed and start + count == self.total
            yield Units(start, count, closed, map=self.map.map), data


class ClientSession(Struct, eq=False):
    """One session of a client. *submit* is the message that opens it, with another id and key each time."""

    submit: Submit
    #: the session's number at the broker; 0: it is being opened
    number: int = 0
    #: the reason why the session has ended; None: it has not
    error: ParkError | None = None
    #: the maps that have not ended, by key
    calls: dict[bytes, Call] = field(default_factory=dict)

    def concerns(self, failure: MapFailed) -> bool:
        """Whether *failure* concerns the session that is open now, and not an earlier opening of it."""
        return failure.job in (0, self.number)

    def again(self, epoch: int) -> Iterator[tuple[Call, Message, Buffer]]:
        """The messages that repeat all maps of the open session, when it has been opened or contact is made anew."""
        for call in list(self.calls.values()):
            for message, data in call.again(self.number, epoch):
                yield call, message, data


def lost_sessions(sessions: Iterable[ClientSession]) -> list[ClientSession]:
    """Close all open *sessions*, because the broker does not know the client. Returns the sessions to open anew."""
    found = [session for session in sessions if session.number]
    for session in found:
        session.number = 0
    return found
