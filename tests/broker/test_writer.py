"""Group commit: turns reach the disk in order, many at once, and none is said to be there that is not."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from park.broker.effects import Tick, Write
from park.broker.loop import BrokerLoop
from park.broker.manager import JobManager
from park.broker.storage.store import JobStore
from park.broker.storage.writer import CLOSE_SECONDS, MAX_COMMIT_PIECES, Writer
from park.errors import StoreError
from tests.support.fabric import until


class Slow(JobStore):
    """A store on a disk that can be held up, and that can fail."""

    def __init__(self, folder: Path) -> None:
        self.sizes: list[int] = []
        self.go = threading.Event()
        self.go.set()
        #: commits that have begun
        self.begun = 0
        self.failure: Callable[[], Exception] | None = None
        super().__init__(folder)

    def commit(self, writes: Iterable[Write]) -> None:
        records = list(writes)
        self.begun += 1
        self.go.wait(50)
        if self.failure is not None:
            raise self.failure()
        super().commit(records)
        self.sizes.append(len(records))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Slow]:
    made = Slow(tmp_path / "home")
    yield made
    made.close()


def laid(writer: Writer) -> list[tuple[int, Any]]:
    return until(writer.laid)


def test_long_values_are_laid_down_beside_the_turns(store: Slow) -> None:
    woken: list[int] = []
    writer = Writer(store, lambda: woken.append(1))
    long = [os.urandom(10 << 20), os.urandom(6 << 20)]
    writer.lay(1, memoryview(long[0]), hashed=True)
    writer.lay(2, long[1])
    for turn in range(1, 4):
        writer.put(turn, [Write("job", (turn,), b"x")])
        until(lambda turn=turn: writer.done() == turn)  # type: ignore[misc]
    drafts: dict[int, Any] = {}
    while len(drafts) < 2:
        drafts |= dict(laid(writer))
    assert [drafts[n][:] == long[n - 1] for n in (1, 2)] == [True, True]
    assert drafts[1].digest == hashlib.blake2b(long[0], digest_size=16).digest()
    assert max(store.sizes) <= 3 + MAX_COMMIT_PIECES, "no commit waits for a whole one"
    assert woken
    writer.put(4, [Write("results", (1, 0), drafts[1]), Write("blob", (b"h",), drafts[2])])
    until(lambda: writer.done() == 4)
    assert store.get("results", (1, 0)) == long[0]
    assert store.count("draft") == 0
    writer.close()


def test_a_long_value_for_which_there_is_no_room_is_given_back(store: Slow) -> None:
    writer = Writer(store, lambda: None)
    store.failure = full
    writer.lay(7, bytes(3 << 20))
    assert laid(writer) == [(7, None)]
    store.failure = None
    writer.put(1, [Write("job", (1,), b"x")])
    until(lambda: writer.done() == 1)
    assert (store.count("piece"), store.count("draft")) == (0, 0)
    writer.close()


def full() -> StoreError:
    error = StoreError("the disk is full")
    error.errno = errno.ENOSPC
    return error


def broken() -> StoreError:
    error = StoreError("cannot write to the store: Input/output error")
    error.errno = errno.EIO
    return error


def test_what_comes_during_a_commit_is_the_next_one(store: Slow) -> None:
    woken = threading.Event()
    writer = Writer(store, woken.set)
    store.sizes.clear()
    store.go.clear()
    store.begun = 0
    writer.put(1, [Write("job", (1,), b"a")])
    until(lambda: store.begun)
    for turn in range(2, 50):
        writer.put(turn, [Write("job", (turn,), b"b"), Write("account", ("ann",), b"%d" % turn)])
    assert writer.done() == 0
    assert not woken.is_set()
    store.go.set()
    until(lambda: writer.done() == 49)
    assert woken.is_set()
    assert store.sizes == [1, 48 + 1]  # of what was written 48 times, once
    assert store.get("account", ("ann",)) == b"49"
    writer.close()


def test_closing_brings_to_disk_what_was_handed_in(store: Slow) -> None:
    writer = Writer(store, lambda: None)
    store.go.clear()
    for turn in range(1, 5):
        writer.put(turn, [Write("job", (turn,), b"x")])
    threading.Timer(0.05, store.go.set).start()
    writer.close()
    writer.close()
    assert writer.done() == 4
    assert store.count("job") == 4


def test_a_full_disk_is_waited_for_and_nothing_is_said_to_be_there(
    store: Slow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("park.broker.storage.writer.DISK_RETRY_SECONDS", 0.01)
    writer = Writer(store, lambda: None)
    store.failure = full
    writer.put(1, [Write("job", (1,), b"x")])
    until(lambda: writer.stuck == "the disk is full")
    writer.put(2, [Write("job", (2,), b"x")])
    assert writer.done() == 0
    store.failure = None
    until(lambda: writer.done() == 2)
    assert not writer.stuck
    writer.close()


def test_deletions_go_before_what_waits_for_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("park.broker.storage.writer.DISK_RETRY_SECONDS", 0.01)
    store = JobStore(tmp_path / "home")
    results = [Write("results", (n, unit), bytes(1 << 18)) for n in (1, 2) for unit in range(20)]
    store.commit([Write("job", (1,), b"old"), Write("job", (2,), b"kept"), *results])
    # when somebody else has taken all that was free
    monkeypatch.setattr(JobStore, "_free", lambda store: 0)
    writer = Writer(store, lambda: None)
    writer.put(1, [Write("account", ("ann",), b"1"), Write("job", (3,), b"new")])
    until(lambda: bool(writer.stuck))
    # and job 1 is deleted
    writer.put(2, [Write("account", ("ann",), b"2"), Write("job", (1,), None), Write("trash", (1,), b"")])
    # then what it leaves is room for all that is small
    until(lambda: writer.done() == 2)
    assert not writer.stuck
    assert [key for key, _ in store.scan("job")] == [(2,), (3,)]
    assert (store.count("results", (1,)), store.count("results", (2,))) == (0, 20)
    assert store.get("account", ("ann",)) == b"2"
    assert store.count("trash") == 1  # the sweeper's
    # and what is large waits
    writer.put(3, [Write("results", (3, 0), bytes(1 << 18))])
    until(lambda: bool(writer.stuck))
    monkeypatch.undo()
    until(lambda: writer.done() == 3)
    writer.close()
    store.close()


def test_whoever_closes_does_not_wait_for_a_full_disk(store: Slow) -> None:
    writer = Writer(store, lambda: None)
    store.failure = full
    writer.put(1, [Write("job", (1,), b"x")])
    until(lambda: bool(writer.stuck))
    began = time.monotonic()
    writer.close()
    assert time.monotonic() - began < CLOSE_SECONDS
    with pytest.raises(StoreError, match="the disk is full"):
        writer.done()


def test_any_other_error_is_final(store: Slow) -> None:
    woken = threading.Event()
    writer = Writer(store, woken.set)
    store.failure = broken
    writer.put(1, [Write("job", (1,), b"x")])
    assert woken.wait(50)
    store.failure = None
    writer.put(2, [Write("job", (2,), b"x")])
    with pytest.raises(StoreError, match="Input/output error"):
        writer.done()
    writer.close()
    assert store.count("job") == 0


def test_what_no_store_should_raise_is_final_too_and_said(store: Slow) -> None:
    woken = threading.Event()
    writer = Writer(store, woken.set)
    store.failure = lambda: ValueError("something odd")
    writer.put(1, [Write("job", (1,), b"x")])
    assert woken.wait(50)
    with pytest.raises(StoreError, match=r"cannot write to the store in .*home: .*something odd"):
        writer.done()
    writer.close()


def test_a_home_that_has_vanished_is_said_in_words(store: Slow) -> None:
    woken = threading.Event()
    writer = Writer(store, woken.set)
    shutil.rmtree(store.folder)
    writer.put(1, [Write("job", (1,), b"x")])
    assert woken.wait(50)
    with pytest.raises(StoreError, match=r"in .*home: No such file"):
        writer.done()
    with pytest.raises(StoreError, match=r"in .*home: No such file"):
        store.free_bytes()
    writer.close()


class Unread:
    """A door where whatever comes leads to a look into the store, which fails; and a board."""

    def receive(self) -> None:
        raise StoreError("cannot read the store: an earlier write has failed")

    def publish(self, frames: object) -> None: ...

    def behind(self) -> dict[bytes, int]:
        return {}


def test_who_cannot_read_after_a_write_that_failed_says_why_the_write_failed(store: Slow) -> None:
    loop = BrokerLoop(JobManager(store), Unread(), Unread(), Unread(), lambda: None)  # type: ignore[arg-type]
    with pytest.raises(StoreError, match="cannot read"):
        loop.turn(1.0)
    # given a write on its way to a disk that fails, when the loop finds before the writer does that nothing can be read
    loop = BrokerLoop(JobManager(store), Unread(), Unread(), Unread(), lambda: None)  # type: ignore[arg-type]
    store.failure = broken
    store.go.clear()
    loop.manager._commits.put(99, [Write("job", (1,), b"x")])
    threading.Timer(0.1, store.go.set).start()
    # then
    with pytest.raises(StoreError, match="Input/output error"):
        loop.turn(1.0)


def test_a_manager_closes_on_a_disk_that_does_not_answer(
    store: Slow, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = JobManager(store)
    manager.restore(0.0, 0.0)
    manager.write_behind(lambda: None)
    monkeypatch.setattr("park.broker.storage.writer.CLOSE_SECONDS", 0.05)
    hold = store._writing  # as a commit that hangs has it
    hold.acquire()
    manager.hand_in(manager.decide([Tick(1.0)], 0.0))
    manager._commits.put(99, [Write("job", (1,), b"x")])
    began = time.monotonic()
    with pytest.raises(StoreError, match="has not answered"):
        manager.close()
    assert time.monotonic() - began < 5.0
    hold.release()
    manager.close()


def test_a_disk_that_does_not_answer_is_not_waited_for_for_ever(
    store: Slow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("park.broker.storage.writer.CLOSE_SECONDS", 0.05)
    writer = Writer(store, lambda: None)
    store.go.clear()
    writer.put(1, [Write("job", (1,), b"x")])
    with pytest.raises(StoreError, match="has not answered"):
        writer.close()
    store.go.set()
    writer._thread.join()
