"""The code that the broker holds: functions and bodies, by the hash of their content.

Code stays while a job that has not ended or a map of it needs it. After that it stays as long as there is room,
because the next job often brings the same; whoever refers to code that has gone is asked to send it again.
"""

from __future__ import annotations

import hashlib
from collections import Counter, OrderedDict

from park.errors import ProtocolError

#: Bytes of code that is kept although nothing needs it.
IDLE_BYTES = 64 << 20


class Codes:
    """Which code is there, and what of it may go. The bytes themselves lie in the spool or the store."""

    def __init__(self, idle_bytes: int = IDLE_BYTES) -> None:
        self._limit = idle_bytes
        self._sizes: dict[bytes, int] = {}
        #: jobs and maps that need it
        self._users: Counter[bytes] = Counter()
        #: what nobody needs, the one that was needed longest ago first
        self._idle: OrderedDict[bytes, None] = OrderedDict()
        self._idle_bytes = 0

    def __contains__(self, code: bytes) -> bool:
        return code in self._sizes

    def __len__(self) -> int:
        return len(self._sizes)

    def add(self, code: bytes, size: int) -> list[bytes]:
        """New code of *size* bytes; the code that has to go for it."""
        self._sizes[code] = size
        self._rest(code)
        return self._surplus()

    def use(self, code: bytes) -> None:
        """One more needs it."""
        if code in self._idle:
            del self._idle[code]
            self._idle_bytes -= self._sizes[code]
        self._users[code] += 1

    def leave(self, code: bytes) -> list[bytes]:
        """One less needs it; the code that has to go now."""
        self._users[code] -= 1
        if not self._users[code]:
            del self._users[code]
            self._rest(code)
        return self._surplus()

    def _rest(self, code: bytes) -> None:
        self._idle[code] = None
        self._idle_bytes += self._sizes[code]

    def _surplus(self) -> list[bytes]:
        gone = []
        while self._idle_bytes > self._limit and len(self._idle) > 1:  # the newest is just about to be needed
            code, _ = self._idle.popitem(last=False)
            self._idle_bytes -= self._sizes.pop(code)
            gone.append(code)
        return gone

    def check(self) -> None:
        """Assert what must always hold."""
        assert self._users.keys() | self._idle.keys() == self._sizes.keys()
        assert not self._users.keys() & self._idle.keys()
        assert all(n > 0 for n in self._users.values())
        assert self._idle_bytes == sum(self._sizes[c] for c in self._idle)
        assert self._idle_bytes <= self._limit or len(self._idle) == 1


def check_code(code: bytes, data: bytes | memoryview) -> None:
    """Raises ProtocolError when *code* is not the hash of *data*: nobody may give other code a known name."""
    if hashlib.blake2b(data, digest_size=16).digest() != code:
        raise ProtocolError("a blob is not what its hash says")
