"""All that a slot process and its children write to a standard stream, on its way to the kernel's own stream and to the
job's log.

A kernel escapes control characters, which could steer a terminal. The processes of a script print as the script does.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from park.text import visible
from park.util.stdio import StandardStream
from park.wire.print_marks import Printed, split

#: Seconds after which a line that has not ended is passed on all the same.
PARTIAL_LINE_SECONDS = 1.0
#: Bytes after which a line is passed on even if it has not ended.
MAX_LINE_BYTES = 1 << 16
#: Lines that are kept for the report of a crash, and their bytes.
REPORT_LINES, REPORT_BYTES = 20, 10_000


class OutputLines:
    """The lines of one stream of one process. *prefix* makes the beginning of each line; None: lines stay as they are.

    *on_printed* takes all pieces as they come.
    """

    def __init__(
        self,
        outlet: StandardStream,
        prefix: Callable[[], str] | None = None,
        on_printed: Callable[[list[Printed]], None] = lambda pieces: None,
    ) -> None:
        self.outlet = outlet
        self._prefix = prefix
        self._on_printed = on_printed
        #: the beginning of a mark whose end has not come
        self._mark = b""
        #: the end of everything that came
        self._last = b""
        #: the beginning of a line that has not ended
        self._partial = b""
        #: when the partial line is passed on; None: there is none
        self.due: float | None = None

    def read(self, descriptor: int, now: float) -> bool:
        """Pass on what can be read, a pipe's content at most. Returns False at the end of the stream."""
        try:
            data = os.read(descriptor, MAX_LINE_BYTES)
        except BlockingIOError:
            return True
        except OSError:
            data = b""
        if not data:
            self.settle()
            return False
        pieces, self._mark = split(self._mark + data)
        self._on_printed(pieces)
        data = b"".join(piece.data for piece in pieces)
        self._last = (self._last + data)[-REPORT_BYTES:]
        lines, end, self._partial = (self._partial + data).rpartition(b"\n")
        if end:
            self._write(lines + end)
        self.due = now + PARTIAL_LINE_SECONDS if self._partial else None
        if len(self._partial) > MAX_LINE_BYTES:
            self.settle()
        return True

    def settle(self) -> None:
        """Pass on the line that has not ended."""
        if self._partial:
            self._write(self._partial)
        self._partial, self.due = b"", None

    def _write(self, data: bytes) -> None:
        if self._prefix is not None:
            text = visible(data.decode(errors="backslashreplace"), lines=True)
            prefix, goes_on = visible(self._prefix()), self.outlet.goes_on(self)
            lines = text.splitlines(keepends=True)
            text = "".join(line if goes_on and not n else prefix + line for n, line in enumerate(lines))
            data = text.encode(errors="backslashreplace")
        self.outlet.write(data, self)

    def last(self) -> str:
        """The last lines."""
        lines = self._last.splitlines()[-REPORT_LINES:]
        return "\n".join(line[:500].decode(errors="replace") for line in lines)
