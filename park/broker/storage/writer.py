"""Writing turns to disk: in place, or in a thread that makes one commit of all turns that have come.

A commit takes as long for a hundred records as for one, because nearly all of its time is a wait for the disk. So the
loop does not wait: it hands a turn's writes to the `Writer` and goes on deciding. The writer makes one transaction of
all turns that have come meanwhile (*group commit*). The writer never waits for more turns: under little load each turn
is a commit, under much load commits grow by themselves. Turns become durable in the order in which they were handed in.

Long values are written beside the turns: each commit takes some megabytes of them, so that a turn waits for no more
than that.

While the disk is full nothing is acknowledged, and the writer tries again twice a second. Deletions do not wait with
the others, because they may free bytes. The writer first deletes jobs and their remaining records, and then tries all
other writes again in one transaction. Any other error is final; `done` raises it in the loop's thread.
"""

from __future__ import annotations

import errno
import hashlib
import threading
import time
from collections import deque
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, Protocol

from msgspec import Struct

from park.broker.effects import Key, Write
from park.broker.storage.pieces import PIECE_BYTES, LongValue
from park.broker.storage.store import JobStore, Store
from park.broker.storage.sweep import MAX_SWEEP_RECORDS, leavings
from park.errors import StoreError

#: Seconds after which a full disk is tried again.
DISK_RETRY_SECONDS = 0.5
#: Seconds that `Writer.close` waits for a disk that does not answer.
CLOSE_SECONDS = 30.0
#: Pieces of long values in one commit, at most.
MAX_COMMIT_PIECES = 32
#: After a longer commit the next takes half as many pieces, because turns wait for it (seconds).
SLOW_COMMIT_SECONDS = 0.015
#: After a longer one they are half as many in any case, so that it is seen that the disk moves (seconds).
LONG_COMMIT_SECONDS = 1.0
#: Namespaces where a job's own record may lie, and the one that says that it was deleted.
_DELETED = ("job", "archive", "trash")


class Commits(Protocol):
    """Makes turns durable. Turns have numbers that grow."""

    #: why the disk takes no writes at present ("": it does), and the last turn that it has refused
    stuck: str
    refused: int
    #: the time that the last commit took, seconds
    seconds: float

    def put(self, turn: int, writes: list[Write]) -> None:
        """Make these *writes* durable, after all that were put before."""

    def done(self) -> int:
        """The last turn that is on disk. Raises StoreError when nothing more will be."""

    def close(self) -> None:
        """Make the turns durable that were put, if the disk takes them now, and end."""


class InPlace:
    """Commits inside `put`: for stores in memory, and for callers that wait for the disk anyway."""

    stuck = ""
    refused = 0
    seconds = 0.0

    def __init__(self, store: Store) -> None:
        self._store = store
        self._done = 0

    def put(self, turn: int, writes: list[Write]) -> None:
        self._store.commit(writes)
        self._done = turn

    def done(self) -> int:
        return self._done

    def close(self) -> None:
        pass


class _Load(Struct):
    """A long value on its way: the bytes of it that are on disk, and its hash so far, if that is wanted."""

    number: int
    value: Any
    draft: LongValue
    hash: Any
    done: int = 0


