"""What the commands share: how to find the broker, exit codes, and errors in one line."""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from park.cli.tables import plain
from park.errors import (
    InvalidRequest,
    JobAborted,
    JobFailed,
    NoBroker,
    NotComplete,
    ParkError,
    Refused,
    UnknownJob,
    UnknownKernel,
    WaitTimeout,
)

if TYPE_CHECKING:
    from park.core.server import ServerProxy

#: Exit codes, by what went wrong.
CODES: tuple[tuple[type[BaseException], int], ...] = (
    (JobFailed, 1),
    (JobAborted, 1),
    (UnknownJob, 3),
    (UnknownKernel, 3),
    (NoBroker, 4),
    (WaitTimeout, 5),
    (NotComplete, 5),
    (Refused, 6),
    (InvalidRequest, 2),
    (KeyboardInterrupt, 130),
    (ParkError, 1),
)


#: The exit code where nobody reads the output any more: that of SIGPIPE in a shell.
GONE = 141


class ShowsByDefault(click.Group):
    """``park credits ada`` is short for ``park credits show ada``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.commands and args[0] not in ctx.help_option_names):
            args = ["show", *args]
        return super().parse_args(ctx, args)


_TIME = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s?)?")


def seconds(ctx: click.Context | None, param: click.Parameter | None, value: str | None) -> float | None:
    """The callback of an option that is a length of time: seconds, or a text such as 3h55m, 5m or 2d."""
    if value is None:
        return None
    found = _TIME.fullmatch(value)
    if not value or found is None:
        raise click.BadParameter(
            f"{value!r} is no length of time: write it like 3h55m, 5m, 90s or 90", ctx, param
        )
    return sum(float(n or 0) * unit for n, unit in zip(found.groups(), (86400, 3600, 60, 1), strict=True))


broker_option: Callable[[Any], Any] = click.option(
    "--broker", metavar="URL|FILE", help="Where the broker is: its address or its connection file."
)


@contextmanager
def in_words(command: str = "park") -> Iterator[None]:
    """An error becomes its sentence and the exit code for its kind."""
    try:
        yield
    except tuple(kind for kind, _ in CODES) as error:
        tell(error, command)
        sys.exit(code_of(error))
    except OSError as error:
        if error.errno not in (None, errno.EPIPE, errno.EIO):
            raise
        sys.exit(nobody_reads())


def nobody_reads() -> int:
    """Whoever read the output, a pipe or a terminal, has gone: nothing more is said. The exit code."""
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())
    return GONE


def tell(error: BaseException, command: str = "park") -> None:
    """Print the sentence of *error*: of a job that failed the cause, and where the traceback is to be had."""
    if isinstance(error, JobFailed) and error.traceback and command != "park fetch":
        cause = f"{command}: job {error.job} failed: {error.cause} (park fetch {error.job}: traceback)"
        click.echo(plain(cause), err=True)
    elif not isinstance(error, KeyboardInterrupt):
        click.echo(f"{command}: {error}", err=True)


def code_of(error: BaseException) -> int:
    """The exit code for *error*."""
    return next(code for kind, code in CODES if isinstance(error, kind))


def open_service(broker: str | None) -> ServerProxy:
    """The broker's service."""
    from park.service import connect

    return connect(broker)
