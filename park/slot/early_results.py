"""Early results: results that would wait behind a late unit are sent before their chunk ends.

A unit may wait for something that the script does when it has the results of earlier units. The main thread is inside
that unit, so another thread looks now and then whether a chunk is late. It sleeps while no chunk runs. It ends before a
body forks, and starts again afterwards.
"""

from __future__ import annotations

import _thread
import os
import threading
from typing import Protocol

#: Seconds between two looks, and looks without a chunk after which the thread sleeps until one comes.
LATE_POLL_SECONDS, POLLS_WITHOUT_CHUNK = 0.1, 10


class LateChunk(Protocol):
    """A chunk as the thread sees it."""

    def send_early(self) -> None:
        """Send the results that are there, if the chunk is late. Another thread runs its units."""


class EarlyResults:
    """The early results of late chunks. `chunks` are those that run, the outermost first; the slot adds and removes
    them.
    """

    def __init__(self) -> None:
        self.chunks: list[LateChunk] = []
        #: whether the thread is there, is to end, or sleeps until a chunk comes; and the event that wakes it
        self._running = self._ending = self._sleeps = False
        self._bell = threading.Event()
        #: held by the thread while it lives
        self._alive = threading.Lock()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(
                before=self._end, after_in_parent=self._go_on, after_in_child=self.chunks.clear
            )

    def begin(self, chunk: LateChunk) -> None:
        """A chunk begins."""
        self.chunks.append(chunk)
        if not self._running:
            self._start()
        elif self._sleeps:
            self._bell.set()

    def end(self) -> None:
        """The innermost chunk has ended."""
        if self.chunks:
            self.chunks.pop()

    def _start(self) -> None:
        self._running = True
        self._alive.acquire()
        _thread.start_new_thread(self._watch, ())

    def _watch(self) -> None:
        looks = 0
        try:
            while not self._ending:
                self._sleeps = looks > POLLS_WITHOUT_CHUNK
                # a chunk that has begun just before does not ring the bell
                self._bell.wait(None if self._sleeps and not self.chunks else LATE_POLL_SECONDS)
                self._bell.clear()
                looks = 0 if self.chunks else looks + 1
                for chunk in list(self.chunks):
                    chunk.send_early()
        finally:
            self._running = False
            self._alive.release()

    def _end(self) -> None:
        """End the thread: a process that forks should have one only."""
        if self._running:
            self._ending = True
            self._bell.set()
            with self._alive:
                self._ending = False

    def _go_on(self) -> None:
        """Look further at the chunks that run: the process has forked."""
        if self.chunks and not self._running:
            self._start()
