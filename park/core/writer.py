"""How turns get to the disk: in place, or by a thread that takes whatever has come while it was writing.

A commit takes as long for a hundred records as for one, nearly all of it a wait for the disk. So the loop does not wait
for it: it hands a turn's writes to the `Writer` and goes on deciding, and the writer makes one transaction of all that
has come meanwhile (*group commit*). It never waits for more to come: under little load each turn is a commit, under
much load commits grow by themselves. Turns become durable in the order in which they were handed in.

Long values are laid down beside the turns: each commit takes some megabytes of them along, so that no turn waits for more.

A full disk is waited for: nothing is acknowledged meanwhile, and the writer tries again each second. Deletions do not wait
with the rest, as they may be what makes room: the jobs that were deleted go from the store, and what they leave there, and
only then is all that waits tried again, in one transaction. Any other error is final, and comes out of `done` in the loop's
thread.
"""

from __future__ import annotations

import errno
import hashlib
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, Protocol

from park.core.outcome import Key, Write
from park.core.pieces import PIECE, Laid
from park.core.store import JobStore, Store
from park.core.sweep import MOST, leavings
from park.errors import StoreError

#: Seconds after which a full disk is looked at again.
RETRY = 1.0
#: Seconds that `Writer.close` waits for a disk that does not answer.
PATIENCE = 30.0
#: Pieces of long values that go with one commit, at most; so many that it takes some so many seconds: turns wait for it.
MOST_PIECES, COMMIT_SECONDS = 32, 0.015
#: Rooms where a job's own record may lie, and the one that says that it was deleted.
_DELETED = ("job", "archive", "trash")


class Commits(Protocol):
    """What makes turns durable. Turns have numbers that grow."""

    #: why nothing gets to the disk at present, "" if it does
    stuck: str

    def put(self, turn: int, writes: list[Write]) -> None:
        """Make these *writes* durable, after all that were put before."""

    def done(self) -> int:
        """The last turn that is on disk. Raises StoreError when nothing more will be."""

    def close(self) -> None:
        """Make what was put durable, if it can be now, and end."""


class InPlace:
    """A turn is durable when `put` returns: for stores in memory, and for those who wait anyway."""

    stuck = ""

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


@dataclass(slots=True)
class _Load:
    """A long value on its way: the bytes of it that are on disk, and its hash so far, if that is wanted."""

    number: int
    value: Any
    draft: Laid
    hash: Any
    done: int = 0


class Writer:
    """A thread that commits to *store*, and calls *wake*, from that thread, whenever there is something new to see."""

    def __init__(self, store: Store, wake: Callable[[], None]) -> None:
        self.stuck = ""
        self._store = store
        self._wake = wake
        #: what was put, and None for the end
        self._queue: SimpleQueue[tuple[int, list[Write]] | _Load | None] = SimpleQueue()
        self._closing = threading.Event()
        #: of the thread: what was taken in and is not on disk, its last turn, and whether that was all
        self._batch: dict[tuple[str, Key], Write] = {}
        self._turn = 0
        self._ended = False
        #: long values that are laid down, and those that are, or cannot be for want of room
        self._loads: deque[_Load] = deque()
        self._laid: deque[tuple[int, Laid | None]] = deque()
        #: pieces of them that go with the next commit
        self._pieces = 4
        #: what the thread says; each is written in one step
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
        """Whether `laid` has something to give."""
        return bool(self._laid)

    def laid(self) -> list[tuple[int, Laid | None]]:
        """Values that are laid down now, by their numbers; None: there was no room for it."""
        return [self._laid.popleft() for _ in range(len(self._laid))]

    def done(self) -> int:
        if self._error is not None:
            raise self._error
        return self._done

    def close(self) -> None:
        """What was put is on disk, or will never be: then `done` does not name it. Harmless when repeated.

        Raises StoreError for a disk that does not answer within `PATIENCE` seconds.
        """
        self._closing.set()
        self._queue.put(None)
        self._thread.join(PATIENCE)
        if self._thread.is_alive():
            raise StoreError(f"the disk of {self._store!r} has not answered for {PATIENCE:.0f} s")

    def _run(self) -> None:
        try:
            while not self._ended:
                self._take(wait=not self._loads)
                while self._batch:
                    self._commit()
                if self._loads and not self._ended:
                    self._commit()
        except Exception as error:  # nobody else would ever hear of it
            if not isinstance(error, StoreError):
                error = StoreError(f"cannot write to the store in {self._store.place}: {error!r}")
            self._error = error
            self._wake()

    def _take(self, wait: bool = True) -> None:
        """Take in what has come; *wait* for something."""
        try:
            while (entry := self._queue.get(wait)) is not None:
                wait = False
                if isinstance(entry, _Load):
                    self._loads.append(entry)
                    continue
                self._turn, writes = entry
                # of what was written more than once, only the last counts
                self._batch |= {(write.room, write.key): write for write in writes}
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
            if load is not None:  # what was laid down of it goes: it may be all that is in the way
                self._loads.popleft()
                self._laid.append((load.number, None))
                self._wake()
                return
            self.stuck = str(error)
            self._wake()
            if not self._make_room():
                self._closing.wait(RETRY)
            self._take(wait=False)
            return
        self.stuck = ""
        turned = bool(self._batch)
        if turned:
            self._batch.clear()
            self._done = self._turn
        if load is not None:
            self._advance(load)
            slow = time.monotonic() - began > COMMIT_SECONDS
            self._pieces = max(1, self._pieces // 2) if slow else min(MOST_PIECES, self._pieces + 1)
        if turned or self._laid:
            self._wake()

    def _next(self, load: _Load) -> list[Write]:
        """The next pieces of a long value."""
        return list(load.draft.writes(load.value, load.done, self._pieces * PIECE))

    def _advance(self, load: _Load) -> None:
        """They are on disk; another value has its turn."""
        stop = load.done + self._pieces * PIECE
        if load.hash is not None:
            load.hash.update(load.value[load.done : stop])
        load.done = stop
        self._loads.popleft()
        if stop < len(load.value):
            self._loads.append(load)
            return
        load.draft.digest = load.hash.digest() if load.hash is not None else b""
        self._laid.append((load.number, load.draft))

    def _make_room(self) -> bool:
        """Deletions go before what waits for room: whether more of what they leave was taken away."""
        batch = self._batch
        gone = {w.key for w in batch.values() if w.room == "trash" and w.value is not None}
        first = [batch[room, key] for key in gone for room in _DELETED if (room, key) in batch]
        try:
            self._store.commit(first)
            found: list[Write] = []
            for (number,) in self._store.keys("trash", (), MOST):
                assert isinstance(number, int)
                found += leavings(self._store, number, MOST - len(found))
            self._store.commit(found)
        except StoreError as error:
            if error.errno != errno.ENOSPC:
                raise
            return False
        return bool(found)
