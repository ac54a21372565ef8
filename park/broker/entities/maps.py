"""Maps, their units and the attempts to run them.

Each unit of a map is in exactly one place: pending (in a range that waits), held back (for a while), running (in one
attempt) or answered. A *segment* is the pack of units that came in one message. A range lies in one segment, so that a
chunk is one slice of one pack.
"""

from __future__ import annotations

import enum
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Iterator, Sequence

from msgspec import Struct, field

from park.broker.accounts.quotas import Tally
from park.broker.effects import Event, Key, Ref
from park.broker.entities.requirements import Needs
from park.broker.entities.roster import Kernel

#: A chunk should take at least this long, seconds: its messages cost some 0.3 ms.
CHUNK_SECONDS = 0.020
#: Seconds of a chunk: at least this at the end of a map, at most this for calls of an executor.
TAIL_SECONDS = 0.004
#: One decision and its messages, seconds of the broker's time.
DECISION_SECONDS = 50e-6
#: The aim for the bytes of a chunk's results.
MAX_CHUNK_BYTES = 1 << 20
#: The most units of a chunk.
MAX_CHUNK_UNITS = 1 << 16
#: A unit that has killed this number of slot processes fails.
MAX_KILLS = 3


class Span(Struct, frozen=True, gc=False):
    """Units start to stop of the segment that begins at *segment*."""

    start: int
    stop: int
    segment: int

    def __len__(self) -> int:
        return self.stop - self.start


