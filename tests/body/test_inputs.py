"""Inputs of any total size: packed batch by batch, each of a length that can travel, whatever the inputs are."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import park
from park.body import inputs as feed
from park.body import payload
from park.body.inputs import batches_of, bytes_of, windows_of

SIZE = 1000


@dataclasses.dataclass
class Holder:
    """A long value lies inside."""

    data: Any
    name: str = "x"


#: Ways in which an input of `SIZE` bytes, at least, may come.
WAYS = [
    bytes,
    lambda n: "x" * n,
    lambda n: np.zeros(n, np.uint8),
    lambda n: (np.zeros(n // 2, np.uint8), np.zeros(n - n // 2, np.uint8)),
    lambda n: [1.0, {"deep": bytes(n)}],
    lambda n: Holder(bytes(n)),
    lambda n: bytearray(n),
    lambda n: ((((bytes(n),),),),),
]


def units(packs: Any) -> list[Any]:
    return [value for pack in packs for value in payload.decode_units(pack)]


@pytest.mark.parametrize("make", WAYS[:-2])
def test_the_length_of_an_input_is_seen(make: Any) -> None:
    assert SIZE <= bytes_of(make(SIZE)) < SIZE + 100


def test_who_looks_for_the_length_comes_to_an_end() -> None:
    ring: list[Any] = [1]
    ring.append(ring)
    assert bytes_of(ring) < 10_000
    assert bytes_of([0.0] * 10_000_000) == 8 + 80_000_000
    assert bytes_of(object()) == bytes_of(None) == bytes_of(3) == 8


@pytest.mark.parametrize("make", WAYS)
def test_windows_and_batches_are_short_enough_to_travel(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "WINDOW_BYTES", 5 * SIZE)
    monkeypatch.setattr(feed, "MAX_BATCH_BYTES", 5 * SIZE)
    monkeypatch.setattr(feed, "MAX_PAYLOAD_BYTES", 9 * SIZE)
    inputs = [make(SIZE) for _ in range(40)]
    for packs in (list(windows_of(iter(inputs))), [pack for pack, _ in batches_of(inputs, lambda: 100)]):
        assert all(len(pack) <= 9 * SIZE for pack in packs)
        assert len(packs) > 4
        assert [repr(value) for value in units(packs)] == [repr(value) for value in inputs]


def test_the_last_batch_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "MAX_PAYLOAD_BYTES", 300)
    lasts = [last for _, last in batches_of([bytearray(100)] * 9, lambda: 4)]
    assert lasts == [False] * (len(lasts) - 1) + [True]


@given(st.integers(0, 40), st.integers(1, 9))
def test_rows_of_an_array_come_in_windows(count: int, columns: int) -> None:
    rows = np.arange(count * columns, dtype=float).reshape(count, columns)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feed, "WINDOW_BYTES", 100)
        packs = list(windows_of(rows))
    assert np.array_equal(np.array(units(packs)).reshape(count, columns), rows)
    assert all(len(pack) < 250 for pack in packs)
    with pytest.raises(park.InvalidRequest, match="without axes"):
        list(windows_of(np.array(1.0)))


def lazily(inputs: list[Any]) -> Iterator[Any]:
    yield from inputs


def test_mappers_and_drivers_take_more_than_one_window(monkeypatch: pytest.MonkeyPatch) -> None:
    def second(pair: tuple[bytes, int]) -> int:
        if pair[1] == 33:
            raise ValueError("this one")
        return pair[1]

    def drive(pairs: list[Any]) -> Any:
        from park.body import inputs

        inputs.WINDOW_BYTES = 10 * SIZE
        env = park.environment()
        good = list(env.map(second, (pair for pair in pairs if pair[1] != 33)))
        try:
            list(env.map(second, pairs))
        except park.UnitError as error:
            return good, error.unit, error.cause, list(env.map(second, []))
        return None

    monkeypatch.setattr(feed, "WINDOW_BYTES", 10 * SIZE)
    pairs = [(bytes(SIZE), n) for n in range(40)]
    wanted = [n for n in range(40) if n != 33]
    with park.local_service as service:
        mapper = service.mapper(second)
        assert mapper(lazily([pair for pair in pairs if pair[1] != 33])) == wanted
        assert mapper([]) == []
        with pytest.raises(park.UnitError, match="this one") as error:
            mapper(pairs)
        assert error.value.unit == 33
        assert service.wait(service.start(drive, [pairs])) == [(wanted, 33, "ValueError: this one", [])]
