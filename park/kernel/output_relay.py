"""Standard output and error of slot processes on their way to the kernel's own streams.

While the kernel's own stream is full, it does not read the streams of processes, and the processes wait. A line that
has not ended is passed on after a while all the same.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from park.kernel.output_lines import OutputLines
from park.net.reactor import Reactor

#: Seconds between two looks whether the kernel's own streams accept output again.
OUTPUT_RETRY_SECONDS = 0.05


class OutputRelay:
    """The relay of the output of slot processes. Each stream is a descriptor and its `OutputLines`."""

    def __init__(self, reactor: Reactor) -> None:
        self._reactor = reactor
        #: streams that are not read because the kernel's own stream is full, by descriptor
        self._paused: dict[int, OutputLines] = {}
        #: streams whose last line has not ended
        self._unfinished: set[OutputLines] = set()

    def add(self, descriptor: int, lines: OutputLines) -> None:
        """Read the stream from now on."""
        self._reactor.listen(descriptor, lambda ready: self.read(descriptor, lines))

    def read(self, descriptor: int, lines: OutputLines) -> None:
        """Pass on what the process has written, unless the kernel's own stream is full."""
        if lines.outlet.full:
            self._reactor.ignore(descriptor)
            self._paused[descriptor] = lines
        elif not lines.read(descriptor, time.monotonic()):
            self._reactor.ignore(descriptor)
        if lines.due is not None:
            self._unfinished.add(lines)

    def turn(self, now: float) -> None:
        """Pass on lines that have not ended for too long, and read streams again that were paused."""
        for lines in [lines for lines in self._unfinished if lines.due is None or now >= lines.due]:
            self._unfinished.discard(lines)
            lines.settle()
        for descriptor, lines in list(self._paused.items()):
            if not lines.outlet.full:
                del self._paused[descriptor]
                self.add(descriptor, lines)

    def deadlines(self) -> Iterator[float]:
        """The time at which `turn` has something to do."""
        if self._paused:
            yield time.monotonic() + OUTPUT_RETRY_SECONDS
        for lines in self._unfinished:
            if lines.due is not None:
                yield lines.due

    def remove(self, descriptor: int, lines: OutputLines) -> None:
        """Read the stream no more."""
        self._reactor.ignore(descriptor)
        self._paused.pop(descriptor, None)
        self._unfinished.discard(lines)
