"""Messages that wait for one peer that does not take them as fast as they come.

The socket holds a few messages for each peer. What it does not take waits here, where its bytes are counted: whoever fills
the outbox sees by `size` when to stop. A message that lies on the disk may wait as a function that makes it: it takes no
room until its turn has come. Of a long one the next piece alone is made.

A long message takes its time, and others shall not wait for it: short ones pass it that have nothing to do with it, nor
with anything else that waits (`park.wire.messages.about`). All others keep their order.

How much waits says nothing of the peer: one result may be longer than all that others ever get. What it takes does. So
`Patience` gives up a peer that takes nothing, and never one that takes something now and then.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator
from typing import Any

from park.errors import ParkError
from park.wire.parts import PIECE, split

Frames = list[Any]
#: A message, or what makes it when it is sent; given the error with which that ended half-way: what is said instead.
Message = Frames | Callable[..., Frames]

#: What a message counts for beside its frames, bytes.
EACH = 500
#: Bytes that wait for a peer from which on it is given up that takes nothing for so many seconds, and bytes that may come
#: for it while it takes nothing at all.
CUT, STALLED = 64 << 20, 10.0
MOST = 1 << 30


class Outbox:
    """See the module. *offer* takes one message of at most a piece, and says whether it did."""

    def __init__(self, offer: Callable[[Frames], bool]) -> None:
        self._offer = offer
        #: those that keep their order, with the bytes that they count for and what they are about
        self._waiting: deque[tuple[Message, int, frozenset[Any]]] = deque()
        #: what is left of the first of them, and the piece that is next
        self._pieces: Iterator[Frames] | None = None
        self._next: Frames | None = None
        #: bytes that the first still counts for
        self._first = 0
        #: what those that wait are about, and how many of them are long
        self._about: Counter[Any] = Counter()
        self._long = 0
        #: short ones that have passed
        self._passing: deque[tuple[Frames, int]] = deque()
        #: bytes that wait, and those of them that came since the peer took something last
        self.size = self.untaken = 0
        #: how often the peer took something, and whether it would take more than it was offered last
        self.taken = 0
        self.more = False

    def __repr__(self) -> str:
        return f"<Outbox: {len(self._waiting) + len(self._passing)} messages, {self.size} bytes>"

    def put(self, message: Message, about: frozenset[Any] | None = None) -> None:
        """Send the message when its turn has come; in pieces, if it is long.

        *about*: by what it is told which others it must not pass; None: it passes none, and none passes it.
        """
        size = _size(message)
        self.size += size
        self.untaken += size
        short = not callable(message) and size <= PIECE
        passes = about is not None and not any(topic in self._about for topic in (None, *about))
        if short and self._long and passes:
            self._passing.append((message, size))  # type: ignore[arg-type]
            return
        self._waiting.append((message, size, frozenset((None,)) if about is None else about))
        self._about.update(self._waiting[-1][2])
        self._long += not short

    def flush(self, most: int = 1 << 62) -> bool:
        """Send what the peer takes now, some *most* bytes of it; whether that was all that there is."""
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
            left -= EACH + sum(map(len, piece))
        self.more = bool(self._passing or self._waiting)
        return not self.more

    def _following(self) -> Frames | None:
        """The next piece of the first that waits; None: there is none any more."""
        message, size, _ = self._waiting[0]
        if self._pieces is None:
            self._pieces, self._first = split(message() if callable(message) else message), size
        try:
            return next(self._pieces, None)
        except ParkError as error:  # what lies on the disk cannot be read
            if not callable(message):
                raise
            self._pieces = split(message(error))
            return next(self._pieces, None)

    def _done(self) -> None:
        """The first that waits is out."""
        message, size, about = self._waiting.popleft()
        self.size -= self._first
        self._pieces, self._first = None, 0
        self._about.subtract(about)
        self._about += Counter()
        self._long -= callable(message) or size > PIECE


def _size(message: Message) -> int:
    return EACH if callable(message) else EACH + sum(map(len, message))


class Patience:
    """Whom to give up: pure, time is an argument."""

    def __init__(self) -> None:
        #: by peer: how often it had taken something, and since when it has not
        self._since: dict[bytes, tuple[int, float]] = {}

    def over(self, behind: dict[bytes, Outbox], now: float) -> list[bytes]:
        """Those of the peers, for whom something waits, that take nothing of it."""
        kept, found = self._since, []
        self._since = {}
        for peer, outbox in behind.items():
            taken, since = kept.get(peer, (-1, now))
            if taken != outbox.taken:
                since = now
            self._since[peer] = outbox.taken, since
            stalled = outbox.size > CUT and now >= since + STALLED
            if stalled or outbox.untaken > MOST:
                found.append(peer)
        return found
