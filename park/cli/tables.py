"""Tables of the commands: fitted to a terminal, whole in a pipe. Their words are others': none steers the terminal."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.table import Table

#: How a state is shown, where there are colours.
STYLES = {
    "running": "green",
    "complete": "dim",
    "failed": "red",
    "aborted": "dim red",
    "paused": "yellow",
    "draining": "yellow",
}
#: Columns that give way where the terminal is narrow, the first first, and what they keep.
YIELDING = {"REASON": 16, "TAGS": 8, "LABELS": 8, "NAME": 12, "OWNER": 6}
GAP = 2


def plain(text: str) -> str:
    """*text* with nothing in it that steers a terminal."""
    return "".join(c if c.isprintable() else "?" for c in text)


def print_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print *rows* below *heads*: on a terminal cut to its width, in a pipe in full."""
    if sys.stdout.isatty():
        from rich.console import Console

        console = Console(highlight=False)
        console.print(rich_table(heads, rows, console.width))
        return
    widths = _natural(heads, rows)
    for line in (heads, *rows):
        cells = [cell.ljust(width) for cell, width in zip(line[:-1], widths, strict=False)]
        click.echo(plain((" " * GAP).join([*cells, line[-1]]).rstrip()))


def rich_table(heads: Sequence[str], rows: Sequence[Sequence[str]], room: int) -> Table:
    """The same as rich draws it, *room* characters wide at most; states have their colours."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold")
    for head, width in zip(heads, fitted(heads, _natural(heads, rows), room), strict=True):
        table.add_column(head, no_wrap=True, overflow="ellipsis", width=width)
    for row in rows:
        styles = [
            STYLES.get(cell, "") if head == "STATE" else "" for head, cell in zip(heads, row, strict=True)
        ]
        table.add_row(*(Text(plain(cell), style) for cell, style in zip(row, styles, strict=True)))
    return table


def fitted(heads: Sequence[str], widths: Sequence[int], room: int) -> list[int]:
    """The widths of columns that together, with gaps, take *room* characters, if they can.

    >>> fitted(["JOB", "NAME", "REASON"], [3, 20, 60], 60)
    [3, 20, 33]
    """
    found = list(widths)
    for yielding, least in YIELDING.items():
        over = sum(found) + GAP * (len(found) - 1) - room
        for i, head in enumerate(heads):
            if head == yielding and over > 0:
                found[i] = max(min(found[i], least), found[i] - over)
    return found


def _natural(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[int]:
    """The width of each column's longest cell."""
    return [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
