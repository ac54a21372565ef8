"""``park keys``: who may connect to a broker over tcp. It works on the broker's home, whether or not the broker runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from park.cli.columns import clock
from park.cli.common import home_of_broker, in_words
from park.cli.tables import print_table
from park.errors import NoBroker

if TYPE_CHECKING:
    from park.util.keys import Keyring

_home = click.option(
    "--home",
    type=click.Path(path_type=Path),
    help="The broker's home (default: where $PARK_BROKER's connection file is, else $PARK_HOME or the state folder).",
)


@click.group()
def keys() -> None:
    """Make and list the keys of those who may connect over TCP.

    Run it as the Unix user, and on the machine, of the broker. A broker that runs sees a new key within a second.
    """


@keys.command()
@click.argument("name")
@click.option("--kernel", is_flag=True, help="For a kernel, which runs only what NAME sends.")
@click.option("--pool", is_flag=True, help="For a kernel of NAME's that runs what anybody sends.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="The file to write (default: NAME.key)."
)
@click.option(
    "--json", "as_json", is_flag=True, help="One JSON object: the file, and the folder it belongs into."
)
@_home
def new(name: str, kernel: bool, pool: bool, output: Path | None, as_json: bool, home: Path | None) -> None:
    """Make a key for NAME, who is charged for what is done with it.

    The file that it writes is all that NAME needs: it belongs into NAME's ~/.config/park/keys/HOST_PORT/.
    """
    from park.util.keys import CLIENT, KERNEL, POOL, check_name, key_folder

    with in_words():
        check_name(name)
        home = home_of_broker(home)
        role = POOL if pool else KERNEL if kernel else CLIENT
        file = output or Path(f"{name}.{role}.key" if kernel or pool else f"{name}.key")
        _ring(home).new(name, role, file)
        folder = f"~/.config/park/keys/{key_folder(_address(home)).name}"
        if as_json:
            click.echo(json.dumps({"name": name, "role": role, "file": str(file), "folder": folder}))
            return
        whose = "" if role == CLIENT else " a kernel of" if role == KERNEL else " a pool kernel of"
        click.echo(
            f"{file} is a key for{whose} {name}: who has it is {name} to this broker. Hand it over, and put it in place:"
        )
        click.echo(f"    install -D -m 600 {file.name} {folder}/{file.name}")


def _ring(home: Path) -> Keyring:
    """The keys of the broker that lives in *home*. Raises NoBroker: a key of no broker opens nothing."""
    from park.util.keys import Keyring

    if not (home / "keys").is_dir():
        raise NoBroker(
            f"no broker has lived in {home}: start it first (`park-broker --home {home}`), or name its home with --home"
        )
    return Keyring(home)


def _address(home: Path) -> str:
    """The broker's address, as far as it is known."""
    try:
        return str(json.loads((home / "connection.json").read_text())["tcp"]["clients"])
    except (OSError, ValueError, KeyError, TypeError):
        return "tcp://HOST:PORT"


@keys.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON array.")
@_home
def show(as_json: bool, home: Path | None) -> None:
    """List whose keys the broker takes."""
    from dataclasses import asdict

    with in_words():
        entries = _ring(home_of_broker(home)).entries()
        if as_json:
            click.echo(json.dumps([asdict(e) for e in entries], indent=2))
            return
        if not entries:
            click.echo("no keys (park keys new NAME makes one)", err=True)
            return
        rows = [(e.name, e.role, clock(e.made), e.public) for e in entries]
        print_table(("NAME", "ROLE", "MADE", "PUBLIC KEY"), rows)
