"""The tail of a job's messages: which of them are on disk, and in which record.

Each writing adds a record with the messages since the last one. Its key is the job's number and a number that grows. A
record is deleted when all its messages have left the tail. So each message is written once, and each write is bounded.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from itertools import islice
from typing import NamedTuple

from msgspec import Struct, field

from park.broker.effects import Key, Write
from park.wire import codec
from park.wire.pack import Buffer

#: Messages of one tail.
MAX_TAIL_MESSAGES = 5000


class LogEntry(NamedTuple):
    """A message, and its place among the messages of its job; 0: it has none."""

    at: int
    kind: str
    data: Buffer


class LogTail(Struct):
    """The newest messages of a job on disk, in few records. The tail lies in *namespace*, and has at most *most* bytes;
    a longer message is not kept.
    """

    namespace: str
    most: int
    entries: deque[LogEntry] = field(default_factory=deque)
    size: int = 0
    #: the records, and how many of the kept messages each has; the first messages are in them, in order
    records: deque[tuple[Key, int]] = field(default_factory=deque)
    written: int = 0
    #: the number of the next record
    next: int = 1
    #: records that have none of the messages
    spent: list[Key] = field(default_factory=list)

    def add(self, entry: LogEntry) -> None:
        if len(entry.data) > self.most:
            return
        self.entries.append(entry)
        self.size += len(entry.data)
        while self.size > self.most or len(self.entries) > MAX_TAIL_MESSAGES:
            self.size -= len(self.entries.popleft().data)
            if self.written:
                self.written -= 1
                key, count = self.records.popleft()
                if count > 1:
                    self.records.appendleft((key, count - 1))
                else:
                    self.spent.append(key)

    @property
    def unwritten(self) -> bool:
        return self.written < len(self.entries)

    def writes(self, job: int, marks: Mapping[int, int], last: int) -> list[Write]:
        """The writes of the messages that are not on disk; the record also keeps *marks* and *last* for `load`."""
        found = [Write(self.namespace, key, None) for key in self.spent]
        self.spent.clear()
        new = list(islice(self.entries, self.written, None))
        key: Key = (job, self.next)
        self.next += 1
        value = {
            "at": [e.at for e in new],
            "kinds": [e.kind for e in new],
            "data": [bytes(e.data) for e in new],
            "marks": [part for mark in marks.items() for part in mark],
            "last": last,
        }
        found.append(Write(self.namespace, key, codec.pack(value)))
        if new:
            self.records.append((key, len(new)))
            self.written += len(new)
        else:
            self.spent.append(key)
        return found

    def load(self, key: Key, value: Buffer) -> tuple[dict[int, int], int]:
        """Take the next record of an earlier life. Returns the last message number of each attempt, and the last place.

        Raises ProtocolError, TypeError, ValueError or KeyError where it cannot be read.
        """
        stored = codec.unpack(value)
        found = (LogEntry(*e) for e in zip(stored["at"], stored["kinds"], stored["data"], strict=True))
        entries = [e for e in found if len(e.data) <= self.most]
        if not all(type(e.at) is int and type(e.kind) is str and type(e.data) is bytes for e in entries):
            raise ValueError("its messages are none")
        marks = dict(zip(stored["marks"][::2], stored["marks"][1::2], strict=True))
        last = max([int(stored["last"]), *(e.at for e in entries)])
        number = key[1]
        assert isinstance(number, int)
        self.next = number + 1
        if entries:
            self.records.append((key, len(entries)))
            self.written += len(entries)
        else:
            self.spent.append(key)
        for entry in entries:
            self.add(entry)
        return marks, last