class JobMap(Struct, eq=False):
    """One map: a job's own inputs (the root), or one call of a session or a driver.

    It has more than 20 attributes: counts and queues of its units, which change together with every chunk.
    """

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
    #: the units are independent calls, and a slow one must hold up few others
    calls: bool = False
    #: nesting: 0 for roots and maps of sessions
    depth: int = 0
    #: the attempt of the driver that gets the results; 0: the session's client gets them
    driver: int = 0
    #: the connection over which it was sent last
    peer: bytes = b""
    closed: bool = True
    #: the first unit that came; the sender of the map had the results of the units before it
    base: int = 0
    #: the unit behind the last one received so far
    total: int = 0
    #: units that are neither answered nor dropped
    remaining: int = 0
    #: the use of its owner's quotas
    tally: Tally = field(default_factory=Tally)
    pending: deque[Span] = field(default_factory=deque)
    #: units in `pending`
    waiting: int = 0
    running: set[int] = field(default_factory=set)
    #: first unit of each segment -> its number of units; for a session only segments with units that wait or run
    segments: dict[int, int] = field(default_factory=dict)
    #: bytes of each segment of a session's map
    sizes: dict[int, int] = field(default_factory=dict)
    #: units whose results its client had when it sent the map again: [first, behind the last, ...]
    known: Sequence[int] = ()
    #: processes that died while they ran it, by unit
    kills: dict[int, int] = field(default_factory=dict)
    #: by unit: the number of kernels that were lost while they ran it; and units that are held back until other
    #: suspects have run
    losses: dict[int, int] = field(default_factory=dict)
    held_back: deque[Span] = field(default_factory=deque)
    #: its code has killed a process, so it never runs inside the process of a driver
    apart: bool = False
    #: the turn in which its last units came
    came: int = 0
    #: whether it stands in its job's heap of ready maps
    listed: bool = False
    cancelled: bool = False
    #: its driver was lost, and with it the results of its units
    lost: bool = False
    #: all its units have been dealt: late chunks are watched
    all_dealt: bool = False
    #: units of each chunk of this round, and how many chunks of it are left
    round_size: int = 0
    round_left: int = 0

    def _count(self, units: int) -> None:
        """Count *units* more that remain; fewer if it is negative."""
        self.remaining += units
        self.tally.units += units

    def key_of(self, segment: int) -> Key:
        """The place of a segment in the store or the spool."""
        return (self.job if self.root else self.key, segment)

    def add(self, start: int, count: int) -> None:
        """A segment of *count* units arrives."""
        if count:
            self.segments[start] = count
            self.total += count
            self._count(count)
            self._put(Span(start, start + count, start))

    def has_of(self, start: int, stop: int) -> bool:
        """Whether any of these units is in a segment that is here."""
        return any(begin < stop and start < begin + count for begin, count in self.segments.items())

    def _put(self, span: Span, first: bool = False) -> None:
        size = span.stop - span.start
        if size:
            self.waiting += size
            (self.pending.appendleft if first else self.pending.append)(span)

    def chunk_size(self, slots: int, estimate: float | None) -> int:
        """The number of units to send at once to one of *slots* slots when a unit takes about *estimate* seconds.

        Chunks come in rounds: one chunk for each slot, all of the same size ("factoring": Hummel, Schonberg and Flynn,
        Communications of the ACM 35(8), 1992). So the slots end a round together. If each chunk were a share of the
        units that remain, the slots would end a whole chunk apart.
        """
        if estimate is None:
            return 1
        if not self.round_left:
            self.round_left, self.round_size = slots, round_size(self.waiting, slots, estimate)
        self.round_left -= 1
        seconds = chunk_seconds(slots, TAIL_SECONDS if self.calls else CHUNK_SECONDS)
        return min(self.round_size, max(1, int(seconds / estimate)))

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
        """Let these units wait again, before all later ones; *singly*: each in a chunk of its own."""
        units = range(span.start, span.stop)
        spans = [Span(unit, unit + 1, span.segment) for unit in units] if singly else [span]
        at = next((i for i, one in enumerate(self.pending) if one.start > span.start), len(self.pending))
        for one in reversed(spans):
            self.pending.insert(at, one)
        self.waiting += len(span)

    def hold_back(self, span: Span) -> None:
        """Hold these units back until others have run. They are not in the queue meanwhile."""
        self.held_back.append(span)

    def release(self, span: Span | None = None) -> bool:
        """Put these units (None: all that were held back) into the queue again. Returns whether there were any."""
        found = [one for one in self.held_back if span in (None, one)]
        for one in found:
            self.held_back.remove(one)
            self._put(one, first=True)
        return bool(found)

    def put_missing(self, spans: Iterable[tuple[int, int]]) -> int:
        """Put all units outside *spans* (first unit, stop) into the empty queue. Returns their number."""
        covered = sorted(spans)
        for segment, count in self.segments.items():
            for lo, hi in gaps(segment, segment + count, covered):
                self._count(hi - lo)
                self._put(Span(lo, hi, segment))
        return self.waiting

    def restore(self, start: int, count: int) -> None:
        """Take a dropped segment again. Its units wait, except those that are `known`."""
        self.segments[start] = count
        self._count(count)
        self._put(Span(start, start + count, start))
        self.skip(self.known)

    def drop_spent(self, segment: int, attempts: Iterable[Attempt]) -> bool:
        """Drop the segment if none of its units waits, or runs in one of the *attempts*. Returns whether it was
        dropped.
        """
        if (self.closed and len(self.segments) < 2) or segment not in self.segments:
            return False
        if any(
            span.segment == segment for span in (*self.pending, *self.held_back, *(a.span for a in attempts))
        ):
            return False
        del self.segments[segment]
        return True

    def again(self, running: Iterable[Attempt]) -> int:
        """Put units whose answers were lost on their way into the queue again. Returns their number."""
        self.release()
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
        """Take these units out of the queue; None: not all of them wait, or they lie in two segments."""
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
        """Take these units, [first, behind the last, ...], out of the queue: their results are there."""
        self.release()
        self.withdraw(ranges)

    def withdraw(self, ranges: Sequence[int]) -> list[int]:
        """Take the units of these *ranges*, [first, behind the last, ...], out of the queue for good. Returns the ranges
        that were there.
        """
        covered = sorted((lo, hi) for lo, hi in zip(ranges[::2], ranges[1::2], strict=False) if lo < hi)
        waiting, self.pending = self.pending, deque()
        before, self.waiting = self.waiting, 0
        withdrawn: list[int] = []
        for span in waiting:
            left = list(gaps(span.start, span.stop, covered))
            for lo, hi in left:
                self._put(Span(lo, hi, span.segment))
            for lo, hi in gaps(span.start, span.stop, left):
                withdrawn += (lo, hi)
        self._count(self.waiting - before)
        return withdrawn

    def answered(self, count: int) -> None:
        self._count(-count)

    def stop(self) -> None:
        """Close the map and drop its waiting units, so that no further unit begins."""
        self.closed = True
        self.release()
        self._count(-self.waiting)
        self.pending.clear()
        self.waiting = 0

    def cancel(self) -> None:
        """Stop the map and discard its results."""
        self.cancelled = True
        self.stop()

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
        held = sum(len(s) for s in self.held_back)
        assert self.remaining == self.waiting + held + running, (self.remaining, self.waiting, held, running)
        assert 0 <= self.remaining <= self.total - self.base
        kept = sum(self.segments.values())
        assert self.remaining <= kept <= self.total - self.base
        assert kept == self.total - self.base or self.session


