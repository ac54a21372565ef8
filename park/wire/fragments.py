"""Fragmentation: a message with a long payload travels as several messages.

A long message becomes a run of `Part` messages. The payloads of the parts, one after the other, are the head and then the
payload of the long message, so the head of each part stays small. A sender sends the parts of one message in order, and
never mixes the parts of two messages; short messages may pass between them. When a part is lost (the connection was cut),
the receiver drops the rest of that message. The message is then lost like any other that was under way, and a peer that
waits for an answer sends it again.

No payload is longer than `MAX_PAYLOAD_BYTES`: `split` refuses longer ones, and `Reassembly` refuses peers that send them. A
payload that came in may go out again under any head, because the limit counts the payload alone.
"""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from park.errors import InvalidRequest, ProtocolError
from park.wire.codec import MAX_HEAD_BYTES, decode, encode, start_of
from park.wire.messages import Part

#: Bytes of payload in one part: half of what the sockets accept.
PIECE_BYTES = 256 << 10
#: Bytes of the longest payload, and so of the largest buffer for an unfinished message.
MAX_PAYLOAD_BYTES = 512 << 20
_PART = start_of(Part)
_BUFFERS = (bytes, bytearray, memoryview)
#: Buffers from this size on are mapped pages of their own.
_MIN_MAPPED_BYTES = 1 << 20


def too_long(size: int) -> str:
    """The refusal of a payload of *size* bytes; "" where it can travel."""
    if size <= MAX_PAYLOAD_BYTES:
        return ""
    return (
        f"{size:,} bytes at once are more than the {MAX_PAYLOAD_BYTES:,} that can travel: write them to a file that "
        "both sides see, and send its name"
    )


def check_size(size: int) -> None:
    """Raise InvalidRequest where *size* bytes are more than one payload may have."""
    if size > MAX_PAYLOAD_BYTES:
        raise InvalidRequest(too_long(size))


def split(frames: Sequence[Any], limit: int = PIECE_BYTES) -> Iterator[list[Any]]:
    """The messages that carry the message *frames*: the message itself where its payload has at most *limit* bytes.

    A payload that is no buffer (it may lie on the disk) is read slice by slice, each slice when its part is taken. Raises
    InvalidRequest for a payload of more than `MAX_PAYLOAD_BYTES` bytes.
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


class PayloadBuffer(Protocol):
    """Receives a payload piece by piece."""

    def __len__(self) -> int: ...

    def put(self, at: int, piece: bytes | memoryview) -> None:
        """Take the bytes from *at* on."""

    def done(self) -> memoryview:
        """All bytes; there come no more."""


class MemoryBuffer:
    """A payload in this process's memory. The pages of a large one take no memory until they are written."""

    def __init__(self, size: int) -> None:
        private, huge = getattr(mmap, "MAP_PRIVATE", 0), getattr(mmap, "MADV_HUGEPAGE", None)
        if size < _MIN_MAPPED_BYTES or not private:
            self._view = memoryview(bytearray(size))
            return
        found = mmap.mmap(-1, size, flags=private | mmap.MAP_ANONYMOUS)
        if huge is not None:
            with contextlib.suppress(OSError):  # a system without huge pages
                found.madvise(huge)
        self._view = memoryview(found)

    def __len__(self) -> int:
        return len(self._view)

    def put(self, at: int, piece: bytes | memoryview) -> None:
        self._view[at : at + len(piece)] = piece

    def done(self) -> memoryview:
        return self._view.toreadonly()


def is_part(frames: Sequence[Any]) -> bool:
    """Whether the message *frames* is a part of a longer one."""
    return bool(frames[0][: len(_PART)] == _PART)


class Reassembly:
    """Joins the parts that one peer sends; a payload of more than *limit* bytes raises ProtocolError.

    *new_buffer* makes the place for a payload of a given size.
    """

    def __init__(
        self, limit: int = MAX_PAYLOAD_BYTES, new_buffer: Callable[[int], PayloadBuffer] = MemoryBuffer
    ) -> None:
        self.limit = limit
        self._new_buffer = new_buffer
        #: the unfinished message: its head (None: there is none), the buffer of its payload, and the bytes received
        self._head: bytes | None = None
        self._payload: PayloadBuffer | None = None
        self._have = 0
        #: the number of messages that have begun; the bytes of the last one's payload and head
        self.begun = self.size = self.head = 0
        #: the size of the unfinished message and the size of its head, as each of its parts repeats them
        self._whole = (0, 0)

    def feed(self, frames: list[Any]) -> list[Any] | None:
        """Take in one message. Returns the message where it is no part, the whole message with its last part, else None."""
        if not is_part(frames):
            return frames
        part, piece = decode(frames)
        return self.feed_part(part, piece) if isinstance(part, Part) else frames

    def feed_part(self, part: Part, piece: Any) -> list[Any] | None:
        """Take in one part. Returns the whole message where *part* was its last, else None. Raises ProtocolError."""
        whole, empty = (part.size, part.head), not len(piece)
        if part.start == 0:
            self.clear()
            if (size := part.size - part.head) > self.limit:
                raise ProtocolError(f"a payload of {size:,} bytes is over the limit of {self.limit:,}")
            if not part.head <= min(MAX_HEAD_BYTES, len(piece), part.size):
                raise ProtocolError("the first part of a message does not hold its head")
            view = memoryview(piece)
            try:
                self._payload = self._new_buffer(size)
            except (OSError, MemoryError) as error:
                raise ProtocolError(f"there is no memory for a payload of {size:,} bytes") from error
            self._whole, self._head = whole, bytes(view[: part.head])
            self.begun, self.size, self.head = self.begun + 1, size, part.head
            self._have, piece = part.head, view[part.head :]
        elif self._head is None or part.start != self._have or whole != self._whole:
            self.clear()  # a part between was lost
            return None
        if self._have + len(piece) > part.size or empty:
            self.clear()
            raise ProtocolError("the parts of a message are not as long as they say")
        assert self._head is not None
        assert self._payload is not None
        try:
            self._payload.put(self._have - part.head, piece)
            self._have += len(piece)
            if self._have < part.size:
                return None
            frames = [self._head, self._payload.done()]
        except OSError as error:
            self.clear()
            raise ProtocolError(f"there is no place for a payload of {part.size:,} bytes: {error}") from error
        self.clear()
        return frames

    @property
    def have(self) -> int:
        """The bytes of the unfinished message that have come; 0: no message is unfinished."""
        return self._have

    def clear(self) -> None:
        """Drop the unfinished message, as on a new connection."""
        self._head, self._payload, self._have, self._whole = None, None, 0, (0, 0)
