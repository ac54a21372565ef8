"""Long payloads are written to disk before their messages are decided.

A turn is on disk when all its writes are, and turns get there in order. With a payload of hundreds of megabytes in one
turn, all later turns would wait for it. So the broker holds up a message that brings a long payload for the store. It
writes the payload as a draft (`park.broker.storage.pieces`), some megabytes with each commit, and then decides the
message, with the draft as its payload. Later messages of the same peer wait behind it, unless they concern other
subjects (`park.wire.subjects`). Messages of other peers do not wait. `park.net.intake` bounds the bytes of long messages. A
peer of which too many short ones wait is cut off, and sends them again when it is back.

Long code that is not stored waits in the same way until a thread has hashed it.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from park.broker.accounts.budgets import MAX_BEHIND_BYTES, MAX_BEHIND_MESSAGES
from park.broker.effects import Event, Flow, Peer, Tick
from park.broker.storage.pieces import LONG_VALUE_BYTES, LongValue
from park.wire import messages
from park.wire.pack import Buffer, code_hash
from park.wire.subjects import about


class Hold(Enum):
    """The reason for which a message is held up, if it brings a long payload."""

    NOT = "not"
    #: its payload is written to disk
    LAY = "lay"
    #: its payload is hashed
    HASH = "hash"


class Hashed:
    """A payload with the hash of its content, its *digest*."""

    __slots__ = ("_data", "digest")

    def __init__(self, data: Buffer, digest: bytes) -> None:
        self._data = data
        self.digest = digest

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, part: slice) -> Buffer:
        return self._data[part]


class _Held(Struct):
    """An event that is held up; *lay*: the number of its payload under way, 0: it only stands behind another one."""

    event: Event
    about: frozenset[Any] | None
    lay: int = 0


class Spooler:
    """Holds up messages as the module says. *lay* takes a number, the payload to write, and whether its hash is wanted.

    *wake* is called from a thread when a payload is hashed.
    """

    def __init__(self, lay: Callable[[int, Any, bool], None], wake: Callable[[], None]) -> None:
        self._lay = lay
        self._wake = wake
        #: payloads that are hashed, by number
        self._hashed: deque[tuple[int, Hashed]] = deque()
        self._lines: dict[Peer, deque[_Held]] = {}
        #: messages of peers that are cut off; the caller takes them out
        self.dropped: list[Event] = []
        #: bytes of the short messages in each line
        self._behind: Counter[Peer] = Counter()
        self._under_way: dict[int, _Held] = {}
        self._count = 0

    def __bool__(self) -> bool:
        return bool(self._lines)

    @property
    def peers(self) -> list[Peer]:
        """The peers of which messages are held up."""
        return list(self._lines)

    @property
    def has_hashed(self) -> bool:
        """Whether a payload has been hashed since the last `laid`."""
        return bool(self._hashed)

    def sift(
        self, events: Iterable[Event | Tick | Flow], wanted: Callable[[Event], Hold]
    ) -> list[Event | Tick | Flow]:
        """The events that can be decided now. *wanted* says for which a long payload is written or hashed first."""
        found: list[Event | Tick | Flow] = []
        for event in events:
            if not isinstance(event, Event):
                found.append(event)
                continue
            line = self._lines.get(event.peer)
            hold = wanted(event) if len(event.payload) > LONG_VALUE_BYTES else Hold.NOT
            long = hold is not Hold.NOT
            if line is None and not long:
                found.append(event)
                continue
            topics = about(event.message)
            if line is not None and not long and topics is not None and _may_pass(topics, line):
                found.append(event)
                continue
            if not long and line is not None:
                self._behind[event.peer] += len(event.payload)
                if len(line) >= MAX_BEHIND_MESSAGES or self._behind[event.peer] > MAX_BEHIND_BYTES:
                    self.dropped += [event, *self._cut(line)]
                    del self._behind[event.peer]
                    found.append(Flow(event.peer, "cut"))
                    continue
            held = _Held(event, topics)
            if long:
                self._count += 1
                held.lay = self._count
                self._under_way[held.lay] = held
                if hold is Hold.LAY:
                    self._lay(held.lay, event.payload, isinstance(event.message, messages.Blob))
                else:
                    args = (held.lay, event.payload)
                    threading.Thread(target=self._hash, args=args, name="park-hash", daemon=True).start()
            self._lines.setdefault(event.peer, deque()).append(held)
            found.append(Flow(event.peer, "alive"))
        return found

    def _cut(self, line: deque[_Held]) -> list[Event]:
        """Take out all messages but those whose payloads are under way."""
        gone = [held.event for held in line if not held.lay]
        kept = [held for held in line if held.lay]
        line.clear()
        line.extend(kept)
        return gone

    def _hash(self, number: int, payload: Buffer) -> None:
        self._hashed.append((number, Hashed(payload, code_hash(payload))))
        self._wake()

    def laid(self, done: Sequence[tuple[int, LongValue | None]]) -> list[Event]:
        """Take drafts that are on disk, and return the events to decide now. None: the disk was full; the payload stays."""
        hashed = [self._hashed.popleft() for _ in range(len(self._hashed))]
        for number, draft in (*done, *hashed):
            held = self._under_way.pop(number)
            held.lay = 0
            if draft is not None:
                held.event = replace(held.event, payload=draft)
        found: list[Event] = []
        for peer, line in list(self._lines.items()):
            while line and not line[0].lay:
                found.append(line.popleft().event)
            if not line:
                del self._lines[peer]
                self._behind.pop(peer, None)
        return found


def _may_pass(topics: frozenset[Any], line: Iterable[_Held]) -> bool:
    return all(held.about is not None and not topics & held.about for held in line)
