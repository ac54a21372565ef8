"""The audit log of a broker's home: connections with their keys and places, refusals, and keys that were made or revoked.

A line has the time, what happened, and to whom. The file has mode 0600 and a bounded size: a full one becomes
``audit.log.1``, which replaces the one before it.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

from park.text import visible

AUDIT_FILE = "audit.log"
#: Bytes of the file from which on a new one begins, and bytes of a line at most.
MAX_AUDIT_BYTES, MAX_LINE_BYTES = 1 << 20, 500
#: Seconds in which the same refusal is written only once, and the number of refusals that are remembered for this.
REPEAT_SECONDS, MAX_REMEMBERED = 60.0, 1000


class AuditLog:
    """Appends to the log in the folder *home*. On a full disk lines are lost without an error."""

    def __init__(self, home: Path) -> None:
        self.path = home / AUDIT_FILE
        self._refused: dict[str, float] = {}

    def __repr__(self) -> str:
        return f"<AuditLog {self.path}>"

    def write(self, text: str) -> None:
        """Append one line."""
        line = f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')} {visible(text)}".encode(errors="replace")
        with contextlib.suppress(OSError):
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0)
            descriptor = os.open(self.path, flags, 0o600)
            try:
                os.write(descriptor, line[:MAX_LINE_BYTES] + b"\n")
                full = os.fstat(descriptor).st_size >= MAX_AUDIT_BYTES
            finally:
                os.close(descriptor)
            if full:
                self.path.replace(self.path.with_name(f"{AUDIT_FILE}.1"))

    def refused(self, text: str, now: float) -> None:
        """Append the line of a refusal. A peer may repeat a refused request without end, so the same line comes once a
        minute.
        """
        if now < self._refused.get(text, 0.0):
            return
        if len(self._refused) >= MAX_REMEMBERED:
            self._refused.clear()
        self._refused[text] = now + REPEAT_SECONDS
        self.write(f"refused {text}")
