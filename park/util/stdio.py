"""Standard output and error of this process, for threads that must not block: event loops, and threads that answer them.

The reader of a stream may be slow, stopped (Ctrl-S) or gone. The disk behind it may be full. The stream may have been
closed at the start (``2>&-``), so that its number belongs to another file. In each case `StandardStream.write` returns
at once and raises nothing. Bytes that cannot be written yet are kept, up to `MAX_KEPT_BYTES`, and a thread writes them;
the thread ends when none are left. Beyond that limit the stream is `full`, and its sources wait while the reader takes
a byte now and then. After `STALLED_SECONDS` without a byte taken, sources wait no longer, and further lines are dropped
and counted.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import select
import socket
import stat
import sys
import threading
import time
from collections import deque
from pathlib import Path
from typing import Any

from park.errors import InvalidRequest
from park.text import visible

#: Bytes that are kept for a slow reader, at most.
MAX_KEPT_BYTES = 1 << 18
#: The limit is higher by this factor for sources that may write once more before they wait.
SOURCES_THAT_GO_ON = 4
#: Seconds without a byte taken after which sources wait no longer.
STALLED_SECONDS = 2.0
#: Seconds for which the end of the process may wait for a reader.
EXIT_FLUSH_SECONDS = 0.5
#: Bytes that a terminal accepts at once, about, where it cannot be opened without blocking.
TERMINAL_CHUNK_BYTES = 512


class StandardStream:
    """Writes to a standard stream without blocking; the module explains it. *number*: the descriptor, 1 or 2."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._begin()
        atexit.register(self.flush)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._begin)

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[bytes] = deque()
        self._size = 0
        self._left_out = 0
        self._thread: threading.Thread | None = None
        #: the time at which bytes were last taken
        self._taken = 0.0
        #: the source of the unfinished line; None: all lines have ended
        self._line_of: object = None
        #: the file behind the number, and the function that writes to it
        self._identity: Any = None
        self._own: Any = None

    def write(self, data: bytes, source: object = None) -> None:
        """Write whole lines, or part of one. An unfinished line of another *source* ends first."""
        with self._lock:
            if self._line_of not in (None, source):
                data = b"\n" + data
            self._line_of = None if data.endswith(b"\n") else source
            if self._size > MAX_KEPT_BYTES * (SOURCES_THAT_GO_ON if self.full else 1):
                self._left_out += max(1, data.count(b"\n"))
                return
            if not self._waiting:
                self._taken = time.monotonic()
            self._waiting.append(data)
            self._size += len(data)
            self._pour()
            if self._waiting and self._thread is None:
                thread = threading.Thread(target=self._write_on, name="park output", daemon=True)
                with contextlib.suppress(RuntimeError):  # at the end of Python, where `flush` writes the rest
                    thread.start()
                    self._thread = thread

    def goes_on(self, source: object) -> bool:
        """Whether the last line was begun by *source* and has not ended."""
        return self._line_of is source

    @property
    def waits(self) -> bool:
        """Whether bytes wait to be written."""
        return bool(self._waiting)

    @property
    def full(self) -> bool:
        """Whether sources must wait."""
        return self._size > MAX_KEPT_BYTES and time.monotonic() < self._taken + STALLED_SECONDS

    def flush(self, limit: float = EXIT_FLUSH_SECONDS) -> None:
        """Write the waiting bytes, while the reader takes some of them within each *limit* seconds."""
        end = time.monotonic() + limit
        while self._waiting and time.monotonic() < max(end, self._taken + limit):
            self._wait(0.05)
            with self._lock:
                self._pour()

    def _write_on(self) -> None:
        while True:
            self._wait(0.5)
            with self._lock:
                self._pour()
                if not self._waiting:
                    self._thread = None
                    return

    def _wait(self, limit: float) -> None:
        """Wait until the stream may accept bytes, at most *limit* seconds."""
        with contextlib.suppress(OSError, ValueError):
            poll = select.poll()
            poll.register(self._number, select.POLLOUT)
            if not poll.poll(limit * 1000):
                return
        time.sleep(0.001)  # the stream may be ready and still accept nothing

    def _pour(self) -> None:
        while self._waiting:
            data = self._waiting.popleft()
            count = self._put(data)
            if count:
                self._taken = time.monotonic()
                self._size -= count
            if count < len(data):
                self._waiting.appendleft(data[count:])
                return
            if self._left_out and not self._waiting:
                note = f"({self._left_out:,} more lines are left out here: their reader did not take them)\n".encode()
                self._left_out = 0
                self._waiting.append(note)
                self._size += len(note)

    def _put(self, data: bytes) -> int:
        """The number of bytes that were written, or that no reader can get any more."""
        try:
            status = os.fstat(self._number)
            if not os.get_inheritable(self._number):  # another file has the number of the closed stream
                return len(data)
            identity = status.st_dev, status.st_ino, status.st_rdev
            if identity != self._identity:
                self._own, self._identity = _reopened(self._number, status.st_mode), identity
            if self._own is not None:
                return int(self._own(data))
            if stat.S_ISREG(status.st_mode):
                return os.write(self._number, data)
            poll = select.poll()
            poll.register(self._number, select.POLLOUT)
            return os.write(self._number, data[:TERMINAL_CHUNK_BYTES]) if poll.poll(0) else 0
        except BlockingIOError:
            return 0
        except OSError:  # gone, or full
            return len(data)


