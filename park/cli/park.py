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

import click

from park.cli.common import HELP

#: Where each command is: a module, and the function if it is called otherwise.
_COMMANDS = {
    "abort": "steer",
    "backup": "backup",
    "completion": "completion",
    "config": "settings",
    "control": "steer",
    "credits": "credits",
    "delete": "steer",
    "doctor": "doctor",
    "fetch": "results",
    "jobs": "jobs",
    "kernels": "kernels",
    "keys": "keys",
    "logs": "results",
    "pause": "steer",
    "resume": "steer",
    "retry": "steer",
    "run": "results",
    "set": "steer:change",
    "show": "jobs",
    "stop": "steer",
    "submit": "submit",
    "top": "top",
    "wait": "waiting",
    "why": "jobs",
}


class Commands(click.Group):
    """The group of all commands."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, _, function = _COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(import_module(f"park.cli.{module}"), function or cmd_name)
        return command


@click.group(cls=Commands, context_settings=HELP)
@click.version_option(package_name="park-fit")
def main() -> None:
    """Submit, see and steer the jobs of a PARK broker.

    The broker is found through $PARK_BROKER, park.toml, the connection file in the default home, or the --broker of each
    command. SEL names jobs: 12, 1-5, 1,4, last, all, tag:x. Where something is amiss, `park doctor` says what.
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