class AttemptState(enum.IntEnum):
    """The state of an attempt. `ATTEMPT_MOVES` says which state may follow which."""

    NEW = 0
    #: it waits at its kernel for the next free slot, which then need not wait for the broker
    AHEAD = 1
    #: it occupies its slots
    RUNNING = 2
    #: a driver waits in one of its maps, without a slot
    IN_MAP = 3
    #: a driver whose map has ended wants a slot
    READY = 4
    #: a driver has lent its slot at a safe point, and wants one again
    LENT = 5
    #: a driver of an earlier life of the broker waits; its kernel has not named the map yet
    RETURNED = 6
    #: the answer of the other attempt at its units counts; this one still waits ahead, or goes on to the end of its
    #: unit
    VOID_AHEAD = 7
    VOID = 8
    #: it was answered, lost or withdrawn
    OVER = 9
    #: it goes on without a slot: its unit is late, and may wait for a unit that gets the slot
    ASIDE = 10


ATTEMPT_MOVES = {
    AttemptState.NEW: (AttemptState.RUNNING, AttemptState.AHEAD, AttemptState.RETURNED),
    AttemptState.AHEAD: (
        AttemptState.RUNNING,
        AttemptState.IN_MAP,  # its kernel began with it before the broker knew that the slot was free
        AttemptState.LENT,
        AttemptState.VOID_AHEAD,
        AttemptState.OVER,
    ),
    AttemptState.RUNNING: (
        AttemptState.OVER,
        AttemptState.IN_MAP,
        AttemptState.LENT,
        AttemptState.ASIDE,
        AttemptState.VOID,
    ),
    AttemptState.IN_MAP: (AttemptState.READY, AttemptState.OVER),
    AttemptState.READY: (
        AttemptState.RUNNING,
        AttemptState.IN_MAP,  # it has gone on without its slot: the order to wait was lost
        AttemptState.LENT,
        AttemptState.OVER,
    ),
    AttemptState.LENT: (AttemptState.RUNNING, AttemptState.IN_MAP, AttemptState.OVER),
    AttemptState.RETURNED: (AttemptState.IN_MAP, AttemptState.LENT, AttemptState.OVER),
    AttemptState.ASIDE: (AttemptState.IN_MAP, AttemptState.LENT, AttemptState.OVER),
    AttemptState.VOID_AHEAD: (AttemptState.VOID, AttemptState.OVER),
    AttemptState.VOID: (AttemptState.OVER,),
    AttemptState.OVER: (),
}


#: state -> has_slots, ahead, parked, resumable, void
_FACTS = {
    state: (
        state in (AttemptState.RUNNING, AttemptState.VOID),
        state in (AttemptState.AHEAD, AttemptState.VOID_AHEAD),
        state
        in (
            AttemptState.IN_MAP,
            AttemptState.READY,
            AttemptState.LENT,
            AttemptState.RETURNED,
            AttemptState.ASIDE,
        ),
        state in (AttemptState.READY, AttemptState.LENT),
        state in (AttemptState.VOID, AttemptState.VOID_AHEAD),
    )
    for state in AttemptState
}


