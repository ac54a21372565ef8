"""What the commands share: how to find the broker, exit codes, and errors in one line."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from park.errors import (
    InvalidRequest,
    JobAborted,
    JobFailed,
    NoBroker,
    NotComplete,
    ParkError,
    Refused,
    UnknownJob,
    WaitTimeout,
)

if TYPE_CHECKING:
    from park.core.server import ServerProxy

#: Exit codes, by what went wrong.
CODES: tuple[tuple[type[BaseException], int], ...] = (
    (JobFailed, 1),
    (JobAborted, 1),
    (UnknownJob, 3),
    (NoBroker, 4),
    (WaitTimeout, 5),
    (NotComplete, 5),
    (Refused, 6),
    (InvalidRequest, 2),
    (KeyboardInterrupt, 130),
    (ParkError, 1),
)

broker_option: Callable[[Any], Any] = click.option(
    "--broker", metavar="URL|FILE", help="Where the broker is: its address or its connection file."
)


@contextmanager
def in_words(command: str = "park") -> Iterator[None]:
    """An error becomes its sentence and the exit code for its kind."""
    try:
        yield
    except tuple(kind for kind, _ in CODES) as error:
        if isinstance(error, JobFailed) and error.traceback and command != "park fetch":
            click.echo(
                f"{command}: job {error.job} failed: {error.cause} (park fetch {error.job}: traceback)",
                err=True,
            )
        elif not isinstance(error, KeyboardInterrupt):
            click.echo(f"{command}: {error}", err=True)
        sys.exit(next(code for kind, code in CODES if isinstance(error, kind)))


def open_service(broker: str | None) -> ServerProxy:
    """The broker's service."""
    from park.service import connect

    return connect(broker)


def plain(text: str) -> str:
    """Names, tags and reasons are other people's: nothing in them steers the terminal."""
    return "".join(c if c.isprintable() else "?" for c in text)


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """Print *rows*, the first of them the heads, in columns."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        click.echo(plain("  ".join([*cells, row[-1]]).rstrip()))
