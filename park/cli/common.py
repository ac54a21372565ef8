"""Code that the commands share: how to find the broker, exit codes, and errors in one line."""

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

from park.cli.show.tables import plain
from park.errors import (
    BatchError,
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
EXIT_CODES: tuple[tuple[type[BaseException], int], ...] = (
    (JobFailed, 1),
    (JobAborted, 1),
    (UnknownJob, 3),
    (UnknownKernel, 3),
    (NoBroker, 4),
    (WaitTimeout, 5),
    (NotComplete, 5),
    (Refused, 6),
    (BatchError, 6),
    (InvalidRequest, 2),
    (KeyboardInterrupt, 130),
    (ParkError, 1),
)


#: The exit code where the reader of the output has gone: that of SIGPIPE in a shell.
BROKEN_PIPE_EXIT_CODE = 141
#: Errors of a disk that takes nothing more.
DISK_FULL_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


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


class ServiceCommand(click.Command):
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
        from park.config import read

        found = read(os.environ).get(self.name or "", {})
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
    help="Also write all messages to this file, each line with its time and level. The file may be moved away meanwhile.",
)

#: -h as other programs have it.
HELP_OPTIONS = {"help_option_names": ["-h", "--help"]}

gpus_option: Callable[[Any], Any] = click.option(
    "--gpus",
    default="auto",
    show_default=True,
    metavar="auto|N",
    help="GPUs for units that need them: all that nvidia-smi or rocm-smi lists (auto), or the first N.",
)
kernel_key_option: Callable[[Any], Any] = click.option(
    "--key",
    type=click.Path(path_type=Path),
    help="The kernel's key over tcp (default: the kernel's key in ~/.config/park/keys/HOST_PORT).",
)
broker_option: Callable[[Any], Any] = click.option(
    "--broker", metavar="URL|FILE", help="The address of the broker, or its connection file."
)


def home_of_broker(given: Path | None) -> Path:
    """The home of the broker on this machine: the *given* one, else the folder that $PARK_BROKER leads to, else the usual.

    Raises NoBroker where $PARK_BROKER is the address of another broker than that of the usual home.
    """
    from park.config import default_home

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
        except tuple(kind for kind, _ in EXIT_CODES) as error:
            if not isinstance(error, KeyboardInterrupt):
                tell(f"{command}: {error}")
            sys.exit(code_of(error))
    except OSError as error:
        code = silence_stdout()
        if error.errno in DISK_FULL_ERRNOS:
            tell(f"{command}: what there is to say cannot be written: {error.strerror}")
            code = 1
        elif error.errno not in (None, errno.EPIPE, errno.EIO):
            raise
        sys.exit(code)


def silence_stdout() -> int:
    """The reader of the output, a pipe or a terminal, has gone: write nothing more there. The exit code."""
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())
    return BROKEN_PIPE_EXIT_CODE


def tell(text: str) -> None:
    """Print *text* on stderr. It may come from another user: nothing in it steers the terminal."""
    click.echo("\n".join(map(plain, text.split("\n"))), err=True)


def code_of(error: BaseException) -> int:
    """The exit code for *error*."""
    return next(code for kind, code in EXIT_CODES if isinstance(error, kind))


def open_service(broker: str | None) -> ServerProxy:
    """The broker's service. Allocations whose process on this machine was killed are taken up by another one."""
    from park.config import default_home
    from park.core.connect import connect

    service = connect(broker)
    folder = default_home() / "allocations"
    if any(folder.glob("job-*")) or any(folder.glob("script-*")):
        from park.batch.left_over import take_up

        take_up(folder)
    return service
