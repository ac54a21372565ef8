"""Bytes of the disk that the store's file has beyond its content."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from park.broker.effects import Event, Write
from park.broker.manager import DISK_PATIENCE_SECONDS, JobManager
from park.broker.storage import spare
from park.broker.storage.spare import SPARE_BYTES, Spare
from park.broker.storage.store import JobStore
from park.errors import StoreError
from park.model import PYTHON
from park.wire import messages
from tests.sim.functions import blob, code
from tests.support.fabric import until

pytestmark = pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="this system allocates no files")


def allocated(file: Path) -> int:
    return file.stat().st_blocks * 512


def test_a_store_keeps_bytes_beyond_its_content(tmp_path: Path) -> None:
    for _ in range(2):
        store = JobStore(tmp_path)
        for n in range(20):
            store.commit([Write("results", (1, n), bytes([n]) * (1 << 20))])
            assert allocated(tmp_path / "jobs.mdb") >= store._end + SPARE_BYTES
        store.close()


def test_a_disk_that_gives_no_more_is_full_whatever_it_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*given: int) -> None:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    store = JobStore(tmp_path)
    assert store.free_bytes() > 0
    with monkeypatch.context() as patched:
        patched.setattr(os, "posix_fallocate", refuse)
        store.commit([Write("results", (1, 0), bytes(2 << 20))])
        # then no job fits, and what is small is written to the spare
        assert store.free_bytes() <= 0
        store.commit([Write("job", (1,), b"aborted")])
        with pytest.raises(StoreError, match="the disk is full"):
            store.commit([Write("results", (1, 1), bytes(6 << 20))])
    assert store.free_bytes() > 0
    store.close()


def test_a_file_system_that_allocates_nothing_is_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*given: int) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(os, "posix_fallocate", unknown)
    file = tmp_path / "file"
    file.touch()
    found = Spare(file, 0)
    found.fill(0)
    assert (found.size(0), found.refused, found.is_short(0)) == (0, False, False)


def test_a_request_that_waits_long_for_a_full_disk_is_answered_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("park.broker.storage.writer.DISK_RETRY_SECONDS", 0.01)
    monkeypatch.setattr(spare, "SPARE_BYTES", 0)
    manager = JobManager(JobStore(tmp_path))
    manager.restore(0.0, 1e9)
    manager.write_behind(lambda: None)

    def turn(message: messages.Message, payload: bytes = b"", now: float = 1.0) -> None:
        manager.hand_in(manager.decide([Event(b"c1", message, payload)], now))

    def completed() -> list[object]:
        until(lambda: manager.has_completed)
        return [send.message for turn in manager.completed() for send in turn.sends_after_commit]

    turn(messages.Hello(b"h" * 16, "ann", PYTHON, 1))
    turn(messages.Blob(code("square")), blob("square"))
    turn(messages.Submit(2, b"k" * 16, code("square"), once=True, python=PYTHON))
    assert messages.Accepted(2, 1) in completed()
    # when the disk is full
    with monkeypatch.context() as patched:
        patched.setattr(JobStore, "_free", lambda store: 0)
        turn(messages.Change(3, 1, priority=2), now=2.0)
        until(lambda: manager._commits.stuck)
        assert not manager.late_answers(2.0 + DISK_PATIENCE_SECONDS / 2)
        (told,) = manager.late_answers(2.0 + DISK_PATIENCE_SECONDS)
        assert (told.peer, told.message.reply, told.message.error) == (b"c1", 3, "Refused")  # type: ignore[attr-defined]
        assert f"full (at {tmp_path}): the request takes effect, but it is not on disk" in told.message.text  # type: ignore[attr-defined]
        assert not manager.late_answers(20.0)
    # then it takes effect when there is room, and is not answered twice
    assert messages.Done(3) not in completed()
    assert manager.table.jobs[1].priority == 2
    manager.close()
