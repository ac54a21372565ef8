"""``park fetch``, ``logs`` and ``run``: what jobs have found, and what went wrong in them."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from park.cli import complete
from park.cli.commands.waiting import tell_remark
from park.cli.common import broker_option, in_words, open_service
from park.cli.select import chosen, one_argument
from park.cli.show.columns import clock
from park.cli.show.tables import plain
from park.text import visible

if TYPE_CHECKING:
    from types import TracebackType

    from park.client.requests import JobCopy
    from park.model import Log


@click.command()
@broker_option
@one_argument
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Write the result to this file, pickled, or in JSON.",
)
@click.option(
    "--save",
    "folder",
    metavar="FOLDER",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write a fit's result to bumps' files, and its pictures, in this folder.",
)
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="The result in JSON: arrays as lists, the result of a fit as its summary.",
)
def fetch(broker: str | None, selector: str, output: Path | None, folder: Path | None, as_json: bool) -> None:
    """Print the result of a job, or write it to a file or files.

    If some units of the job have failed, it prints the results of the others and the errors, and ends with code 1.

    The result is unpickled here, which runs code that the job's owner chose: fetch only from people you trust.
    """
    with in_words():
        from park.errors import InvalidRequest, JobFailed, NotComplete, UnitError

        if folder is not None and (output is not None or as_json):
            raise InvalidRequest("--save writes a fit's files and nothing else: leave out -o and --json")
        service = open_service(broker)
        found = chosen(service, [selector], ended=True)
        if len(found) != 1:
            raise InvalidRequest(f"{selector} names {len(found)} jobs: fetch one at a time")
        job = found[0][0]
        record = service.status(job)
        if not record.state.ended:
            raise NotComplete(f"job {job} has not ended: wait for it with `park wait {job}`")
        failed: JobFailed | None = None
        try:
            result = service.wait(job)
        except JobFailed as error:
            if error.results is None or all(isinstance(one, UnitError) for one in error.results):
                raise
            failed, result = error, error.results
        tell_remark(record)
        if folder is not None:
            _save(job, result, folder)
            return
        from park.cli.show import values

        if as_json:
            data = values.as_json(result).encode() + b"\n"
        elif output is not None:
            from park.body import payload

            data = payload.dumps(result, "the result")
        else:
            data = f"{_for_reader(values.as_text(result))}\n".encode(errors="replace")
        if output is None:
            click.echo(data.decode(), nl=False)
        else:
            try:
                output.write_bytes(data)
            except OSError as error:
                raise InvalidRequest(f"cannot write {output}: {error.strerror}") from error
        if failed is not None:  # the results that there are were written all the same
            raise failed


def _for_reader(text: str) -> str:
    """A result as a terminal shows it; a pipe gets it as it is."""
    return visible(text, lines=True) if sys.stdout.isatty() else text


def _save(job: int, result: Any, folder: Path) -> None:
    from park.errors import InvalidRequest

    if not callable(getattr(result, "save", None)):
        raise InvalidRequest(
            f"the result of job {job} is not that of a fit: write it with -o FILE, or --json"
        )
    try:
        written = result.save(folder)
    except OSError as error:
        raise InvalidRequest(f"cannot write to {folder}: {error.strerror}") from error
    for path in written:
        click.echo(plain(str(path)))


@click.command()
@broker_option
@one_argument
@click.option("--json", "as_json", is_flag=True, help="One JSON array of messages; with -f a line each.")
@click.option("-f", "--follow", is_flag=True, help="Show new lines too, until the job has ended.")
@click.option(
    "--messages",
    "opened",
    is_flag=True,
    help="With -f: also the messages of its body. Some of them are pickled, and unpickling runs code of the job's owner.",
)
def logs(broker: str | None, selector: str, as_json: bool, follow: bool, opened: bool) -> None:
    """Print the last lines that a job has printed and logged. Nothing of the job is unpickled here."""
    with in_words():
        from park.client.stream import Error, log_lines
        from park.errors import InvalidRequest
        from park.model import Log

        if opened and not follow:
            raise InvalidRequest("--messages goes with -f: messages of a body are not kept")
        service = open_service(broker)
        found = chosen(service, [selector])
        if len(found) != 1:
            raise InvalidRequest(f"{selector} names {len(found)} jobs: look at one at a time")
        job = found[0][0]
        if follow:
            if opened:
                owner = service.status(job).owner
                click.echo(
                    plain(f"park: messages of job {job} are unpickled here, with code of {owner}'s"), err=True
                )
            stream = service.stream(job, logs=True, unpickle=opened)
            for message in stream if opened else log_lines(stream):
                if not isinstance(message, Error | Log):
                    text = (
                        json.dumps({"message": repr(message)}) if as_json else plain(f"message: {message!r}")
                    )
                    click.echo(text)
                elif isinstance(message, Error):
                    click.echo(plain(f"park: {message.text}"), err=True)
                elif as_json:
                    click.echo(json.dumps(_as_map(message)))
                else:
                    _print_log(message)
            return
        known = service.logs(job)
        if as_json:
            click.echo(json.dumps([_as_map(message) for message in known], indent=2))
            return
        for message in known:
            _print_log(message)


def _as_map(message: Log) -> dict[str, Any]:
    return {"time": message.time, "level": message.level, "text": message.text}


def _print_log(message: Log) -> None:
    mark = "" if message.level in ("out", "err") else f"{message.level}: "
    for line in message.text.split("\n"):
        # a terminal shows the last text of a line that was written over itself, as bars are
        line = line.rstrip("\r").rpartition("\r")[2]
        click.echo(f"{clock(message.time)}  {plain(mark + line)}")


@click.command()
@broker_option
@click.argument("job", type=int, shell_complete=complete.numbers)
@click.option(
    "--unit",
    type=click.IntRange(0),
    help="The number of the input, from 0 (default: the first failed one).",
)
@click.option("--json", "as_json", is_flag=True, help="The result or the error as JSON; no debugger opens.")
def run(broker: str | None, job: int, unit: int | None, as_json: bool) -> None:
    """Run one unit of a job here, in this process, to debug it.

    The unit gets the same input and the same random numbers as on its kernel.

    If it raises, a debugger opens at that line on a terminal. Logging is on. The request is unpickled here, which runs
    code that the job's owner chose: run only your own jobs.
    """
    with in_words():
        import logging
        import traceback

        from park.body.rerun import rerun_unit
        from park.cli.show import values

        service = open_service(broker)
        copy = service.fetch(job)
        if copy.request.inputs is not None:
            unit = _which(job, copy, unit)
        logging.basicConfig(level=logging.DEBUG)
        what = f"job {job}" if unit is None else f"unit {unit} of job {job}"
        click.echo(f"park: {what} runs here", err=True)
        said: dict[str, Any] = {"job": job, "unit": unit}
        # the body's own output is not part of the JSON
        aside = contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext()
        try:
            with aside:
                result = rerun_unit(job, copy.request, unit, service.wait)
        except Exception as error:
            if as_json:
                cause = "".join(traceback.format_exception_only(error)).strip()
                said |= {"error": cause, "traceback": _trace(error)}
                click.echo(values.as_json(said))
            else:
                _look_into(error, what)
            sys.exit(1)
        if as_json:
            click.echo(values.as_json(said | {"result": result}))
        else:
            click.echo(f"{what} returned {_for_reader(values.as_text(result, repr))}")


def _which(job: int, copy: JobCopy, unit: int | None) -> int:
    """The unit to run. Raises InvalidRequest where there is none."""
    from park.body.rerun import first_failed
    from park.errors import InvalidRequest

    count = len(copy.request.inputs)
    if unit is None:
        unit = first_failed(getattr(copy.result, "results", None))
        if unit is None:
            raise InvalidRequest(
                f"no unit of job {job}, which is {copy.record.state}, has failed: name one with --unit"
            )
    if unit >= count:
        raise InvalidRequest(f"job {job} has the units 0 to {count - 1}: say which one")
    return unit


def _origin(error: BaseException) -> TracebackType | None:
    """The traceback from the unit on."""
    trace = error.__traceback__
    while trace is not None and "park" in Path(trace.tb_frame.f_code.co_filename).parts[-3:-1]:
        trace = trace.tb_next
    return trace or error.__traceback__


def _trace(error: BaseException) -> str:
    """The copy in words."""
    import traceback

    return "".join(traceback.format_exception(type(error), error, _origin(error)))


def _look_into(error: BaseException, what: str) -> None:
    """The traceback from the unit on, and on a terminal the debugger."""
    import pdb

    click.echo(f"{what} raised:", err=True)
    click.echo(visible(_trace(error), lines=True), err=True, nl=False)
    if sys.stdin.isatty():
        pdb.post_mortem(_origin(error))
