"""``park``: submit, see and steer the jobs of a broker.

The commands are in modules of their own. A module is loaded when one of its commands is called, or when all are listed.
"""

from __future__ import annotations

import atexit
import gc
import io
import os
import sys
from importlib import import_module
from typing import Any

import click

from park.cli.common import HELP_OPTIONS
from park.text import visible

#: Where each command is: a module, and the function if it is called otherwise.
_COMMANDS = {
    "abort": "steer",
    "alloc": "alloc",
    "backup": "backup",
    "completion": "completion",
    "config": "settings",
    "control": "steer",
    "credits": "credits",
    "delete": "steer",
    "doctor": "doctor",
    "donate": "donate",
    "fetch": "results",
    "jobs": "jobs",
    "kernels": "kernels",
    "keys": "keys",
    "logs": "results",
    "pause": "steer",
    "resume": "steer",
    "retry": "steer",
    "run": "results",
    "service": "service",
    "set": "steer:change",
    "show": "jobs",
    "stop": "steer",
    "submit": "submit",
    "top": "top",
    "wait": "waiting",
    "web": "web",
    "why": "jobs",
}


#: Commands of earlier releases, and the words that stand for them now.
_RENAMED = {"allocate": ["alloc", "give"]}


class Commands(click.Group):
    """The group of all commands."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        now = _RENAMED.get(args[0])
        if now is not None:
            click.echo(f"park: `park {args[0]}` is called `park {' '.join(now)}` now", err=True)
            args = [*now, *args[1:]]
        return super().resolve_command(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, _, function = _COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(import_module(f"park.cli.commands.{module}"), function or cmd_name)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except click.ClickException as error:  # it repeats an argument, which may be the name of a file
            error.message = visible(error.message, lines=True)  # type: ignore[misc]
            raise


@click.group(cls=Commands, context_settings=HELP_OPTIONS)
@click.version_option(package_name="park-fit")
def main() -> None:
    """Submit, see and steer the jobs of a PARK broker.

    The broker is found through $PARK_BROKER, park.toml, the connection file in the default home, or the --broker of each
    command. SEL names jobs: 12, 1-5, 1,4, last, all, tag:x. If something does not work, `park doctor` says why.
    """
    # a command is over before its cycles are worth a look, which took a sixth of the time of a long list
    gc.set_threshold(100_000)
    atexit.register(gc.freeze)
    if sys.stdout is None:  # it was closed (>&-): whatever is said goes nowhere
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  # as long as this process lives
    if isinstance(sys.stdout, io.TextIOWrapper):  # names may have letters that the terminal has not
        sys.stdout.reconfigure(errors="replace")


if __name__ == "__main__":
    main(prog_name="park")
