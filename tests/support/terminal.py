"""A terminal of a given size, and the command that runs in it."""

from __future__ import annotations

import os
import termios
from contextlib import suppress


class Terminal:
    """The terminal in which a command shows something."""

    def __init__(self) -> None:
        self._master, self.slave = os.openpty()
        termios.tcsetwinsize(self.slave, (24, 120))
        os.set_blocking(self._master, False)
        self._shown = bytearray()

    @property
    def text(self) -> str:
        with suppress(BlockingIOError):
            self._shown.extend(os.read(self._master, 65536))
        return self._shown.decode(errors="replace")

    def press(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._master)
        os.close(self.slave)
