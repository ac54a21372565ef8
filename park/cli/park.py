"""``park``: see and steer the jobs of a broker."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import click

from park.cli.common import broker_option, in_words, open_service
from park.model import JobRecord


@click.group()
@click.version_option(package_name="park-fit")
def main() -> None:
    """See and steer the jobs of a PARK broker.

    The broker is found through --broker, $PARK_BROKER, or the connection file in the default home.
    """


@main.command()
@broker_option
@click.option("-a", "everybody", is_flag=True, help="The jobs of all owners, and those that have ended.")
@click.option("--json", "as_json", is_flag=True, help="One JSON array of records.")
def jobs(broker: str | None, everybody: bool, as_json: bool) -> None:
    """List your jobs that have not ended; with -a all jobs."""
    with in_words():
        service = open_service(broker)
        mine = [job.record for job in service.jobs(owner="*" if everybody else None)]
        records = mine if everybody else [r for r in mine if not r.state.ended]
        if as_json:
            click.echo(json.dumps([r.as_map() for r in records], indent=2))
            return
        rows = [("JOB", "OWNER", "NAME", "STATE", "DONE", "SUBMITTED", "REASON")]
        rows += [
            (str(r.job), r.owner, r.name, r.state.value, _done(r), _clock(r.submitted), r.reason)
            for r in records
        ]
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]
        for row in rows:
            click.echo(
                "  ".join([c.ljust(w) for c, w in zip(row, widths, strict=False)] + [row[-1]]).rstrip()
            )


def _done(record: JobRecord) -> str:
    if record.total is not None:
        return f"{record.done}/{record.total}"
    if record.progress is not None and record.progress[1]:
        return f"{record.progress[0] / record.progress[1]:.0%}"
    return ""


def _clock(seconds: float | None) -> str:
    return "" if seconds is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


@main.command()
@broker_option
@click.argument("job", type=int)
@click.option("--json", "as_json", is_flag=True, help="The record as a JSON array of one.")
def show(broker: str | None, job: int, as_json: bool) -> None:
    """Show everything that is known of JOB."""
    with in_words():
        record = open_service(broker).status(job)
        if as_json:
            click.echo(json.dumps([record.as_map()], indent=2))
            return
        for name, value in record.as_map().items():
            if name in ("submitted", "started", "ended", "when"):
                value = _clock(value)
            elif isinstance(value, tuple):
                value = ", ".join(map(str, value))
            click.echo(f"{name:10} {value}".rstrip())


@main.command()
@broker_option
@click.argument("job", type=int)
@click.option("--timeout", type=click.FloatRange(0), help="Seconds to wait at most.")
def wait(broker: str | None, job: int, timeout: float | None) -> None:
    """Wait until JOB has ended; exit code 0 if it is complete, 1 if it failed or was aborted, 5 after the timeout."""
    with in_words():
        service = open_service(broker)
        service.wait(job, timeout)
        click.echo(f"job {job} is {service.status(job).state}")


@main.command()
@broker_option
@click.argument("job", type=int)
def stop(broker: str | None, job: int) -> None:
    """Ask JOB to end at its next safe point and keep its best so far."""
    with in_words():
        open_service(broker).stop(job)
        click.echo(f"job {job} was asked to stop")


@main.command()
@broker_option
@click.argument("job", type=int)
def abort(broker: str | None, job: int) -> None:
    """End JOB now."""
    with in_words():
        open_service(broker).abort(job)
        click.echo(f"job {job} is being aborted")


@main.command()
@broker_option
@click.argument("job", type=int)
@click.option("-o", "--output", type=click.File("wb"), help="Write the result to this file, pickled.")
def fetch(broker: str | None, job: int, output: Any) -> None:
    """Print the result of JOB, or write it to a file.

    The result is unpickled here, which runs code that the job's owner chose: fetch only from people you trust.
    """
    with in_words():
        service = open_service(broker)
        result = service.job(job).wait(timeout=0) if service.status(job).state.ended else _not_yet(job)
        if output is not None:
            from park import payload

            output.write(payload.dumps(result, "the result"))
        else:
            click.echo(str(result))
        sys.stdout.flush()


def _not_yet(job: int) -> Any:
    from park.errors import NotComplete

    raise NotComplete(f"job {job} is not complete: park wait {job}")


if __name__ == "__main__":
    main()
