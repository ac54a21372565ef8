"""Backpressure: the messages that wait for one peer which accepts them more slowly than they come.

ZeroMQ holds a few messages for each peer. Further messages wait here, and their bytes are counted: the producer of
messages sees by `size` when to stop. A message that lies on the disk may wait as a function that reads it, which takes no
memory until its turn comes. Only the next piece of a long message is made. A peer on the same machine may open the
payload as a file (`park.net.payload_files`): then the message waits here until the peer has done so.

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
from park.net.payload_files import PayloadFile
from park.wire.fragments import PIECE_BYTES, check_size, split

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
    """The queue of one peer. *offer* sends one message of at most a piece, and returns whether the peer accepted it, or
    None where the peer has gone. *opens* tells whether the peer opens files of this process now (`PayloadFile`).
    """

    def __init__(
        self, offer: Callable[[Frames], bool | None], opens: Callable[[], bool] = lambda: False
    ) -> None:
        self._offer = offer
        self._opens = opens
        #: messages that keep their order, with the bytes that they count for and their subjects
        self._waiting: deque[tuple[Message, int, frozenset[Any]]] = deque()
        #: the remaining pieces of the first of them, and the next piece
        self._pieces: Iterator[Frames] | None = None
        self._next: Frames | None = None
        #: the first of them as a file that the peer opens; None: it goes in pieces, or has not begun
        self._file: PayloadFile | None = None
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

    def pass_all(self, message: Frames) -> None:
        """Send a short message before all that wait: others may wait for it."""
        size = _size(message)
        self.size += size
        self.untaken += size
        self._passing.append((message, size))

    @property
    def waits_for_answer(self) -> bool:
        """Whether the peer has still to open the file of the first waiting message."""
        return self._file is not None

    def answered(self, number: int, opened: bool) -> None:
        """The peer has the message that lies in a file, or cannot have it from there."""
        file = self._file
        if file is None or file.number != number:
            return
        self.untaken, self.taken = 0, self.taken + 1
        if opened:
            self._done()
        else:
            self._go_in_pieces()

    def flush(self, most: int = 1 << 62) -> bool:
        """Send what the peer accepts now, about *most* bytes. Returns whether no message waits any longer."""
        left, self.more = most, False
        while left > 0:
            if passing := bool(self._passing):
                piece, size = self._passing[0]
            elif self._waiting:
                if self._file is None and self._pieces is None:
                    self._begin()
                left -= self._fill(left)
                following = self._next or self._following()
                if following is None:
                    if self._file is None:
                        self._done()
                        continue
                    self.more = not self._file.whole
                    return False
                self._next = piece = following
                size = min(self._first, sum(map(len, piece)))
            else:
                return True
            accepted = self._offer(piece)
            if accepted is None:
                self._drop_all()
                return True
            if not accepted:
                return False
            if passing:
                self._passing.popleft()
            else:
                self._next = None
                self._first -= size
                if self._file is not None:
                    self._file.sent()
            self.size -= size
            self.untaken, self.taken = 0, self.taken + 1
            left -= MESSAGE_OVERHEAD_BYTES + sum(map(len, piece))
        self.more = bool(self._passing or self._waiting)
        return not self.more

    def _begin(self) -> None:
        """The first waiting message has its turn."""
        message, self._first, _ = self._waiting[0]
        frames = message() if callable(message) else message
        if len(frames) > 1 and len(frames[1]) > PIECE_BYTES and self._opens():
            check_size(len(frames[1]))
            self._file = PayloadFile(frames)
        else:
            self._pieces = split(frames)

    def _fill(self, most: int) -> int:
        """Write to the file of the first waiting message. Returns the number of bytes."""
        if self._file is None or self._file.whole:
            return 0
        try:
            return self._file.fill(most)
        except OSError:  # this process has no memory, or no descriptor, for a file
            self._go_in_pieces()
        except ParkError as error:
            self._go_in_pieces(error)
        return 0

    def _go_in_pieces(self, error: ParkError | None = None) -> None:
        """Send the first waiting message in pieces after all; where it cannot be read, what stands for it."""
        message, _, _ = self._waiting[0]
        self._close_file()
        frames = message
        if callable(message):
            frames = message() if error is None else message(error)
        elif error is not None:
            raise error
        self._pieces, self._next = split(frames), None  # type: ignore[arg-type]

    def _following(self) -> Frames | None:
        """The next piece of the first waiting message, or the message about its file; None: nothing can be sent now."""
        if self._file is not None:
            return self._file.due() if self._file.whole else None
        assert self._pieces is not None
        try:
            return next(self._pieces, None)
        except ParkError as error:  # the message on the disk cannot be read
            self._go_in_pieces(error)
            return next(self._pieces, None)

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _drop_all(self) -> None:
        """The peer has gone."""
        self._close_file()
        for all_of in (self._waiting, self._passing, self._about):
            all_of.clear()
        self._pieces = self._next = None
        self._first = self._long = self.size = self.untaken = 0

    def _done(self) -> None:
        """The peer has the first waiting message, or its last piece is out: remove the message."""
        message, size, about = self._waiting.popleft()
        self.size -= self._first
        self._close_file()
        self._pieces, self._next, self._first = None, None, 0
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
