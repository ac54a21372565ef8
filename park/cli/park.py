"""``park``: see and steer the jobs of a broker."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import click

from park.cli.common import broker_option, in_words, open_service
from park.cli.keys import keys
from park.errors import InvalidRequest
from park.model import PRIORITIES, JobRecord


@click.group()
@click.version_option(package_name="park-fit")
def main() -> None:
    """See and steer the jobs of a PARK broker.

    The broker is found through $PARK_BROKER, the connection file in the default home, or the --broker of each
    command.
    """


main.add_command(keys)


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
        if not records:
            hint = "" if everybody else " that have not ended (park jobs -a shows all)"
            click.echo(f"no jobs{hint}", err=True)
            return
        rows = [("JOB", "OWNER", "NAME", "STATE", "DONE", "SUBMITTED", "REASON")]
        rows += [
            (str(r.job), r.owner, r.name, r.state.value, _done(r), _clock(r.submitted), r.reason)
            for r in records
        ]
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]
        for row in rows:
            cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
            click.echo(_plain("  ".join([*cells, row[-1]]).rstrip()))


def _done(record: JobRecord) -> str:
    if record.total is not None:
        return f"{record.done}/{record.total}"
    if record.progress is not None and record.progress[1] and not record.state.ended:
        return f"{record.progress[0] / record.progress[1]:.0%}"
    return ""


def _clock(seconds: float | None) -> str:
    return "" if seconds is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def _plain(text: str) -> str:
    """Names, tags and reasons are other people's: nothing in them steers the terminal."""
    return "".join(c if c.isprintable() else "?" for c in text)


@main.command()
@broker_option
@click.argument("job", type=int)
@click.option("--json", "as_json", is_flag=True, help="The record as a JSON array of one.")
def show(broker: str | None, job: int, as_json: bool) -> None:
    """Show what is known of JOB."""
    with in_words():
        record = open_service(broker).status(job)
        if as_json:
            click.echo(json.dumps([record.as_map()], indent=2))
            return
        for name, value in _story(record):
            if value:
                click.echo(f"{name:10}  {_plain(value)}")


def _story(r: JobRecord) -> list[tuple[str, str]]:
    """The lines of `show`; those without a text are left out."""
    units = f"{r.done} of {'?' if r.total is None else r.total} done" if r.total is not None or r.done else ""
    names = {number: name for name, number in PRIORITIES.items()}
    took = f"  (took {r.ended - r.started:.1f} s)" if r.started is not None and r.ended is not None else ""
    return [
        ("job", str(r.job)),
        ("name", r.name),
        ("owner", r.owner),
        ("kind", r.kind if r.kind != "job" else ""),
        ("state", r.state.value),
        ("reason", r.reason),
        ("units", units + (f", {r.failed} failed" if r.failed else "")),
        ("progress", f"{r.progress[0]:g} of {r.progress[1]:g}" if r.progress is not None else ""),
        ("running", f"{r.running} now" if r.running else ""),
        ("tags", ", ".join(r.tags)),
        ("priority", names.get(r.priority, str(r.priority))),
        ("after", ", ".join(f"job {number}" for number in r.after)),
        ("not before", _clock(r.when)),
        ("submitted", _clock(r.submitted)),
        ("started", _clock(r.started)),
        ("ended", _clock(r.ended) + took if r.ended is not None else ""),
        ("python", r.python),
    ]


@main.command()
@broker_option
@click.argument("job", type=int)
@click.option("--timeout", type=click.FloatRange(0), help="Seconds to wait at most.")
def wait(broker: str | None, job: int, timeout: float | None) -> None:
    """Wait until JOB has ended.

    The exit code is 0 if it is complete, 1 if it failed or was aborted, 5 after the timeout.
    """
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
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Write the result to this file, pickled."
)
def fetch(broker: str | None, job: int, output: Path | None) -> None:
    """Print the result of JOB, or write it to a file.

    The result is unpickled here, which runs code that the job's owner chose: fetch only from people you trust.
    """
    with in_words():
        service = open_service(broker)
        result = service.wait(job) if service.status(job).state.ended else _not_yet(job)
        if output is not None:
            from park import payload

            try:
                output.write_bytes(payload.dumps(result, "the result"))
            except OSError as error:
                raise InvalidRequest(f"cannot write {output}: {error.strerror}") from error
        else:
            click.echo(str(result))


def _not_yet(job: int) -> Any:
    from park.errors import NotComplete

    raise NotComplete(f"job {job} has not ended: wait for it with `park wait {job}`")


if __name__ == "__main__":
    main()
