"""Messages with a payload over the limit of a socket travel as several.

A long message becomes a run of `Part` messages. Their payloads, one after the other, are its head and then
its payload, so the head of a part stays small. A sender sends the parts of one message in turn, unmixed with
those of another; short messages may pass between them. When a part was lost (the connection was cut), the
rest of that message is dropped: it is lost like any message that was under way, and whoever waits for an
answer sends it again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from park.errors import ProtocolError
from park.wire.codec import MAX_HEAD, decode, encode
from park.wire.messages import Part

#: Bytes of payload in one part: half of what the sockets accept.
PIECE = 8 * 1024 * 1024
#: The name in the head of a part, behind the bytes of the list and the version.
_PART = encode(Part(0, 0, 0))[0][2:7]


def split(frames: Sequence[Any], limit: int = PIECE) -> list[list[Any]]:
    """The messages that carry the message *frames*: itself, unless its payload is over *limit* bytes."""
    if len(frames) == 1 or len(frames[1]) <= limit:
        return [list(frames)]
    head, payload = frames
    view = memoryview(payload).cast("B")
    first = max(0, limit - len(head))
    pieces: list[Any] = [b"".join((head, view[:first]))]
    pieces += [view[i : i + limit] for i in range(first, len(view), limit)]
    size, start, messages = len(head) + len(view), 0, []
    for piece in pieces:
        messages.append(encode(Part(start, size, len(head)), piece))
        start += len(piece)
    return messages


class Joiner:
    """Puts together what one peer splits; messages of more than *limit* bytes raise ProtocolError."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._pieces: list[Any] = []
        #: bytes here, and the parts that are under way: (size, head) of the message
        self._have = 0
        self._whole = (0, 0)

    def feed(self, frames: Sequence[Any]) -> Sequence[Any] | None:
        """A message that came: itself if it is no part; the whole message with its last part; else None."""
        if bytes(frames[0][2:7]) != _PART:
            return frames
        part, piece = decode(frames)
        return self.feed_part(part, piece) if isinstance(part, Part) else frames

    def feed_part(self, part: Part, piece: Any) -> list[Any] | None:
        """The whole message when *part* was its last, else None."""
        whole = (part.size, part.head)
        if part.start == 0:
            self.clear()
            if part.size > self._limit:
                raise ProtocolError(f"a message of {part.size:,} bytes is over the limit of {self._limit:,}")
            if not part.head <= min(MAX_HEAD, len(piece)):
                raise ProtocolError("the first part of a message does not hold its head")
            self._whole = whole
        elif not self._pieces or part.start != self._have or whole != self._whole:
            self.clear()  # something between was lost
            return None
        self._pieces.append(piece)
        self._have += len(piece)
        if self._have > part.size or not len(piece):
            self.clear()
            raise ProtocolError("the parts of a message are not as long as they say")
        if self._have < part.size:
            return None
        first = memoryview(self._pieces[0])
        frames = [bytes(first[: part.head]), b"".join((first[part.head :], *self._pieces[1:]))]
        self.clear()
        return frames

    def clear(self) -> None:
        """Drop the message under way (the connection is a new one)."""
        self._pieces, self._have, self._whole = [], 0, (0, 0)
