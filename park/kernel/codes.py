"""The code that a kernel keeps: functions and bodies, by the hash of their content.

What was not used for the longest time goes when there is too much; where it is needed again, it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from park.wire.pack import Buffer

#: Bytes of code that is kept; what runs, or is about to, stays in any case.
CODE_BYTES = 128 << 20


class Codes:
    """See the module; the newest last."""

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
        """Keep it as the newest; the oldest that is not *needed* goes when there is too much: which ones went."""
        self._bytes += len(data) - len(self._codes.pop(code, b""))
        self._codes[code] = data
        if self._bytes <= CODE_BYTES:
            return []
        stays, dropped = needed() | {code}, []
        for old in [c for c in self._codes if c not in stays]:
            if self._bytes <= CODE_BYTES:
                break
            self._bytes -= len(self._codes.pop(old))
            dropped.append(old)
        return dropped

    def check(self) -> None:
        """Assert what must always hold."""
        assert self._bytes == sum(map(len, self._codes.values()))
