"""Backpressure: the messages that wait for one peer which accepts them more slowly than they come.

ZeroMQ holds a few messages for each peer. Further messages wait here, and their bytes are counted: the producer of
messages sees by `size` when to stop. A message that lies on the disk may wait as a function that reads it, which takes no
memory until its turn comes. Only the next piece of a long message is made.

A long message takes time, and other messages do not wait for it: a short one passes if it shares no subject with the long
one or with any other waiting message (`park.wire.subjects.about`). All other messages keep their order.

The number of waiting bytes says nothing about the peer, because one result may be longer than all others together. The
bytes that the peer accepts do. So `StalledPeers` gives up a peer that accepts nothing, and never one that accepts a piece
now and then.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator
from typing import Any

from park.errors import ParkError
from park.wire.fragments import PIECE_BYTES, split

Frames = list[Any]
#: A message, or a function that makes it when it is sent. Given the error that stopped it half-way, the function makes a
#: substitute.
Message = Frames | Callable[..., Frames]

#: Bytes that a message counts for beside its frames.
MESSAGE_OVERHEAD_BYTES = 500
#: A peer for which more bytes wait than this is given up after this many seconds without an accepted message.
STALLED_BYTES, STALLED_SECONDS = 64 << 20, 10.0
#: Bytes that may arrive for a peer since it last accepted a message; with more it is given up at once.
MAX_UNTAKEN_BYTES = 1 << 30


class Outbox:
    """The queue of one peer. *offer* sends one message of at most a piece, and returns whether the peer accepted it."""

    def __init__(self, offer: Callable[[Frames], bool]) -> None:
        self._offer = offer
        #: messages that keep their order, with the bytes that they count for and their subjects
        self._waiting: deque[tuple[Message, int, frozenset[Any]]] = deque()
        #: the remaining pieces of the first of them, and the next piece
        self._pieces: Iterator[Frames] | None = None
        self._next: Frames | None = None
        #: bytes that the first one still counts for
        self._first = 0
        #: the subjects of all waiting messages, and the number of long ones
        self._about: Counter[Any] = Counter()
        self._long = 0
        #: short messages that have passed the waiting ones
        self._passing: deque[tuple[Frames, int]] = deque()
        #: waiting bytes, and those of them that came since the peer last accepted a message
        self.size = self.untaken = 0
        #: messages that the peer has accepted, and whether it would accept more than the last flush offered
        self.taken = 0
        self.more = False

    def __repr__(self) -> str:
        return f"<Outbox: {len(self._waiting) + len(self._passing)} messages, {self.size} bytes>"

    def put(self, message: Message, about: frozenset[Any] | None = None) -> None:
        """Send the message when its turn comes; a long one goes in pieces.

        *about* are the subjects of the message: it must not pass another message with one of them. None: it passes none,
        and none passes it.
        """
        size = _size(message)
        self.size += size
        self.untaken += size
        short = not callable(message) and size <= PIECE_BYTES
        passes = about is not None and not any(topic in self._about for topic in (None, *about))
        if short and self._long and passes:
            self._passing.append((message, size))  # type: ignore[arg-type]
            return
        self._waiting.append((message, size, frozenset((None,)) if about is None else about))
        self._about.update(self._waiting[-1][2])
        self._long += not short

    def flush(self, most: int = 1 << 62) -> bool:
        """Send what the peer accepts now, about *most* bytes. Returns whether no message waits any longer."""
        left, self.more = most, False
        while left > 0:
            if self._passing:
                piece, size = self._passing[0]
                if not self._offer(piece):
                    return False
                self._passing.popleft()
            elif self._waiting:
                following = self._next or self._following()
                if following is None:
                    self._done()
                    continue
                self._next = piece = following
                if not self._offer(piece):
                    return False
                self._next = None
                size = min(self._first, sum(map(len, piece)))
                self._first -= size
            else:
                return True
            self.size -= size
            self.untaken, self.taken = 0, self.taken + 1
            left -= MESSAGE_OVERHEAD_BYTES + sum(map(len, piece))
        self.more = bool(self._passing or self._waiting)
        return not self.more

    def _following(self) -> Frames | None:
        """The next piece of the first waiting message; None: there is no further piece."""
        message, size, _ = self._waiting[0]
        if self._pieces is None:
            self._pieces, self._first = split(message() if callable(message) else message), size
        try:
            return next(self._pieces, None)
        except ParkError as error:  # the message on the disk cannot be read
            if not callable(message):
                raise
            self._pieces = split(message(error))
            return next(self._pieces, None)

    def _done(self) -> None:
        """The last piece of the first waiting message is out: remove the message."""
        message, size, about = self._waiting.popleft()
        self.size -= self._first
        self._pieces, self._first = None, 0
        self._about.subtract(about)
        self._about += Counter()
        self._long -= callable(message) or size > PIECE_BYTES


def _size(message: Message) -> int:
    return MESSAGE_OVERHEAD_BYTES if callable(message) else MESSAGE_OVERHEAD_BYTES + sum(map(len, message))


class StalledPeers:
    """Finds the peers to give up. Pure: time is an argument."""

    def __init__(self) -> None:
        #: by peer: its count of accepted messages, and the time since when that has not changed
        self._since: dict[bytes, tuple[int, float]] = {}

    def over(self, behind: dict[bytes, Outbox], now: float) -> list[bytes]:
        """The peers of *behind*, the outboxes with waiting messages, that have stalled at time *now*."""
        kept, found = self._since, []
        self._since = {}
        for peer, outbox in behind.items():
            taken, since = kept.get(peer, (-1, now))
            if taken != outbox.taken:
                since = now
            self._since[peer] = outbox.taken, since
            stalled = outbox.size > STALLED_BYTES and now >= since + STALLED_SECONDS
            if stalled or outbox.untaken > MAX_UNTAKEN_BYTES:
                found.append(peer)
        return found
