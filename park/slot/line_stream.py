"""Standard output and error as bodies see them: threads print whole lines, with marks for the kernel.

The kernel reads both streams of the process, shows the lines, and adds them to the job's log (`park.wire.print_marks`).
"""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import sys
import threading
from typing import Any, TextIO

from park.wire.print_marks import mark

#: Characters of a line that wait for its end.
MAX_WAITING_CHARS = 4_000


class LineStream(io.TextIOBase):
    """Standard output or error: whole lines go to *stream*. *numbers* counts the lines of both.

    Where a body has put another file behind the stream, that gets the lines as they were printed.
    """

    def __init__(self, stream: TextIO, numbers: itertools.count[int]) -> None:
        self._stream = stream
        self._numbers = numbers
        self._kernel = self._file()
        #: the beginnings of lines that have not ended, by thread
        self.begun: dict[int, str] = {}
        #: the last line that was written has ended
        self._ended = True

    def _file(self) -> tuple[int, int] | None:
        """Device and inode of the file behind the stream; None: there is none."""
        try:
            status = os.fstat(self._stream.fileno())
        except (OSError, ValueError):
            return None
        return status.st_dev, status.st_ino

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
        if "\r" in rest or len(rest) > MAX_WAITING_CHARS:
            self.flush()
        return len(text)

    def write_record(self, text: str, level: str) -> None:
        """Write lines that have a level of their own in the job's log."""
        self.flush()
        self._put(text, level)
        self.flush()

    def _put(self, text: str, level: str = "") -> None:
        if self._kernel is not None and self._file() == self._kernel:
            if level:
                text = f"{mark(next(self._numbers), level)}{text}{mark(next(self._numbers))}"
            elif self._ended:
                text = mark(next(self._numbers)) + text
        self._ended = text.endswith(("\n", "\x1f"))
        with contextlib.suppress(OSError, ValueError):  # the stream is gone, or closed
            self._stream.write(text)

    def flush(self) -> None:
        if rest := self.begun.pop(threading.get_ident(), ""):
            self._put(rest)
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()

    def close(self) -> None:
        """Write what waits. The stream stays open: later units and other jobs print to it, too."""
        self.flush()

    def settle(self) -> None:
        """Write all lines that have been begun, and all bytes that wait in the stream."""
        while self.begun:
            self._put(self.begun.popitem()[1])
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()

    def fileno(self) -> int:
        return self._stream.fileno()

    def isatty(self) -> bool:
        return self._stream.isatty()

    def writable(self) -> bool:
        return True


class LastResort:
    """Logging's handler of last resort for code that has set up no logging: the job's log gets records with their level."""

    level = 30  # warnings, as the handler that it replaces

    def handle(self, record: Any) -> None:
        """Print the record with its traceback."""
        import logging  # it is loaded, since there is a record

        text = f"{logging.Formatter().format(record)}\n"
        stream: Any = sys.stderr
        if isinstance(stream, LineStream):
            stream.write_record(text, record.levelname.lower())
        elif stream is not None:
            with contextlib.suppress(OSError, ValueError):
                stream.write(text)
                stream.flush()
