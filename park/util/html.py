"""Tables for notebooks. Their contents are text, never markup."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from park.text import visible


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """*rows* below *heads*.

    >>> table(["name"], [["<b>"]])
    '<table><tr><th>name</th></tr><tr><td>&lt;b&gt;</td></tr></table>'
    """
    lines = [_row("th", heads), *(_row("td", row) for row in rows)]
    return f"<table>{''.join(lines)}</table>"


def paragraph(text: str, grave: bool = False) -> str:
    """*text* above a table; in bold where it is *grave*."""
    shown = escape(visible(text))
    inside = f"<b>{shown}</b>" if grave else shown
    return f"<p>{inside}</p>"


def _row(kind: str, cells: Iterable[object]) -> str:
    return f"<tr>{''.join(f'<{kind}>{escape(visible(str(cell)))}</{kind}>' for cell in cells)}</tr>"
