"""The codec: every message comes back, and hostile bytes only ever raise ProtocolError."""

from __future__ import annotations

import math
import tracemalloc
import types
import typing
from collections import Counter
from random import Random
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from park.errors import InvalidRequest, ProtocolError
from park.wire import codec
from park.wire.codec import MAX_INLINE_BYTES, decode, encode, pack, unpack
from park.wire.messages import MAX_ITEMS, MESSAGES, VERSION, Count, Fetched, Goodbye, Heartbeat, Message, Run

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | texts
plain = st.recursive(
    scalars | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


def of_annotation(hint: Any) -> st.SearchStrategy[Any]:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated and hint is not Count:
        return of_annotation(arguments[0])
    if origin in (typing.Union, types.UnionType):
        return st.none() | of_annotation(arguments[0])
    if origin is list:
        return st.lists(of_annotation(arguments[0]), max_size=4)
    if origin is dict:
        return st.dictionaries(texts, texts if arguments[1] is str else plain, max_size=4)
    return {
        Count: st.integers(0, 2**63 - 1),
        int: st.integers(-(2**63), 2**64 - 1),
        float: st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**31), 2**31),
        str: texts,
        bytes: st.binary(max_size=40),
        bool: st.booleans(),
    }[hint]


def any_message(cls: type[Message]) -> st.SearchStrategy[Message]:
    return st.builds(
        cls, **{name: of_annotation(cls.__annotations__[name]) for name in cls.__struct_fields__}
    )


RUN = Run(5, 7, "me", b"m" * 16, b"f" * 16, 0, 64, -12345, 1)


def head_of(message: Message, **changed: Any) -> bytes:
    """The head of *message* with other fields, or another version or type."""
    start = {"version": VERSION, "type": type(message).__name__}
    version, *values = (start | structs.asdict(message) | changed).values()
    return msgpack.packb([version, values, b""])


def fetched(record: bytes) -> bytes:
    """The head of a Fetched whose record is these bytes."""
    whole = encode(Fetched(1, {"x": "record"}))[0]
    return whole.replace(msgpack.packb({"x": "record"}), record)


def pairs(*items: tuple[Any, Any]) -> bytes:
    """A map of these items, which may repeat a key."""
    return bytes([0x80 | len(items)]) + b"".join(msgpack.packb(k) + msgpack.packb(v) for k, v in items)


@pytest.mark.parametrize("cls", MESSAGES.values())
@given(data=st.data(), payload=st.binary(max_size=30))
def test_every_message_comes_back(cls: type[Message], data: Any, payload: bytes) -> None:
    message = data.draw(any_message(cls))
    payload = payload if cls.carries else b""
    (head,) = encode(message, payload)
    assert decode([head]) == (message, payload)
    assert decode([memoryview(head)]) == (message, payload)


@pytest.mark.parametrize("size", [0, 1, MAX_INLINE_BYTES, MAX_INLINE_BYTES + 1, 100_000])
def test_a_long_payload_is_a_frame_of_its_own(size: int) -> None:
    payload = bytes(size)
    for given_payload in (payload, memoryview(payload)):
        frames = encode(RUN, given_payload)
        assert len(frames) == 1 + (size > MAX_INLINE_BYTES)
        assert decode(frames) == (RUN, payload)
        assert size <= MAX_INLINE_BYTES or frames[1] is given_payload


