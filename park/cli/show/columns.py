"""The columns of `park jobs`, and what they show of the fields of records."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from park.util.pace import bounded, ratio

if TYPE_CHECKING:
    from park.model import JobRecord

DEFAULT_COLUMNS = ("job", "owner", "name", "state", "done", "elapsed", "left", "host", "reason")
#: Columns that are left out of the default ones where no job has a value.
BRIEF_COLUMNS = ("elapsed", "left", "host")
#: The unit of a column of plain numbers, for its heading.
UNITS = {"used": "s"}
#: Times that are shown, in seconds since 1970: from the year 1 to the year 9999, a day off the ends for the time zone.
MIN_WALL_SECONDS, MAX_WALL_SECONDS = -62_135_510_400.0, 253_402_214_400.0
#: Lengths of time that are shown, at most: a thousand years, in seconds.
MAX_SPAN_SECONDS = 31_557_600_000.0


def clock(seconds: float | None, short: bool = False) -> str:
    """A time for people, in their time zone; *short*: as much as is needed today."""
    if seconds is None:
        return ""
    if not MIN_WALL_SECONDS <= seconds <= MAX_WALL_SECONDS:
        return "?"
    return _clock(int(seconds), time.localtime()[:3] if short else None)


@functools.lru_cache(10_000)
def _clock(seconds: int, today: tuple[int, ...] | None) -> str:
    then = time.localtime(seconds)
    if today is None:
        return time.strftime("%Y-%m-%d %H:%M:%S", then)
    if then[:3] == today:
        return time.strftime("%H:%M:%S", then)
    return time.strftime("%m-%d %H:%M" if then[0] == today[0] else "%Y-%m-%d", then)


@functools.cache
def priority_name(number: int) -> str:
    """The name of a priority, or its number where it has none."""
    from park.model import PRIORITIES

    return {number: name for name, number in PRIORITIES.items()}.get(number, str(number))


class JobColumn(NamedTuple):
    """The fields of a record that a column shows, and their words: called with a flag for short times, and the values.

    None: it is one field, which is a text.
    """

    fields: tuple[str, ...]
    show: Callable[..., str] | None = None


def _time(name: str) -> JobColumn:
    return JobColumn((name,), lambda short, seconds: clock(seconds, short))


def _number(name: str) -> JobColumn:
    return JobColumn((name,), lambda _, number: str(number or ""))


def _used(name: str) -> JobColumn:
    return JobColumn((name,), lambda _, number: bounded(number, 1).replace(",", ""))


def _listed(name: str) -> JobColumn:
    return JobColumn((name,), lambda _, values: ",".join(map(str, values)))


def heading(name: str) -> str:
    """The heading of a column."""
    unit = UNITS.get(name)
    return name.upper() if unit is None else f"{name.upper()} ({unit})"


def span(seconds: float) -> str:
    """A length of time, as short as one reads it.

    >>> [span(s) for s in (0.4, 59, 61, 3700, 90000)]
    ['0s', '59s', '1m01s', '1h01m', '1d01h']
    """
    if not abs(seconds) <= MAX_SPAN_SECONDS:
        return "?"
    whole = int(seconds)
    for unit, name, below, lower in ((86400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s")):
        if whole >= unit:
            return f"{whole // unit}{name}{whole % unit // below:02d}{lower}"
    return f"{whole}s"


def elapsed(started: float | None, ended: float | None, now: float) -> str:
    """The time for which a job has run; "" before it does."""
    return "" if started is None else span(max(0.0, (now if ended is None else ended) - started))


def left(
    state: str,
    done: int,
    total: int | None,
    progress: Sequence[float] | None,
    started: float | None,
    now: float,
) -> str:
    """The expected time until the job ends, if it goes on at its pace; "" if that is unknown.

    >>> left("running", 25, 100, None, 1000.0, 1060.0)
    '3m00s'
    """
    part = ratio(done, total) if total else ratio(*progress) if progress else 0.0
    if state != "running" or started is None or not 0 < part < 1:
        return ""
    return span(max(0.0, now - started) * (1 - part) / part)


def _elapsed(_: bool, started: float | None, ended: float | None) -> str:
    return elapsed(started, ended, time.time())


def _left(
    _: bool, state: str, done: int, total: int | None, progress: Sequence[float] | None, started: float | None
) -> str:
    return left(state, done, total, progress, started, time.time())


def _how_far(_: bool, *values: Any) -> str:
    from park.client.live_table import how_far_of

    return how_far_of(*values)


COLUMNS: dict[str, JobColumn] = {
    "job": JobColumn(("job",), lambda _, number: str(number)),
    "owner": JobColumn(("owner",)),
    "name": JobColumn(("name",)),
    "kind": JobColumn(("kind",)),
    "state": JobColumn(("state",)),
    "done": JobColumn(("done", "total", "progress", "state"), _how_far),
    "elapsed": JobColumn(("started", "ended"), _elapsed),
    "left": JobColumn(("state", "done", "total", "progress", "started"), _left),
    "host": _listed("hosts"),
    "failed": _number("failed"),
    "running": _number("running"),
    "priority": JobColumn(("priority",), lambda _, number: priority_name(number)),
    "tags": _listed("tags"),
    "used": _used("seconds"),
    "credits": _used("credits"),
    "after": _listed("after"),
    "when": _time("when"),
    "submitted": _time("submitted"),
    "started": _time("started"),
    "ended": _time("ended"),
    "python": JobColumn(("python",)),
    "reason": JobColumn(("reason", "remark"), lambda _, *texts: "; ".join(filter(None, texts))),
    "remark": JobColumn(("remark",)),
}


def parse(text: str | None) -> Sequence[str]:
    """The columns that *text* names, separated by commas; None: the usual ones. Raises InvalidRequest."""
    if text is None:
        return DEFAULT_COLUMNS
    names = [name.strip().lower() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in COLUMNS:
            from park.errors import InvalidRequest

            raise InvalidRequest(f"there is no column {name!r}: choose from {', '.join(COLUMNS)}")
    return names or DEFAULT_COLUMNS


def fields_of(names: Iterable[str]) -> list[str]:
    """The fields that these columns show, each once."""
    return list(dict.fromkeys(field for name in names for field in COLUMNS[name].fields))


def shown(
    names: Sequence[str], cells: Sequence[tuple[str, ...]], brief: bool
) -> tuple[list[str], list[tuple[str, ...]]]:
    """The headings of the columns *names* and their *cells*; *brief*: without those of `BRIEF_COLUMNS` that are empty."""
    kept = [
        i
        for i, name in enumerate(names)
        if not (brief and name in BRIEF_COLUMNS) or any(line[i] for line in cells)
    ]
    return [heading(names[i]) for i in kept], [tuple(line[i] for i in kept) for line in cells]


def lines(rows: Sequence[Sequence[Any]], names: Sequence[str], short: bool) -> list[tuple[str, ...]]:
    """The lines of the table: *rows* hold the values of `fields_of` these columns."""
    values = dict(zip(fields_of(names), zip(*rows, strict=True), strict=True)) if rows else {}
    columns = (COLUMNS[name] for name in names)
    shown = [
        values[fields[0]]
        if show is None
        else _shown(show, short, list(zip(*(values[field] for field in fields), strict=True)))
        for fields, show in (columns if rows else ())
    ]
    return list(zip(*shown, strict=True))


def _shown(show: Callable[..., str], short: bool, given: list[tuple[Any, ...]]) -> list[str]:
    """The texts of these values. Thousands of jobs have equal values, so each text is made once."""
    known = functools.lru_cache(maxsize=None, typed=True)(functools.partial(show, short))
    try:
        return [known(*values) for values in given]
    except TypeError:  # lists cannot be looked up
        return [show(short, *values) for values in given]


def lines_of(records: Iterable[JobRecord], names: Sequence[str], short: bool = True) -> list[tuple[str, ...]]:
    """The lines of whole records."""
    fields = fields_of(names)
    return lines([[getattr(r, field) for field in fields] for r in records], names, short)
