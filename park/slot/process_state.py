"""State of a process that nothing sets back: a job that finds it changed needs another process.

Its user and its rights, its root folder, its scheduler, how floating point rounds, and the standard streams of Python.
"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import Any, Never

#: The lines of /proc/self/status about rights.
_RIGHTS = (b"Uid:", b"Gid:", b"Groups:", b"CapEff:", b"NoNewPrivs:", b"Seccomp:")
#: The attributes of a text stream that `reconfigure` may change.
_OF_STREAM = ("encoding", "errors", "line_buffering", "write_through", "closed")


def read() -> tuple[Any, ...]:
    """The state, part by part."""
    streams = map(_stream, (sys.__stdin__, sys.__stdout__, sys.__stderr__))
    return _rights(), _root(), _scheduler(), floats(), *streams


def refuse(_: Any) -> Never:
    """The setter of a state that has changed."""
    raise RuntimeError("this state of the process cannot be set back")


def floats() -> tuple[bool, ...]:
    """How floating point computes in this thread.

    Whether it rounds up, down, or towards zero, and whether it takes numbers near zero for zero. A library may change it
    while it is loaded, and ``fesetround`` of C does.
    """
    one, little = _NUMBERS[0], _NUMBERS[1]
    smallest, below = _NUMBERS[2], _NUMBERS[3]
    return (
        one + little != one,
        -one - little != -one,
        one - little != one,
        smallest / 2 == 0.0,
        below == 0.0,
    )


#: 1, less than its last bit, the smallest normal number, and one below it: no compiler computes with what is in a list.
_NUMBERS = [1.0, 1e-17, sys.float_info.min, 5e-324]


def _rights() -> tuple[bytes, ...]:
    with contextlib.suppress(OSError):
        lines = Path("/proc/self/status").read_bytes().splitlines()
        return tuple(line for line in lines if line.startswith(_RIGHTS))
    return ()


def _root() -> tuple[int, int] | None:
    with contextlib.suppress(OSError):
        found = os.stat("/")
        return found.st_dev, found.st_ino
    return None


def _scheduler() -> int:
    return os.sched_getscheduler(0) if hasattr(os, "sched_getscheduler") else 0


def _stream(stream: Any) -> tuple[Any, ...]:
    """The state of a text stream; shorter if the stream was detached from its file."""
    with contextlib.suppress(ValueError):
        return tuple(getattr(stream, name, None) for name in _OF_STREAM)
    return ()
