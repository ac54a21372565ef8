"""The broker's part in allocators: a thread that keeps their process alive as long as there are any."""

from __future__ import annotations

import contextlib
import subprocess
import threading
import time
from collections.abc import Sequence

from park.batch.allocator_files import NO_DEFINITIONS, AllocatorFiles
from park.util.stdio import tell

#: Seconds between two looks for definitions, and for the end of the process.
DEFINITIONS_POLL_SECONDS = 0.5
#: Seconds until a process that has ended is started again: the first time, and at most.
FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS = 1.0, 60.0
#: Seconds that a broker which ends waits for the process, which may have to finish a command of a batch system.
CLOSE_SECONDS = 3.0


class AllocatorKeeper:
    """Runs *command* while allocators are defined in *files*.

    The standard input of the process is a pipe that ends with the broker, however that ends: the process ends then, too.
    """

    def __init__(self, files: AllocatorFiles, command: Sequence[str]) -> None:
        self._files = files
        self._command = list(command)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._work, name="park-alloc", daemon=True)

    def start(self) -> None:
        """Begin to look for definitions."""
        self._thread.start()

    def close(self) -> None:
        """Let go of the process. Allocations stay."""
        self._closed.set()
        self._thread.join(CLOSE_SECONDS + 1.0)

    def _work(self) -> None:
        pause = FIRST_PAUSE_SECONDS
        while not self._closed.is_set():
            if self._files.changed == NO_DEFINITIONS:
                self._closed.wait(DEFINITIONS_POLL_SECONDS)
                continue
            began = time.monotonic()
            code = self._run()
            if code and not self._closed.is_set():
                pause = FIRST_PAUSE_SECONDS if time.monotonic() - began > MAX_PAUSE_SECONDS else pause
                tell(f"park-broker: the allocators ended with code {code}; again in {pause:g} s", "warning")
                self._closed.wait(pause)
                pause = min(2 * pause, MAX_PAUSE_SECONDS)

    def _run(self) -> int:
        """Run the process to its end, or to that of the broker; its code."""
        try:
            process = subprocess.Popen(self._command, stdin=subprocess.PIPE)
        except OSError as error:
            tell(f"park-broker: no process for allocators can be started: {error.strerror}", "warning")
            return -1
        assert process.stdin is not None
        while process.poll() is None and not self._closed.wait(DEFINITIONS_POLL_SECONDS):
            pass
        process.stdin.close()
        with contextlib.suppress(
            subprocess.TimeoutExpired
        ):  # else it ends after the command for which it waits
            process.wait(CLOSE_SECONDS)
        return process.returncode or 0
