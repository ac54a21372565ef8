"""``park alloc give``: an allocation for private jobs that have none, or whose last one has ended."""

from __future__ import annotations

import click

from park.cli.allocations import allocation_options, give_allocation, wanted
from park.cli.commands.steer import each, json_option
from park.cli.common import broker_option, in_words, open_service
from park.cli.select import selectors_argument


@click.command()
@broker_option
@selectors_argument
@allocation_options
@json_option
def give(broker: str | None, selectors: tuple[str, ...], as_json: bool, **options: object) -> None:
    """Ask a batch system for an allocation for each of these private jobs.

    Private jobs were submitted with --torque, --pbs, --slurm or --batch, or in Python with private=True. `park why`
    says how a job stands with its allocation, which ends with the job.
    """
    with in_words():
        from park.errors import InvalidRequest

        allocation = wanted(options, broker)
        if allocation is None:
            raise InvalidRequest(
                "name a batch system: --torque, --pbs or --slurm nodes=2:ppn=8,walltime=4:00:00"
            )
        service = open_service(broker)
        each(service, selectors, lambda job: give_allocation(service, job, allocation, broker), as_json)
