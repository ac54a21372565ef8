"""Messages with a payload over the limit of a socket travel as several.

A long message becomes a run of `Part` messages. Their payloads, one after the other, are its head and then
its payload, so the head of a part stays small. A sender sends the parts of one message in turn, unmixed with
those of another; short messages may pass between them. When a part was lost (the connection was cut), the
rest of that message is dropped: it is lost like any message that was under way, and whoever waits for an
answer sends it again. No payload is longer than `MAX_PAYLOAD`: its sender is told so, and a peer that does not care is
not listened to. What may come in may go out again under any head, for the limit is that of the payload alone.
"""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Iterator, Sequence
from typing import Any

from park.errors import InvalidRequest, ProtocolError
from park.wire.codec import MAX_HEAD, decode, encode, start_of
from park.wire.messages import Part

#: Bytes of payload in one part: half of what the sockets accept.
PIECE = 256 << 10
#: The longest payload, bytes, and so the most that is kept of one that has not come to its end.
MAX_PAYLOAD = 512 << 20
_PART = start_of(Part)
_BUFFERS = (bytes, bytearray, memoryview)
#: Bytes of a payload that gets pages of its own.
_LARGE = 1 << 20


def too_long(size: int) -> str:
    """In words that *size* bytes of payload cannot travel; "" if they can."""
    if size <= MAX_PAYLOAD:
        return ""
    return (
        f"{size:,} bytes at once are more than the {MAX_PAYLOAD:,} that can travel: write them to a file that "
        "both sides see, and send its name"
    )


def check_size(size: int) -> None:
    """Raises InvalidRequest for more bytes than can travel at once."""
    if size > MAX_PAYLOAD:
        raise InvalidRequest(too_long(size))


def split(frames: Sequence[Any], limit: int = PIECE) -> Iterator[list[Any]]:
    """The messages that carry the message *frames*: itself, unless its payload is over *limit* bytes.

    A payload that is no buffer is read slice by slice, each when its turn has come. Raises InvalidRequest for one of more
    than `MAX_PAYLOAD` bytes.
    """
    if len(frames) == 1 or len(frames[1]) <= limit:
        return iter([[frame if isinstance(frame, _BUFFERS) else frame[:] for frame in frames]])
    check_size(len(frames[1]))
    return _pieces(frames[0], frames[1], limit)


def _pieces(head: bytes, payload: Any, limit: int) -> Iterator[list[Any]]:
    view = memoryview(payload).cast("B") if isinstance(payload, _BUFFERS) else payload
    size, start = len(head) + len(view), 0
    while start < size:
        stop = max(limit, len(head)) if not start else start + limit
        piece = view[max(0, start - len(head)) : stop - len(head)]
        if not start:
            piece = b"".join((head, piece))
        yield encode(Part(start, size, len(head)), piece)
        start += len(piece)


def _room(size: int) -> memoryview:
    """So many bytes to be written. Much of it costs nothing until it is, and little when it is not needed any more."""
    private, huge = getattr(mmap, "MAP_PRIVATE", 0), getattr(mmap, "MADV_HUGEPAGE", None)
    if size < _LARGE or not private:
        return memoryview(bytearray(size))
    found = mmap.mmap(-1, size, flags=private | mmap.MAP_ANONYMOUS)
    if huge is not None:
        with contextlib.suppress(OSError):  # a system without them
            found.madvise(huge)
    return memoryview(found)


def is_part(frames: Sequence[Any]) -> bool:
    """Whether the message *frames* is a part of a longer one."""
    return bool(frames[0][: len(_PART)] == _PART)


class Joiner:
    """Puts together what one peer splits; payloads of more than *limit* bytes raise ProtocolError."""

    def __init__(self, limit: int = MAX_PAYLOAD) -> None:
        self._limit = limit
        #: the message under way as far as it has come: its head, the room for its payload, and the bytes that are here
        self._head: bytes | None = None
        self._payload = memoryview(b"")
        self._have = 0
        #: what its parts say: (size, head) of the message
        self._whole = (0, 0)

    def feed(self, frames: list[Any]) -> list[Any] | None:
        """A message that came: itself if it is no part; the whole message with its last part; else None."""
        if not is_part(frames):
            return frames
        part, piece = decode(frames)
        return self.feed_part(part, piece) if isinstance(part, Part) else frames

    def feed_part(self, part: Part, piece: Any) -> list[Any] | None:
        """The whole message when *part* was its last, else None."""
        whole, empty = (part.size, part.head), not len(piece)
        if part.start == 0:
            self.clear()
            if (size := part.size - part.head) > self._limit:
                raise ProtocolError(f"a payload of {size:,} bytes is over the limit of {self._limit:,}")
            if not part.head <= min(MAX_HEAD, len(piece), part.size):
                raise ProtocolError("the first part of a message does not hold its head")
            view = memoryview(piece)
            self._whole, self._head = whole, bytes(view[: part.head])
            self._payload = _room(part.size - part.head)
            self._have, piece = part.head, view[part.head :]
        elif self._head is None or part.start != self._have or whole != self._whole:
            self.clear()  # something between was lost
            return None
        at = self._have - part.head
        if self._have + len(piece) > part.size or empty:
            self.clear()
            raise ProtocolError("the parts of a message are not as long as they say")
        self._payload[at : at + len(piece)] = piece
        self._have += len(piece)
        if self._have < part.size:
            return None
        assert self._head is not None
        frames = [self._head, self._payload.toreadonly()]
        self.clear()
        return frames

    def clear(self) -> None:
        """Drop the message under way (the connection is a new one)."""
        self._head, self._payload, self._have, self._whole = None, memoryview(b""), 0, (0, 0)
