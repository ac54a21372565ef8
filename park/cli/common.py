"""What the commands share: how to find the broker, exit codes, and errors in one line."""

from __future__ import annotations

import errno
import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
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
    from click.shell_completion import CompletionItem

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
#: What a disk says that takes nothing more.
UNWRITTEN = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class ShowsByDefault(click.Group):
    """``park credits ada`` is short for ``park credits show ada``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args and ctx.resilient_parsing:  # a shell completes the first word
            return super().parse_args(ctx, args)
        if not args or (args[0] not in self.commands and args[0] not in ctx.help_option_names):
            args = ["show", *args]
        return super().parse_args(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """The first word is a command, or the first one of `show`."""
        show = self.commands["show"]
        words = [param for param in show.params if isinstance(param, click.Argument)]
        found = [*super().shell_complete(ctx, incomplete), *show.shell_complete(ctx, incomplete)]
        found += [item for word in words for item in word.shell_complete(ctx, incomplete)]
        return list({item.value: item for item in found}.values())


class Service(click.Command):
    """A command that serves. Its options may stand in park.toml, in a table of its name; the command line counts more."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        assert self.name is not None
        with in_words(self.name):
            if not {"--help", "-h", "--version"} & set(args):
                extra.setdefault("default_map", self._configured())
            try:
                return super().make_context(info_name, args, parent, **extra)
            except click.BadParameter as error:
                ctx, name = error.ctx, error.param.name if error.param is not None else None
                if ctx is None or name is None:
                    raise
                if ctx.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT_MAP:
                    raise
                text = f"{error.message} (it stands in park.toml, in [{self.name}])"
                raise click.BadParameter(text, ctx, error.param, error.param_hint) from None

    def _configured(self) -> dict[str, Any]:
        from park.cli.config import options_of

        found = options_of(self.name or "", os.environ)
        return {
            param.name: found[option]
            for param in self.params
            for option in (each.lstrip("-") for each in param.opts)
            if param.name is not None and option in found
        }


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


log_option: Callable[[Any], Any] = click.option(
    "--log-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write what it says to this file too, each line with its time and level; the file may be moved away meanwhile.",
)

#: -h as other programs have it.
HELP = {"help_option_names": ["-h", "--help"]}

broker_option: Callable[[Any], Any] = click.option(
    "--broker", metavar="URL|FILE", help="Where the broker is: its address or its connection file."
)


def home_of_broker(given: Path | None) -> Path:
    """The home of the broker on this machine: the *given* one, else the folder that $PARK_BROKER leads to, else the usual.

    Raises NoBroker where $PARK_BROKER is the address of another broker than that of the usual home.
    """
    from park.util.addresses import default_home

    broker = os.environ.get("PARK_BROKER", "")
    if given is None and broker and "://" not in broker:
        file = Path(broker).expanduser()
        given = file if file.is_dir() else file.parent
    home = (given or default_home()).expanduser().absolute()
    if given is None and broker and broker not in _addresses(home):
        raise NoBroker(
            f"$PARK_BROKER is {broker}, and that broker does not live in {home}: run this on its machine, and name "
            "its home with --home"
        )
    return home


def _addresses(home: Path) -> list[str]:
    """The addresses for clients of the broker that lives there."""
    try:
        found = json.loads((home / "connection.json").read_text(encoding="utf-8"))
        return [str(place["clients"]) for place in (found, found.get("tcp") or {}) if "clients" in place]
    except (OSError, ValueError, AttributeError, TypeError):
        return []


@contextmanager
def in_words(command: str = "park") -> Iterator[None]:
    """An error becomes its sentence and the exit code for its kind."""
    try:
        try:
            yield
        except tuple(kind for kind, _ in CODES) as error:
            if not isinstance(error, KeyboardInterrupt):
                tell(f"{command}: {error}")
            sys.exit(code_of(error))
    except OSError as error:
        code = nobody_reads()
        if error.errno in UNWRITTEN:
            tell(f"{command}: what there is to say cannot be written: {error.strerror}")
            code = 1
        elif error.errno not in (None, errno.EPIPE, errno.EIO):
            raise
        sys.exit(code)


def nobody_reads() -> int:
    """Whoever read the output, a pipe or a terminal, has gone: nothing more is said there. The exit code."""
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())
    return GONE


def tell(text: str) -> None:
    """Print *text*, which may be somebody else's, on stderr: nothing in it steers the terminal."""
    click.echo("\n".join(map(plain, text.split("\n"))), err=True)


def code_of(error: BaseException) -> int:
    """The exit code for *error*."""
    return next(code for kind, code in CODES if isinstance(error, kind))


def open_service(broker: str | None) -> ServerProxy:
    """The broker's service."""
    from park.service import connect

    return connect(broker)
