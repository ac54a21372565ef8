"""Options that ask a batch system for the kernels of private jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import click

from park.cli.show.tables import plain

if TYPE_CHECKING:
    from park.batch.profiles import Ask
    from park.core.server import ServerProxy

#: Batch systems that have an option of their own.
OWN_OPTIONS = ("torque", "pbs", "slurm")


class Wanted(NamedTuple):
    """The allocation for each job: of which batch *system*, the *ask*, and how many *more* may follow it."""

    system: str
    ask: Ask
    more: int


def allocation_options(command: Any) -> Any:
    """Gives a *command* the options that `wanted` understands."""
    options = [
        click.option(
            f"--{name}",
            metavar="nodes=N:ppn=N,walltime=TIME",
            help=f"Run each job in an allocation of its own, of {title}.",
        )
        for name, title in zip(OWN_OPTIONS, ("Torque", "PBS Pro", "Slurm"), strict=True)
    ]
    options += [
        click.option(
            "--batch",
            nargs=2,
            metavar="SYSTEM nodes=...",
            help="Run each job in an allocation of its own, of sge, local (this machine), dask:tcp://HOST:PORT, or a "
            "[batch.SYSTEM] of park.toml.",
        ),
        click.option(
            "--allocations",
            type=click.IntRange(1, 1000),
            default=1,
            help="Ask for up to N allocations, one after the other, until the job has ended; default: 1.",
            metavar="N",
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def wanted(options: dict[str, Any], broker: str | None) -> Wanted | None:
    """Take the options of `allocation_options` out of *options*; None: none was given.

    Raises InvalidRequest, and NoBroker or Refused where the nodes would have no key for the broker.
    """
    from park.errors import InvalidRequest

    given = [(name, text) for name in OWN_OPTIONS if (text := options.pop(name)) is not None]
    if (pair := options.pop("batch")) is not None:
        given.append(pair)
    count = options.pop("allocations")
    if not given:
        if count != 1:
            raise InvalidRequest("--allocations needs a batch system: --torque, --pbs, --slurm or --batch")
        return None
    if len(given) > 1:
        raise InvalidRequest(f"a job gets one allocation: give --{given[0][0]} or --{given[1][0]}")
    from park.batch.ask import ask_of
    from park.batch.private import unreachable
    from park.batch.profiles import profile

    system, text = given[0]
    profile(system)
    found = Wanted(system, ask_of(text), count - 1)
    if said := unreachable(system, broker):
        click.echo(f"park: {plain(said)}", err=True)
    return found


def show_script(allocation: Wanted, broker: str | None, err: bool) -> None:
    """Print the script and the command for one job. Raises InvalidRequest."""
    from park.batch.private import foreseen

    for line in foreseen(allocation.system, allocation.ask, broker).splitlines():
        click.echo(plain(line), err=err)


def give_allocation(service: ServerProxy, job: int, allocation: Wanted, broker: str | None) -> str:
    """Ask for the allocation of a job; the sentence on it. Raises BatchError, which says what becomes of the job."""
    from park.batch.private import allocate
    from park.errors import BatchError

    system, ask, more = allocation
    try:
        number = allocate(service, job, system, ask, broker, more)
    except BatchError as error:
        raise BatchError(
            f"job {job} waits without an allocation: {error}; `park alloc give {job}` asks for one again"
        ) from error
    if not number:
        return f"job {job} gets an allocation of {system} when its turn comes"
    return f"job {job} runs in allocation {number} of {system}, once that begins"
