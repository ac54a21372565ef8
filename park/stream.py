"""A job's own messages, as they reach whoever follows it.

The broker makes those of the job's life (`Start`, `Join`, `Complete`, `Error`, `Abort`) from what is on its disk; they and
the lines of the log are plain records. All others come from the body: `park.Progress`, `park.Improvement`, and dicts with
a ``kind`` of their own, pickled, which nobody opens on the way.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from msgspec import Struct

from park import payload
from park.errors import ParkError, WaitTimeout
from park.model import JobRecord, Log
from park.wire import codec
from park.wire.pack import Buffer
from park.wire.place import Place


class Start(Struct, frozen=True, gc=False):
    """The job has begun to run."""

    record: JobRecord


class Join(Struct, frozen=True, gc=False):
    """The first message for whoever joins: the job as it is now. What follows is its latest messages of the kinds that
    stay true, such as progress, then every later message in order.

    It comes again after the contact was lost; then what came meanwhile follows it, as far as the broker keeps it, and an
    `Error` without a record says how many messages are missing.
    """

    record: JobRecord


class Complete(Struct, frozen=True, gc=False):
    """The job has ended well. The last message."""

    record: JobRecord


class Error(Struct, frozen=True, gc=False):
    """Something went wrong: *text* says what. *record* is that of a job that has failed, and then it is the last message;
    None: the job goes on, but messages were left out, or can come no more, or a control found nobody to serve it.
    """

    text: str
    record: JobRecord | None = None


class Abort(Struct, frozen=True, gc=False):
    """The job was aborted. The last message."""

    record: JobRecord


def decode(kind: str, data: Buffer) -> Any:
    """The message of *kind* that travelled as *data*."""
    match kind:
        case "start":
            return Start(JobRecord.from_map(codec.unpack(data)))
        case "join":
            return Join(JobRecord.from_map(codec.unpack(data)))
        case "complete":
            return Complete(JobRecord.from_map(codec.unpack(data)))
        case "abort":
            return Abort(JobRecord.from_map(codec.unpack(data)))
        case "error":
            found = codec.unpack(data)
            record = None if found["record"] is None else JobRecord.from_map(found["record"])
            return Error(found["text"], record)
        case "log":
            return Log(*codec.unpack(data))
    return payload.loads(data)


def is_last(message: Any) -> bool:
    """Whether nothing comes after it."""
    return isinstance(message, Complete | Abort) or (
        isinstance(message, Error) and message.record is not None
    )


def log_lines(messages: Iterable[Any]) -> Iterator[Log | Error]:
    """The lines of a log among *messages*, and where some were left out the Error that says so."""
    for message in messages:
        if isinstance(message, Log) or (isinstance(message, Error) and message.record is None):
            yield message


class Inbox:
    """Messages that have come and were not taken. Filled in the loop, emptied in other threads.

    Beyond `MOST` the oldest are left out; in their place comes an `Error` that says how many they were.
    """

    #: Messages that wait.
    MOST = 100_000

    def __init__(self, logs: bool = False) -> None:
        self.logs = logs
        self.place = Place()
        self._arrived = threading.Condition()
        self._waiting: deque[tuple[str, Buffer] | ParkError] = deque()
        self._left_out = 0
        self._closed = False

    def put(self, kind: str, data: Buffer) -> None:
        """A message has come."""
        with self._arrived:
            if len(self._waiting) >= self.MOST:
                self._waiting.popleft()
                self._left_out += 1
            self._waiting.append((kind, data))
            self._arrived.notify()

    def fail(self, error: ParkError) -> None:
        """No more will come."""
        with self._arrived:
            self._waiting.append(error)
            self._arrived.notify()

    def close(self) -> None:
        """Nobody takes what is here: whoever waits goes."""
        with self._arrived:
            self._closed = True
            self._waiting.clear()
            self._arrived.notify_all()

    def take(self, timeout: float | None) -> Any:
        """The next message; None once it is closed. Raises WaitTimeout, or why no more will come."""
        with self._arrived:
            if not self._arrived.wait_for(lambda: self._waiting or self._closed, timeout):
                raise WaitTimeout(f"no message came within {timeout} s")
            if self._closed:
                return None
            if self._left_out:
                count, self._left_out = self._left_out, 0
                return Error(f"{count:,} messages were left out: they came faster than they were taken")
            got = self._waiting.popleft()
        if isinstance(got, ParkError):
            raise got
        return decode(*got)


class Messages(Iterator[Any]):
    """The messages of a job as they come; ``job.stream()``. They end with the job, or with the connection.

    An iterator that is dropped follows no longer.
    """

    def __init__(self, inbox: Inbox, timeout: float | None, leave: Callable[[], None]) -> None:
        self._inbox = inbox
        self._timeout = timeout
        self._leave = weakref.finalize(self, leave)
        self._leave.atexit = False

    def __next__(self) -> Any:
        try:
            message = self._inbox.take(self._timeout)
        except WaitTimeout:
            raise
        except ParkError:
            self.close()
            raise
        if message is None:
            raise StopIteration
        if is_last(message):
            self.close()
        return message

    def close(self) -> None:
        """Follow the job no longer."""
        self._inbox.close()
        self._leave()
