"""A job's own messages, as they reach whoever follows it.

The broker makes those of the job's life (`Start`, `Join`, `Complete`, `Error`, `Abort`) from what is on its disk; they and
the lines of the log are plain records. All others come from the body: `park.Progress`, `park.Improvement`, and dicts with
a ``kind`` of their own, pickled, which nobody opens on the way.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from park import payload
from park.errors import ParkError, WaitTimeout
from park.model import JobRecord, Log
from park.wire import codec
from park.wire.pack import Buffer


@dataclass(frozen=True, slots=True)
class Start:
    """The job has begun to run."""

    record: JobRecord


@dataclass(frozen=True, slots=True)
class Join:
    """The first message for whoever joins: the job as it is now. What follows is its latest messages of the kinds that
    stay true, such as progress, then every later message in order. It comes again after the contact was lost.
    """

    record: JobRecord


@dataclass(frozen=True, slots=True)
class Complete:
    """The job has ended well. The last message."""

    record: JobRecord


@dataclass(frozen=True, slots=True)
class Error:
    """Something went wrong: *text* says what. *record* is that of a job that has failed, and then it is the last message;
    None: the job goes on.
    """

    text: str
    record: JobRecord | None = None


@dataclass(frozen=True, slots=True)
class Abort:
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


def lines(messages: Iterator[Any]) -> Iterator[Log]:
    """Those of *messages* that are of the log."""
    return (message for message in messages if isinstance(message, Log))


class Messages(Iterator[Any]):
    """The messages of a job as they come; ``job.stream()``. They end with the job, or with the connection."""

    #: Messages that wait to be taken before the oldest are left out.
    MOST = 100_000

    def __init__(self, timeout: float | None, close: Callable[[], None]) -> None:
        self._timeout = timeout
        self._close = close
        self._waiting: queue.SimpleQueue[tuple[str, Buffer] | ParkError] = queue.SimpleQueue()
        self.joined = False
        self._over = False
        self._lock = threading.Lock()

    def put(self, kind: str, data: Buffer) -> None:
        """A message has come."""
        if self._waiting.qsize() >= self.MOST:
            self._waiting.get()
        self._waiting.put((kind, data))

    def fail(self, error: ParkError) -> None:
        """No more will come."""
        self._waiting.put(error)

    def __next__(self) -> Any:
        if self._over:
            raise StopIteration
        try:
            got = self._waiting.get(timeout=self._timeout)
        except queue.Empty:
            raise WaitTimeout(f"no message came within {self._timeout} s") from None
        if isinstance(got, ParkError):
            self.close()
            raise got
        message = decode(*got)
        if is_last(message):
            self.close()
        return message

    def close(self) -> None:
        """Follow the job no longer."""
        with self._lock:
            over, self._over = self._over, True
        if not over:
            self._close()
