"""``park keys``: who may connect to a broker over tcp. It works on the broker's home, whether or not the broker runs."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from park.cli.common import home_of_broker, in_words, seconds
from park.cli.show.columns import clock
from park.cli.show.tables import plain, print_table
from park.errors import NoBroker

if TYPE_CHECKING:
    from park.net.keys import KeyEntry, Keyring

_home = click.option(
    "--home",
    type=click.Path(path_type=Path),
    help="The broker's home (default: where $PARK_BROKER's connection file is, else $PARK_HOME or the state folder).",
)


@click.group()
def keys() -> None:
    """Make, list and revoke the keys for TCP.

    Run it as the Unix user, and on the machine, of the broker. A broker that runs sees a change within a second. The
    file audit.log in its home lists connections and refusals.
    """


_output = click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="The file to write (default: NAME.key)."
)
_expires = click.option(
    "--expires",
    callback=seconds,
    metavar="TIME",
    help="The key is valid for this time, such as 30d (default: until it is revoked).",
)


@keys.command()
@click.argument("name")
@click.option("--kernel", is_flag=True, help="A key for a kernel that runs only the jobs of NAME.")
@click.option("--pool", is_flag=True, help="A key for a kernel of NAME that runs the jobs of all owners.")
@click.option("--observer", is_flag=True, help="A key for a client that only sees the table.")
@_expires
@_output
@click.option(
    "--json", "as_json", is_flag=True, help="One JSON object: the file, and the folder to put it into."
)
@_home
def new(
    name: str,
    kernel: bool,
    pool: bool,
    observer: bool,
    expires: float | None,
    output: Path | None,
    as_json: bool,
    home: Path | None,
) -> None:
    """Make a key for NAME, whose account pays for the work done with it.

    NAME needs only the file that is written: it belongs in NAME's ~/.config/park/keys/HOST_PORT/.
    """
    from park.errors import InvalidRequest
    from park.net.keys import CLIENT, KERNEL, OBSERVER, POOL, check_name

    with in_words():
        check_name(name)
        if kernel + pool + observer > 1:
            raise InvalidRequest("a key has one role: give one of --kernel, --pool and --observer")
        home = home_of_broker(home)
        role = POOL if pool else KERNEL if kernel else OBSERVER if observer else CLIENT
        _make(name, role, output, expires, as_json, home)


def _make(
    name: str, role: str, output: Path | None, expires: float | None, as_json: bool, home: Path
) -> None:
    """Make a key, and say where it belongs."""
    from park.net.keys import CLIENT, KERNEL, OBSERVER

    file = output or Path(f"{name}.key" if role == CLIENT else f"{name}.{role}.key")
    _ring(home).new(name, role, file, expires)
    folder = f"~/.config/park/keys/{_folder_name(home)}"
    if as_json:
        click.echo(json.dumps({"name": name, "role": role, "file": str(file), "folder": folder}))
        return
    whose = {CLIENT: "", KERNEL: " a kernel of", OBSERVER: " an observer,"}.get(role, " a pool kernel of")
    click.echo(
        plain(
            f"{file} is a key for{whose} {name}: who has it is {name} to this broker. Hand it over, and put it in place:"
        )
    )
    click.echo(plain(f"    install -D -m 600 {file.name} {folder}/{file.name}"))
    if role == KERNEL:
        click.echo(f"A kernel with it runs {name}'s jobs only; --pool makes a key for all owners' jobs.")


_named = click.argument("which", metavar="NAME|FILE")


@keys.command()
@_named
@_home
def revoke(which: str, home: Path | None) -> None:
    """Revoke the keys of NAME, the key in a file, or the key whose public half begins with the given letters.

    A running broker cuts their connections within two seconds: units of their kernels run elsewhere, and jobs stay.
    """
    with in_words():
        ring = _ring(home_of_broker(home))
        for entry in ring.named(which):
            ring.revoke(entry)
            click.echo(f"the key of {entry.name}, {entry.role}, {entry.public[:8]}... opens nothing any more")


@keys.command()
@_named
@_expires
@_output
@_home
def rotate(which: str, expires: float | None, output: Path | None, home: Path | None) -> None:
    """Replace a key: make a new one with the same name and role, and revoke the old one."""
    from park.errors import InvalidRequest

    with in_words():
        home = home_of_broker(home)
        ring = _ring(home)
        found = ring.named(which)
        if len(found) > 1:
            begins = ", ".join(f"{entry.public[:8]}... ({entry.role})" for entry in found)
            raise InvalidRequest(
                f"{which} has {len(found)} keys: name one by the beginning of {begins}, or by its file"
            )
        (old,) = found
        if expires is None and old.expires is not None:
            expires = old.expires - old.made
        _make(old.name, old.role, output, expires, False, home)
        ring.revoke(old)
        click.echo(f"the old key, {old.public[:8]}..., opens nothing any more")


def _ring(home: Path) -> Keyring:
    """The keys of the broker that lives in *home*. Raises NoBroker: a key of no broker opens nothing."""
    from park.net.keys import Keyring

    if not (home / "keys").is_dir():
        raise NoBroker(
            f"no broker has lived in {home}: start it first (`park-broker --home {home}`), or name its home with --home"
        )
    return Keyring(home)


def _folder_name(home: Path) -> str:
    """The name of the folder for the broker's keys, as far as its address is known."""
    from park.net.keys import key_folder

    try:
        return key_folder(str(json.loads((home / "connection.json").read_text())["tcp"]["clients"])).name
    except (OSError, ValueError, KeyError, TypeError):
        return "HOST_PORT"


@keys.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON array.")
@_home
def show(as_json: bool, home: Path | None) -> None:
    """List the keys that the broker accepts, until when each is valid, and when a peer last connected with it."""
    from msgspec.structs import asdict

    with in_words():
        entries = _ring(home_of_broker(home)).entries()
        if as_json:
            click.echo(json.dumps([asdict(e) for e in entries], indent=2))
            return
        if not entries:
            click.echo("no keys (park keys new NAME makes one)", err=True)
            return
        rows = [
            (e.name, e.role, clock(e.made), _until(e), clock(e.used) or "never", e.public) for e in entries
        ]
        print_table(("NAME", "ROLE", "MADE", "EXPIRES", "LAST USED", "PUBLIC KEY"), rows)


def _until(entry: KeyEntry) -> str:
    """The time until which the key counts."""
    return f"{clock(entry.expires)}{'' if entry.counts(time.time()) else ' (expired)'}"
