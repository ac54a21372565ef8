"""Messages to frames and back.

A message is a head, which is a msgpack list ``[VERSION, name, value of each field in turn, payload]`` of at
most 64 KiB, and a payload that only the two ends open. A payload of up to `INLINE` bytes is the last item of
the head, and then the message is one frame: each frame more costs every hop of a short message some 5 us.
A longer one is not copied: the item is nil, and the payload a second frame.

`decode` believes nothing: whatever the bytes, it returns a message whose fields have the types that
`park.wire.messages` gives them, or raises `ProtocolError` and nothing else. The limits: whole numbers lie in
0 to 2**63 - 1 (those in `SIGNED` anywhere in 64 bits); declared floats are finite; keys of maps are texts and
come once; lists and maps hold at most 4,096 items, maps of anything nest at most 8 deep; there are no
extension types. Every field is there, and no others.

Nearly all messages are whole and right, and most of their fields are scalars. So `decode` compares the types
of all values with one list first; what does not pass is looked at again field by field.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable, Sequence
from math import isfinite
from operator import attrgetter, itemgetter
from typing import Any

import msgpack

from park.errors import InvalidRequest, ProtocolError
from park.wire.messages import MESSAGES, VERSION, Message

Buffer = bytes | memoryview
M = typing.TypeVar("M", bound=Message)

MAX_HEAD = 64 * 1024
#: Bytes of a payload that travels in the head.
INLINE = 4096
MAX_ITEMS = 4096
MAX_DEPTH = 8
#: How deep a packed payload may nest.
MAX_PAYLOAD_DEPTH = 16
MAX_INT = 2**63 - 1
#: Whole numbers that may be negative, or fill 64 bits; all others count or name something.
SIGNED = frozenset({"priority", "seed"})

Check = Callable[[Any], bool]


def encode(message: Message, payload: Buffer = b"") -> list[Any]:
    """The one or two frames of *message*. Raises InvalidRequest for values that cannot travel.

    What is no Unicode in a text (odd bytes of a file name, say) becomes a question mark.
    """
    table = _TABLES[type(message)]
    if len(payload) and not table.carries:
        raise InvalidRequest(f"{table.name} carries no payload")
    inline = len(payload) <= INLINE
    head = _pack([VERSION, table.name, *table.values(message), payload if inline else None], table.name)
    if len(head) > MAX_HEAD:
        raise InvalidRequest(f"the head of {table.name} has {len(head):,} bytes, more than {MAX_HEAD:,}")
    return [head] if inline else [head, payload]


def decode(frames: Sequence[Any]) -> tuple[Message, Any]:
    """The message and its payload; a second frame as it came. Raises ProtocolError."""
    if not 1 <= len(frames) <= 2:
        raise ProtocolError(f"a message has 1 or 2 frames, not {len(frames)}")
    head = frames[0]
    if len(head) > MAX_HEAD:
        raise ProtocolError(f"a head of {len(head):,} bytes is over the limit of {MAX_HEAD:,}")
    values = _unpack(head)
    if type(values) is not list or len(values) < 3:
        raise ProtocolError("the head is no list of a version, a name, values and a payload")
    version, name, *values, payload = values
    if version != VERSION or type(version) is not int:
        raise ProtocolError(
            f"the peer speaks version {_brief(version)} of PARK's protocol, this side version {VERSION}: "
            "run the same release of PARK on both"
        )
    table = _BY_NAME.get(name) if type(name) is str else None
    if table is None:
        raise ProtocolError(f"there is no message {_brief(name)}")
    if len(frames) == 2 and payload is None:
        payload = frames[1]
    elif len(frames) == 2 or type(payload) is not bytes:
        raise ProtocolError(f"{name} has not one payload")
    if len(payload) and not table.carries:
        raise ProtocolError(f"{name} carries no payload")
    if table.has_maps:
        _unpack(head, object_pairs_hook=_strict_map)
    return table.message(values), payload


def id_of(frames: Sequence[Any]) -> int:
    """The id of a request that `decode` refuses, where it can be read; else 0."""
    try:
        _, name, *values, _ = _unpack(frames[0])
        asked = values[_BY_NAME[name].names.index("id")]
    except (ProtocolError, LookupError, TypeError, ValueError):
        return 0
    return asked if type(asked) is int and 0 < asked <= MAX_INT else 0


def fields(message: Message) -> dict[str, Any]:
    """The fields of *message* by name, as `pack` takes them."""
    table = _TABLES[type(message)]
    return dict(zip(table.names, table.values(message), strict=True))


def build(cls: type[M], values: dict[str, Any]) -> M:
    """The message of `fields`, checked as `decode` checks; a field with a default may be missing. Raises ProtocolError."""
    return typing.cast(M, _TABLES[cls].build(values))


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


class _Table:
    """What is known of one class of messages, worked out once."""

    def __init__(self, cls: type[Message]) -> None:
        hints = typing.get_type_hints(cls)
        fields = dataclasses.fields(cls)
        self.cls = cls
        self.name = cls.__name__
        self.carries = cls.carries
        names = tuple(f.name for f in fields)
        self.names = names
        self.values = _getter(attrgetter, names)
        self.annotations = {f.name: str(f.type) for f in fields}
        self.checks = {name: _check(hints[name], name in SIGNED) for name in names}
        self.required = frozenset(
            f.name
            for f in fields
            if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        )
        self.has_maps = any(typing.get_origin(hints[name]) is dict for name in names)
        # for the first look: the usual types of all values, and which of them to look at again
        self.kinds = [_kind(hints[name]) for name in names]
        counts = [i for i, n in enumerate(names) if self.kinds[i] is int and n not in SIGNED]
        self.counts = _getter(itemgetter, counts)
        self.closer = [
            (i, self.checks[n]) for i, n in enumerate(names) if self.kinds[i] in (float, list, dict)
        ]

    def message(self, values: list[Any]) -> Message:
        """The message of these values, which may be anything."""
        if self.plainly_right(values):
            return self.cls(*values)
        if len(values) != len(self.names):
            raise ProtocolError(f"{self.name} has {len(self.names)} fields, not {len(values)}")
        return self.build(dict(zip(self.names, values, strict=True)))

    def plainly_right(self, values: list[Any]) -> bool:
        """Whether all values are there and have their usual types; False settles nothing."""
        if [*map(type, values)] != self.kinds:
            return False
        for count in self.counts(values):
            if not 0 <= count <= MAX_INT:
                return False
        for i, check in self.closer:
            if not check(values[i]):
                return False
        return True

    def build(self, fields: dict[str, Any]) -> Message:
        """The same of fields by name, slower; it finds the words for what is wrong."""
        for name, value in fields.items():
            check = self.checks.get(name)
            if check is None:
                raise ProtocolError(f"{self.name} has no field {_brief(name)}")
            if not check(value):
                raise ProtocolError(f"{self.name}.{name} is {self.annotations[name]}, not {_brief(value)}")
        if not self.required <= fields.keys():
            raise ProtocolError(f"{self.name} lacks {', '.join(sorted(self.required - fields.keys()))}")
        return self.cls(**fields)


def _getter(make: Callable[..., Callable[[Any], Any]], names: Sequence[Any]) -> Callable[[Any], Any]:
    """attrgetter or itemgetter of *names* that returns a tuple however many names there are."""
    if len(names) > 1:
        return make(*names)
    if not names:
        return lambda values: ()
    get = make(names[0])
    return lambda values: (get(values),)


def _check(hint: Any, signed: bool) -> Check:
    """The test that a decoded value must pass for the annotation *hint*."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is int:
        return lambda value: type(value) is int and (signed or 0 <= value <= MAX_INT)
    if hint is float:  # a whole number will do
        return lambda value: (type(value) is float or type(value) is int) and isfinite(value)
    if hint in (str, bytes, bool):
        return lambda value: type(value) is hint
    if hint is Any:
        return lambda value: type(value) not in (list, dict)
    if origin in (typing.Union, types.UnionType) and len(arguments) == 2 and arguments[1] is type(None):
        inner = _check(arguments[0], signed)
        return lambda value: value is None or inner(value)
    if origin is list:
        inner = _check(arguments[0], signed)
        return lambda value: type(value) is list and all(map(inner, value))
    if origin is dict and arguments == (str, Any):
        return lambda value: type(value) is dict and _shallow(value, MAX_DEPTH)
    if origin is dict and arguments == (str, str):
        return lambda value: type(value) is dict and all(type(v) is str for v in value.values())
    raise TypeError(f"the codec knows no fields of type {hint}")


def _kind(hint: Any) -> type:
    """The usual type of a value that is annotated so: of ``X | None`` it is X."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return _kind(typing.get_args(hint)[0])
    return typing.cast(type, origin or hint)


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
    """Whether *value* nests at most *depth* deep; level by level, so that depth costs no recursion."""
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
    text = str(value) if isinstance(value, Exception) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


_TABLES = {cls: _Table(cls) for cls in MESSAGES.values()}
_BY_NAME = {table.name: table for table in _TABLES.values()}
