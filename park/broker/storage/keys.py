"""Keys of records: tuples as bytes that sort as the tuples do.

Each part is a tag, then an integer shifted into 8 big-endian bytes, or the bytes (a text: its UTF-8) with every 00
written as 00 FF and ended by 00 01. No encoded part is the beginning of another one. So the records under a prefix are
exactly those from its encoding up to that encoding + FF.
"""

from __future__ import annotations

import struct

from park.broker.effects import Key
from park.errors import StoreError

_INT, _BYTES, _TEXT = b"\x01", b"\x02", b"\x03"
_SHIFT = 1 << 63
_U64 = struct.Struct(">Q")
_END = b"\x00\x01"
#: Behind the encoding of a prefix: past all keys that start with that.
PAST_PREFIX = b"\xff"
#: LMDB's own limit.
MAX_KEY_BYTES = 511


def encode_key(key: Key) -> bytes:
    """The bytes of *key*, which sort as the tuples do. Raises StoreError for a part of another type or a key too long."""
    parts = []
    try:
        for part in key:
            if isinstance(part, int):
                parts.append(_INT + _U64.pack(part + _SHIFT))
            elif isinstance(part, bytes):
                parts.append(_BYTES + part.replace(b"\x00", b"\x00\xff") + _END)
            else:
                parts.append(_TEXT + part.encode().replace(b"\x00", b"\x00\xff") + _END)
    except (struct.error, AttributeError, UnicodeError):
        raise StoreError(f"{part!r} in the key {key!r} is no 64-bit integer, bytes or text") from None
    raw = b"".join(parts)
    if len(raw) > MAX_KEY_BYTES:
        raise StoreError(f"the key {key!r} takes {len(raw)} bytes, more than {MAX_KEY_BYTES}")
    return raw


def decode_key(raw: bytes) -> Key:
    """The tuple that `encode_key` made into *raw*. Raises StoreError for bytes that it never makes."""
    parts: list[int | bytes | str] = []
    at = 0
    try:
        while at < len(raw):
            tag = raw[at : at + 1]
            if tag == _INT:
                parts.append(_U64.unpack_from(raw, at + 1)[0] - _SHIFT)
                at += 9
            elif tag in (_BYTES, _TEXT):
                end = raw.index(_END, at + 1)
                part = raw[at + 1 : end].replace(b"\x00\xff", b"\x00")
                parts.append(part if tag == _BYTES else part.decode())
                at = end + 2
            else:
                raise ValueError(tag)
    except (ValueError, struct.error):
        raise StoreError(f"the store holds {raw!r}, which is no key; it is damaged") from None
    return tuple(parts)
