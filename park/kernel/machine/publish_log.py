"""The messages that bodies have published and the broker has not confirmed: they are repeated after contact was lost.

The kernel stops reading a process whose unconfirmed messages take more than `MAX_PROCESS_BYTES`, until the broker
confirms some. Its body then waits where it publishes or prints, and no message is dropped. Messages without a number,
such as progress, are different: only the latest of each kind is kept, while their attempt runs.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Sequence

from park.wire.messages import Publish
from park.wire.pack import Buffer

#: Bytes of unconfirmed messages of one process beyond which the kernel does not read from it.
MAX_PROCESS_BYTES = 512 << 10
#: Kinds of messages of which only the latest is kept, for one attempt.
MAX_LATEST_KINDS = 8
#: Bytes that a message counts for besides its payload.
MESSAGE_OVERHEAD_BYTES = 200

Published = tuple[Publish, Buffer]


class PublishLog:
    """The messages of bodies that the broker does not have yet."""

    def __init__(self) -> None:
        #: the numbered messages of each attempt in their order, each with the process that has sent it
        self._numbered: dict[int, deque[tuple[int, Published]]] = {}
        #: the latest message without a number, by attempt and kind
        self._latest: dict[int, dict[str, Published]] = {}
        #: bytes of the numbered messages, by process
        self._bytes: Counter[int] = Counter()

    def __bool__(self) -> bool:
        return bool(self._numbered)

    def add(self, process: int, message: Publish, payload: Buffer) -> None:
        """A process has published a message."""
        if message.number:
            self._numbered.setdefault(message.attempt, deque()).append((process, (message, payload)))
            self._bytes[process] += _size(payload)
        else:
            latest = self._latest.setdefault(message.attempt, {})
            if message.kind in latest or len(latest) < MAX_LATEST_KINDS:
                latest[message.kind] = message, payload

    def end(self, attempt: int) -> None:
        """The attempt has ended: its latest messages hold no more."""
        self._latest.pop(attempt, None)

    def drop(self, heard: Sequence[int]) -> None:
        """The broker has heard messages; *heard*: attempt, last number, attempt, last number ..."""
        for attempt, number in zip(heard[::2], heard[1::2], strict=False):
            published = self._numbered.get(attempt, deque())
            while published and published[0][1][0].number <= number:
                process, (_, payload) = published.popleft()
                self._bytes[process] -= _size(payload)
                if not self._bytes[process]:
                    del self._bytes[process]
            if not published:
                self._numbered.pop(attempt, None)

    def full(self, process: int) -> bool:
        """Whether the process is not to be read for now."""
        return self._bytes.get(process, 0) > MAX_PROCESS_BYTES

    def all(self) -> Iterator[Published]:
        """The messages to repeat."""
        for published in self._numbered.values():
            for _, one in published:
                yield one
        for latest in self._latest.values():
            yield from latest.values()

    def clear(self) -> None:
        """Forget all messages."""
        self._numbered.clear()
        self._latest.clear()
        self._bytes.clear()

    def check(self) -> None:
        """Assert that messages are in order, and that the sums agree with them."""
        sizes: Counter[int] = Counter()
        for published in self._numbered.values():
            assert published
            numbers = [message.number for _, (message, _) in published]
            assert numbers == sorted(set(numbers))
            for process, (_, payload) in published:
                sizes[process] += _size(payload)
        assert sizes == self._bytes


def _size(payload: Buffer) -> int:
    return MESSAGE_OVERHEAD_BYTES + len(payload)
