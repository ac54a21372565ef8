"""The processes below another one, where the system tells of them, as Linux does."""

from __future__ import annotations

import os
from pathlib import Path


def children(pid: int) -> set[int]:
    """The children of a process that have not ended; an empty set where the system does not tell."""
    found: set[int] = set()
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children", "rb", buffering=0) as file:
                found.update(map(int, file.read().split()))
    except OSError:
        return found
    return {child for child in found if _lives(child)}


def descendants(pid: int) -> set[int]:
    """The children of a process, their children, and so on."""
    found: set[int] = set()
    new = children(pid)
    while new:
        found |= new
        new = set().union(*map(children, new)) - found
    return found


def parent(pid: int) -> int:
    """The parent of a process, also of one that has ended and was not waited for; 0: it is gone, or has none."""
    fields = _fields(pid)
    return int(fields[1]) if fields else 0


def _lives(pid: int) -> bool:
    fields = _fields(pid)
    return bool(fields) and fields[0] not in (b"Z", b"X")


def _fields(pid: int) -> list[bytes]:
    """The fields of a process after its name: its state, its parent, and others; none where it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return []