class Writer:
    """A thread that commits to *store*, and calls *wake* from that thread after each commit and each error."""

    def __init__(self, store: Store, wake: Callable[[], None]) -> None:
        self.stuck = ""
        self.refused = 0
        self.seconds = 0.0
        self._store = store
        self._wake = wake
        #: the turns and long values that were put; None: the end
        self._queue: SimpleQueue[tuple[int, list[Write]] | _Load | None] = SimpleQueue()
        self._closing = threading.Event()
        #: only the thread uses these: the writes that are not on disk, their last turn, and whether the end has come
        self._batch: dict[tuple[str, Key], Write] = {}
        self._turn = 0
        self._ended = False
        #: long values to write, and those that are on disk or were given up because the disk is full
        self._loads: deque[_Load] = deque()
        self._laid: deque[tuple[int, LongValue | None]] = deque()
        #: commits that have taken pieces of them along
        self.strides = 0
        #: pieces of them that go with the next commit
        self._pieces = 8
        #: the state that the thread shows to the loop; each field is set in one step
        self._done = 0
        self._error: StoreError | None = None
        self._thread = threading.Thread(target=self._run, name="park-writer", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        return f"<Writer to {self._store!r}, turn {self._done}{', ' * bool(self.stuck)}{self.stuck}>"

    def put(self, turn: int, writes: list[Write]) -> None:
        self._queue.put((turn, writes))

    def lay(self, number: int, value: Any, hashed: bool = False) -> None:
        """Lay down a long value as a draft, some of it with each commit; `laid` says when it is there."""
        assert isinstance(self._store, JobStore)
        hash = hashlib.blake2b(digest_size=16) if hashed else None
        self._queue.put(_Load(number, value, self._store.new_draft(len(value)), hash))

    @property
    def has_laid(self) -> bool:
        """Whether a long value has been finished since the last `laid`."""
        return bool(self._laid)

    def laid(self) -> list[tuple[int, LongValue | None]]:
        """Values that are laid down now, by their numbers; None: the disk was full for it."""
        return [self._laid.popleft() for _ in range(len(self._laid))]

    def done(self) -> int:
        if self._error is not None:
            raise self._error
        return self._done

    def close(self) -> None:
        """End the thread after a last commit. `done` does not name turns that could not be written. May be called again.

        Raises StoreError for a disk that does not answer within `CLOSE_SECONDS` seconds.
        """
        self._closing.set()
        self._queue.put(None)
        self._thread.join(CLOSE_SECONDS)
        if self._thread.is_alive():
            raise StoreError(f"the disk of {self._store!r} has not answered for {CLOSE_SECONDS:.0f} s")

    def _run(self) -> None:
        try:
            while not self._ended:
                self._take(wait=not self._loads)
                while self._batch:
                    self._commit()
                if self._loads and not self._ended:
                    self._commit()
        except Exception as error:  # `done` raises it in the loop: the thread has no caller
            if not isinstance(error, StoreError):
                error = StoreError(f"cannot write to the store in {self._store.place}: {error!r}")
            self._error = error
            self._wake()

    def _take(self, wait: bool = True) -> None:
        """Take in the turns and long values that have come; *wait* for at least one."""
        try:
            while (entry := self._queue.get(wait)) is not None:
                wait = False
                if isinstance(entry, _Load):
                    self._loads.append(entry)
                    continue
                self._turn, writes = entry
                # only the last of several writes of one key counts
                self._batch |= {(write.namespace, write.key): write for write in writes}
            self._ended = True
        except Empty:
            pass

    def _commit(self) -> None:
        load = self._loads[0] if self._loads else None
        began = time.monotonic()
        try:
            self._store.commit([*self._batch.values(), *(self._next(load) if load is not None else ())])
        except StoreError as error:
            if error.errno != errno.ENOSPC or self._closing.is_set():
                raise
            if load is not None:  # its pieces are deleted: they may be all that fills the disk
                self._loads.popleft()
                self._laid.append((load.number, None))
                self._wake()
                return
            self.stuck = str(error)
            self._wake()
            if not self._make_room():
                self.refused = self._turn
                self._wake()
                self._closing.wait(DISK_RETRY_SECONDS)
            self._take(wait=False)
            return
        self.stuck = ""
        self.seconds = time.monotonic() - began
        turned = bool(self._batch)
        if turned:
            self._batch.clear()
            self._done = self._turn
        if load is not None:
            self._advance(load)
            # a slow disk makes few commits a second, so commits are kept small only while turns wait for them
            slow = self.seconds > SLOW_COMMIT_SECONDS and (turned or not self._queue.empty())
            slow |= self.seconds > LONG_COMMIT_SECONDS
            self._pieces = max(1, self._pieces // 2) if slow else min(MAX_COMMIT_PIECES, 2 * self._pieces)
        if turned or self._laid:
            self._wake()

    def _next(self, load: _Load) -> list[Write]:
        """The next pieces of a long value."""
        return list(load.draft.writes(load.value, load.done, self._pieces * PIECE_BYTES))

    def _advance(self, load: _Load) -> None:
        """The pieces are on disk; let another value go next."""
        self.strides += 1
        stop = load.done + self._pieces * PIECE_BYTES
        if load.hash is not None:
            load.hash.update(load.value[load.done : stop])
        load.done = stop
        self._loads.popleft()
        if stop < len(load.value):
            self._loads.append(load)
            return
        load.draft.digest = load.hash.digest() if load.hash is not None else b""
        if isinstance(self._store, JobStore):
            self._store.recent.add(load.draft.id, load.value, time.monotonic())
        self._laid.append((load.number, load.draft))

    def _make_room(self) -> bool:
        """Commit the deletions alone. True: other records of deleted jobs were deleted as well."""
        batch = self._batch
        gone = {w.key for w in batch.values() if w.namespace == "trash" and w.value is not None}
        first = [batch[namespace, key] for key in gone for namespace in _DELETED if (namespace, key) in batch]
        try:
            self._store.commit(first)
            found: list[Write] = []
            for (number,) in self._store.keys("trash", (), MAX_SWEEP_RECORDS):
                assert isinstance(number, int)
                found += leavings(self._store, number, MAX_SWEEP_RECORDS - len(found))
            self._store.commit(found)
        except StoreError as error:
            if error.errno != errno.ENOSPC:
                raise
            return False
        return bool(found)
