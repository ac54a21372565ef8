"""Tables of the commands: fitted to a terminal, whole in a pipe. Their words are others': none steers the terminal.

A table may have ten thousand lines: they are put together here, and only what is drawn again and again goes through
rich (`park.cli.show.screen`).
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Iterable, Sequence
from typing import TextIO

import click

from park.text import visible

#: How a state is shown, where there are colours.
STYLES = {
    "running": "green",
    "complete": "dim",
    "failed": "red",
    "aborted": "dim red",
    "paused": "yellow",
    "draining": "yellow",
    "fault": "bold red",
    "ok": "green",
}
#: The states of jobs as they are listed, those that take slots first.
STATES = ("running", "queued", "waiting", "paused", "complete", "failed", "aborted")
#: Columns that give way where the terminal is narrow, the widest first, and what they keep.
YIELDING = {
    "REASON": 16,
    "REMARK": 16,
    "FOUND": 30,
    "TAGS": 8,
    "LABELS": 8,
    "NAME": 12,
    "HOST": 8,
    "OWNER": 6,
    "VALUE": 10,
}
#: The heads of columns whose cells have the style of what they say.
STYLED = ("STATE", "CHECK")
COLUMN_GAP_CELLS = 2

#: A line in pieces: texts with their styles.
Line = list[tuple[str, str]]


def plain(text: str) -> str:
    """*text* with nothing in it that steers a terminal; a tab is as many spaces.

    >>> plain("a\\tb\\x1b[31m")
    'a       b\\\\x1b[31m'
    """
    return visible(text.expandtabs())


def command_of(argv: Sequence[str]) -> str:
    """The command line of ``park submit``, as one would type it: the target, and its arguments.

    >>> command_of(["peak.py", "200", "two words"])
    "peak.py -- 200 'two words'"
    """
    return shlex.join([*argv[:1], *(["--"] if argv[1:] else []), *argv[1:]])


def width(text: str) -> int:
    """The cells that *text* takes on a terminal: letters of Chinese, Japanese and Korean take two."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def fit(text: str, room: int) -> str:
    """*text* in just as many cells, cut or filled up.

    >>> fit("a long name", 6), fit("short", 6)
    ('a lon…', 'short ')
    """
    taken = width(text)
    if taken <= room:
        return text + " " * (room - taken)
    if text.isascii():
        return text[: room - 1] + "…"
    from rich.cells import set_cell_size

    return set_cell_size(text, room - 1) + "…"


def print_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print *rows* below *heads*: on a terminal cut to its width, in a pipe in full."""
    if sys.stdout.isatty():
        print_lines(layout(heads, rows, shutil.get_terminal_size().columns))
    else:
        columns = _columns(heads, rows, None)
        click.echo("\n".join(map(str.rstrip, map("".join, zip(*columns, strict=True)))))


def print_lines(lines: Iterable[Line]) -> None:
    """Print lines, in colours where there are any."""
    colours = can_draw(sys.stdout) and has_colours()
    click.echo("\n".join(ansi(line) if colours else flat(line) for line in lines))


def can_draw(stream: TextIO) -> bool:
    """Whether it is a terminal on which one can draw."""
    return stream.isatty() and os.environ.get("TERM", "") not in ("", "dumb", "unknown")


def has_colours() -> bool:
    """Whether the user at the terminal wants colours."""
    return not os.environ.get("NO_COLOR")


def flat(line: Line) -> str:
    """The text of a line."""
    return "".join(text for text, _ in line).rstrip()


def ansi(line: Line) -> str:
    """The text of a line, in colours."""
    return "".join(_styled(text, style) if style else text for text, style in line).rstrip()


def _styled(text: str, style: str) -> str:
    words = style.split()
    colour = next((word for word in words if word not in ("dim", "bold")), None)
    return click.style(text, fg=colour, dim="dim" in words or None, bold="bold" in words or None)


def layout(heads: Sequence[str], rows: Sequence[Sequence[str]], room: int | None) -> list[Line]:
    """The lines of a table, the heads first; *room* cells wide at most, None: as wide as they are."""
    texts = list(zip(*_columns(heads, rows, room), strict=True))
    styled = [i for i, head in enumerate(heads) if head in STYLED]
    lines: list[Line] = [[(text, "") for text in row] for row in texts]
    lines[0] = [(text, "bold") for text in texts[0]]
    for line, row in zip(lines[1:], rows, strict=True):
        for i in styled:
            line[i] = (line[i][0], STYLES.get(row[i], ""))
    return lines


def _columns(heads: Sequence[str], rows: Sequence[Sequence[str]], room: int | None) -> list[list[str]]:
    """The columns of the same, head first, each text as wide as its column with the gap behind it."""
    columns = [list(column) for column in zip(heads, *rows, strict=True)]
    for i, column in enumerate(columns):
        text = "".join(column)
        if not (text.isascii() and text.isprintable()):
            columns[i] = [plain(cell) for cell in column]
    ascii = ["".join(column).isascii() for column in columns]
    widths = [max(map(len if a else width, column)) for a, column in zip(ascii, columns, strict=True)]
    if room is not None:
        widths = fitted(heads, widths, room)
    ends = [" " * COLUMN_GAP_CELLS] * (len(heads) - 1) + [""]
    return [
        [cell.ljust(w) + end if a and len(cell) <= w else fit(cell, w) + end for cell in column]
        for column, w, a, end in zip(columns, widths, ascii, ends, strict=True)
    ]


def fitted(heads: Sequence[str], widths: Sequence[int], room: int) -> list[int]:
    """The widths of columns that together, with gaps, take *room* characters, if they can.

    >>> fitted(["JOB", "NAME", "REASON"], [3, 20, 60], 60)
    [3, 20, 33]
    """
    found = list(widths)
    least = [min(w, YIELDING.get(head, w)) for head, w in zip(heads, widths, strict=True)]
    for _ in range(sum(found) + COLUMN_GAP_CELLS * (len(found) - 1) - room):
        spare = [i for i, w in enumerate(found) if w > least[i]]
        if not spare:
            break
        found[max(spare, key=lambda i: found[i])] -= 1
    return found
