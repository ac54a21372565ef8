"""Long messages travel in parts and arrive whole, or not at all."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from park.errors import ProtocolError
from park.wire.codec import MAX_INLINE_BYTES, decode, encode
from park.wire.fragments import Reassembly, split
from park.wire.messages import Blob, Goodbye, Part

BLOB = Blob(b"h" * 16)
LONG = encode(BLOB, bytes(range(250)) * 20)


@given(st.integers(0, 3000), st.integers(1, 9000))
def test_what_is_split_comes_back(size: int, limit: int) -> None:
    payload = bytes(i % 251 for i in range(MAX_INLINE_BYTES - 1000 + size))
    frames = encode(BLOB, payload)
    messages = list(split(frames, limit))
    joiner = Reassembly(10_000)
    *before, last = [joiner.feed(message) for message in messages]
    assert before == [None] * (len(messages) - 1)
    assert last is not None
    assert decode(last) == (BLOB, payload)
    assert (len(messages) == 1) == (len(payload) <= max(MAX_INLINE_BYTES, limit))
    pieces = [decode(message)[1] for message in messages]
    assert len(pieces) == 1 or all(len(piece) <= max(limit, len(frames[0])) for piece in pieces)


def test_the_pieces_of_a_long_payload_are_not_copied() -> None:
    payload = memoryview(LONG[1] * 3)
    first, *others = split([LONG[0], payload], MAX_INLINE_BYTES + 1)
    assert [piece.obj is payload.obj for _, piece in others[:2]] == [True, True]
    assert bytes(first[1]) == LONG[0] + payload[: MAX_INLINE_BYTES + 1 - len(LONG[0])]


def test_short_messages_pass_between_parts() -> None:
    joiner = Reassembly(10_000)
    short = encode(Goodbye("Part of the plan"))
    one, two, three = split(LONG, 2000)
    assert joiner.feed(one) is None
    assert joiner.feed(short) is short
    assert joiner.feed(two) is None
    assert joiner.feed(three) == LONG


def test_what_is_no_message_passes_for_the_codec_to_refuse() -> None:
    for frames in ([b"?", b""], [b""], [b"", b"", b""]):
        assert Reassembly(100).feed(frames) is frames
    with pytest.raises(ProtocolError):
        Reassembly(100).feed([encode(Part(0, 1, 0))[0] + b"?"])


@pytest.mark.parametrize("lost", [0, 1, 2])
def test_after_a_lost_part_the_next_message_arrives(lost: int) -> None:
    joiner = Reassembly(10_000)
    parts = list(split(LONG, 2000))
    del parts[lost]
    assert [joiner.feed(part) for part in parts] == [None, None]
    assert [joiner.feed(part) for part in split(LONG, 2000)] == [None, None, LONG]


def test_parts_of_two_messages_are_not_mixed() -> None:
    joiner = Reassembly(10_000)
    joiner.feed(next(split(LONG, 2000)))
    assert joiner.feed(list(split([LONG[0], LONG[1] + b"x"], 2000))[1]) is None
    assert joiner.feed(list(split(LONG, 2000))[1]) is None


def test_the_whole_message_is_limited() -> None:
    joiner = Reassembly(2000)
    parts = list(split(LONG, 2000))
    with pytest.raises(ProtocolError, match=r"5,000 bytes is over the limit of 2,000"):
        joiner.feed(parts[0])
    assert joiner.feed(parts[1]) is None


def test_what_may_come_in_may_go_out_under_a_longer_head(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("park.wire.fragments.MAX_PAYLOAD_BYTES", 5000)
    for head in (Blob(b"h"), Blob(b"h" * 60_000)):
        frames = encode(head, bytes(5000))
        joiner = Reassembly(5000)
        assert [joiner.feed(part) for part in split(frames, 2000)][-1] == frames


@pytest.mark.parametrize(
    ("part", "piece"),
    [
        (Part(0, 10, 20), b"x" * 10),  # shorter than its head
        (Part(0, 100_000, 70_000), b"x" * 80_000),  # a head that is too long
        (Part(0, 10, 0), b"x" * 11),  # longer than it says
        (Part(0, 10, 0), b""),  # no end of parts
    ],
)
def test_parts_that_cannot_be_right_are_refused(part: Part, piece: bytes) -> None:
    with pytest.raises(ProtocolError):
        Reassembly(1_000_000).feed(encode(part, piece))
