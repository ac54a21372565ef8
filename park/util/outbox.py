"""What waits for one peer that does not take it as fast as it comes, in the order in which it was said.

The socket holds a few messages for each peer. What it does not take waits here, where its bytes are counted: whoever
fills the outbox sees by `size` when to stop, and when the peer must be given up. A message that lies on the disk may wait
as a function that makes it: it takes no room until its turn has come.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from park.wire.parts import split

Frames = list[Any]
#: A message, or what makes it when it is sent.
Message = Frames | Callable[[], Frames]

#: What a message counts for beside its frames, bytes.
EACH = 500


class Outbox:
    """See the module. *offer* takes one message of at most a piece, and says whether it did."""

    def __init__(self, offer: Callable[[Frames], bool]) -> None:
        self._offer = offer
        self._waiting: deque[Message] = deque()
        #: bytes that wait
        self.size = 0

    def __repr__(self) -> str:
        return f"<Outbox: {len(self._waiting)} messages, {self.size} bytes>"

    def put(self, message: Message) -> None:
        """Send the message when all before it are sent; in pieces, if it is long."""
        for piece in [message] if callable(message) else split(message):
            self._waiting.append(piece)
            self.size += _size(piece)

    def flush(self) -> bool:
        """Send what the peer takes now; whether that was all."""
        waiting = self._waiting
        while waiting:
            message = waiting[0]
            if callable(message):
                pieces = split(message())
                self.size += sum(map(_size, pieces)) - _size(waiting.popleft())
                waiting.extendleft(reversed(pieces))
            elif self._offer(message):
                self.size -= _size(waiting.popleft())
            else:
                return False
        return True


def _size(message: Message) -> int:
    return EACH if callable(message) else EACH + sum(map(len, message))
