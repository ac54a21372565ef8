"""What the commands share: how to find the broker, exit codes, and errors in one line."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click

from park.core.server import ServerProxy
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
