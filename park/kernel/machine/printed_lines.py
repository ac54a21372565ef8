"""The lines that one slot process and its children have printed, on their way to the log of the job that runs there.

Between two visits a limited number of bytes is kept; further lines are only counted.
"""

from __future__ import annotations

import locale
import math

from park.model import Log
from park.wire.print_marks import Printed

#: Bytes that are kept from one visit to the next, in the long run.
BYTES_PER_VISIT = 64_000
#: Bytes that are kept from one visit to the next after a quiet time.
BURST_BYTES = 256_000
#: Bytes that are kept of one line.
MAX_LINE_BYTES = 4_000
#: Seconds between two visits, while nothing else happens.
VISIT_SECONDS = 0.1


class _Line:
    """The beginning of the last line of a stream, with the number of the mark that it follows, and its own level."""

    def __init__(self) -> None:
        self.data = b""
        self.number = 0
        self.level = ""
        #: nothing has come since the mark
        self.has_mark = False


class PrintedLines:
    """Printed lines that wait to be sent."""

    def __init__(self) -> None:
        #: when lines were last sent, and when the waiting ones are; None: none wait
        self.sent_at = -VISIT_SECONDS
        self.due: float | None = None
        #: no message of the process has come since the last look; an older one could still be on its way
        self.is_quiet = False
        #: the job whose lines these are
        self._job = 0
        self._begun: dict[str, _Line] = {"out": _Line(), "err": _Line()}
        #: lines that have ended: the number of the mark that they follow, the level, when they came, the line
        self._lines: list[tuple[int, str, float, bytes]] = []
        self._size = 0
        #: bytes that are kept until the next visit
        self._budget = BURST_BYTES
        self._left_out = 0
        #: the greatest number of a mark
        self._newest = 0
        #: when the last piece came
        self._time = 0.0

    @property
    def waiting(self) -> bool:
        """Whether there are lines that have ended."""
        return bool(self._lines or self._left_out)

    @property
    def begun(self) -> bool:
        """Whether there is a line that has not ended."""
        return any(begun.data for begun in self._begun.values())

    def add(self, stream: str, piece: Printed, time: float) -> None:
        """Keep a piece of a *stream*, "out" or "err", which came at this *time* (seconds since 1970)."""
        begun, self._time = self._begun[stream], time
        if piece.number is not None:
            if piece.level and begun.data:  # a record of logging is a line of its own
                self._end(begun, stream)
            # the lines of one stream stay in their order
            begun.number, begun.level = max(begun.number, piece.number), piece.level or ""
            begun.has_mark = True
            self._newest = max(self._newest, piece.number)
        elif not (begun.data or begun.has_mark):
            begun.number = self._newest
        data = piece.data
        begun.has_mark = begun.has_mark and not data
        if self._size > self._budget and (ends := data.count(b"\n")):  # no time is spent on each of them
            self._left_out += ends
            begun.data, data = b"", data.rpartition(b"\n")[2]
        *lines, rest = data.split(b"\n")
        for line in lines:
            begun.data += line
            self._end(begun, stream)
        begun.data = (begun.data + rest)[: MAX_LINE_BYTES + 1]

    def _end(self, begun: _Line, stream: str) -> None:
        line, begun.data = begun.data, b""
        if self._size > self._budget:
            self._left_out += 1
            return
        if len(line) > MAX_LINE_BYTES:
            line = line[:MAX_LINE_BYTES] + b"..."
        self._size += len(line) + 1
        self._lines.append((begun.number, begun.level or stream, self._time, line))

    def take(self, everything: bool, until: float = math.inf) -> list[Log]:
        """The lines that wait, in the order of their marks; with *everything* also those that have not ended.

        *until*: the number of a message; lines that were printed after it go on waiting.
        """
        if everything:
            for stream, begun in self._begun.items():
                if begun.data:
                    self._end(begun, stream)
        self._budget = min(BURST_BYTES, max(0, self._budget - self._size) + BYTES_PER_VISIT)
        runs: list[tuple[str, float, list[bytes]]] = []
        lines = sorted(self._lines, key=lambda line: line[0])
        self._lines = [line for line in lines if line[0] > until]
        self._size = sum(len(line[-1]) + 1 for line in self._lines)
        for _, level, since, line in lines[: len(lines) - len(self._lines)]:
            if not runs or runs[-1][0] != level:
                runs.append((level, since, []))
            runs[-1][2].append(line)
        found = [Log("\n".join(map(_decoded, lines)), level, since) for level, since, lines in runs]
        if self._left_out:
            found.append(Log(f"({self._left_out:,} more lines are left out)", "info", self._time))
            self._left_out = 0
        return found

    def begin(self, job: int) -> None:
        """A unit of this job begins. A child of another job may have printed since that job's last unit."""
        if job != self._job:
            self._begun = {"out": _Line(), "err": _Line()}
            self._lines, self._size, self._left_out, self._newest = [], 0, 0, 0
            self._job = job


def _decoded(line: bytes) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError:
        return line.decode(locale.getencoding(), "backslashreplace")
