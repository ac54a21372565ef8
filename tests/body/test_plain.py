"""Messages that travel without a pickle, and those that cannot."""

from __future__ import annotations

from typing import Any, cast

import pytest

from park.body import payload
from park.body.environment import Environment
from park.body.plain import is_plain, pack_plain, unpack_plain
from park.broker.handlers.validate import check_publish
from park.client.stream import Opaque, decode
from park.errors import InvalidRequest, ProtocolError
from park.model import Improvement, Progress
from park.wire import codec
from park.wire.messages import Publish


@pytest.mark.parametrize(
    "message",
    [
        {"kind": "a", "value": 1.5},
        {"kind": "a", "deep": [{"b": [None, True, -(2**62), b"bytes", "\N{GREEK SMALL LETTER CHI}"]}]},
        {"kind": "a"} | {f"key{n}": n for n in range(100)},
        {"kind": "nan", "value": float("inf")},
    ],
    ids=str,
)
def test_a_plain_message_comes_back_equal(message: dict[str, Any]) -> None:
    data = pack_plain(message)
    assert data is not None
    assert is_plain(data)
    assert unpack_plain("a", data) == message
    assert decode("a", data, unpickle=False) == message


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("improvement", Improvement(1.25, {"b1": 2.0}, 7)),
        ("progress", Progress(3, 7.5, "steps", "chisq 1.02")),
    ],
)
def test_improvements_and_progress_are_plain(kind: str, message: Any) -> None:
    data = pack_plain(message)
    assert data is not None
    assert decode(kind, data, unpickle=False) == message


@pytest.mark.parametrize("value", [3, "text", [], [1, 2, 3], {"a": 1}, [None, None, None, None], None])
@pytest.mark.parametrize("kind", ["log", "progress", "improvement"])
def test_records_of_a_kernel_that_lies_make_no_other_error(kind: str, value: Any) -> None:
    try:
        found = decode(kind, codec.pack(value), unpickle=False)
    except ProtocolError:
        return
    assert kind != "log" or (type(found.text), type(found.level)) == (str, str)


class Text(str):
    """A text with more to it."""


@pytest.mark.parametrize(
    "message",
    [
        {"kind": "a", "value": (1, 2)},
        {"kind": "a", "value": {1}},
        {"kind": "a", 1: 2},
        {"kind": Text("a")},
        {"kind": "a", "value": 2**80},
        {"kind": "a", "value": "\ud800"},
        {"kind": "a", "value": list(range(5000))},
        Improvement(1.0, {"b1": (1,)}, 1),  # type: ignore[dict-item]
        Progress(1.0, 2.0, Text("steps")),
        {},
    ],
    ids=ascii,
)
def test_a_message_that_would_change_is_pickled(message: Any) -> None:
    assert pack_plain(message) is None
    data = payload.dumps(message)
    assert not is_plain(data)
    assert decode("a", data) == message
    assert decode("a", data, unpickle=False) == Opaque("a", len(data))


def test_a_list_that_holds_itself_is_pickled() -> None:
    message: dict[str, Any] = {"kind": "a"}
    message["self"] = message
    assert pack_plain(message) is None


@pytest.mark.parametrize(("done", "total"), [(1e308, -1e308), (-1, 2), (0, 2e15)])
def test_a_progress_outside_of_its_range_is_refused(done: float, total: float) -> None:
    with pytest.raises(InvalidRequest, match="done and total are from 0 to 1e"):
        Environment(cast(Any, None)).publish(Progress(done, total))
    with pytest.raises(ProtocolError, match="progress counts from 0 to 1e"):
        check_publish(Publish(1, 2, "progress", done, total), 0)
