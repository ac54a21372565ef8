"""The code that the broker holds: functions and bodies, by the hash of their content.

The spool has code while a job that has not ended, or a map of it, needs it, and after that as long as there is room,
because the next job often brings the same. The store has the code of each job that is kept there, once however many
jobs have the same, until the last of them is deleted. Whoever refers to code that is in neither is asked to send it
again.
"""

from __future__ import annotations

import hashlib
from collections import Counter, OrderedDict

from park.errors import ProtocolError

#: Bytes of code that stays in the spool although nothing needs it.
IDLE_BYTES = 64 << 20


class Codes:
    """Which code is there, and what of it may go."""

    def __init__(self, idle_bytes: int = IDLE_BYTES) -> None:
        self._limit = idle_bytes
        #: the size of all that is known
        self._sizes: dict[bytes, int] = {}
        #: what lies in the spool
        self._spooled: set[bytes] = set()
        #: jobs and maps that need it now
        self._users: dict[bytes, int] = {}
        #: jobs in the store that have it
        self._kept: Counter[bytes] = Counter()
        #: what lies in the spool and nobody needs, the one that was needed longest ago first
        self._idle: OrderedDict[bytes, None] = OrderedDict()
        self._idle_bytes = 0

    def __contains__(self, code: bytes) -> bool:
        return code in self._sizes

    def __len__(self) -> int:
        return len(self._sizes)

    def size(self, code: bytes) -> int:
        """Its bytes."""
        return self._sizes[code]

    def add(self, code: bytes, size: int) -> list[bytes]:
        """New code of *size* bytes, for the spool; the code that leaves the spool for it."""
        self._sizes[code] = size
        self._spooled.add(code)
        self._rest(code)
        return self._surplus()

    def use(self, code: bytes) -> None:
        """One more needs it."""
        if code in self._idle:
            del self._idle[code]
            self._idle_bytes -= self._sizes[code]
        self._users[code] = self._users.get(code, 0) + 1

    def leave(self, code: bytes) -> list[bytes]:
        """One less needs it; the code that leaves the spool now."""
        self._users[code] -= 1
        if not self._users[code]:
            del self._users[code]
            if code in self._spooled:
                self._rest(code)
        return self._surplus() if self._idle_bytes > self._limit else []

    def keep(self, code: bytes, size: int) -> bool:
        """One more job in the store has it; whether it is the first, so that the store must be given the code."""
        self._sizes.setdefault(code, size)
        self._kept[code] += 1
        return self._kept[code] == 1

    def forget(self, code: bytes) -> bool:
        """One job less in the store has it; whether it was the last, so that the code leaves the store."""
        self._kept[code] -= 1
        if self._kept[code]:
            return False
        del self._kept[code]
        if code not in self._spooled and code not in self._users:
            del self._sizes[code]
        return True

    def spool(self, code: bytes) -> bool:
        """It leaves the store: whether it must be copied to the spool, because it is needed and is not there."""
        if code not in self._users or code in self._spooled:
            return False
        self._spooled.add(code)
        return True

    def _rest(self, code: bytes) -> None:
        self._idle[code] = None
        self._idle_bytes += self._sizes[code]

    def _surplus(self) -> list[bytes]:
        gone = []
        while self._idle_bytes > self._limit and len(self._idle) > 1:  # the newest is just about to be needed
            code, _ = self._idle.popitem(last=False)
            self._idle_bytes -= self._sizes[code]
            self._spooled.discard(code)
            if code not in self._kept:
                del self._sizes[code]
            gone.append(code)
        return gone

    def check(self) -> None:
        """Assert what must always hold."""
        assert self._spooled | self._kept.keys() == self._sizes.keys()
        assert self._idle.keys() == self._spooled - self._users.keys()
        assert self._users.keys() <= self._sizes.keys()
        assert all(n > 0 for n in (self._users | self._kept).values())
        assert self._idle_bytes == sum(self._sizes[c] for c in self._idle)
        assert self._idle_bytes <= self._limit or len(self._idle) == 1


def check_code(code: bytes, data: bytes | memoryview) -> None:
    """Raises ProtocolError when *code* is not the hash of *data*: nobody may give other code a known name."""
    known = getattr(data, "digest", b"")  # what lies on the disk was hashed on its way there
    if (known or hashlib.blake2b(data[:], digest_size=16).digest()) != code:
        raise ProtocolError("a blob is not what its hash says")
