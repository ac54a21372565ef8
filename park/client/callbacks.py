"""The thread in which code of the user runs: monitors, done callbacks of futures, subscribers of the table."""

from __future__ import annotations

import queue
import threading
import traceback
from collections.abc import Callable

from park.util.stdio import tell


class Callbacks:
    """Runs callbacks one after the other in a thread of its own, so that a slow one delays other callbacks only.

    The thread starts with the first callback.
    """

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def add(self, callback: Callable[[], None]) -> None:
        """Run *callback* after those that were added before."""
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="park-callbacks", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # the interpreter ends, and Python starts no threads any more
                _call(callback)
                return
            self._thread = thread
        self._queue.put(callback)

    def close(self) -> None:
        """End the thread after the callbacks that were added."""
        self._queue.put(None)

    def _run(self) -> None:
        while (callback := self._queue.get()) is not None:
            _call(callback)
            del callback  # frees the objects that it refers to before the thread waits for the next one


def _call(callback: Callable[[], None]) -> None:
    try:
        callback()
    except BaseException:  # also SystemExit: futures and monitors depend on the thread
        tell(f"park: a callback failed:\n{traceback.format_exc()}")
