"""Rounds into medians with ranges, and both into text."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from benchmarks.scale import Mark, Rows, Values


def collect(rounds: Sequence[Rows]) -> dict[str, dict[str, list[float]]]:
    """Each row's columns over the rounds."""
    values: dict[str, dict[str, list[float]]] = {}
    for rows in rounds:
        for row, columns in rows.items():
            for column, value in columns.items():
                values.setdefault(row, {}).setdefault(column, []).append(value)
    return values


def table(title: str, units: dict[str, str], values: Values) -> str:
    """One benchmark: median, lowest to highest of each column."""
    lines = [[title, *(f"{column} [{unit}]" for column, unit in units.items())]]
    lines += [
        [row, *(spread(columns.get(column, [])) for column in units)] for row, columns in values.items()
    ]
    return aligned(lines)


def judge(
    benchmark: str, marks: Sequence[Mark], units: dict[str, str], values: Values
) -> list[dict[str, Any]]:
    """The marks: met or missed; the marks of rows that were not measured are neither."""
    found = []
    for mark in marks:
        measured, met = mark.judge(values)
        found.append(
            {
                "benchmark": benchmark,
                "row": mark.row,
                "column": mark.column,
                "unit": units[mark.column],
                "mark": mark.bound,
                "at least": mark.at_least,
                "measured": measured,
                "values": values.get(mark.row, {}).get(mark.column, []),
                "met": met,
            }
        )
    return found


def marks_table(judged: Sequence[dict[str, Any]]) -> str:
    lines = [["mark", "", "wanted", "measured", ""]]
    for found in judged:
        sign = ">=" if found["at least"] else "<="
        lines.append(
            [
                f"{found['benchmark']}: {found['row']}",
                found["column"],
                f"{sign} {number(found['mark'])} {found['unit']}",
                spread(found["values"]),
                "not measured" if found["measured"] is None else "met" if found["met"] else "MISSED",
            ]
        )
    return aligned(lines)


def spread(values: Sequence[float]) -> str:
    if not values:
        return ""
    median = number(statistics.median(values))
    return median if len(values) == 1 else f"{median} ({number(min(values))}..{number(max(values))})"


def number(value: float) -> str:
    """Three digits, or whole thousands."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def aligned(lines: list[list[str]]) -> str:
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    texts = [
        "  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines
    ]
    return "\n".join([texts[0], "-" * max(map(len, texts)), *texts[1:]])


def rst(lines: list[list[str]]) -> str:
    """The same as a simple table of reStructuredText."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    rule = "  ".join("=" * width for width in widths)
    # An empty first cell would continue the row above.
    texts = [
        "  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines
    ]
    return "\n".join([rule, texts[0], rule, *texts[1:], rule, ""])
