"""``park stop``, ``abort``, ``pause``, ``resume``, ``control``, ``set``, ``retry``, ``delete``: act on chosen jobs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from park.cli import complete
from park.cli.common import broker_option, code_of, in_words, open_service
from park.cli.select import chosen, none_of, one_argument, selectors_argument
from park.cli.show import columns
from park.cli.show.tables import plain

if TYPE_CHECKING:
    from park.core.server import ServerProxy
    from park.errors import UnknownJob


json_option: Callable[[Any], Any] = click.option(
    "--json", "as_json", is_flag=True, help="A line of JSON for each job: the change, or the error."
)

yes_option: Callable[[Any], Any] = click.option(
    "-y", "--yes", is_flag=True, help="Do not ask before all jobs are changed."
)

priority_option: Callable[[Any], Any] = click.option(
    "-p",
    "--priority",
    metavar="NAME|N",
    help="background, free, low, normal, high, urgent, or -3 to 6.",
    shell_complete=complete.among(("background", "free", "low", "normal", "high", "urgent")),
)


def each(
    service: ServerProxy,
    selectors: tuple[str, ...],
    act: Callable[[int], str],
    as_json: bool,
    ended: bool = False,
    ask: str = "",
) -> None:
    """Do *act* for each job that *selectors* name among those that have not *ended* (or have), and print what it says.

    An error with one job is reported, and the next job's turn comes; the exit code is that of the first error.
    A range is for those of its jobs for which it can be done: at least one. *ask* is what is asked before it is done to
    all jobs: "abort".
    """
    from park.errors import ParkError, UnknownJob

    errors: list[ParkError] = []
    done = 0
    skipped: list[UnknownJob] = []

    def say(job: int, text: str, error: ParkError | None = None) -> None:
        if as_json:
            wrong = {} if error is None else {"error": type(error).__name__}
            click.echo(json.dumps({"job": job, **wrong, "text": text}))
        else:
            click.echo(plain(text if error is None else f"park: {text}"), err=error is not None)

    jobs = chosen(service, selectors, ended)
    if ask and any(part.strip() == "all" for text in selectors for part in text.split(",")):
        confirm(ask, len(jobs))
    for job, named in jobs:
        try:
            say(job, act(job))
            done += 1
        except ParkError as error:
            if isinstance(error, UnknownJob) and not named:
                skipped.append(error)
                continue
            say(job, str(error), error)
            errors.append(error)
    if errors:
        sys.exit(code_of(errors[0]))
    if skipped and not done:
        raise none_of(skipped)


def _ask_for_each(
    broker: str | None,
    selectors: tuple[str, ...],
    request: str,
    said: str,
    as_json: bool,
    ended: bool = False,
    ask: str = "",
) -> None:
    """Make a *request* of the service for each job, as `each` does; *said* tells what becomes of the job."""
    with in_words():
        service = open_service(broker)

        def act(job: int) -> str:
            getattr(service, request)(job)
            return said.format(job)

        each(service, selectors, act, as_json, ended, ask)


def confirm(what: str, jobs: int) -> None:
    """Ask at the terminal whether to do it to that number of jobs. Raises InvalidRequest where stdin is no terminal."""
    from park.errors import InvalidRequest

    if not sys.stdin.isatty():
        raise InvalidRequest(f"this would {what} all your {jobs} jobs: say --yes if that is meant")
    click.confirm(f"{what} all your {jobs} jobs?", abort=True, err=True)


@click.command()
@broker_option
@selectors_argument
@json_option
def stop(broker: str | None, selectors: tuple[str, ...], as_json: bool) -> None:
    """Ask jobs to end with their best so far.

    They end at their next safe point.
    """
    _ask_for_each(broker, selectors, "stop", "job {} was asked to stop", as_json)


@click.command()
@broker_option
@selectors_argument
@yes_option
@json_option
def abort(broker: str | None, selectors: tuple[str, ...], yes: bool, as_json: bool) -> None:
    """End jobs now."""
    _ask_for_each(broker, selectors, "abort", "job {} is being aborted", as_json, ask="" if yes else "abort")


@click.command()
@broker_option
@selectors_argument
@json_option
def pause(broker: str | None, selectors: tuple[str, ...], as_json: bool) -> None:
    """Start no more units of jobs until they are resumed.

    Units that run go on to their end. A fit waits at its next step, without a slot.
    """
    _ask_for_each(broker, selectors, "pause", "job {0} is paused (park resume {0} lets it go on)", as_json)


@click.command()
@broker_option
@selectors_argument
@json_option
def resume(broker: str | None, selectors: tuple[str, ...], as_json: bool) -> None:
    """Let jobs go on after a pause."""
    _ask_for_each(broker, selectors, "resume", "job {} goes on", as_json)


@click.command(context_settings={"ignore_unknown_options": True})  # a VALUE may be below 0
@broker_option
@one_argument
@click.argument("message")
@click.argument("value", required=False)
@json_option
def control(broker: str | None, selector: str, message: str, value: str | None, as_json: bool) -> None:
    """Give a job's body a MESSAGE.

    The body's method on_MESSAGE serves it. VALUE is JSON, or else a text: an object's members are those of the message,
    anything else is its "value". The message is kept until the body is ready for it. Fits serve get_population, and
    dream extend with a number of samples.
    """
    with in_words():
        given = control_of(message, value)
        service = open_service(broker)

        def act(job: int) -> str:
            from park.errors import UnknownJob

            if not service.control(job, given):
                raise UnknownJob(f"job {job} has ended: it does not get the control {message!r}")
            return f"job {job} gets the control {message!r} as soon as it is ready for it"

        each(service, (selector,), act, as_json)


def control_of(message: str, value: str | None) -> dict[str, Any]:
    """The control that is meant by the words of a command.

    >>> control_of("extend", "5000"), control_of("limit", '{"low": 0, "high": 2}'), control_of("say", "hello")
    ({'kind': 'extend', 'value': 5000}, {'low': 0, 'high': 2, 'kind': 'limit'}, {'kind': 'say', 'value': 'hello'})
    """
    if value is None:
        return {"kind": message}
    try:
        found = json.loads(value)
    except ValueError:
        found = value
    return (found if isinstance(found, dict) else {"value": found}) | {"kind": message}


@click.command("set")
@broker_option
@selectors_argument
@priority_option
@click.option(
    "-t",
    "--tag",
    "tags",
    multiple=True,
    help="A tag that replaces the old tags; may be given several times. '' removes all tags.",
    shell_complete=complete.tags,
)
@json_option
def change(
    broker: str | None, selectors: tuple[str, ...], priority: str | None, tags: tuple[str, ...], as_json: bool
) -> None:
    """Change jobs that have not ended.

    The change counts from their next unit on.
    """
    with in_words():
        service = open_service(broker)

        def act(job: int) -> str:
            service.set(job, priority, None if not tags else [tag for tag in tags if tag])
            record = service.status(job)
            tagged = f"the tags {', '.join(record.tags)}" if record.tags else "no tags"
            return f"job {job} has priority {columns.priority_name(record.priority)} and {tagged}"

        each(service, selectors, act, as_json)


@click.command()
@broker_option
@selectors_argument
@click.option("--failed", is_flag=True, help="Only the inputs whose units failed or did not run.")
@click.option("--parsable", is_flag=True, help="Print the numbers of the new jobs only.")
@json_option
def retry(
    broker: str | None, selectors: tuple[str, ...], failed: bool, parsable: bool, as_json: bool
) -> None:
    """Submit jobs again, as new jobs.

    Their requests are unpickled here, which runs code that their owner chose: retry only your own.
    """
    with in_words():
        service = open_service(broker)

        def act(job: int) -> str:
            new = service.retry(job, failed=failed)
            return str(new) if parsable or not sys.stdout.isatty() else f"job {job} runs again as job {new}"

        each(service, selectors, act, as_json, ended=True)


@click.command()
@broker_option
@selectors_argument
@yes_option
@json_option
def delete(broker: str | None, selectors: tuple[str, ...], yes: bool, as_json: bool) -> None:
    """Delete jobs that have ended, and their results.

    A job that has not ended stays, and so does a job that another job waits for. The command names both.
    """
    _ask_for_each(
        broker, selectors, "delete", "job {} is deleted", as_json, ended=True, ask="" if yes else "delete"
    )
