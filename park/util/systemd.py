"""Word to systemd, for a process that it has started with ``Type=notify``: that it is ready, lives, and ends.

Without $NOTIFY_SOCKET nothing is sent. The variables are taken out of the environment: children speak for themselves.
"""

from __future__ import annotations

import contextlib
import os
import socket


class Supervision:
    """A part of a reactor that shows systemd's watchdog that the loop turns."""

    def __init__(self) -> None:
        self._address = os.environ.pop("NOTIFY_SOCKET", "")
        usec, pid = os.environ.pop("WATCHDOG_USEC", ""), os.environ.pop("WATCHDOG_PID", "")
        mine = pid in ("", str(os.getpid()))
        #: seconds between two signs of life; None: no watchdog waits for them
        self._every = int(usec) / 2e6 if usec.isdigit() and mine and self._address else None
        self._due = 0.0

    def say(self, text: str) -> None:
        """Send lines such as ``READY=1``; where systemd does not listen they are lost."""
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
            out.setblocking(False)
            out.sendto(text.encode(), address)

    # -- the reactor's part ------------------------------------------------------------------------

    def waiting(self) -> bool:
        return False

    def turn(self, now: float) -> None:
        if self._every is not None and now >= self._due:
            self._due = now + self._every
            self.say("WATCHDOG=1")

    def deadline(self) -> float | None:
        return None if self._every is None else self._due

    def close(self) -> None:
        """Nothing is held."""
