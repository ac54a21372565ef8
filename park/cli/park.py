"""``park``: see and steer the jobs of a broker.

The commands are in modules of their own, which load what they need when they run: ``park --help`` is quick.
"""

from __future__ import annotations

import click

from park.cli.backup import backup
from park.cli.credits import credits
from park.cli.jobs import jobs, show, why
from park.cli.kernels import kernels
from park.cli.keys import keys
from park.cli.results import fetch, logs, run, wait
from park.cli.settings import config
from park.cli.steer import abort, change, control, delete, pause, resume, retry, stop
from park.cli.top import top


@click.group()
@click.version_option(package_name="park-fit")
def main() -> None:
    """See and steer the jobs of a PARK broker.

    The broker is found through $PARK_BROKER, the connection file in the default home, or the --broker of each
    command. SEL names jobs: 12, 1-5, 1,4, last, all, tag:x.
    """


_JOBS = (jobs, show, why, wait, logs, fetch, stop, abort, pause, resume, control, change, retry, run, delete)
for command in (*_JOBS, top, kernels, credits, keys, config, backup):
    main.add_command(command)


if __name__ == "__main__":
    main()