class Attempt(Struct, eq=False):
    """One dispatch of a chunk to a kernel.

    It has more than 20 attributes: its state, and its account, which is settled when it ends.
    """

    number: int
    map: JobMap
    span: Span
    kernel: Kernel
    #: slots, bytes and GPUs that it takes
    needs: Needs
    #: when it last got its slots
    since: float
    #: slot-seconds that the service clock was charged for it since then, and the rates of the charge
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
    #: the same, summed over all attempts of its maps and of the maps below them; and their weight x slot-seconds
    used_below: float = 0.0
    paid_below: int = 0
    use_below: float = 0.0
    #: seconds that it may have run beyond those that the broker knows of
    slack: float = 0.0
    #: when it was dealt; 0.0: in an earlier life
    begun: float = 0.0
    #: only `park.broker.handlers.attempt_state.move` changes it, with the sets that follow from it
    state: AttemptState = AttemptState.NEW
    #: facts that follow from `state` (`_FACTS`), because they are read far more often than it changes: it occupies
    #: slots; it waits ahead; it is a driver without a slot; it is a driver that wants a slot; the other attempt at its
    #: units counts
    has_slots: bool = False
    ahead: bool = False
    parked: bool = False
    resumable: bool = False
    void: bool = False
    #: it has waited in a map or at a safe point, so its time says nothing of the time of a unit
    driver: bool = False
    #: when it was asked to lend its slot
    asked: float | None = None
    #: the other attempt at the same units
    twin: Attempt | None = None
    #: maps that it made and that have not ended
    maps: set[bytes] = field(default_factory=set)
    #: units that were answered early and have left its span, and how many of them failed
    early: int = 0
    early_failed: int = 0
    #: "", "stop" or "abort": the order that it was given
    order: str = ""
    #: the GPUs that it sees: the same ones each time that it goes on
    devices: tuple[int, ...] = ()
    #: its owner had no idle process at the kernel when it got its slots
    new_process: bool = False

    @property
    def cost(self) -> float:
        """The slots that it is charged for."""
        return self.kernel.cost(self.needs)

    def move(self, to: AttemptState) -> None:
        """Go into the state *to*; an illegal move is a fault of the broker."""
        if to not in ATTEMPT_MOVES[self.state]:
            raise AssertionError(f"attempt {self.number} is {self.state.name}, and cannot be {to.name} next")
        self.state = to
        self.has_slots, self.ahead, self.parked, self.resumable, self.void = _FACTS[to]


class Trial(Struct, eq=False):
    """Units of one lost kernel that run one by one: the unit whose turn it is, and the units after it."""

    now: tuple[JobMap, Span]
    later: deque[tuple[JobMap, Span]] = field(default_factory=deque)


class Orphan(Struct):
    """An attempt that a kernel holds, and whose map the broker does not know yet."""

    number: int
    kernel: Kernel
    map: bytes
    start: int
    count: int
    #: slots, bytes and GPUs that it takes, and the devices that it sees
    needs: Needs
    devices: tuple[int, ...]
    #: "runs", "ahead", "waits" or "done", and for how many seconds
    how: str
    seconds: float
    #: its kernel may claim it until this time
    until: float
    #: the last control that it was given
    last_control: int = 0
    #: messages of its kernel about it
    events: list[Event] = field(default_factory=list)

    @property
    def claim(self) -> tuple[int, int]:
        """The numbers of the kernel and of the attempt. So a kernel that names the attempt of another kernel does not
        touch that claim.
        """
        return self.kernel.number, self.number


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


def chunk_seconds(slots: int, least: float = CHUNK_SECONDS) -> float:
    """Seconds that a chunk should take, so that the broker keeps up with this number of slots; at *least* this long."""
    return max(least, 4 * slots * DECISION_SECONDS)


def round_size(waiting: int, slots: int, estimate: float) -> int:
    """The number of units in each chunk of a round when *waiting* of them wait, of about *estimate* seconds each.

    It is two thirds of an even share: the remaining third fills the gaps between slots that end at different times. A
    chunk never takes less than a worthwhile time, and never more than the target.

    >>> round_size(50, 2, 1e-3), round_size(16, 2, 1e-3), round_size(6, 2, 1e-3), round_size(50_000, 2, 1e-3)
    (17, 6, 3, 20)
    """
    most = max(1, int(chunk_seconds(slots) / estimate))
    least = max(1, int(TAIL_SECONDS / estimate))
    even = -(-waiting // slots)
    return max(1, min(most, even, max(least, -(-2 * even // 3))))


class Rates(Struct, frozen=True, gc=False):
    """The divisors of one served slot-second: the job's own rate, and its owner's."""

    job: float
    owner: float
