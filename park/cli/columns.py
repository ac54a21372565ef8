"""The columns of `park jobs`, and what they show of a record."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from park.model import JobRecord

DEFAULT = ("job", "owner", "name", "state", "done", "submitted", "reason")


def clock(seconds: float | None, short: bool = False) -> str:
    """A time for people, in their time zone; *short*: as much as is needed today."""
    if seconds is None:
        return ""
    then = time.localtime(seconds)
    if not short:
        return time.strftime("%Y-%m-%d %H:%M:%S", then)
    today = time.localtime()
    if then[:3] == today[:3]:
        return time.strftime("%H:%M:%S", then)
    return time.strftime("%m-%d %H:%M" if then[0] == today[0] else "%Y-%m-%d", then)


def priority_name(number: int) -> str:
    """The name of a priority, or its number where it has none."""
    from park.model import PRIORITIES

    return {number: name for name, number in PRIORITIES.items()}.get(number, str(number))


def how_far(r: JobRecord) -> str:
    """Units done of all, or the part that the body reported."""
    from park.live import how_far

    return how_far(r)


#: What a column shows of a record; the flag asks for short times.
COLUMNS: dict[str, Callable[[JobRecord, bool], str]] = {
    "job": lambda r, short: str(r.job),
    "owner": lambda r, short: r.owner,
    "name": lambda r, short: r.name,
    "kind": lambda r, short: r.kind,
    "state": lambda r, short: r.state.value,
    "done": lambda r, short: how_far(r),
    "failed": lambda r, short: str(r.failed or ""),
    "running": lambda r, short: str(r.running or ""),
    "priority": lambda r, short: priority_name(r.priority),
    "tags": lambda r, short: ",".join(r.tags),
    "used": lambda r, short: f"{r.seconds:.1f}",
    "credits": lambda r, short: f"{r.credits:.1f}",
    "after": lambda r, short: ",".join(map(str, r.after)),
    "when": lambda r, short: clock(r.when, short),
    "submitted": lambda r, short: clock(r.submitted, short),
    "started": lambda r, short: clock(r.started, short),
    "ended": lambda r, short: clock(r.ended, short),
    "python": lambda r, short: r.python,
    "reason": lambda r, short: r.reason,
}


def parse(text: str | None) -> Sequence[str]:
    """The columns that *text* names, separated by commas; None: the usual ones. Raises InvalidRequest."""
    if text is None:
        return DEFAULT
    names = [name.strip().lower() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in COLUMNS:
            from park.errors import InvalidRequest

            raise InvalidRequest(f"there is no column {name!r}: choose from {', '.join(COLUMNS)}")
    return names or DEFAULT


def cells(record: JobRecord, names: Sequence[str], short: bool) -> list[str]:
    """One line of the table."""
    return [COLUMNS[name](record, short) for name in names]
