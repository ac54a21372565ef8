"""``park``: see and steer the jobs of a broker.

The commands are in modules of their own, which load what they need when they run: ``park --help`` is quick.
"""

from __future__ import annotations

import io
import sys

import click

from park.cli.backup import backup
from park.cli.completion import completion
from park.cli.credits import credits
from park.cli.doctor import doctor
from park.cli.jobs import jobs, show, why
from park.cli.kernels import kernels
from park.cli.keys import keys
from park.cli.results import fetch, logs, run
from park.cli.settings import config
from park.cli.steer import abort, change, control, delete, pause, resume, retry, stop
from park.cli.top import top
from park.cli.waiting import wait


@click.group()
@click.version_option(package_name="park-fit")
def main() -> None:
    """See and steer the jobs of a PARK broker.

    The broker is found through $PARK_BROKER, the connection file in the default home, or the --broker of each
    command. SEL names jobs: 12, 1-5, 1,4, last, all, tag:x. Where something is amiss, `park doctor` says what.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):  # names may have letters that the terminal has not
        sys.stdout.reconfigure(errors="replace")


_JOBS = (jobs, show, why, wait, logs, fetch, stop, abort, pause, resume, control, change, retry, run, delete)
for command in (*_JOBS, top, kernels, credits, doctor, config, keys, backup, completion):
    main.add_command(command)


if __name__ == "__main__":
    main(prog_name="park")
