"""Texts of other people, made harmless for the eye of a reader: names, tags, hosts, causes, tracebacks, lines of logs.

Escape sequences and control characters steer a terminal. Marks that turn the direction of writing, characters without
width and stacks of accents make one text look like another, also in a browser. So each is written as its escape. The
function belongs where a text leaves for a reader; records and JSON keep texts as they are.
"""

from __future__ import annotations

import re
import unicodedata

#: Characters that print nothing, though Python counts them as printable.
_BLANK = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u2800\u3164\uffa0")
#: Characters that need a look one by one, which takes a microsecond each: bodies may print very many.
_UNUSUAL = re.compile(r"[^ -~]+")
#: Accents on one letter that are shown; further ones are escaped.
MAX_ACCENTS = 2


def visible(text: str, lines: bool = False) -> str:
    r"""*text* with each character that does not print as its escape; *lines*: line feeds and tabs stay.

    >>> visible("ada\x1b[31m \u202etxt.exe"), visible("a\tb\nc", lines=True), visible("Ångström \u00e9 中")
    ('ada\\x1b[31m \\u202etxt.exe', 'a\tb\nc', 'Ångström é 中')
    """
    if text.isascii() and text.isprintable():
        return text
    return _UNUSUAL.sub(lambda match: _visible(match[0], lines), text)


def _visible(run: str, lines: bool) -> str:
    """`visible` for a *run* of unusual characters."""
    found, accents = [], 0
    for char in run:
        accents = accents + 1 if unicodedata.category(char) in ("Mn", "Me") else 0
        shown = char.isprintable() and char not in _BLANK and accents <= MAX_ACCENTS and not _selects(char)
        kept = shown or (lines and char in "\n\t")
        found.append(char if kept else char.encode("unicode_escape").decode("ascii"))
    return "".join(found)


def _selects(char: str) -> bool:
    """Whether it selects the form of the character before it, and takes no room itself."""
    return "\ufe00" <= char <= "\ufe0f" or "\U000e0100" <= char <= "\U000e01ef"
