"""Maps, their units and the attempts to run them.

Each unit of a map is in exactly one place: pending (in a range that waits), held (for a while), running (in one attempt)
or answered. A range never crosses the segment, the pack of units that came in one message, that it
was cut from, so that a chunk is one slice of one pack.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Sequence

from msgspec import Struct, field

from park.core.fairshare import Rates
from park.core.limits import Tally
from park.core.outcome import Event, Key, Ref
from park.core.roster import Kernel

#: A chunk should take at least this long, seconds: its messages cost some 0.3 ms.
CHUNK_SECONDS = 0.020
#: The tail of a map is dealt in chunks of at least this many seconds.
TAIL_SECONDS = 0.004
#: One decision and its messages, seconds of the broker's time.
DECISION_SECONDS = 50e-6
#: The results of a chunk should take no more bytes than this.
CHUNK_BYTES = 1 << 20
#: More units are in no chunk.
LARGEST_CHUNK = 1 << 16
#: Estimate for the first unit of unknown code, seconds, and the most that is guessed while the first ones run.
FIRST_GUESS, LAST_GUESS = 0.01, 60.0
#: So many functions' times are remembered.
ESTIMATES = 100_000
#: So often may one unit kill its slot process.
KILLS = 3


class Span(Struct, frozen=True, gc=False):
    """Units start to stop of the segment that begins at *segment*."""

    start: int
    stop: int
    segment: int

    def __len__(self) -> int:
        return self.stop - self.start


class Map(Struct, eq=False):
    """One map: a job's own inputs (the root), or one call of a session or a driver."""

    key: bytes
    job: int
    owner: str
    function: bytes
    seed: int
    #: order of creation; older maps of one depth are dealt first
    number: int
    #: the root of a stored job: results go to the store
    root: bool = False
    #: the body runs once, there are no inputs
    once: bool = False
    #: nesting: 0 for roots and maps of sessions
    depth: int = 0
    #: who gets the results: the driver's attempt, or 0: the session's client
    driver: int = 0
    #: the connection over which it was sent last
    peer: bytes = b""
    closed: bool = True
    #: the first unit that came: whoever made the map had the results of those before it
    base: int = 0
    #: the unit behind the last one received so far
    total: int = 0
    #: units that are neither answered nor dropped
    remaining: int = 0
    #: what its owner has in all
    tally: Tally = field(default_factory=Tally)
    pending: deque[Span] = field(default_factory=deque)
    #: units in `pending`
    waiting: int = 0
    running: set[int] = field(default_factory=set)
    #: first unit of each segment -> how many it has; of a session's map, of those with units that wait or run
    segments: dict[int, int] = field(default_factory=dict)
    #: bytes of each segment of a session's map
    sizes: dict[int, int] = field(default_factory=dict)
    #: units whose results are there, as its client said when it sent the map again: [first, behind the last, ...]
    known: Sequence[int] = ()
    #: processes that died while they ran it, by unit
    kills: dict[int, int] = field(default_factory=dict)
    #: kernels that were lost while they ran it, by unit, and units that wait until others like them have run
    losses: dict[int, int] = field(default_factory=dict)
    held: deque[Span] = field(default_factory=deque)
    #: its code has killed a process: it never runs inside a driver's
    apart: bool = False
    #: the turn in which its last units came
    came: int = 0
    #: whether it stands in its job's heap of ready maps
    listed: bool = False
    cancelled: bool = False
    #: its driver was lost: what is done for it is lost too
    lost: bool = False
    #: all its units have been dealt: late chunks are watched
    tail: bool = False
    #: units of each chunk of this round, and how many chunks of it are left
    round_size: int = 0
    round_left: int = 0

    def _count(self, units: int) -> None:
        """So many more remain."""
        self.remaining += units
        self.tally.units += units

    def key_of(self, segment: int) -> Key:
        """Where the store or the spool holds a segment."""
        return (self.job if self.root else self.key, segment)

    def add(self, start: int, count: int) -> None:
        """A segment of *count* units arrives."""
        if count:
            self.segments[start] = count
            self.total += count
            self._count(count)
            self._put(Span(start, start + count, start))

    def _put(self, span: Span, first: bool = False) -> None:
        size = span.stop - span.start
        if size:
            self.waiting += size
            (self.pending.appendleft if first else self.pending.append)(span)

    def chunk_size(self, slots: int, estimate: float | None) -> int:
        """How many units to send at once to one of *slots* slots when a unit takes about *estimate* seconds.

        Chunks come in rounds of one for each slot, all of the same size, so that the slots keep step ("factoring":
        Hummel, Schonberg and Flynn, Communications of the ACM 35(8), 1992). Were each a part of what is left when it is
        dealt, the last ones would find the slots a whole chunk apart.
        """
        if estimate is None:
            return 1
        if not self.round_left:
            self.round_left, self.round_size = slots, round_size(self.waiting, slots, estimate)
        self.round_left -= 1
        return min(self.round_size, max(1, int(chunk_seconds(slots) / estimate)))

    def take(self, most: int) -> Span:
        """Take up to *most* units that wait."""
        span = self.pending.popleft()
        size = span.stop - span.start
        if size > most:
            size = most
            rest = Span(span.start + most, span.stop, span.segment)
            self.pending.appendleft(rest)
            span = Span(span.start, rest.start, span.segment)
        self.waiting -= size
        return span

    def give_back(self, span: Span, singly: bool = False) -> None:
        """These units wait again, before all others; *singly*: each in a chunk of its own."""
        if singly:
            for unit in reversed(range(span.start, span.stop)):
                self._put(Span(unit, unit + 1, span.segment), first=True)
        else:
            self._put(span, first=True)

    def hold(self, span: Span) -> None:
        """These units, which do not wait, are to wait for others."""
        self.held.append(span)

    def let(self, span: Span | None = None) -> bool:
        """These units (None: all that were held) wait as any other; whether there were some."""
        found = [one for one in self.held if span in (None, one)]
        for one in found:
            self.held.remove(one)
            self._put(one, first=True)
        return bool(found)

    def put_missing(self, spans: Iterable[tuple[int, int]]) -> int:
        """All units outside *spans* (first unit, stop) wait; none waited before. How many there are."""
        covered = sorted(spans)
        for segment, count in self.segments.items():
            for lo, hi in gaps(segment, segment + count, covered):
                self._count(hi - lo)
                self._put(Span(lo, hi, segment))
        return self.waiting

    def restore(self, start: int, count: int) -> None:
        """A segment that was dropped, and comes again: its units wait, but for those that are `known`."""
        self.segments[start] = count
        self._count(count)
        self._put(Span(start, start + count, start))
        self.skip(self.known)

    def drop_spent(self, segment: int, attempts: Iterable[Attempt]) -> bool:
        """Drop the segment if nothing of it waits, or runs in one of the *attempts*; whether that was so."""
        if (self.closed and len(self.segments) < 2) or segment not in self.segments:
            return False
        if any(span.segment == segment for span in (*self.pending, *self.held, *(a.span for a in attempts))):
            return False
        del self.segments[segment]
        return True

    def again(self, running: Iterable[Attempt]) -> int:
        """What was answered waits again, because the answers were lost on their way. How many units."""
        self.let()
        waiting, self.pending = self.pending, deque()
        self._count(-self.waiting)
        self.waiting = 0
        held = [(s.start, s.stop) for s in (*waiting, *(a.span for a in running))]
        answered = self.put_missing(held)
        for span in waiting:
            self._count(len(span))
            self._put(span)
        return answered

    def claim(self, start: int, count: int) -> Span | None:
        """Take these very units out of those that wait; None if not all of them do, or they lie in two segments."""
        for i, span in enumerate(self.pending):
            if span.start <= start and start + count <= span.stop:
                del self.pending[i]
                parts = [Span(span.start, start, span.segment), Span(start + count, span.stop, span.segment)]
                for part in parts[::-1]:
                    if len(part):
                        self.pending.insert(i, part)
                self.waiting -= count
                return Span(start, start + count, span.segment)
        return None

    def skip(self, ranges: Sequence[int]) -> None:
        """These units, [first, behind the last, ...], need not run, if they wait: their results are there."""
        self.let()
        covered = sorted(zip(ranges[::2], ranges[1::2], strict=False))
        waiting, self.pending = self.pending, deque()
        before, self.waiting = self.waiting, 0
        for span in waiting:
            for lo, hi in gaps(span.start, span.stop, covered):
                self._put(Span(lo, hi, span.segment))
        self._count(self.waiting - before)

    def answered(self, count: int) -> None:
        self._count(-count)

    def drop_pending(self) -> int:
        """Nothing that waits will run; how many units that were."""
        self.let()
        dropped = self.waiting
        self._count(-dropped)
        self.pending.clear()
        self.waiting = 0
        return dropped

    @property
    def session(self) -> bool:
        """Whether a client waits for the results."""
        return not self.root and not self.driver

    @property
    def ended(self) -> bool:
        return self.closed and self.remaining == 0

    def ref(self, span: Span) -> Ref:
        lo, count = span.start - span.segment, len(span)
        if count == self.segments[span.segment]:
            return Ref("units", self.key_of(span.segment))
        return Ref("units", self.key_of(span.segment), lo, lo + count)

    def check(self, attempts: Iterable[Attempt]) -> None:
        running = 0
        for a in attempts:
            assert a.twin is None or a.twin.twin is a
            assert not a.void
            if a.twin is None or a.number < a.twin.number:
                running += len(a.span)
        assert self.waiting == sum(len(s) for s in self.pending)
        held = sum(len(s) for s in self.held)
        assert self.remaining == self.waiting + held + running, (self.remaining, self.waiting, held, running)
        assert 0 <= self.remaining <= self.total - self.base
        kept = sum(self.segments.values())
        assert self.remaining <= kept <= self.total - self.base
        assert kept == self.total - self.base or self.session


