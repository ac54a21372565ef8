"""Messages to frames and back.

A message is a head, which is a msgpack list ``[VERSION, [name, value of each field in turn], payload]`` of at most 64
KiB, and a payload that only the two ends open. A payload of up to `MAX_INLINE_BYTES` bytes is the last item of the head,
and the message is one frame: each further frame costs some 5 us at every hop. A longer payload is not copied: the item is
nil, and the payload is a second frame.

`decode` trusts no peer. From any bytes it returns a message whose fields have the types that `park.wire.messages`
gives them, or raises `ProtocolError` and nothing else. The limits: integers lie in 0 to 2**63 - 1 (those declared `int`
anywhere in 64 bits); declared floats are finite; keys of maps are texts, and each occurs once; lists and maps hold at
most 4,096 items; maps of any values nest at most 8 deep; extension types are refused. Each message has all of its fields,
and no others.

Two libraries read the one format here. msgspec builds messages from heads and checks the types on the way, in a tenth
of the time that Python code needs. But it accepts a key that occurs twice, and extension types in fields of any type,
and its error names no field. msgpack calls back for each map, so it can read strictly. It reads payloads, values of the
store, and heads that contain maps or faults.
"""

from __future__ import annotations

import functools
import typing
from collections.abc import Sequence
from typing import Any

import msgpack
import msgspec

from park.errors import InvalidRequest, ProtocolError
from park.wire.messages import MAX_INT, MAX_ITEMS, MESSAGES, VERSION, Message, Names, Record

Buffer = bytes | memoryview
M = typing.TypeVar("M", bound=Message)

MAX_HEAD_BYTES = 64 * 1024
#: Bytes of the longest payload that travels in the head.
MAX_INLINE_BYTES = 4096
MAX_DEPTH = 8
#: Levels to which a packed payload may nest.
MAX_PAYLOAD_DEPTH = 16

_encode = msgspec.msgpack.Encoder().encode
#: A head: the version, any of the messages, the payload.
_HEAD: Any = tuple[typing.Literal[VERSION], typing.Union[tuple(MESSAGES.values())], bytes | None]  # type: ignore[misc, valid-type] # noqa: UP007
_decode = msgspec.msgpack.Decoder(_HEAD).decode


def encode(message: Message, payload: Buffer = b"") -> list[Any]:
    """The one or two frames of *message*. Raises InvalidRequest for values that cannot travel.

    Characters of a text that are not Unicode (odd bytes of a file name, for example) become question marks.
    """
    kind = type(message)
    if len(payload) and not kind.carries:
        raise InvalidRequest(f"{kind.__name__} carries no payload")
    inline = payload if len(payload) <= MAX_INLINE_BYTES else None
    try:
        head = _encode((VERSION, message, inline))
    except Exception:  # no Unicode, a value that only msgpack takes, or an error that needs words
        head = _pack(
            [VERSION, [kind.__name__, *msgspec.structs.astuple(message)], inline], kind.__name__, "replace"
        )
    if len(head) > MAX_HEAD_BYTES:
        raise InvalidRequest(
            f"the head of {kind.__name__} has {len(head):,} bytes, more than {MAX_HEAD_BYTES:,}"
        )
    return [head] if inline is not None else [head, payload]


def decode(frames: Sequence[Any]) -> tuple[Message, Any]:
    """The message and its payload. A payload that came as a second frame is returned as it came. Raises ProtocolError."""
    if not 1 <= len(frames) <= 2:
        raise ProtocolError(f"a message has 1 or 2 frames, not {len(frames)}")
    head = frames[0]
    if len(head) > MAX_HEAD_BYTES:
        raise ProtocolError(f"a head of {len(head):,} bytes is over the limit of {MAX_HEAD_BYTES:,}")
    try:
        _, message, payload = _decode(head)
    except Exception as error:  # RecursionError and UnicodeDecodeError are possible too
        raise _fault(*_values(head), error) from error
    kind = type(message)
    start = _STARTS[kind]
    if head[: len(start)] != start or kind in _WITH_MAPS:
        _values(head)
    if len(frames) == 2 and payload is None:
        payload = frames[1]
    elif len(frames) == 2 or payload is None:
        raise ProtocolError(f"{kind.__name__} has not one payload")
    if len(payload) and not kind.carries:
        raise ProtocolError(f"{kind.__name__} carries no payload")
    return message, payload


def start_of(kind: type[Message]) -> bytes:
    """The first bytes of every head of a message of class *kind*: the version, the number of its values and its name."""
    return _STARTS[kind]


def id_of(frames: Sequence[Any]) -> int:
    """The id of a request that `decode` refuses, where it can be read; else 0."""
    try:
        _, (name, *values), _ = _unpack(frames[0])
        asked = values[MESSAGES[name].__struct_fields__.index("id")]
    except (ProtocolError, LookupError, TypeError, ValueError):
        return 0
    return asked if type(asked) is int and 0 < asked <= MAX_INT else 0


def fields(message: Message) -> dict[str, Any]:
    """The fields of *message* by name, as `pack` takes them."""
    return msgspec.structs.asdict(message)


def build(cls: type[M], values: dict[str, Any]) -> M:
    """The message of class *cls* with these fields, checked as `decode` checks; a field with a default may be missing.
    Raises ProtocolError.
    """
    try:
        loose = cls(**values)
    except TypeError as error:
        if unknown := [name for name in values if name not in cls.__struct_fields__]:
            raise ProtocolError(f"{cls.__name__} has no field {_brief(unknown[0])}") from error
        needed = [field.name for field in msgspec.structs.fields(cls) if field.required]
        lacks = sorted(name for name in needed if name not in values)
        raise ProtocolError(f"{cls.__name__} lacks {', '.join(lacks)}") from error
    whole = [cls.__name__, *msgspec.structs.astuple(loose)]
    _check_depth(cls, whole)
    try:
        return msgspec.convert(whole, cls)
    except Exception as error:
        raise _fault(cls, whole[1:], error) from error


