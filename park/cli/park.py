"""``park``: see and steer the jobs of a broker."""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path
from typing import Any

import click

from park.cli.common import broker_option, code_of, in_words, open_service, plain, print_table
from park.cli.credits import credits
from park.cli.kernels import kernels
from park.cli.keys import keys
from park.errors import InvalidRequest, ParkError, Refused, UnknownJob
from park.live import how_far
from park.model import PRIORITIES, JobRecord

#: Jobs in one range on the command line.
MOST_IN_RANGE = 100_000


@click.group()
@click.version_option(package_name="park-fit")
def main() -> None:
    """See and steer the jobs of a PARK broker.

    The broker is found through $PARK_BROKER, the connection file in the default home, or the --broker of each
    command.
    """


main.add_command(keys)
main.add_command(credits)
main.add_command(kernels)


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
            (str(r.job), r.owner, r.name, r.state.value, how_far(r), _clock(r.submitted), r.reason)
            for r in records
        ]
        print_table(rows)


def _clock(seconds: float | None) -> str:
    return "" if seconds is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


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
                click.echo(f"{name:10}  {plain(value)}")


def _priority(number: int) -> str:
    names = {number: name for name, number in PRIORITIES.items()}
    return names.get(number, str(number))


def _story(r: JobRecord) -> list[tuple[str, str]]:
    """The lines of `show`; those without a text are left out."""
    units = f"{r.done} of {'?' if r.total is None else r.total} done" if r.total is not None or r.done else ""
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
        ("used", f"{r.seconds:,.2f} slot-seconds, {r.credits:,.2f} credits" if r.seconds else ""),
        ("tags", ", ".join(r.tags)),
        ("priority", _priority(r.priority)),
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
def why(broker: str | None, job: int) -> None:
    """Say why JOB waits, and for about how long, or what ended it."""
    with in_words():
        record = open_service(broker).status(job)
        reason = record.reason
        if not reason and record.running:
            reason = f"{record.running} of its units run{'s'[: record.running == 1]} now, and none waits"
        click.echo(plain(f"job {job} is {record.state}" + (f": {reason}" if reason else "")))


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
def pause(broker: str | None, job: int) -> None:
    """Deal nothing more of JOB until it is resumed.

    Units that run end; a fit waits at its next step, without a slot.
    """
    with in_words():
        open_service(broker).pause(job)
        click.echo(f"job {job} is paused (park resume {job} lets it go on)")


@main.command()
@broker_option
@click.argument("job", type=int)
def resume(broker: str | None, job: int) -> None:
    """Let JOB go on after a pause."""
    with in_words():
        open_service(broker).resume(job)
        click.echo(f"job {job} goes on")


@main.command()
@broker_option
@click.argument("jobs", metavar="JOB...", nargs=-1, required=True)
def delete(broker: str | None, jobs: tuple[str, ...]) -> None:
    """Delete jobs that have ended, and their results.

    JOB is a number, as 12, or a range, as 1-5, of which only those count that are there. What has not ended, or what
    a job comes after that has not, stays and is named; the others go.
    """
    with in_words():
        service = open_service(broker)
        worst: ParkError | None = None
        gone = 0
        for first, last in [_range(text) for text in jobs]:
            for number in range(first, last + 1):
                try:
                    service.delete(number)
                    gone += 1
                except UnknownJob as error:
                    if first == last:
                        worst = worst or error
                        click.echo(f"park: {error}", err=True)
                except Refused as error:
                    worst = error
                    click.echo(f"park: {error}", err=True)
        click.echo(f"{gone} job{'s'[: gone != 1]} deleted")
        if worst is not None:
            sys.exit(code_of(worst))


def _range(text: str) -> tuple[int, int]:
    """The first and the last of the jobs that *text* names: ``12`` or ``1-5``."""
    found = re.fullmatch(r"(\d{1,18})(?:-(\d{1,18}))?", text)
    first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
    if first > last or last - first > MOST_IN_RANGE:
        raise InvalidRequest(f"{text!r} is neither the number of a job, as 12, nor a range of them, as 1-5")
    return first, last


@main.command("set")
@broker_option
@click.argument("job", type=int)
@click.option("-p", "--priority", metavar="NAME|N", help=f"One of {', '.join(PRIORITIES)}, or -3 to 6.")
@click.option(
    "-t", "--tag", "tags", multiple=True, help="Its tags from now on; may be given several times. '' is none."
)
def change(broker: str | None, job: int, priority: str | None, tags: tuple[str, ...]) -> None:
    """Change JOB, which has not ended; it counts from its next unit on."""
    with in_words():
        service = open_service(broker)
        service.set(job, priority, None if not tags else [tag for tag in tags if tag])
        record = service.status(job)
        tagged = f"the tags {', '.join(record.tags)}" if record.tags else "no tags"
        click.echo(plain(f"job {job} has priority {_priority(record.priority)} and {tagged}"))


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
