"""Source lines that travel with code: tracebacks and debuggers show them where their file is not.

A script's function runs on other machines, in processes that have never seen the script; a notebook's cell is no file at
all. So code that goes by value takes along the name of its file and its own lines, and is shown with them where it arrives.
"""

from __future__ import annotations

import linecache
import sys
from collections.abc import Callable, Iterator
from types import CodeType
from typing import Any

#: Characters of the longest source that travels.
MAX_SOURCE_CHARACTERS = 64_000

#: Files of which this process shows lines that have travelled.
_shown: set[str] = set()


def reduced(
    code: CodeType, make: Callable[..., CodeType], args: tuple[Any, ...], first: int, source: str
) -> tuple[Any, ...]:
    """The reduced form of *code*, which is *make* of *args*, with its *source* from line *first* on ("": none)."""
    return arrived, (make, args, code.co_filename, first, source)


def arrived(
    make: Callable[..., CodeType], args: tuple[Any, ...], file: str, first: int, source: str
) -> CodeType:
    """The code of `reduced`, whose source may be shown from now on."""
    if source:
        _show(file, first, source)
    return make(*args).replace(co_filename=file)


def source_of(code: CodeType) -> tuple[int, str]:
    """The number of the first line of a code's source, and its lines; no lines where they are unknown or too long."""
    first = code.co_firstlineno
    ends = (end for one in (code, *inner(code)) for _, end, _, _ in one.co_positions() if end is not None)
    source = "".join(linecache.getlines(code.co_filename)[first - 1 : max(ends, default=first)])
    return (first, source) if len(source) <= MAX_SOURCE_CHARACTERS else (0, "")


def inner(code: CodeType) -> Iterator[CodeType]:
    """The codes inside a code: of functions in it, and of comprehensions."""
    for const in code.co_consts:
        if isinstance(const, CodeType):
            yield const
            yield from inner(const)


def _show(file: str, first: int, source: str) -> None:
    """Let tracebacks find these lines, unless the file is here too and says the same, or is this process's own script."""
    lines = source.splitlines(keepends=True)
    there = linecache.getlines(file)
    span = slice(first - 1, first - 1 + len(lines))
    if there[span] == lines or file == getattr(sys.modules.get("__main__"), "__file__", None):
        return
    shown = there if file in _shown else []
    shown += ["\n"] * (span.start - len(shown))
    shown[span] = lines
    _shown.add(file)
    no_time = None  # `linecache` never checks an entry without a time against the file
    linecache.cache[file] = sum(map(len, shown)), no_time, shown, file
