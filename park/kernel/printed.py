"""What bodies print: it goes where it went, and its lines to the job's log too.

Bodies print whenever they like, from any thread; only the main thread talks to the supervisor. So lines wait here until
it comes for them. Who prints without end is cut: of each visit's lines some are kept, and the number of the others is told.
"""

from __future__ import annotations

import contextlib
import io
import threading
import time
from collections.abc import Callable
from typing import Any, TextIO

from park.model import Log

#: Characters that are kept from one visit to the next, for a while and at once, and of one line.
MOST, BURST, LONGEST = 64_000, 256_000, 4_000


class Printed:
    """Lines that wait to be sent."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        #: what has been printed of a line that has not ended, by level
        self._begun: dict[str, str] = {}
        #: lines of one level after each other, with that and the time of the first
        self._lines: list[tuple[str, float, list[str]]] = []
        self._size = 0
        #: how many are kept until the next visit
        self._room = BURST
        self._left_out = 0

    def add(self, level: str, text: str) -> None:
        """*text* was printed."""
        with self._lock:
            *lines, rest = (self._begun.get(level, "") + text).split("\n")
            self._begun[level] = rest[:LONGEST]
            for line in lines:
                self._add(level, line)

    def _add(self, level: str, line: str) -> None:
        if self._size > self._room:
            self._left_out += 1
            return
        line = line if len(line) <= LONGEST else f"{line[:LONGEST]}..."
        self._size += len(line) + 1
        if self._lines and self._lines[-1][0] == level:
            self._lines[-1][2].append(line)
        else:
            self._lines.append((level, time.time(), [line]))

    def take(self, everything: bool) -> list[Log]:
        """What waits; with *everything* also lines that have not ended."""
        with self._lock:
            if everything:
                for level, rest in self._begun.items():
                    if rest:
                        self._add(level, rest)
                self._begun.clear()
            self._room = min(BURST, max(0, self._room - self._size) + MOST)
            found = [Log("\n".join(lines), level, since) for level, since, lines in self._lines]
            self._lines, self._size = [], 0
            if self._left_out:
                found.append(Log(f"({self._left_out:,} more lines are left out)", "info", time.time()))
                self._left_out = 0
            return found

    @property
    def waiting(self) -> bool:
        """Whether there is something to take."""
        return bool(self._lines or self._begun)


class Tee(io.TextIOBase):
    """Standard output or error: what is written goes to *stream* as before, and to *printed* as lines of *level*.

    Threads that print at a time do so in whole lines. *said* is called after each write.
    """

    def __init__(self, stream: TextIO, printed: Printed, level: str, said: Callable[[], None]) -> None:
        self._stream = stream
        self._printed = printed
        self._level = level
        self._said = said
        #: what threads have written of lines that have not ended
        self.begun: dict[int, str] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    # what TextIOBase has as None; its stub says that these can be set, which they cannot
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
        if "\r" in rest or len(rest) > LONGEST:
            self.flush()
        return len(text)

    def _put(self, text: str) -> None:
        try:
            self._stream.write(text)
        except (OSError, ValueError):  # it is gone, or closed: the log has the text
            pass
        self._printed.add(self._level, text)
        self._said()

    def flush(self) -> None:
        if rest := self.begun.pop(threading.get_ident(), ""):
            self._put(rest)
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()

    def settle(self) -> None:
        """Write all that has been begun."""
        while self.begun:
            self._put(self.begun.popitem()[1])
        self.flush()

    def fileno(self) -> int:
        return self._stream.fileno()

    def isatty(self) -> bool:
        return self._stream.isatty()

    def writable(self) -> bool:
        return True


class Logged:
    """In place of logging's handler of last resort, for code that has set up no logging: it prints as that does, and the
    lines keep their level.
    """

    level = 30  # warnings, as ever

    def __init__(self, stream: TextIO, printed: Printed) -> None:
        self._stream = stream
        self._printed = printed

    def handle(self, record: Any) -> None:
        """Print it, with its traceback, and add it to the log."""
        import logging  # which is there, or there were no record

        text = f"{logging.Formatter().format(record)}\n"
        self._stream.write(text)
        self._stream.flush()
        self._printed.add(record.levelname.lower(), text)
