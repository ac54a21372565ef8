"""What bodies have published and the broker has not said to have heard: it is given again after contact was lost.

A process whose messages take more than `MOST` bytes here is not read until the broker has heard some of them: its body
waits where it publishes or prints. Nothing is dropped. Of messages that are not numbered, such as progress, only the
latest of a kind is kept, while their attempt runs.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Sequence

from park.wire.messages import Publish
from park.wire.pack import Buffer

#: Bytes of one process, and what a message counts for beside its payload.
MOST = 512 << 10
OVERHEAD = 200

Said = tuple[Publish, Buffer]


class Unheard:
    """See the module."""

    def __init__(self) -> None:
        #: by attempt, in order: the process that has said it, and the message
        self._said: dict[int, deque[tuple[int, Said]]] = {}
        #: by attempt and kind
        self._latest: dict[int, dict[str, Said]] = {}
        #: bytes by process
        self._bytes: Counter[int] = Counter()

    def __bool__(self) -> bool:
        return bool(self._said)

    def add(self, process: int, message: Publish, payload: Buffer) -> None:
        if message.number:
            self._said.setdefault(message.attempt, deque()).append((process, (message, payload)))
            self._bytes[process] += _size(payload)
        else:
            self._latest.setdefault(message.attempt, {})[message.kind] = message, payload

    def end(self, attempt: int) -> None:
        """The attempt has ended: what it has said last holds no more."""
        self._latest.pop(attempt, None)

    def drop(self, heard: Sequence[int]) -> None:
        """These were heard: attempt, number, attempt, number ..."""
        for attempt, number in zip(heard[::2], heard[1::2], strict=False):
            said = self._said.get(attempt, deque())
            while said and said[0][1][0].number <= number:
                process, (_, payload) = said.popleft()
                self._bytes[process] -= _size(payload)
                if not self._bytes[process]:
                    del self._bytes[process]
            if not said:
                self._said.pop(attempt, None)

    def full(self, process: int) -> bool:
        """Whether the process has said enough for now."""
        return self._bytes.get(process, 0) > MOST

    def all(self) -> Iterator[Said]:
        """What is to be given again."""
        for said in self._said.values():
            for _, one in said:
                yield one
        for latest in self._latest.values():
            yield from latest.values()

    def clear(self) -> None:
        """Nobody wants it."""
        self._said.clear()
        self._latest.clear()
        self._bytes.clear()

    def check(self) -> None:
        """Assert what must always hold."""
        sizes: Counter[int] = Counter()
        for said in self._said.values():
            assert said
            numbers = [message.number for _, (message, _) in said]
            assert numbers == sorted(set(numbers))
            for process, (_, payload) in said:
                sizes[process] += _size(payload)
        assert sizes == self._bytes


def _size(payload: Buffer) -> int:
    return OVERHEAD + len(payload)
