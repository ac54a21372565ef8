"""The code that a kernel keeps: functions and bodies, by the hash of their content.

When the cache is full, the code that was not used for the longest time is dropped. The kernel asks for it again when a
unit needs it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from park.wire.pack import Buffer

#: Bytes of code that are kept; code that runs, or is about to, stays in any case.
MAX_CODE_BYTES = 128 << 20


class KernelCodeCache:
    """The code that the kernel holds, the most recently used last."""

    def __init__(self) -> None:
        self._codes: dict[bytes, Buffer] = {}
        self._bytes = 0

    def __contains__(self, code: bytes) -> bool:
        return code in self._codes

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._codes)

    def __getitem__(self, code: bytes) -> Buffer:
        return self._codes[code]

    def use(self, code: bytes) -> Buffer:
        """The code, which is needed now."""
        data = self._codes[code] = self._codes.pop(code)
        return data

    def keep(self, code: bytes, data: Buffer, needed: Callable[[], set[bytes]]) -> list[bytes]:
        """Keep the code as the most recent one. Returns the codes that were dropped for it; codes that are *needed*
        stay.
        """
        self._bytes += len(data) - len(self._codes.pop(code, b""))
        self._codes[code] = data
        if self._bytes <= MAX_CODE_BYTES:
            return []
        stays, dropped = needed() | {code}, []
        for old in [c for c in self._codes if c not in stays]:
            if self._bytes <= MAX_CODE_BYTES:
                break
            self._bytes -= len(self._codes.pop(old))
            dropped.append(old)
        return dropped

    def replace(self, code: bytes, data: Buffer) -> None:
        """Replace the bytes of the code by equal ones that lie elsewhere."""
        self._codes[code] = data

    def check(self) -> None:
        """Assert that the sum agrees with the codes."""
        assert self._bytes == sum(map(len, self._codes.values()))
