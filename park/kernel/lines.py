"""The standard streams of slot processes: they go to the kernel's own, in whole lines."""

from __future__ import annotations

import os
from collections.abc import Callable

from park.util.outlet import Outlet

#: Seconds after which a line that has not ended is passed on all the same, and bytes.
UNFINISHED, LONGEST = 1.0, 1 << 16
#: Lines that are kept for the report of a crash, and bytes.
LAST, TAIL = 20, 10_000


class Lines:
    """The lines from one stream of one process. *whose* makes the beginning of each."""

    def __init__(self, outlet: Outlet, whose: Callable[[], str] = str) -> None:
        self.outlet = outlet
        self._whose = whose
        #: the end of all that came, and what came of a line that has not ended
        self._tail = self._rest = b""
        #: when that is passed on
        self.due: float | None = None

    def read(self, descriptor: int, now: float) -> bool:
        """Pass on what is there, a pipe's content at most; False: there will be no more."""
        try:
            data = os.read(descriptor, LONGEST)
        except BlockingIOError:
            return True
        except OSError:
            data = b""
        if not data:
            self.settle()
            return False
        self._tail = (self._tail + data)[-TAIL:]
        lines, end, self._rest = (self._rest + data).rpartition(b"\n")
        if end:
            self._write(lines + end)
        self.due = now + UNFINISHED if self._rest else None
        if len(self._rest) > LONGEST:
            self.settle()
        return True

    def settle(self) -> None:
        """Pass on the line that has not ended."""
        if self._rest:
            self._write(self._rest)
        self._rest, self.due = b"", None

    def _write(self, data: bytes) -> None:
        if whose := self._whose().encode(errors="replace"):
            goes_on = self.outlet.goes_on(self)
            lines = data.splitlines(keepends=True)
            data = b"".join(line if goes_on and not n else whose + line for n, line in enumerate(lines))
        self.outlet.write(data, self)

    def last(self) -> str:
        """The last lines."""
        return "\n".join(line[:500].decode(errors="replace") for line in self._tail.splitlines()[-LAST:])
