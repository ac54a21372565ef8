"""The output of bodies: it goes to the streams of the process as before, and its lines to the job's log too.

Bodies print at any time, from any thread; only the main thread talks to the kernel. So lines wait here until the main
thread takes them. Between two of its visits a limited number of characters is kept; further lines are only counted.
"""

from __future__ import annotations

import contextlib
import io
import threading
import time
from collections.abc import Callable
from typing import Any, TextIO

from park.model import Log

#: Characters that are kept from one visit to the next, in the long run.
CHARS_PER_VISIT = 64_000
#: Characters that are kept from one visit to the next after a quiet time.
BURST_CHARS = 256_000
#: Characters that are kept of one line.
MAX_LINE_CHARS = 4_000


class CapturedOutput:
    """Printed lines that wait to be sent."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        #: the beginning of a line that has not ended, by level
        self._begun: dict[str, str] = {}
        #: runs of lines of one level: the level, the time of the first line, the lines
        self._lines: list[tuple[str, float, list[str]]] = []
        self._size = 0
        #: characters that are kept until the next visit
        self._budget = BURST_CHARS
        self._left_out = 0

    def add(self, level: str, text: str) -> None:
        """Keep *text*, which was printed."""
        with self._lock:
            *lines, rest = (self._begun.get(level, "") + text).split("\n")
            self._begun[level] = rest[: MAX_LINE_CHARS + 1]
            for line in lines:
                self._add(level, line)

    def _add(self, level: str, line: str) -> None:
        if self._size > self._budget:
            self._left_out += 1
            return
        line = line if len(line) <= MAX_LINE_CHARS else f"{line[:MAX_LINE_CHARS]}..."
        self._size += len(line) + 1
        if self._lines and self._lines[-1][0] == level:
            self._lines[-1][2].append(line)
        else:
            self._lines.append((level, time.time(), [line]))

    def take(self, everything: bool) -> list[Log]:
        """The lines that wait; with *everything* also those that have not ended."""
        with self._lock:
            if everything:
                for level, rest in self._begun.items():
                    if rest:
                        self._add(level, rest)
                self._begun.clear()
            self._budget = min(BURST_CHARS, max(0, self._budget - self._size) + CHARS_PER_VISIT)
            found = [Log("\n".join(lines), level, since) for level, since, lines in self._lines]
            self._lines, self._size = [], 0
            if self._left_out:
                found.append(Log(f"({self._left_out:,} more lines are left out)", "info", time.time()))
                self._left_out = 0
            return found

    @property
    def waiting(self) -> bool:
        """Whether there are lines to take."""
        return bool(self._lines or self._begun)


class Tee(io.TextIOBase):
    """Standard output or error: writes go to *stream* as before, and to *captured* as lines of *level*.

    Threads that print at the same time do so in whole lines. *on_print* is called after each write.
    """

    def __init__(
        self, stream: TextIO, captured: CapturedOutput, level: str, on_print: Callable[[], None]
    ) -> None:
        self._stream = stream
        self._captured = captured
        self._level = level
        self._on_print = on_print
        #: the beginnings of lines that have not ended, by thread
        self.begun: dict[int, str] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    # TextIOBase has None for these; its stub says that they can be set, which they cannot
    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._stream.encoding

    @property
    def errors(self) -> str | None:  # type: ignore[override]
        return self._stream.errors

    @property
    def newlines(self) -> Any:  # type: ignore[override]
        return self._stream.newlines

    def write(self, text: str) -> int:
        thread = threading.get_ident()
        lines, end, rest = (self.begun.pop(thread, "") + text).rpartition("\n")
        if rest:
            self.begun[thread] = rest
        if end:
            self._put(lines + end)
        if "\r" in rest or len(rest) > MAX_LINE_CHARS:
            self.flush()
        return len(text)

    def _put(self, text: str) -> None:
        try:
            self._stream.write(text)
        except (OSError, ValueError):  # the stream is gone, or closed: the log has the text
            pass
        self._captured.add(self._level, text)
        self._on_print()

    def flush(self) -> None:
        if rest := self.begun.pop(threading.get_ident(), ""):
            self._put(rest)
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()

    def settle(self) -> None:
        """Write all lines that have been begun."""
        while self.begun:
            self._put(self.begun.popitem()[1])
        self.flush()

    def fileno(self) -> int:
        return self._stream.fileno()

    def isatty(self) -> bool:
        return self._stream.isatty()

    def writable(self) -> bool:
        return True


class CapturedLogging:
    """Logging's handler of last resort for code that has set up no logging: it prints records, and keeps their level."""

    level = 30  # warnings, as the handler that it replaces

    def __init__(self, stream: TextIO, captured: CapturedOutput) -> None:
        self._stream = stream
        self._captured = captured

    def handle(self, record: Any) -> None:
        """Print the record with its traceback, and add it to the job's log."""
        import logging  # it is loaded, since there is a record

        text = f"{logging.Formatter().format(record)}\n"
        self._stream.write(text)
        self._stream.flush()
        self._captured.add(record.levelname.lower(), text)
