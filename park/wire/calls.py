"""Maps that are under way, as those see them who wait for their results: a client, or a driver's kernel.

What is said of a map may be lost, and so may its answers: with a connection, or with the life of a broker. So a `Call`
keeps the units that have not been answered, and knows which have. `Call.again` is the map as it must be said when contact
is made anew, under the same key; `Call.news` passes each answer on once, however often it comes. All units before the
first one that is kept are answered, so an endless map of a lazy iterable needs no more room than what is under way.

A `Session` is how a client keeps its maps together. A broker that does not know the client (any more) knows nothing
of its sessions either: they are opened anew, under another number, and then their maps are said again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from msgspec import Struct, field
from msgspec.structs import replace

from park.errors import ParkError
from park.wire.codec import Buffer
from park.wire.messages import Map, Message, Submit, Units
from park.wire.pack import Pack

#: A map that is said again names so many ranges of answered units, times two, at most.
MOST_RANGES = 2000


class Call:
    """One map. *message* is how it was said first, *data* the pack of its first units."""

    __slots__ = ("_base", "_seen", "_segments", "closed", "epoch", "map", "total")

    def __init__(self, message: Map, data: Buffer) -> None:
        self.map = message
        #: no more units will come
        self.closed = message.closed
        #: the broker's life in which it was said first; 0: it has not been said
        self.epoch = message.epoch
        #: units that are kept, by the first of each pack, in their order
        self._segments: dict[int, tuple[int, Buffer]] = {}
        #: the first unit that is kept, and the one behind the last of all
        self._base = self.total = 0
        #: a byte for each unit from the first kept one on: whether its result was passed on
        self._seen = bytearray()
        self._keep(message.count, data)

    def __repr__(self) -> str:
        more = "" if self.closed else " and more"
        return (
            f"<Call {self.map.map.hex()[:8]}: {self._seen.count(0)} of {self.total} units{more} unanswered>"
        )

    def add(self, units: Units, data: Buffer) -> None:
        """More units, which follow the last ones."""
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
        """Whether any result was passed on."""
        return self._base > 0 or 1 in self._seen

    @property
    def complete(self) -> bool:
        """Whether all results were."""
        return self.closed and not self._segments

    def news(self, start: int, stop: int) -> list[tuple[int, int]]:
        """The units from *start* to *stop* that were not seen before, in ranges; now they are."""
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
        """Of results that came, those that were not seen before: first unit, count, pack."""
        news = self.news(start, start + count)
        if news == [(start, start + count)]:
            return [(start, count, data)]
        pack = Pack(data) if news else None
        return [(lo, hi - lo, pack.slice(lo - start, hi - start)) for lo, hi in news if pack is not None]

    def _let_go(self) -> None:
        """The units before the first that is not answered need not be kept, where a whole pack of them can go."""
        while self._segments:
            first = next(iter(self._segments))
            count = self._segments[first][0]
            if self._seen.find(0, 0, count) >= 0:
                return
            del self._segments[first], self._seen[:count]
            self._base = first + count

    def answered(self) -> list[int]:
        """The units that were seen of those that are kept: [first, behind the last, ...]; of too many ranges the first."""
        found: list[int] = []
        seen = self._seen
        at = seen.find(1)
        while at >= 0 and len(found) < MOST_RANGES:
            stop = seen.find(0, at)
            stop = stop if stop >= 0 else len(seen)
            found += [self._base + at, self._base + stop]
            at = seen.find(1, stop)
        return found

    def again(self, job: int, epoch: int) -> Iterator[tuple[Message, Buffer]]:
        """What is to be said of it as a map of *job* in the broker's life *epoch*, the first time and each later one."""
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


class Session(Struct, eq=False):
    """One session of a client. *submit* opens it, with another id and key each time."""

    submit: Submit
    #: its number at the broker; 0: it is being opened
    number: int = 0
    #: why it has ended
    error: ParkError | None = None
    #: its maps that have not ended, by key
    calls: dict[bytes, Call] = field(default_factory=dict)

    def again(self, epoch: int) -> Iterator[tuple[Call, Message, Buffer]]:
        """What is to be said of all its maps when it is open, or when contact is made anew."""
        for call in list(self.calls.values()):
            for message, data in call.again(self.number, epoch):
                yield call, message, data


def lost(sessions: Iterable[Session]) -> list[Session]:
    """The broker does not know the client: which of its open *sessions* are to be opened anew. Now none is open."""
    found = [session for session in sessions if session.number]
    for session in found:
        session.number = 0
    return found
