"""Tables for notebooks. What is in them is text, never markup."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """*rows* below *heads*.

    >>> table(["name"], [["<b>"]])
    '<table><tr><th>name</th></tr><tr><td>&lt;b&gt;</td></tr></table>'
    """
    lines = [_row("th", heads), *(_row("td", row) for row in rows)]
    return f"<table>{''.join(lines)}</table>"


def paragraph(text: str, grave: bool = False) -> str:
    """*text* above a table; in bold where it is *grave*."""
    inside = f"<b>{escape(text)}</b>" if grave else escape(text)
    return f"<p>{inside}</p>"


def _row(kind: str, cells: Iterable[object]) -> str:
    return f"<tr>{''.join(f'<{kind}>{escape(str(cell))}</{kind}>' for cell in cells)}</tr>"
