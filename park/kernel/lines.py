"""What slot processes write to their standard streams: it goes to the kernel's own, in whole lines."""

from __future__ import annotations

import os

from park.util.outlet import Outlet

#: Seconds after which a line that has not ended is passed on all the same, and bytes.
UNFINISHED, LONGEST = 1.0, 1 << 16
#: Lines that are kept for the report of a crash, and bytes.
LAST, TAIL = 20, 10_000


class Lines:
    """What comes from one stream of one process."""

    def __init__(self, outlet: Outlet) -> None:
        self.outlet = outlet
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
            self.outlet.write(lines + end, self)
        self.due = now + UNFINISHED if self._rest else None
        if len(self._rest) > LONGEST:
            self.settle()
        return True

    def settle(self) -> None:
        """Pass on the line that has not ended."""
        if self._rest:
            self.outlet.write(self._rest, self)
        self._rest, self.due = b"", None

    def last(self) -> str:
        """The last lines."""
        return "\n".join(line[:500].decode(errors="replace") for line in self._tail.splitlines()[-LAST:])
