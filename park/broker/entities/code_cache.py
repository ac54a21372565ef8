"""The code that the broker holds: functions and bodies, by the hash of their content.

The spool keeps code while a job that has not ended, or one of its maps, needs it, and afterwards while there is memory,
because the next job often brings the same code. The store keeps the code of its jobs: each code once, until the last
job with it is deleted. If a client or kernel names code that is in neither, the broker asks it to send the code again.
"""

from __future__ import annotations

from collections import Counter, OrderedDict

from park.errors import ProtocolError
from park.wire.pack import code_hash

#: Bytes of code that stays in the spool although no job and no map needs it.
MAX_IDLE_BYTES = 64 << 20


class CodeCache:
    """The code that the broker holds, with its users."""

    def __init__(self, idle_bytes: int = MAX_IDLE_BYTES) -> None:
        self._limit = idle_bytes
        #: bytes of each known code
        self._sizes: dict[bytes, int] = {}
        #: code in the spool
        self._spooled: set[bytes] = set()
        #: jobs and maps that need it now
        self._users: dict[bytes, int] = {}
        #: jobs in the store that have it
        self._kept: Counter[bytes] = Counter()
        #: code in the spool without a user, the longest unused first
        self._idle: OrderedDict[bytes, None] = OrderedDict()
        self._idle_bytes = 0

    def __contains__(self, code: bytes) -> bool:
        return code in self._sizes

    def __len__(self) -> int:
        return len(self._sizes)

    def is_kept(self, code: bytes) -> bool:
        """Whether the store has it."""
        return code in self._kept

    def size(self, code: bytes) -> int:
        """Its bytes."""
        return self._sizes[code]

    def used_bytes(self) -> int:
        """The bytes of code that has users."""
        return sum(self._sizes[code] for code in self._users)

    def add(self, code: bytes, size: int) -> list[bytes]:
        """Note new code of *size* bytes in the spool. Returns the code that leaves the spool for it."""
        self._sizes[code] = size
        self._spooled.add(code)
        self._rest(code)
        return self._surplus()

    def use(self, code: bytes) -> None:
        """Count one user more."""
        if code in self._idle:
            del self._idle[code]
            self._idle_bytes -= self._sizes[code]
        self._users[code] = self._users.get(code, 0) + 1

    def leave(self, code: bytes) -> list[bytes]:
        """Count one user less. Returns the code that leaves the spool now."""
        self._users[code] -= 1
        if not self._users[code]:
            del self._users[code]
            if code in self._spooled:
                self._rest(code)
        return self._surplus() if self._idle_bytes > self._limit else []

    def keep(self, code: bytes, size: int) -> bool:
        """Count one stored job more with this code. True: it is the first, and the store must get the code."""
        self._sizes.setdefault(code, size)
        self._kept[code] += 1
        return self._kept[code] == 1

    def forget(self, code: bytes) -> bool:
        """Count one stored job less with this code. True: it was the last, and the code leaves the store."""
        self._kept[code] -= 1
        if self._kept[code]:
            return False
        del self._kept[code]
        if code not in self._spooled and code not in self._users:
            del self._sizes[code]
        return True

    def spool(self, code: bytes) -> bool:
        """The code leaves the store. True: copy it to the spool, because it has users and is not there."""
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
        """Assert the invariants."""
        assert self._spooled | self._kept.keys() == self._sizes.keys()
        assert self._idle.keys() == self._spooled - self._users.keys()
        assert self._users.keys() <= self._sizes.keys()
        assert all(n > 0 for n in (self._users | self._kept).values())
        assert self._idle_bytes == sum(self._sizes[c] for c in self._idle)
        assert self._idle_bytes <= self._limit or len(self._idle) == 1


def check_code(code: bytes, data: bytes | memoryview) -> None:
    """Raises ProtocolError when *code* is not the hash of *data*: no peer may give other code a known name."""
    if (digest_of(data) or code_hash(data[:])) != code:
        raise ProtocolError("a blob is not what its hash says")


def digest_of(data: object) -> bytes:
    """The hash of long code, if it was computed before the message is decided; b"": it was not."""
    found: bytes = getattr(data, "digest", b"")
    return found