class Attempt(Struct, eq=False):
    """One dispatch of a chunk to a kernel."""

    number: int
    map: Map
    span: Span
    kernel: Kernel
    #: slots that it takes, and bytes
    cpus: int
    memory: int
    #: when it last got its slots
    since: float
    #: slot-seconds that the service clock was charged since then, and with which rates
    charged: float
    rates: Rates
    #: seconds that it should take
    expected: float
    #: micro-credits a slot-second, and the weight with which its use counts
    price: int
    weight: float
    #: slot-seconds and micro-credits that were accounted before
    used: float = 0.0
    paid: int = 0
    #: the same of all attempts in its maps, and in theirs; and weight x slot-seconds of them
    used_below: float = 0.0
    paid_below: int = 0
    use_below: float = 0.0
    #: seconds by which it may have run longer than the broker knows
    slack: float = 0.0
    #: when it was dealt; 0.0: in an earlier life
    begun: float = 0.0
    #: it waits at its kernel for a slot, so that no slot has to wait for it
    ahead: bool = False
    #: it has waited in a map, or at a safe point
    driver: bool = False
    #: it waits in one of its maps now, or at a safe point, without a slot
    parked: bool = False
    #: it waits at a safe point
    lent: bool = False
    #: when it was asked to lend its slot
    asked: float | None = None
    #: its map has ended or its slot was lent, it wants a slot
    resumable: bool = False
    #: the other attempt at the same units
    twin: Attempt | None = None
    #: its units were answered by the other one
    void: bool = False
    #: maps that it made and that have not ended
    maps: set[bytes] = field(default_factory=set)
    #: "", "stop" or "abort": what it was told
    told: str = ""


