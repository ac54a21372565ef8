"""Long values in a store: they lie there in pieces.

A record of hundreds of megabytes would need a long run of free pages, which a file in use seldom has: the file would
grow with each such record although others were deleted. While it is written the value would be in memory three times,
and once more whenever it is read. So a value of more than `LONG_VALUE_BYTES` is cut into pieces of one size, and its
own record only names them. The pieces can be written before the broker has decided about the value, and are read one by
one when they are sent.

Pieces that no record names are a *draft*. A draft belongs to a `LongValue` in memory, and is deleted with that object or
with the process. A value that is deleted or replaced becomes a draft too, so that its readers can finish.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Any

from park.broker.effects import Key, Write
from park.broker.storage.recent_values import RecentValues
from park.errors import StoreError

#: Values of more bytes lie in pieces.
LONG_VALUE_BYTES = 1 << 20
#: Bytes of a piece: with the heads of its record and of the page it fills 64 pages of the file.
PIECE_BYTES = (256 << 10) - 21
_NAMED = struct.Struct(">QQ")


class LongValue:
    """A value that lies in a store: it has a length, and gives its bytes slice by slice. *load* reads a piece; *recent*
    has the bytes of values that are still in memory.
    """

    __slots__ = ("__weakref__", "_last", "_load", "_recent", "_size", "digest", "id")

    def __init__(
        self,
        id: int,
        size: int,
        load: Callable[[Key], bytes | None],
        recent: RecentValues | None = None,
    ) -> None:
        self.id = id
        self._recent = recent
        self._size = size
        self._load = load
        #: the piece that was read last: a reader in sequence needs it again
        self._last: tuple[int, bytes] = (-1, b"")
        #: the hash of the content, where it was asked for
        self.digest = b""

    def __repr__(self) -> str:
        return f"<LongValue {self.id}: {self._size:,} bytes>"

    def __len__(self) -> int:
        return self._size

    @property
    def memory(self) -> Any:
        """The bytes, while they are in memory as well; else None."""
        return None if self._recent is None else self._recent.find(self.id)

    def __getitem__(self, part: slice) -> bytes:
        """Raises StoreError where a piece is damaged."""
        start, stop, _ = part.indices(self._size)
        if (memory := self.memory) is not None:
            return bytes(memory[start:stop])
        found = []
        while start < stop:
            index, at = divmod(start, PIECE_BYTES)
            piece = self._piece(index)[at : at + stop - start]
            found.append(piece)
            start += len(piece)
        return found[0] if len(found) == 1 else b"".join(found)

    def _piece(self, index: int) -> bytes:
        last, piece = self._last
        if last != index:
            loaded = self._load((self.id, index))
            if loaded is None or len(loaded) != min(PIECE_BYTES, self._size - index * PIECE_BYTES):
                raise StoreError(f"piece {index} of a value of {self._size:,} bytes is missing in the store")
            piece = loaded
            self._last = index, piece
        return piece

    def named(self) -> bytes:
        """The beginning of its record."""
        return _NAMED.pack(self.id, self._size)

    def pieces(self) -> Iterator[Key]:
        """The keys of its pieces."""
        return ((self.id, index) for index in range(-(-self._size // PIECE_BYTES)))

    def writes(self, value: Any, start: int = 0, most: int = 1 << 62) -> Iterator[Write]:
        """The writes that lay pieces of *value*, this one's content, from byte *start* on, some *most* bytes."""
        if not start:
            yield Write("draft", (self.id,), self.named())
        for at in range(start, min(self._size, start + most), PIECE_BYTES):
            yield Write("piece", (self.id, at // PIECE_BYTES), value[at : at + PIECE_BYTES])


def names(record: bytes | memoryview) -> tuple[int, int]:
    """The id and the size that `LongValue.named` has put there."""
    try:
        id, size = _NAMED.unpack(record)
    except struct.error as error:
        raise StoreError(f"a record names no pieces: {error}") from None
    return id, size
