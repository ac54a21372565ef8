"""Evaluations of models counted, in whichever processes they run.

The counts lie in a file: a row a process, so that none waits for another, and in it a column a model.
"""

from __future__ import annotations

import fcntl
import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

#: Processes that may count in one file.
ROWS = 64
#: Each process's row, by file; a process that was forked or started anew takes one of its own.
_rows: dict[tuple[str, int], np.ndarray[Any, Any]] = {}


class Counter:
    """A file with *size* counts."""

    def __init__(self, file: Path, size: int) -> None:
        self._file, self._size = str(file), size
        np.zeros((ROWS + 1, size), dtype=np.int64).tofile(file)

    def model(self, function: Callable[..., Any], place: int) -> Callable[..., Any]:
        """*function*, which counts its calls at *place*; it takes the same arguments."""
        file, size = self._file, self._size

        @functools.wraps(function)
        def counted(*arguments: Any, **named: Any) -> Any:
            _row(file, size)[place] += 1
            return function(*arguments, **named)

        return counted

    def __getitem__(self, place: int) -> int:
        return int(np.memmap(self._file, np.int64, "r", shape=(ROWS + 1, self._size))[1:, place].sum())


def _row(file: str, size: int) -> np.ndarray[Any, Any]:
    key = file, os.getpid()
    if key not in _rows:
        with open(file, "r+b") as opened:
            fcntl.flock(opened, fcntl.LOCK_EX)
            table = np.memmap(opened, np.int64, "r+", shape=(ROWS + 1, size))
            table[0, 0] += 1  # rows that are taken
            _rows[key] = np.asarray(table[table[0, 0]])
            fcntl.flock(opened, fcntl.LOCK_UN)  # the map keeps the file open
    return _rows[key]
