"""``park backup``: a copy of a broker's jobs, made while it works."""

from __future__ import annotations

import json
from pathlib import Path

import click

from park.cli.common import home_of_broker, in_words
from park.cli.show.tables import plain


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--home",
    type=click.Path(path_type=Path),
    help="The broker's home (default: where $PARK_BROKER's connection file is, else $PARK_HOME or the state folder).",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object: the file, its bytes and jobs.")
def backup(file: Path, home: Path | None, as_json: bool) -> None:
    """Copy the jobs of a broker, which may run, to FILE.

    On the broker's machine, as its user. FILE gets everything that was acknowledged when the command began;
    `park-broker --home NEW --restore FILE` begins a new home with it. Keys are files in the home, and are not copied.
    """
    with in_words():
        from park.broker.storage.backup import back_up

        folder = home_of_broker(home)
        copy = back_up(folder, file.expanduser().absolute())
        if as_json:
            click.echo(
                json.dumps({"file": str(file), "home": str(folder), "jobs": copy.jobs, "bytes": copy.size})
            )
            return
        click.echo(plain(f"{copy.jobs:,} jobs, {copy.size:,} bytes, copied from {folder} to {file}"))
