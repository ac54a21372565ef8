"""Long payloads go to the disk before it is decided what becomes of them.

A turn is on disk when all its writes are, and turns get there in order. Were a payload of hundreds of megabytes part of
one, all later ones would wait for it, and nothing could be decided while so much is on its way. So a message that brings a
long payload for the store is held up: its payload is laid down as a draft (`park.core.pieces`), some megabytes with each
commit, and then the message is decided, with the draft in its place. What its peer says meanwhile is held up behind it, but
for messages that have nothing to do with it (`park.wire.about`). Those of others do not notice.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from msgspec.structs import replace

from park.core.outcome import Event, Flow, Peer, Tick
from park.core.pieces import LONG, Laid
from park.wire import messages
from park.wire.about import about


@dataclass(slots=True)
class _Held:
    """An event that is held up; *lay*: the number of its payload on its way to the disk, 0: it only stands behind one."""

    event: Event
    about: frozenset[Any] | None
    lay: int = 0


class Laying:
    """See the module. *lay* takes a number and what is to be laid down, and whether its hash is wanted."""

    def __init__(self, lay: Callable[[int, Any, bool], None]) -> None:
        self._lay = lay
        self._lines: dict[Peer, deque[_Held]] = {}
        self._under_way: dict[int, _Held] = {}
        self._count = 0

    def __bool__(self) -> bool:
        return bool(self._lines)

    def sift(
        self, events: Iterable[Event | Tick | Flow], wanted: Callable[[Event], bool]
    ) -> list[Event | Tick | Flow]:
        """Those that can be decided now; of what is *wanted*, long payloads are laid down first."""
        found: list[Event | Tick | Flow] = []
        for event in events:
            if not isinstance(event, Event):
                found.append(event)
                continue
            line = self._lines.get(event.peer)
            long = len(event.payload) > LONG and wanted(event)
            if line is None and not long:
                found.append(event)
                continue
            topics = about(event.message)
            if line is not None and not long and topics is not None and _may_pass(topics, line):
                found.append(event)
                continue
            held = _Held(event, topics)
            if long:
                self._count += 1
                held.lay = self._count
                self._under_way[held.lay] = held
                self._lay(held.lay, event.payload, isinstance(event.message, messages.Blob))
            self._lines.setdefault(event.peer, deque()).append(held)
            found.append(Flow(event.peer, "alive"))
        return found

    def laid(self, done: Sequence[tuple[int, Laid | None]]) -> list[Event]:
        """These are laid down; None: there was no room, and the payload stays what it was. What can be decided now."""
        for number, draft in done:
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
        return found


def _may_pass(topics: frozenset[Any], line: Iterable[_Held]) -> bool:
    return all(held.about is not None and not topics & held.about for held in line)