def _values(head: Buffer) -> tuple[type[Message], list[Any]]:
    """The class and the values of the message in a head: all checks but those of the types. Raises ProtocolError."""
    items = _unpack(head, object_pairs_hook=_strict_map)
    version = items[0] if type(items) is list and items else VERSION
    if version != VERSION or type(version) is not int:
        raise ProtocolError(
            f"the peer speaks version {_brief(version)} of PARK's protocol, this side version {VERSION}: "
            "run the same release of PARK on both"
        )
    if type(items) is not list or len(items) != 3 or type(items[1]) is not list or not items[1]:
        raise ProtocolError("the head is no list of a version, a message and a payload")
    name, *values = items[1]
    kind = MESSAGES.get(name) if type(name) is str else None
    if kind is None:
        raise ProtocolError(f"there is no message {_brief(name)}")
    if len(values) != len(kind.__struct_fields__):
        raise ProtocolError(f"{name} has {len(kind.__struct_fields__)} fields, not {len(values)}")
    if type(items[2]) is not bytes and items[2] is not None:
        raise ProtocolError(f"{name} has not one payload")
    _check_depth(kind, values)
    return kind, values


def _check_depth(kind: type[Message], values: list[Any]) -> None:
    for value in values:
        if type(value) in (list, dict) and not _shallow(value, MAX_DEPTH):
            raise ProtocolError(f"a value of {kind.__name__} nests more than {MAX_DEPTH} deep")


def _fault(kind: type[Message], values: list[Any], error: Exception) -> ProtocolError:
    """The error that names the first of *values* with a wrong type; if there is none, *error* in words."""
    types, words = _types(kind)
    for name, value in zip(kind.__struct_fields__, values, strict=True):
        try:
            msgspec.convert(value, types[name])
        except Exception:
            return ProtocolError(f"{kind.__name__}.{name} is {words[name]}, not {_brief(value)}")
    return ProtocolError(f"{kind.__name__} cannot be read: {_brief(error)}")


@functools.cache
def _types(kind: type[Message]) -> tuple[dict[str, Any], dict[str, str]]:
    """The types of all fields, and what they are called."""
    plain = typing.get_type_hints(kind).items()
    words = {name: hint.__name__ if isinstance(hint, type) else str(hint) for name, hint in plain}
    return typing.get_type_hints(kind, include_extras=True), words


def pack(value: Any) -> bytes:
    """*value* (plain lists, maps with texts as keys, and scalars) as a payload or a value in the store."""
    return _pack(value, "a payload")


def unpack(data: Buffer) -> Any:
    """The value of `pack`; as strict as `decode`, but as long as the data is. Raises ProtocolError."""
    scan = msgpack.Unpacker(None, max_buffer_size=max(1, len(data)))
    try:  # lengths that lie would make lists before their items: see first that every item is there
        scan.feed(data)
        scan.skip()
    except Exception as error:
        raise ProtocolError(f"a payload is not msgpack: {_brief(error)}") from error
    value = _unpack(data, len(data), object_pairs_hook=_strict_map)
    if not _shallow(value, MAX_PAYLOAD_DEPTH):
        raise ProtocolError(f"a payload nests more than {MAX_PAYLOAD_DEPTH} deep")
    return value


def _pack(value: Any, what: str, unicode_errors: str | None = None) -> bytes:
    try:
        return typing.cast(bytes, msgpack.packb(value, unicode_errors=unicode_errors))
    except UnicodeEncodeError:  # rare, and looking out for it costs a fifth
        return _pack(value, what, "replace")
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise InvalidRequest(f"{what} cannot travel: {error}") from error


def _unpack(data: Buffer, items: int = MAX_ITEMS, **options: Any) -> Any:
    try:
        return msgpack.unpackb(
            data,
            max_array_len=items,
            max_map_len=items,
            max_ext_len=0,
            ext_hook=_no_extension,
            **options,
        )
    except Exception as error:  # the library has many; MemoryError and RecursionError are possible too
        raise ProtocolError(f"a frame is not msgpack of this protocol: {_brief(error)}") from error


def _strict_map(pairs: list[tuple[Any, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ProtocolError("a key comes twice")
    for key in fields:
        if type(key) is not str:
            raise ProtocolError("a key is not a text")
    return fields


def _no_extension(code: int, data: bytes) -> Any:
    raise ProtocolError("extension types are not used")


def _shallow(value: Any, depth: int) -> bool:
    """Whether *value* nests at most *depth* deep. It goes level by level, so deep nesting costs no recursion."""
    level = [value]
    while level and depth > 0:
        level = [
            item
            for box in level
            if type(box) in (list, dict)
            for item in (box.values() if type(box) is dict else box)
            if type(item) in (list, dict)
        ]
        depth -= 1
    return not level


def _brief(value: Any) -> str:
    try:
        text = str(value) if isinstance(value, Exception) else repr(value)
    except RecursionError:  # lists in lists in lists
        text = f"a {type(value).__name__}"
    return text if len(text) <= 60 else text[:57] + "..."


#: The first bytes of the head of each message: the version, the number of its values and its name.
_STARTS = {
    kind: _encode((VERSION, (name, *kind.__struct_fields__), None)).partition(name.encode())[0]
    + name.encode()
    for name, kind in MESSAGES.items()
}
_WITH_MAPS = {k for k in MESSAGES.values() if not {Names, Record}.isdisjoint(k.__annotations__.values())}