class Trial(Struct, eq=False):
    """Units of one lost kernel, each by itself: the one that runs, or waits to, and those that come after it."""

    now: tuple[Map, Span]
    later: deque[tuple[Map, Span]] = field(default_factory=deque)


class Orphan(Struct):
    """An attempt of which a kernel says that it holds it, before its map is known."""

    number: int
    kernel: Kernel
    map: bytes
    start: int
    count: int
    cpus: int
    memory: int
    #: "runs", "ahead", "waits" or "done", and for how many seconds
    how: str
    seconds: float
    #: until then somebody may claim it
    until: float
    #: the last control that it was given
    told: int = 0
    #: what its kernel has said of it
    events: list[Event] = field(default_factory=list)


class Estimates:
    """How long a unit takes: a running mean by (owner, code), over all maps."""

    def __init__(self) -> None:
        self._mean: OrderedDict[tuple[str, bytes], float] = OrderedDict()
        #: bytes of one result, of code whose results are large
        self._bytes: dict[tuple[str, bytes], float] = {}
        #: when the first unit was dealt, of code that has not answered yet
        self._begun: dict[tuple[str, bytes], float] = {}

    def get(self, owner: str, function: bytes) -> float | None:
        """Seconds a unit, None if none was ever measured."""
        return self._mean.get((owner, function))

    def weigh(self, owner: str, function: bytes, units: int, size: int) -> None:
        """The results of so many units took so many bytes."""
        key = (owner, function)
        if CHUNK_BYTES * units < size * LARGEST_CHUNK:
            old = self._bytes.get(key, size / units)
            self._bytes[key] = 0.6 * old + 0.4 * size / units
            if len(self._bytes) > ESTIMATES:
                del self._bytes[next(iter(self._bytes))]
        elif key in self._bytes:
            del self._bytes[key]

    def most(self, owner: str, function: bytes) -> int:
        """Units whose results fit in a chunk."""
        size = self._bytes.get((owner, function))
        return LARGEST_CHUNK if size is None else max(1, int(CHUNK_BYTES / size))

    def guess(self, owner: str, function: bytes, now: float) -> float:
        """Seconds to charge for a unit. While none was measured, a unit takes as long as the first has run already.

        Else a job of long units would look cheap until the first is done, and be given every slot meanwhile.
        """
        mean = self._mean.get((owner, function))
        if mean is not None:
            return mean
        age = now - self._begun.setdefault((owner, function), now)
        return min(max(FIRST_GUESS, age), LAST_GUESS)

    def begin_anew(self, owner: str, function: bytes) -> None:
        """What was begun says nothing: it was lost, or is a driver."""
        self._begun.pop((owner, function), None)

    def learn(self, owner: str, function: bytes, units: int, seconds: float) -> None:
        self._begun.pop((owner, function), None)
        new = max(seconds, 1e-7) / units
        old = self._mean.get((owner, function))
        self._mean[owner, function] = new if old is None else 0.6 * old + 0.4 * new
        if old is None and len(self._mean) > ESTIMATES:
            self._mean.popitem(last=False)


