"""The messages of a job's stream, as its followers get them.

The broker makes those of the job's life (`Start`, `Join`, `Complete`, `Error`, `Abort`) from what is on its disk; they and
the lines of the log are plain records. All others come from the body: `park.Progress`, `park.Improvement`, and dicts with
a ``kind`` of their own; they travel pickled, and only the follower unpickles them.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from msgspec import Struct

from park.body import payload
from park.body.plain import is_plain, unpack_plain
from park.errors import ParkError, ServiceClosed, WaitTimeout
from park.model import JobRecord, Log
from park.wire import codec
from park.wire.cursor import Cursor
from park.wire.pack import Buffer


class Start(Struct, frozen=True, gc=False):
    """The job has begun to run."""

    record: JobRecord


class Join(Struct, frozen=True, gc=False):
    """The first message for a new follower: the job as it is now. Then come its latest messages of the kinds that
    stay true, such as progress, then every later message in order.

    It comes again after contact was lost. Then the messages that came meanwhile follow, as far as the broker keeps
    them, and an `Error` without a record says how many are missing.
    """

    record: JobRecord


class Complete(Struct, frozen=True, gc=False):
    """The job has ended well. The last message."""

    record: JobRecord


class Error(Struct, frozen=True, gc=False):
    """An error, with a *text*. With the *record* of a failed job it is the last message. With None the job goes on:
    messages were left out or cannot come any more, or the body has no method for a control.
    """

    text: str
    record: JobRecord | None = None


class Abort(Struct, frozen=True, gc=False):
    """The job was aborted. The last message."""

    record: JobRecord


class Opaque(Struct, frozen=True, gc=False):
    """A message of *kind* in a pickle of *size* bytes, which the follower of the stream has asked not to open."""

    kind: str
    size: int


def decode(kind: str, data: Buffer, unpickle: bool = True) -> Any:
    """The message of *kind* that travelled as *data*; without *unpickle* `Opaque` in place of each that is pickled."""
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
            return Error(str(found["text"]), record)
        case "log":
            return _log(codec.unpack(data))
    if is_plain(data):
        return unpack_plain(kind, data)
    return payload.loads(data) if unpickle else Opaque(kind, len(data))


def _log(values: Any) -> Log:
    """A line of a log. Its kernel may have packed anything."""
    text, level, at = values if isinstance(values, list) and len(values) == 3 else (values, "out", 0.0)
    return Log(str(text), str(level), at if isinstance(at, int | float) else 0.0)


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
    """Messages that have come and were not taken. The loop fills it, other threads empty it.

    Beyond `MAX_WAITING` messages the oldest are left out; in their place comes an `Error` that says how many they were.
    """

    MAX_WAITING = 100_000

    def __init__(self, logs: bool = False, unpickle: bool = True) -> None:
        self.logs = logs
        self._unpickle = unpickle
        self.place = Cursor()
        self._arrived = threading.Condition()
        self._waiting: deque[tuple[str, Buffer] | ParkError] = deque()
        self._left_out = 0
        self._closed = False

    def put(self, kind: str, data: Buffer) -> None:
        """A message has come."""
        with self._arrived:
            if len(self._waiting) >= self.MAX_WAITING:
                self._waiting.popleft()
                self._left_out += 1
            self._waiting.append((kind, data))
            self._arrived.notify()

    def fail(self, error: ParkError) -> None:
        """End the stream: no more messages will come."""
        with self._arrived:
            self._waiting.append(error)
            self._arrived.notify()

    def close(self) -> None:
        """Drop the messages, and end the wait of the thread that takes them."""
        with self._arrived:
            self._closed = True
            self._waiting.clear()
            self._arrived.notify_all()

    def take(self, timeout: float | None) -> Any:
        """The next message; None once it is closed. Raises WaitTimeout, or the error for which no more messages come."""
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
        return decode(*got, self._unpickle)


class MonitorFollower:
    """Passes a job's messages on to the methods of an object of the user's; *call_back* runs them in its thread."""

    def __init__(self, monitor: Any, call_back: Callable[[Callable[[], None]], None]) -> None:
        self._monitor = monitor
        self._call_back = call_back
        self.logs = False
        self.place = Cursor()

    def put(self, kind: str, data: Buffer) -> None:
        """Call ``on_<kind>`` of the monitor, if it has that method."""
        method = getattr(self._monitor, f"on_{kind}", None)
        if method is not None:
            self._call_back(lambda: method(decode(kind, data)))

    def fail(self, error: ParkError) -> None:
        """Tell the monitor that no more messages will come, unless its own program has closed the connection."""
        method = getattr(self._monitor, "on_error", None)
        if method is not None and not isinstance(error, ServiceClosed):
            self._call_back(lambda: method(Error(str(error))))


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
