"""A temporary folder for each slot process, below one folder of the kernel. It is removed with all files that bodies
have left.

A folder may hold many files, so another thread removes it. The orphan killer removes the folder of a kernel that was
killed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import threading
from pathlib import Path

from park.util.stdio import tell

#: Seconds that the removal of the kernel's folder may take when the kernel ends.
REMOVE_SECONDS = 5.0


class TemporaryFolders:
    """The temporary folders of a kernel's slot processes."""

    def __init__(self) -> None:
        #: the kernel's folder; None: there is none yet, or none could be made
        self.root: Path | None = None

    def open(self) -> None:
        """Make the kernel's folder where temporary files lie on this machine: below $TMPDIR, else /tmp."""
        try:
            self.root = Path(tempfile.mkdtemp(prefix="park-"))
        except OSError as error:
            tell(f"park-kernel: bodies get no temporary folders of their own: {error}", "warning")

    def make(self, process: int) -> Path | None:
        """The folder of a process; None: none can be made, and the process uses the folder of all."""
        if self.root is None:
            return None
        folder = self.root / str(process)
        try:
            folder.mkdir(0o700)
        except OSError:  # the disk is full
            return None
        return folder

    def remove(self, process: int) -> None:
        """The process has ended."""
        if self.root is not None:
            threading.Thread(target=_remove, args=(self.root / str(process),), daemon=True).start()

    def close(self) -> None:
        """The kernel ends."""
        if self.root is not None:
            thread = threading.Thread(target=_remove, args=(self.root,), daemon=True)
            thread.start()
            thread.join(REMOVE_SECONDS)


def _remove(folder: Path) -> None:
    """Remove a folder with its content, even if a body has made parts of it read-only."""
    shutil.rmtree(folder, ignore_errors=True)
    if folder.exists():
        for below, _, _ in os.walk(folder):  # from the top, so that it comes to what it has just opened
            with contextlib.suppress(OSError):
                os.chmod(below, 0o700)
        shutil.rmtree(folder, ignore_errors=True)
