"""The marks of printed lines on their way from a slot process to its kernel.

All that a slot process and its children write to standard output and error goes through two pipes, so the kernel sees
one order for each pipe only. Lines that a body prints by Python begin with a mark: a number that counts the lines of both
streams, and for records of logging their level. Lines of child processes and of libraries in C have no mark, and follow
the line before them. The kernel takes the marks off.
"""

from __future__ import annotations

import re
from typing import NamedTuple

#: A number and a level between two characters that separate records and units, and are in no text that people print.
_MARK = re.compile(rb"\x1e([0-9]{1,18}):([\w ]{0,30})\x1f")
#: The beginning of a mark at the end of what has come so far.
_BEGUN = re.compile(rb"\x1e(?:[0-9]{1,18}(?::[\w ]{0,30})?)?\Z")
_LEVEL = re.compile(r"[\w ]{0,30}", re.ASCII)


class Printed(NamedTuple):
    """A piece of a stream. *number* and *level* are those of the mark before it; None: there is none."""

    data: bytes
    number: int | None = None
    level: str | None = None


def mark(number: int, level: str = "") -> str:
    r"""The mark of a line. A level that is no plain word is left out.

    >>> mark(7, "warning"), mark(8, "\n")
    ('\x1e7:warning\x1f', '\x1e8:\x1f')
    """
    return f"\x1e{number}:{level if _LEVEL.fullmatch(level) else ''}\x1f"


def split(data: bytes) -> tuple[list[Printed], bytes]:
    r"""The pieces between marks, and the beginning of a mark at the end.

    >>> split(b"a\n\x1e2:\x1fb\n\x1e3")[0]
    [Printed(data=b'a\n', number=None, level=None), Printed(data=b'b\n', number=2, level='')]
    """
    if b"\x1e" not in data:
        return [Printed(data)], b""
    rest = b""
    if begun := _BEGUN.search(data):
        data, rest = data[: begun.start()], begun[0]
    first, *others = _MARK.split(data)
    pieces = [Printed(first)] if first else []
    for number, level, text in zip(others[::3], others[1::3], others[2::3], strict=True):
        pieces.append(Printed(text, int(number), level.decode()))
    return pieces, rest
