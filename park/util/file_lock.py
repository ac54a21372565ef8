"""Locks of files: a process holds one as long as it lives, and no longer."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows, where neither brokers nor batch systems are
    fcntl = None  # type: ignore[assignment]


@contextmanager
def locked(file: Path, wait: bool = False) -> Iterator[bool]:
    """Hold the lock of a file, which is made if need be; false where another holds it. *wait*: until that lets it go."""
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)