def test_there_is_one_payload() -> None:
    inline, (head, payload) = encode(RUN, b"x"), encode(RUN, bytes(MAX_INLINE_BYTES + 1))
    for frames in ([*inline, payload], [*inline, b""], [head], [head_of(RUN)[:-2] + msgpack.packb("x")]):
        with pytest.raises(ProtocolError, match="Run has not one payload"):
            decode(frames)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_a_protocol_error(head: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode([head])
    with pytest.raises(ProtocolError):
        decode([head, b""])


@given(st.data())
def test_a_message_with_changed_bytes_is_a_message_or_a_protocol_error(data: Any) -> None:
    head = bytearray(encode(data.draw(st.sampled_from(list(MESSAGES.values())).flatmap(any_message)))[0])
    for _ in range(data.draw(st.integers(1, 4))):
        head[data.draw(st.integers(0, len(head) - 1))] = data.draw(st.integers(0, 255))
    try:
        message, _ = decode([bytes(head)])
    except ProtocolError:
        return
    assert type(message) in MESSAGES.values()


def fits(value: Any, hint: Any) -> bool:
    """Whether a field that is declared so may hold *value*."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Count:
        return type(value) is int and 0 <= value < 2**63
    if origin is typing.Annotated:
        return fits(value, arguments[0])
    if hint is float:
        return type(value) is float and math.isfinite(value)
    if origin in (typing.Union, types.UnionType):
        return value is None or fits(value, arguments[0])
    if origin is list:
        return type(value) is list and len(value) <= MAX_ITEMS and all(fits(v, arguments[0]) for v in value)
    if origin is dict:
        return fits_below(value, codec.MAX_DEPTH) if arguments[1] is Any else type(value) is dict
    return type(value) is hint


def fits_below(value: Any, depth: int) -> bool:
    if type(value) is dict:
        return depth > 0 and all(type(k) is str and fits_below(v, depth - 1) for k, v in value.items())
    if type(value) is list:
        return depth > 0 and all(fits_below(v, depth - 1) for v in value)
    return type(value) in (type(None), bool, int, float, str, bytes)


#: The first bytes of false values: lists, maps, texts and bytes of huge length, extensions, times, half numbers.
LIES = [
    bytes.fromhex(lie)
    for line in (
        "ddffffffff dc1000 dfffffffff de1000 dbffffffff d9ff c6ffffffff c9ffffffff05 c70005 d405 d6ff d7ff c1",
        "ca7fc00000 cb7ff0000000000000 cb7ff8000000000000 cfffffffffffffffff d38000000000000000",
        "80 90 a0 c0 c2 c3 ff 00 82a16101a16102 81c4016101 919191919191919191",
    )
    for lie in line.split()
]


def spoilt(head: bytes, random: Random) -> bytes:
    """The *head* with something put in, taken out or exchanged, or with such bytes only behind its version and name."""
    for _ in range(random.choice((1, 1, 1, 2, 5))):
        at = random.randrange(len(head) + 1)
        to = min(len(head), at + random.choice((0, 1, 1, 2, 9)))
        new = random.choice((b"", random.randbytes(1), random.randbytes(4), *[random.choice(LIES)] * 3))
        head = head[:at] + new * random.choice((1, 1, 1, 200)) + head[to:]
    return head


def test_what_comes_of_hostile_bytes_is_right_or_a_protocol_error() -> None:
    random = Random(1)
    usual = {int: 5, float: 2.5, str: "text", bytes: b"b" * 16, bool: True, list: [], dict: {}}
    heads = []
    for kind in MESSAGES.values():
        hints = typing.get_type_hints(kind)
        plain_hints = [typing.get_origin(hints[n]) or hints[n] for n in kind.__struct_fields__]
        values = [usual.get(hint) for hint in plain_hints]
        heads.append(encode(kind(*values), b"payload" if kind.carries else b"")[0])
    heads += [encode(Fetched(1, {"name": "x", "tags": ["a", "b"], "more": {"k": [1.5, None]}}))[0]] * 6
    outcomes = Counter[str]()
    for _ in range(20_000):
        try:
            message, payload = decode([spoilt(random.choice(heads), random)])
        except ProtocolError as error:
            outcomes[str(error).partition(" ")[0]] += 1
            continue
        kind = type(message)
        outcomes[kind.__name__] += 1
        for name in kind.__struct_fields__:
            assert fits(getattr(message, name), kind.__annotations__[name]), (message, name)
        assert type(payload) is bytes
    assert len(outcomes) > len(MESSAGES)  # spoilt in many ways, and not beyond recognition


@pytest.mark.parametrize("depth", [9, 300, 600, 990, 1010, 30_000])
def test_lists_in_lists_are_refused_in_words_wherever_they_are(depth: int) -> None:
    deep = b"\x91" * depth + b"\x01"
    whole = head_of(RUN)
    for head in (
        deep,
        b"\x93" + deep + b"\x90\xc0",
        b"\x93%c" % VERSION + deep + b"\xc0",
        b"\x93%c\x91" % VERSION + deep + b"\xc0",
        whole.replace(b"\xa2me", deep),
        whole[:-2] + deep,
    ):
        with pytest.raises(ProtocolError):
            decode([head])


@given(plain, st.sampled_from(Run.__struct_fields__))
def test_a_field_of_any_value_is_right_or_refused(value: Any, name: str) -> None:
    try:
        message, _ = decode([head_of(RUN, **{name: value})])
    except ProtocolError:
        return
    assert getattr(message, name) == value
    assert (
        isinstance(value, int | float)
        if name in ("lease", "limit", "gpus")
        else type(value) is type(getattr(RUN, name))
    )


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"attempt": "5"}, r"Run\.attempt is int, not '5'"),
        ({"attempt": True}, "Run.attempt"),
        ({"attempt": 5.0}, "Run.attempt"),
        ({"attempt": -1}, "Run.attempt"),
        ({"attempt": 2**63}, "Run.attempt"),
        ({"owner": b"me"}, "Run.owner"),
        ({"map": "m"}, "Run.map"),
        ({"lease": float("nan")}, "Run.lease"),
        ({"lease": float("inf")}, "Run.lease"),
        ({"lease": None}, "Run.lease"),
        ({"once": 1}, "Run.once"),
        ({"start": []}, "Run.start"),
        ({"more": 1}, "Run has 23 fields, not 24"),
        ({"type": "Walk"}, "no message 'Walk'"),
        ({"type": 3}, "no message 3"),
        ({"type": ["Run"]}, "no message"),
        ({"version": True}, "version True"),
        (
            {"version": VERSION + 1},
            rf"version {VERSION + 1} .* this side version {VERSION}: run the same release",
        ),
    ],
)
def test_a_wrong_field_is_named(changed: dict[str, Any], words: str) -> None:
    with pytest.raises(ProtocolError, match=words):
        decode([head_of(RUN, **changed)])


def test_another_version_is_told_before_its_unknown_messages() -> None:
    with pytest.raises(ProtocolError, match="version 99"):
        decode([msgpack.packb([99, "Later", [1], None]), b"payload"])


def test_no_field_may_be_missing() -> None:
    _, fields, _ = msgpack.unpackb(head_of(RUN))
    with pytest.raises(ProtocolError, match="Run has 23 fields, not 22"):
        decode([msgpack.packb([VERSION, fields[:-1], b""])])
    with pytest.raises(ProtocolError, match="Run has 23 fields, not 0"):
        decode([msgpack.packb([VERSION, ["Run"], b""])])
    for head in (
        [],
        [VERSION],
        [VERSION, ["Run"]],
        [VERSION, [], b""],
        [VERSION, "Run", b""],
        "Run",
        {"version": 1},
    ):
        with pytest.raises(ProtocolError, match="no list of a version"):
            decode([msgpack.packb(head)])


def test_fields_by_name_may_lack_those_with_defaults() -> None:
    fields = codec.fields(RUN)
    del fields["cpus"], fields["lease"]
    assert codec.build(Run, fields) == RUN
    with pytest.raises(ProtocolError, match="Run has no field 'more'"):
        codec.build(Run, fields | {"more": 1})
    del fields["job"], fields["map"]
    with pytest.raises(ProtocolError, match="Run lacks job, map"):
        codec.build(Run, fields)


def test_a_whole_number_will_do_for_a_float() -> None:
    assert decode([head_of(RUN, lease=20)])[0] == RUN


@pytest.mark.parametrize("count", [0, 3])
def test_a_message_has_one_or_two_frames(count: int) -> None:
    with pytest.raises(ProtocolError, match=f"1 or 2 frames, not {count}"):
        decode([head_of(RUN)] * count)


def test_only_messages_that_carry_one_have_a_payload() -> None:
    with pytest.raises(ProtocolError, match="Goodbye carries no payload"):
        decode([head_of(Goodbye())[:-2] + msgpack.packb(b"x")])
    with pytest.raises(InvalidRequest, match="Goodbye carries no payload"):
        encode(Goodbye(), b"x")


def test_a_key_comes_once() -> None:
    inner = pairs(("a", 1), ("a", 2))
    with pytest.raises(ProtocolError, match="twice"):
        decode([fetched(inner)])
    with pytest.raises(ProtocolError, match="twice"):
        unpack(inner)


def test_keys_are_texts() -> None:
    for key in (b"a", 1, None, 1.5, True):
        with pytest.raises(ProtocolError):
            decode([fetched(msgpack.packb({"x": {key: 1}}))])
        with pytest.raises(ProtocolError):
            unpack(msgpack.packb([{key: 1}]))


def nested(depth: int, inner: Any = 1) -> Any:
    for _ in range(depth):
        inner = [inner]
    return inner


def test_nesting_is_limited() -> None:
    deepest = Fetched(1, {"x": nested(codec.MAX_DEPTH - 1)})
    assert decode(encode(deepest))[0] == deepest
    for depth in (codec.MAX_DEPTH, 500, 1100):
        with pytest.raises(ProtocolError):
            decode([fetched(b"\x81\xa1x" + b"\x91" * depth + b"\x01")])
    assert unpack(pack(nested(codec.MAX_PAYLOAD_DEPTH))) == nested(codec.MAX_PAYLOAD_DEPTH)
    for depth in (codec.MAX_PAYLOAD_DEPTH + 1, 500, 1100, 100_000):
        with pytest.raises(ProtocolError):
            unpack(b"\x91" * depth + b"\x01")


def test_lengths_that_lie_are_cheap_to_refuse() -> None:

    tracemalloc.start()
    try:
        for deep in (
            b"\xdd\x00\x00\x10\x00" * 1000,
            b"\xdd\xff\xff\xff\xff" * 1000,
            b"\xdf\xff\xff\xff\xff" * 900,
        ):
            with pytest.raises(ProtocolError):
                decode([deep])
        assert tracemalloc.get_traced_memory()[1] < 64e6
        tracemalloc.reset_peak()
        for item in (
            b"\xdd\x00\x0f\x00\x00",
            b"\xdd\xff\xff\xff\xff",
            b"\xdf\x00\x0f\x00\x00",
            b"\xc6\xff\xff\xff\xff",
        ):
            with pytest.raises(ProtocolError):
                unpack(item * 900 + bytes(1_000_000))
        assert tracemalloc.get_traced_memory()[1] < 16e6
    finally:
        tracemalloc.stop()


def test_lists_and_maps_are_limited_in_a_head_and_not_in_a_payload() -> None:
    most = Heartbeat(attempts=[1] * MAX_ITEMS)
    assert decode(encode(most))[0] == most
    with pytest.raises(ProtocolError):
        decode(encode(Heartbeat(attempts=[1] * (MAX_ITEMS + 1))))
    table = [["job", i, {"state": "queued"}] for i in range(20_000)]
    assert unpack(pack(table)) == table
    assert unpack(memoryview(pack(table))) == table


def test_heads_are_limited() -> None:
    with pytest.raises(InvalidRequest, match="more than 65,536"):
        encode(Goodbye("x" * 70_000))
    with pytest.raises(ProtocolError, match="over the limit"):
        decode([bytes(70_000)])


@pytest.mark.parametrize(
    "data", [b"", b"\x01\x02", b"\xc1", b"\x92\x01", b"\xa1\xff", b"\xd4\x05x", b"\xc7\x00\x05"]
)
def test_a_payload_is_one_value_without_extensions(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        unpack(data)
    with pytest.raises(ProtocolError):
        decode([data])
    with pytest.raises(ProtocolError):
        decode([fetched(b"\x81\xa1x" + data)])


@given(st.binary(max_size=200))
def test_any_bytes_unpack_or_raise_a_protocol_error(data: bytes) -> None:
    try:
        unpack(data)
    except ProtocolError:
        pass


@given(plain)
def test_plain_values_pack(value: Any) -> None:
    assert unpack(pack(value)) == value


@pytest.mark.parametrize("value", [object(), 2**64, {1: nested(50_000)}, 1j])
def test_what_cannot_travel_is_told_to_the_sender(value: Any) -> None:
    with pytest.raises(InvalidRequest, match="Fetched cannot travel"):
        encode(Fetched(1, {"x": value}))
    with pytest.raises(InvalidRequest, match="a payload cannot travel"):
        pack(value)


def test_a_text_that_is_no_unicode_still_travels() -> None:
    assert decode(encode(Goodbye("no file \udcff")))[0] == Goodbye("no file ?")
    assert unpack(pack(["\udcff"])) == ["?"]
