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

#: Characters of the longest source that travels, and the number of codes whose source is remembered.
LONGEST, KEPT = 64_000, 1_000

#: Where the source of a code begins, and its lines; by the code's number, which is its own while the code is held.
_known: dict[int, tuple[CodeType, tuple[int, str]]] = {}
#: Files whose lines were never read here.
_shown: set[str] = set()


def reduced(
    code: CodeType, make: Callable[..., CodeType], args: tuple[Any, ...], lines: bool
) -> tuple[Any, ...]:
    """How *code* is pickled, which is *make* of *args*; with *lines* its source comes along."""
    first, source = source_of(code) if lines else (0, "")
    return arrived, (make, args, code.co_filename, first, source)


def arrived(
    make: Callable[..., CodeType], args: tuple[Any, ...], file: str, first: int, source: str
) -> CodeType:
    """The code of `reduced`, whose source may be shown from now on."""
    if source:
        _show(file, first, source)
    return make(*args).replace(co_filename=file)


def source_of(code: CodeType) -> tuple[int, str]:
    """The number of the first line of a code's source, and its lines; no lines where they are not known."""
    known = _known.get(id(code))
    if known is None:
        if len(_known) >= KEPT:
            _known.clear()
        known = _known[id(code)] = code, _source_of(code)
    return known[1]


def inner(code: CodeType) -> Iterator[CodeType]:
    """The codes inside a code: of functions in it, and of comprehensions."""
    for const in code.co_consts:
        if isinstance(const, CodeType):
            yield const
            yield from inner(const)


def _source_of(code: CodeType) -> tuple[int, str]:
    first = code.co_firstlineno
    ends = (end for one in (code, *inner(code)) for _, end, _, _ in one.co_positions() if end is not None)
    source = "".join(linecache.getlines(code.co_filename)[first - 1 : max(ends, default=first)])
    return (first, source) if len(source) <= LONGEST else (0, "")


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
    linecache.cache[file] = (
        sum(map(len, shown)),
        None,
        shown,
        file,
    )  # without a time it is not looked at again
