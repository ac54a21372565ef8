"""A pack: the payload that holds consecutive units, or their results.

A peer that only carries a pack can count and slice its entries without opening them. There are two kinds, little endian,
behind one header (kind: 1 byte, 3 bytes of zero, length of the row head: 4 bytes, count: 8 bytes):

* entries: the size of each entry (8 bytes each), then the entries, one after the other;
* rows: a head that describes a row (opaque here, as a numpy dtype and shape), then *count* rows of one size.

An empty payload is a pack of no units. The format stores sizes rather than offsets, so a slice of a pack is three raw
slices; the reader sums the offsets once for each pack.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate, pairwise
from typing import Any

from park.errors import ProtocolError
from park.wire import codec
from park.wire.fragments import PayloadBuffer

Buffer = bytes | memoryview

#: Makes the place for a long pack, such as a file in memory that goes to another process as it is. Raises OSError.
BufferAllocator = Callable[[int], PayloadBuffer]
#: Bytes of a pack that gets such a place, and of each of its pieces, about.
MIN_PLACED_BYTES, MIN_PLACED_PIECE_BYTES = 1 << 20, 64 << 10

_HEADER = struct.Struct("<cxxxIQ")
_ENTRIES, _ROWS = b"E", b"R"


def code_hash(blob: Buffer) -> bytes:
    """The 16 bytes that name code."""
    return hashlib.blake2b(blob, digest_size=16).digest()


def pack_entries(entries: Sequence[Buffer], place: BufferAllocator | None = None) -> Buffer:
    """The pack of these entries."""
    return pack_pieces([len(entry) for entry in entries], entries, place)


def pack_pieces(sizes: Sequence[int], pieces: Iterable[Any], place: BufferAllocator | None = None) -> Buffer:
    """The pack of ``len(sizes)`` entries, whose bytes are *pieces* in turn; each byte is copied once."""
    if not sizes:
        return b""
    header = _HEADER.pack(_ENTRIES, 0, len(sizes))
    return _put([header, struct.pack(f"<{len(sizes)}Q", *sizes), *pieces], place)


def pack_rows(head: bytes, rows: Any, count: int, place: BufferAllocator | None = None) -> Buffer:
    """The pack of *count* rows of one size, at least a byte; *rows* is a contiguous buffer of bytes."""
    return _put([_HEADER.pack(_ROWS, len(head), count), head, rows], place) if count else b""


def _put(pieces: list[Any], place: BufferAllocator | None) -> Buffer:
    """The pieces one after the other: many bytes in a few pieces at the *place* for them, if there is one."""
    views = [memoryview(piece).cast("B") for piece in pieces if len(piece)] if place is not None else []
    size = sum(map(len, views))
    if place is None or size < MIN_PLACED_BYTES or size < MIN_PLACED_PIECE_BYTES * (len(views) - 2):
        return b"".join(pieces)
    try:
        target = place(size)
        at = 0
        for view in views:
            target.put(at, view)
            at += len(view)
        return target.done()
    except OSError:  # no file in memory is to be had
        return b"".join(pieces)


def _sizes(payload: Buffer, count: int) -> tuple[int, ...]:
    """The sizes of the first *count* entries."""
    return struct.unpack(f"<{count}Q", payload[_HEADER.size : _HEADER.size + 8 * count])


def _look(payload: Buffer) -> tuple[int, int, int]:
    """The count of units of a pack, the position of their first byte, and the size of each row (0: a pack of entries).

    Raises ProtocolError for bytes that cannot be a pack.
    """
    if len(payload) < _HEADER.size:
        raise ProtocolError(f"{len(payload)} bytes are no pack")
    kind, head, count = _HEADER.unpack(payload[: _HEADER.size])
    start = _HEADER.size + (head if kind == _ROWS else 8 * count)
    size = len(payload) - start
    if size < 0 or count == 0 or kind not in (_ENTRIES, _ROWS):
        raise ProtocolError("a pack's header does not fit its data")
    if kind == _ENTRIES:
        if head or sum(_sizes(payload, count)) != size:
            raise ProtocolError("the sizes of a pack's entries do not add up to its data")
        return count, start, 0
    row, rest = divmod(size, count)
    if rest or not row:
        raise ProtocolError(f"{size} bytes are not {count} rows of one size")
    return count, start, row


class Pack:
    """A pack from another process. A malformed one raises ProtocolError here, and never later."""

    __slots__ = ("_body", "_head", "_offsets", "_row", "_view", "count")

    def __init__(self, payload: Buffer) -> None:
        self._view = view = memoryview(payload)
        #: the number of units
        self.count = 0
        #: the head and the size of a row; None and 0 for entries
        self._head: bytes | None = None
        self._row = 0
        #: the place in the body where each entry begins, and where the last one ends
        self._offsets = [0]
        #: the bytes of all entries or rows
        self._body = view[:0]
        if not len(view):
            return
        self.count, start, self._row = _look(view)
        if self._row:
            self._head = bytes(view[_HEADER.size : start])
        else:
            self._offsets = list(accumulate(_sizes(view, self.count), initial=0))
        self._body = view[start:]

    def __repr__(self) -> str:
        kind = "entries" if self._head is None else "rows"
        return f"<Pack of {self.count} {kind}, {len(self._view)} bytes>"

    def slice(self, i: int, j: int) -> Buffer:
        """The pack of units *i* to *j* (not included). A long whole one is not copied."""
        if not 0 <= i <= j <= self.count:
            raise ProtocolError(f"units {i} to {j} are not in a pack of {self.count}")
        if i == 0 and j == self.count:
            return self._view.toreadonly() if len(self._view) > MIN_PLACED_BYTES else bytes(self._view)
        if i == j:
            return b""
        if self._head is not None:
            return pack_rows(self._head, self._body[i * self._row : j * self._row], j - i)
        sizes = self._view[_HEADER.size + 8 * i : _HEADER.size + 8 * j]
        body = self._body[self._offsets[i] : self._offsets[j]]
        return b"".join((_HEADER.pack(_ENTRIES, 0, j - i), sizes, body))

    def entries(self) -> list[memoryview]:
        """The bytes of each unit. The bytes of a row have no meaning without the head."""
        body = self._body
        if self._head is not None:
            row = self._row
            return [body[i : i + row] for i in range(0, len(body), row)]
        return [body[i:j] for i, j in pairwise(self._offsets)]

    @property
    def rows(self) -> tuple[bytes, memoryview] | None:
        """The head and the bytes of all rows; None for a pack of entries."""
        return None if self._head is None else (self._head, self._body)


def cut(payload: Buffer, i: int, j: int) -> Buffer:
    """``Pack(payload).slice(i, j)`` of a pack that was checked before it was stored; faster where a pack is cut once.

    The payload may be any object that has a length and returns bytes for slices, such as a long payload on the disk.

    >>> cut(pack_entries([b"a", b"bc", b"def"]), 1, 2) == pack_entries([b"bc"])
    True
    """
    kind, head, count = _HEADER.unpack(payload[: _HEADER.size])
    if i == 0 and j == count:
        return payload
    if not 0 <= i < j <= count:
        return Pack(payload).slice(i, j)
    start = _HEADER.size + (head if kind == _ROWS else 8 * count)
    if kind == _ROWS:
        row = (len(payload) - start) // count
        body = payload[start + i * row : start + j * row]
        return b"".join((_HEADER.pack(_ROWS, head, j - i), payload[_HEADER.size : start], body))
    sizes = _sizes(payload, j)
    start += sum(sizes[:i])
    body = payload[start : start + sum(sizes[i:])]
    return b"".join(
        (_HEADER.pack(_ENTRIES, 0, j - i), payload[_HEADER.size + 8 * i : _HEADER.size + 8 * j], body)
    )


def join(packs: Iterable[Buffer]) -> bytes:
    """One pack of the units of all *packs*, in order: all packs have entries, or all have rows with the same head."""
    parts = [pack for pack in map(Pack, packs) if pack.count]
    if not parts:
        return b""
    head, row = parts[0]._head, parts[0]._row
    if any((pack._head, pack._row) != (head, row) for pack in parts):
        raise ProtocolError("packs of different kinds cannot be joined")
    count = sum(pack.count for pack in parts)
    if head is not None:
        return b"".join((_HEADER.pack(_ROWS, len(head), count), head, *(pack._body for pack in parts)))
    sizes = (pack._view[_HEADER.size : _HEADER.size + 8 * pack.count] for pack in parts)
    return b"".join((_HEADER.pack(_ENTRIES, 0, count), *sizes, *(pack._body for pack in parts)))


#: The first byte of the entry of a failed unit, which carriers of packs must recognise.
ERROR = b"e"


def error_entry(cause: str, traceback: str, unit: int | None) -> bytes:
    """The entry of a unit that failed; a broker writes one for a unit that killed its process."""
    return ERROR + codec.pack([cause, traceback, unit])


def count(payload: Buffer) -> int:
    """The number of units in a pack. Raises ProtocolError for bytes that cannot be a pack."""
    return _look(payload)[0] if len(payload) else 0


def said_count(payload: Buffer) -> int:
    """The number of units that the header of a pack states. Only for packs that were checked before."""
    if not len(payload):
        return 0
    if len(payload) < _HEADER.size:
        raise ProtocolError(f"{len(payload)} bytes are no pack")
    return int(_HEADER.unpack(payload[: _HEADER.size])[2])
