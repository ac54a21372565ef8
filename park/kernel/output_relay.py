"""Standard output and error of slot processes on their way to the kernel's own streams.

While the kernel's own stream is full, or too much that a process has said waits for the broker, the kernel does not read
the streams of that process, and the process waits. A line that has not ended is passed on after a while all the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

from park.kernel.output_lines import OutputLines
from park.net.reactor import Reactor

#: Seconds between two looks whether the kernel's own streams accept output again.
OUTPUT_RETRY_SECONDS = 0.05


class OutputRelay:
    """The relay of the output of slot processes. Each stream is a descriptor and its `OutputLines`."""

    def __init__(self, reactor: Reactor) -> None:
        self._reactor = reactor
        #: the two functions of each stream, see `add`
        self._streams: dict[int, tuple[Callable[[], bool], Callable[[], None]]] = {}
        #: streams that are not read for now, by descriptor
        self._paused: dict[int, OutputLines] = {}
        #: streams whose last line has not ended
        self._unfinished: set[OutputLines] = set()

    def add(
        self, descriptor: int, lines: OutputLines, is_full: Callable[[], bool], on_read: Callable[[], None]
    ) -> None:
        """Read the stream from now on. *is_full* tells whether too much of its process waits for the broker. *on_read* is
        called after the stream was read.
        """
        self._streams[descriptor] = is_full, on_read
        self._listen(descriptor, lines)

    def _listen(self, descriptor: int, lines: OutputLines) -> None:
        self._reactor.listen(descriptor, lambda ready: self._read(descriptor, lines))

    def _read(self, descriptor: int, lines: OutputLines) -> None:
        is_full, on_read = self._streams[descriptor]
        if lines.outlet.full or is_full():
            self._pause(descriptor, lines)
        else:
            self.take(descriptor, lines)
            on_read()

    def take(self, descriptor: int, lines: OutputLines) -> None:
        """Pass on what the process has written, and then pause it if the kernel's own stream is full."""
        if not lines.read(descriptor, time.monotonic()):
            self._reactor.ignore(descriptor)
        elif lines.outlet.full:
            self._pause(descriptor, lines)
        if lines.due is not None:
            self._unfinished.add(lines)

    def _pause(self, descriptor: int, lines: OutputLines) -> None:
        self._reactor.ignore(descriptor)
        self._paused[descriptor] = lines

    def is_paused(self, streams: Sequence[tuple[int, OutputLines]]) -> bool:
        """Whether one of these streams is not read."""
        return bool(self._paused) and any(descriptor in self._paused for descriptor, _ in streams)

    def turn(self, now: float) -> None:
        """Pass on lines that have not ended for too long, and read streams again that were paused."""
        for lines in [lines for lines in self._unfinished if lines.due is None or now >= lines.due]:
            self._unfinished.discard(lines)
            lines.settle()
        for descriptor, lines in list(self._paused.items()):
            if not (lines.outlet.full or self._streams[descriptor][0]()):
                del self._paused[descriptor]
                self._listen(descriptor, lines)

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
        self._streams.pop(descriptor, None)
        self._paused.pop(descriptor, None)
        self._unfinished.discard(lines)