def gaps(start: int, stop: int, covered: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """The parts of *start* to *stop* that none of the *covered* ranges, sorted, contains.

    >>> list(gaps(0, 10, [(2, 4), (4, 5), (9, 12)]))
    [(0, 2), (5, 9)]
    """
    at = start
    for lo, hi in covered[max(0, bisect_right(covered, (start, start)) - 1) :]:
        if lo >= stop:
            break
        if lo > at:
            yield at, lo
        at = max(at, hi)
    if at < stop:
        yield at, stop


def chunk_seconds(slots: int) -> float:
    """How long a chunk should take, so that the broker keeps up with so many slots."""
    return max(CHUNK_SECONDS, 4 * slots * DECISION_SECONDS)


def round_size(waiting: int, slots: int, estimate: float) -> int:
    """How many units each chunk of a round has when *waiting* of them wait, of about *estimate* seconds each.

    Two thirds of an even share, so that what is left evens out what the slots are apart, but never less than a worthwhile
    time and never more than the target.

    >>> round_size(50, 2, 1e-3), round_size(16, 2, 1e-3), round_size(6, 2, 1e-3), round_size(50_000, 2, 1e-3)
    (17, 6, 3, 20)
    """
    most = max(1, int(chunk_seconds(slots) / estimate))
    least = max(1, int(TAIL_SECONDS / estimate))
    even = -(-waiting // slots)
    return max(1, min(most, even, max(least, -(-2 * even // 3))))
