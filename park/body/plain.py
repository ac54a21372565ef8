"""Messages of a job's stream that travel as plain records: a reader needs no pickle, and no library of the body's.

A body's `Improvement` and `Progress`, and a dict of texts, numbers and lists of them, are packed with msgpack. All other
messages are pickled. The first byte tells which: a pickle begins with 0x80, and no record of either form does.
"""

from __future__ import annotations

import re
from typing import Any

from park.errors import ProtocolError
from park.model import Improvement, Progress
from park.wire import codec
from park.wire.messages import MAX_INT, MAX_ITEMS
from park.wire.pack import Buffer

#: Levels of lists and dicts; deeper messages are pickled.
MAX_LEVELS = 8
_PICKLED = 0x80
_MADE_OF_LISTS: dict[str, type[Any]] = {"improvement": Improvement, "progress": Progress}
_SCALARS = frozenset((float, bool, bytes, type(None)))
#: Letters of texts that are no Unicode: they cannot travel as they are.
_SURROGATES = re.compile("[\ud800-\udfff]")


def pack_plain(message: Any) -> bytes | None:
    """*message* as a plain record; None where that would change its values."""
    if type(message) is Improvement:
        value: Any = [message.value, message.point, message.step]
    elif type(message) is Progress:
        value = [message.done, message.total, message.units, message.note]
    elif type(message) is dict and message:
        value = message
    else:
        return None
    if not _is_plain(value, MAX_LEVELS):
        return None
    return codec.pack(value)


def is_plain(data: Buffer) -> bool:
    """Whether a message that travelled as *data* is a plain record."""
    return len(data) > 0 and data[0] != _PICKLED


def unpack_plain(kind: str, data: Buffer) -> Any:
    """The message of *kind* that `pack_plain` has packed. Raises ProtocolError for bytes that are no such record."""
    value = codec.unpack(data)
    make = _MADE_OF_LISTS.get(kind)
    if make is None or isinstance(value, dict):
        return value
    try:
        return make(*value)
    except TypeError as error:
        raise ProtocolError(f"a message is no {kind}") from error


def _is_plain(value: Any, levels: int) -> bool:
    kind = type(value)
    if kind is str:
        return value.isascii() or not _SURROGATES.search(value)
    if kind in _SCALARS:
        return True
    if kind is int:
        return bool(-MAX_INT <= value <= MAX_INT)
    if not levels or kind not in (dict, list) or len(value) > MAX_ITEMS:
        return False
    if kind is list:
        return all(_is_plain(item, levels - 1) for item in value)
    return all(
        type(key) is str and _is_plain(key, 0) and _is_plain(item, levels - 1) for key, item in value.items()
    )
