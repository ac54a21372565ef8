"""Long values that are on the disk and, for a moment, in memory."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from park.broker.effects import Write
from park.broker.storage import recent_values
from park.broker.storage.pieces import LONG_VALUE_BYTES
from park.broker.storage.recent_values import RECENT_SECONDS, RecentValues
from park.broker.storage.store import JobStore
from park.broker.storage.writer import Writer
from park.util.sealed import SealedPayload, descriptor_of, sealed
from tests.support.fabric import until

DATA = os.urandom(LONG_VALUE_BYTES + 1000)


@given(st.lists(st.tuples(st.integers(0, 120), st.floats(0, 1)), max_size=30))
def test_memory_is_bounded_in_bytes_and_time(plan: list[tuple[int, float]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recent_values, "MAX_RECENT_BYTES", 100)
        recent, now = RecentValues(), 0.0
        came: list[tuple[int, float, int]] = []
        for id, (size, later) in enumerate(plan):
            now += later
            if size <= 100:
                came.append((id, now, size))
            recent.add(id, bytes(size), now)
            kept = [each for each in came if recent.find(each[0]) is not None]
            assert sum(size for _, _, size in kept) <= 100
            assert all(now < at + RECENT_SECONDS for _, at, _ in kept)
            assert kept == came[len(came) - len(kept) :]  # the newest
            assert recent.find(id) == (bytes(size) if size <= 100 else None)
        recent.forget(now + RECENT_SECONDS)
        assert not any(recent.find(id) is not None for id, _, _ in came)


def test_bytes_are_the_same_with_and_without_memory(tmp_path: Path) -> None:
    """Given a value that a writer has laid down, when it is read, then its bytes come from memory, and later from disk."""
    store = JobStore(tmp_path / "home")
    writer = Writer(store, lambda: None)
    memory = sealed(DATA)
    writer.lay(1, memory)
    until(lambda: writer.has_laid)
    ((_, draft),) = writer.laid()
    writer.put(1, [Write("results", (1, 0), draft)])
    until(lambda: writer.done() == 1)
    del draft
    value = store.find("results", (1, 0))
    parts = [slice(None), slice(5, 17), slice(-5, None), slice(len(DATA), None)]
    in_memory = [value[part] for part in parts]
    assert SealedPayload(value).descriptor == descriptor_of(memory)  # another process maps it
    store.recent.forget(float("inf"))
    assert value.memory is None
    assert [value[part] for part in parts] == in_memory == [DATA[part] for part in parts]
    assert SealedPayload(value).descriptor == -1
    writer.close()
    store.close()
