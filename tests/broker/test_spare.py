"""Bytes of the disk that the store's file has beyond its content."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from park.broker.effects import Event, Write
from park.broker.manager import MAX_LATE_TURNS, JobManager
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


def test_a_request_that_a_full_disk_has_refused_is_answered_in_words_however_long_it_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("park.broker.storage.writer.DISK_RETRY_SECONDS", 0.01)
    monkeypatch.setattr(spare, "SPARE_BYTES", 0)
    manager = JobManager(JobStore(tmp_path), checked=True)
    manager.restore(0.0, 1e9)
    manager.write_behind(lambda: None)

    def ask(message: messages.Message) -> list[messages.Message]:
        made = manager.decide([Event(b"c1", message, b"")], 3.0)
        manager.hand_in(made)
        return [send.message for send in made.sends]

    def late() -> list[messages.Message]:
        return [send.message for send in manager.late_answers()]

    def turn(message: messages.Message, payload: bytes = b"", now: float = 1.0) -> None:
        manager.hand_in(manager.decide([Event(b"c1", message, payload)], now))

    def completed() -> list[object]:
        until(lambda: manager.has_completed)
        return [send.message for turn in manager.completed() for send in turn.sends_after_commit]

    turn(messages.Hello(b"h" * 16, "ann", PYTHON, 1))
    turn(messages.Blob(code("square")), blob("square"))
    for n in (1, 2):
        turn(messages.Submit(n, b"%d" % n * 16, code("square"), once=True, python=PYTHON))
        assert messages.Accepted(n, n) in completed()
    # when the disk is full
    with monkeypatch.context() as patched:
        patched.setattr(JobStore, "_free", lambda store: 0)
        turn(messages.Change(3, 1, priority=2), now=2.0)
        (told,) = until(manager.late_answers)
        assert (told.peer, told.message.reply, told.message.error) == (b"c1", 3, "Refused")
        assert f"full (at {tmp_path}" in told.message.text
        assert "the request takes effect, but it is not on disk" in told.message.text
        assert not late()
        # then its reason says since when, and what waits does not grow with the time
        for n in range(3 * MAX_LATE_TURNS):
            turn(messages.Change(10 + n, 1, priority=n % 3, tags=[str(n)]), now=3.0)
            until(late)
        assert ", since 20" in manager.full
        assert len(manager.handed) <= MAX_LATE_TURNS + 1
        assert sum(len(turn.writes) for turn in manager.handed) < 3 * MAX_LATE_TURNS / 2
        # and if it is much, questions are answered, what needs more of the disk is refused, and jobs are deleted
        patched.setattr("park.broker.manager.MAX_BACKLOG_BYTES", 1)
        assert not manager.behind
        (found,) = ask(messages.Status(1000, 1))
        assert isinstance(found, messages.Records)
        for request in (
            messages.Submit(1001, b"l" * 16, code("square"), session=True, python=PYTHON),
            messages.Change(1001, 1, priority=3),
            messages.Control(1001, 1, b"i" * 16),
            messages.File(1001, 1, how="put", name="a"),
            messages.Grant(1001, "ann", 1.0),
        ):
            (refusal,) = ask(request)
            assert isinstance(refusal, messages.Failure)
            assert "until there is room" in refusal.text, request
        ask(messages.Abort(1002, 2))
        (answer,) = until(late)
        assert "takes effect" in answer.text
    # then all of it takes effect when there is room, and is not answered twice
    until(lambda: manager.has_completed)
    answers = [send.message for turn in manager.completed() for send in turn.sends_after_commit]
    assert not [m for m in answers if isinstance(m, messages.Done | messages.Accepted)]
    row = manager.table.jobs[1]
    assert (row.priority, row.tags) == (2, (str(3 * MAX_LATE_TURNS - 1),))
    assert manager.table.jobs[2].state == "aborted"
    assert not manager.handed
    manager.close()