class _Reopened:
    """A terminal or pipe, opened a second time without blocking; other writers of it still block."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def __call__(self, data: bytes) -> int:
        return os.write(self._descriptor, data)

    def __del__(self) -> None:
        os.close(self._descriptor)


def _reopened(number: int, mode: int) -> Any:
    """A function that writes without blocking; None where the system offers none."""
    if stat.S_ISSOCK(mode):
        same = socket.socket(fileno=os.dup(number))
        return lambda data: same.send(data, getattr(socket, "MSG_DONTWAIT", 0))
    if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
        with contextlib.suppress(OSError):
            flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
            return _Reopened(os.open(f"/proc/self/fd/{number}", flags))
    return None


OUT, ERR = StandardStream(1), StandardStream(2)


class LogFile:
    """A file of lines with their time and level. It is opened again after it was moved or deleted."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._number = -1
        self._identity: Any = None
        self._open()

    def _open(self) -> None:
        """Raises OSError."""
        number = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        if self._number >= 0:
            os.close(self._number)
        status = os.fstat(number)
        self._number, self._identity = number, (status.st_dev, status.st_ino)

    def write(self, text: str, level: str) -> None:
        """Write one line or several. On a full disk the lines are lost, and nothing is raised."""
        began = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        head = f"{began} {level.upper():7} "
        data = "".join(f"{head}{line}\n" for line in text.splitlines()).encode(errors="backslashreplace")
        with contextlib.suppress(OSError):
            try:
                status = os.stat(self._path)
                same = (status.st_dev, status.st_ino) == self._identity
            except FileNotFoundError:
                same = False
            if not same:
                self._open()
            os.write(self._number, data)


_log: LogFile | None = None
#: Priorities of syslog, which journald reads in front of a line.
_PRIORITY = {"error": 3, "warning": 4, "info": 6}


def log_to(path: Path | None) -> None:
    """Write all further reports to this file, too. Raises InvalidRequest where that fails."""
    global _log
    try:
        _log = None if path is None else LogFile(path.expanduser().absolute())
    except OSError as error:
        raise InvalidRequest(f"the log file {path} cannot be written: {error.strerror}") from None


def _is_journal() -> bool:
    """Whether standard error goes to journald, which gives the numbers of its file."""
    device, _, inode = os.environ.get("JOURNAL_STREAM", "").partition(":")
    try:
        status = os.fstat(2)
        return (int(device), int(inode)) == (status.st_dev, status.st_ino)
    except (OSError, ValueError):
        return False


def record(text: str, level: str = "info") -> None:
    """Write a line to the log of a service, and to no terminal."""
    text = visible(text, lines=True)
    if _log is not None:
        _log.write(text, level)
    if "JOURNAL_STREAM" in os.environ and _is_journal():
        ERR.write(_for_journal(text, level).encode("utf-8", "backslashreplace"))


def _for_journal(text: str, level: str) -> str:
    return "".join(f"<{_PRIORITY[level]}>{line}\n" for line in text.splitlines())


def tell(text: str, level: str = "info") -> None:
    """Write a line to standard error without blocking, and to the log file of a service. It steers no terminal."""
    text = visible(text, lines=True)
    if _log is not None:
        _log.write(text, level)
    stream: Any = sys.stderr
    if stream is None:
        return
    if stream is not sys.__stderr__:  # a notebook's stream, or a collected one
        with contextlib.suppress(Exception):
            stream.write(f"{text}\n")
            stream.flush()
    else:
        journal = "JOURNAL_STREAM" in os.environ and _is_journal()
        line = _for_journal(text, level) if journal else f"{text}\n"
        ERR.write(line.encode(getattr(stream, "encoding", None) or "utf-8", "backslashreplace"))


def keep_numbers() -> None:
    """Occupy the numbers of closed standard streams, so that no other file gets them."""
    with contextlib.suppress(OSError):
        while (descriptor := os.open(os.devnull, os.O_RDWR)) < 3:
            pass
        os.close(descriptor)
