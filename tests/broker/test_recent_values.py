"""Long values that are on the disk and, for a moment, in memory."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from park.broker.effects import Write
from park.broker.storage import recent_values
from park.broker.storage.pieces import LONG_VALUE_BYTES, Laid
from park.broker.storage.recent_values import RECENT_SECONDS, RecentValues
from park.broker.storage.store import JobStore
from park.net.sealed import SealedPayload, descriptor_of, sealed

DATA = os.urandom(LONG_VALUE_BYTES + 1000)


def from_disk(key: Any) -> bytes:
    raise AssertionError("it is in memory")


@given(st.lists(st.tuples(st.integers(0, 60), st.floats(0, 1)), max_size=30))
def test_memory_is_bounded_in_bytes_and_time(plan: list[tuple[int, float]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recent_values, "MAX_RECENT_BYTES", 100)
        recent, now, made = RecentValues(), 0.0, []
        for size, later in plan:
            now += later
            value = Laid(len(made) + 1, size, from_disk)
            made.append((now, value))
            recent.add(value, bytes(size), now)
            kept = [(at, each) for at, each in made if each.memory is not None]
            assert sum(len(each) for _, each in kept) <= 100
            assert all(now < at + RECENT_SECONDS for at, _ in kept)
            assert kept == made[len(made) - len(kept) :]  # the newest
        recent.forget(now + RECENT_SECONDS)
        assert all(each.memory is None for _, each in made)


def test_a_value_that_is_too_long_is_read_from_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recent_values, "MAX_RECENT_BYTES", 100)
    value = Laid(1, 101, from_disk)
    RecentValues().add(value, bytes(101), 0.0)
    assert value.memory is None


def test_bytes_are_the_same_with_and_without_memory(tmp_path: Path) -> None:
    store = JobStore(tmp_path / "home")
    store.commit([Write("results", (1, 0), DATA)])
    value = store.find("results", (1, 0))
    recent = RecentValues()
    recent.add(value, sealed(DATA), 0.0)
    parts = [slice(None), slice(5, 17), slice(-5, None), slice(len(DATA), None)]
    in_memory = [value[part] for part in parts]
    assert SealedPayload(value).descriptor == descriptor_of(value.memory)  # another process maps it
    recent.forget(RECENT_SECONDS)
    assert value.memory is None
    assert [value[part] for part in parts] == in_memory == [DATA[part] for part in parts]
    assert SealedPayload(value).descriptor == -1
    store.close()
