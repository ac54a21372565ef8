"""``park service``: systemd units for broker, kernel, page and donation."""

from __future__ import annotations

import getpass
import importlib
import json
import os
import sys
from pathlib import Path

import click

from park.cli.common import DISK_FULL_ERRNOS, in_words, tell
from park.cli.show.tables import print_table
from park.cli.systemd_units import (
    SERVICES,
    SYSTEM_FOLDER,
    Service,
    state_of,
    unit_text,
    user_folder,
    verify,
)
from park.errors import InvalidRequest


@click.group(subcommand_metavar="install SERVICE | status")
def service() -> None:
    """Let systemd start broker, kernel, page or donation."""


@service.command(context_settings={"ignore_unknown_options": True})
@click.argument("name", metavar="SERVICE", type=click.Choice(list(SERVICES)))
@click.argument("arguments", metavar="[-- OPTION...]", nargs=-1, type=click.UNPROCESSED)
@click.option(
    "--system",
    "user",
    metavar="USER",
    help="Write a unit of the system that runs as USER, instead of a unit of your own session (for root).",
)
@click.option("--dry-run", is_flag=True, help="Print the unit and its place, and write nothing.")
def install(name: str, arguments: tuple[str, ...], user: str | None, dry_run: bool) -> None:
    """Write the unit of SERVICE: broker, kernel, web or donate.

    Words after SERVICE are the options of its command, as in `park service install kernel -- --slots 4`. The unit uses
    this Python, and takes over $PARK_BROKER, $PARK_HOME and $PARKTAG. `systemd-analyze verify` looks at it where that
    is installed.
    """
    with in_words("park service"):
        found = SERVICES[name]
        if found.personal and user:
            raise InvalidRequest(f"{name} belongs to a user's own session: leave --system out")
        check_options(found, arguments)
        text = unit_text(found, sys.executable, arguments, os.environ, Path.cwd(), user or "")
        folder = SYSTEM_FOLDER if user else user_folder(os.environ)
        if words := verify(text, found.unit, own=not user):
            tell(f"park service: systemd-analyze says of this unit:\n{words}")
        if dry_run:
            click.echo(f"# {folder / found.unit}\n{text}", nl=False)
            return
        _write(folder / found.unit, text)
        click.echo(f"{folder / found.unit} is written; these commands start it, now and at each start:")
        click.echo("\n".join(f"    {line}" for line in _next_steps(found, user)))


def check_options(found: Service, arguments: tuple[str, ...]) -> None:
    """Raise click.UsageError for options that the service's command would refuse at each of its starts."""
    module, *words = found.command[1:]
    command: click.Command = importlib.import_module(module).main
    if isinstance(command, click.Group):
        command = command.get_command(click.Context(command), words.pop(0)) or command
    with command.make_context(found.unit.removesuffix(".service"), [*words, *arguments]):
        pass


def _write(file: Path, text: str) -> None:
    """Write a unit, complete or not at all. Raises InvalidRequest where this user may not."""
    part = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(text)
        part.replace(file)
    except OSError as error:
        if error.errno in DISK_FULL_ERRNOS:
            raise
        raise InvalidRequest(f"{file} cannot be written: {error.strerror}") from error


def _next_steps(found: Service, user: str | None) -> list[str]:
    systemctl = "systemctl" if user else "systemctl --user"
    steps = [f"{systemctl} daemon-reload", f"{systemctl} enable --now {found.unit}"]
    if not user:
        steps.append(f"loginctl enable-linger {getpass.getuser()}    # it goes on when you have logged out")
    return steps


@service.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON array.")
def status(as_json: bool) -> None:
    """List the units that are installed, and the state of each."""
    with in_words("park service"):
        rows = [
            {"service": each.name, "unit": str(folder / each.unit), "state": state_of(each.unit, own)}
            for folder, own in ((user_folder(os.environ), True), (SYSTEM_FOLDER, False))
            for each in SERVICES.values()
            if (folder / each.unit).exists()
        ]
        if as_json:
            click.echo(json.dumps(rows, indent=2))
        elif rows:
            print_table(("SERVICE", "STATE", "UNIT"), [(r["service"], r["state"], r["unit"]) for r in rows])
        else:
            click.echo("no unit of PARK is installed (park service install writes one)", err=True)
