"""Packs: counted and sliced without opening an entry; hostile ones are refused at once."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from park.errors import ProtocolError
from park.wire.pack import Pack, cut, join, pack_entries, pack_pieces, pack_rows

entries = st.lists(st.binary(max_size=12), max_size=12)
rows = st.tuples(st.binary(max_size=8), st.integers(1, 5), st.integers(1, 9)).flatmap(
    lambda t: st.tuples(st.just(t[0]), st.binary(min_size=t[1] * t[2], max_size=t[1] * t[2]), st.just(t[2]))
)


def texts(payload: bytes) -> list[bytes]:
    return [bytes(entry) for entry in Pack(payload).entries()]


@given(entries, st.data())
def test_a_slice_of_a_pack_of_entries_is_the_pack_of_a_slice(units: list[bytes], data: st.DataObject) -> None:
    payload = pack_entries(units)
    assert Pack(payload).count == len(units)
    assert Pack(payload).rows is None
    assert texts(payload) == units
    j = data.draw(st.integers(0, len(units)))
    i = data.draw(st.integers(0, j))
    assert Pack(memoryview(payload)).slice(i, j) == pack_entries(units[i:j])
    if payload:
        assert cut(payload, i, j) == cut(memoryview(payload), i, j) == pack_entries(units[i:j])


@given(rows, st.data())
def test_a_slice_of_rows_is_rows(block: tuple[bytes, bytes, int], data: st.DataObject) -> None:
    head, body, count = block
    pack = Pack(pack_rows(head, body, count))
    size = len(body) // count
    assert (pack.count, pack.rows) == (count, (head, body))
    assert [bytes(row) for row in pack.entries()] == [body[i : i + size] for i in range(0, len(body), size)]
    j = data.draw(st.integers(0, count))
    i = data.draw(st.integers(0, j))
    assert pack.slice(i, j) == pack_rows(head, body[i * size : j * size], j - i)
    if pack.count:
        assert cut(pack_rows(head, body, pack.count), i, j) == pack.slice(i, j)


@given(st.lists(entries, max_size=5))
def test_packs_of_entries_join(many: list[list[bytes]]) -> None:
    assert join(map(pack_entries, many)) == pack_entries([unit for units in many for unit in units])


def test_rows_join_rows_of_their_kind() -> None:
    assert join([pack_rows(b"f", b"abcd", 2), b"", pack_rows(b"f", b"ef", 1)]) == pack_rows(
        b"f", b"abcdef", 3
    )
    for other in (pack_rows(b"g", b"ef", 1), pack_rows(b"f", b"e", 1), pack_entries([b"ef"])):
        with pytest.raises(ProtocolError, match="different kinds"):
            join([pack_rows(b"f", b"abcd", 2), other])


def test_no_units_are_no_bytes() -> None:
    assert pack_entries([]) == pack_rows(b"f", b"", 0) == join([]) == b""
    assert Pack(b"").count == 0
    assert Pack(b"").entries() == []
    assert Pack(b"").slice(0, 0) == b""


def test_entries_may_be_given_in_pieces() -> None:
    assert pack_pieces([3, 0, 2], [b"a", b"bc", memoryview(b"de")]) == pack_entries([b"abc", b"", b"de"])


@pytest.mark.parametrize(("i", "j"), [(-1, 1), (0, 4), (2, 1), (4, 4)])
def test_a_slice_lies_in_the_pack(i: int, j: int) -> None:
    with pytest.raises(ProtocolError, match="not in a pack of 3"):
        Pack(pack_entries([b"a", b"b", b"c"])).slice(i, j)
    with pytest.raises(ProtocolError):
        cut(pack_entries([b"a", b"b", b"c"]), i, j)


def header(kind: bytes, head: int, count: int) -> bytes:
    return struct.pack("<cxxxIQ", kind, head, count)


@pytest.mark.parametrize(
    "payload",
    [
        b"E",
        b"x" * 15,
        header(b"X", 0, 1) + bytes(8),
        header(b"E", 0, 0),
        header(b"E", 0, 2**63),
        header(b"E", 0, 1),
        header(b"E", 1, 1) + bytes(8),
        header(b"E", 0, 1) + struct.pack("<Q", 2) + b"a",
        header(b"E", 0, 1) + struct.pack("<Q", 1) + b"ab",
        header(b"E", 0, 2) + struct.pack("<QQ", 2**64 - 1, 2) + b"a",
        header(b"R", 0, 0),
        header(b"R", 0, 3) + b"ab",
        header(b"R", 2, 1) + b"ab",
        header(b"R", 3, 1) + b"ab",
        header(b"R", 0, 2**63),
    ],
)
def test_what_is_no_pack_is_refused_at_once(payload: bytes) -> None:
    with pytest.raises(ProtocolError):
        Pack(payload)


@given(st.binary(max_size=60), st.sampled_from([b"E", b"R"]), st.integers(0, 4), st.integers(0, 5))
def test_any_bytes_are_a_pack_or_a_protocol_error(body: bytes, kind: bytes, head: int, count: int) -> None:
    for payload in (body, header(kind, head, count) + body):
        try:
            pack = Pack(payload)
        except ProtocolError:
            continue
        assert len(pack.entries()) == pack.count
        assert pack.slice(0, pack.count) == payload
