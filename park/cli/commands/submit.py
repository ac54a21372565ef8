"""``park submit``: jobs from the command line: fits of scripts, functions, and maps over the inputs of a file."""

from __future__ import annotations

import ast
import contextlib
import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from park.cli import complete
from park.cli.allocations import allocation_options, give_allocation, show_script, wanted
from park.cli.arguments import WithArguments
from park.cli.commands.steer import priority_option
from park.cli.commands.waiting import (
    FIT_KINDS,
    MAX_RESULTS_SHOWN,
    leaving_alone,
    show_result,
    tell_end,
    tell_remark,
    until_ended,
)
from park.cli.common import broker_option, in_words, open_service
from park.cli.select import check_selectors, chosen, records_of
from park.cli.show.tables import command_of, plain

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from park.core.server import ServerProxy
    from park.model import JobRecord, Request


class CheckedTarget(NamedTuple):
    """A request that was checked, the *target* and arguments that it was made of, and the bytes of its body, pickled."""

    target: str
    request: Request
    size: int

    @property
    def about(self) -> str:
        """The kind of work, in brackets, and the arguments, which show an option of this command that was put behind --."""
        r = self.request
        kind = f" (fit with {r.body.method})" if r.kind == "fit" else ""
        if r.inputs is not None:
            kind = f" ({len(r.inputs):,} unit{'s' * (len(r.inputs) != 1)})"
        return f"{r.name}{kind}" + (f", given {shlex.join(r.argv[1:])}" if r.argv[1:] else "")


def _files(_: click.Context, __: click.Parameter, given: str) -> list[CompletionItem]:
    from click.shell_completion import CompletionItem

    return [CompletionItem(given, type="file")]


class Method(click.Option):
    """An option with a default that is known where fits are: help is seldom asked for, and loads it then."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        from park.fit.methods.options import DEFAULT_METHOD

        found = super().get_help_record(ctx)
        return None if found is None else (found[0], found[1].format(DEFAULT_METHOD))


#: Options of methods that bumps has as flags of its own.
BUMPS_OPTIONS = (
    *("steps", "samples", "burn", "pop", "init", "thin", "alpha", "outliers", "trim", "radius"),
    *("xtol", "ftol", "CR", "F", "nT", "Tmin", "Tmax"),
)


def bumps_options(command: Any) -> Any:
    """Gives a *command* bumps' flags; help names `--set`, which stands for all of them."""
    for name in reversed(BUMPS_OPTIONS):
        command = click.option(f"--{name}", name, hidden=True)(command)
    return command


def _methods(ctx: click.Context, param: click.Parameter, given: str) -> list[CompletionItem]:
    from park.fit.methods.options import METHODS

    return complete.among(METHODS)(ctx, param, given)


@click.command(cls=WithArguments)
@broker_option
@click.argument("targets", metavar="TARGET...", nargs=-1, required=True, shell_complete=_files)
@click.option(
    "--inputs",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, allow_dash=True),
    help="Run the function over the inputs in a file: .json, .jsonl, .npy, .txt, .csv or .dat; -: JSON lines on stdin.",
)
@click.option("-N", "--name", help="The name of the jobs.")
@click.option(
    "-t", "--tag", "tags", multiple=True, help="May be given several times.", shell_complete=complete.tags
)
@priority_option
@click.option(
    "--after",
    metavar="SEL",
    multiple=True,
    callback=check_selectors,
    help="Jobs that must be complete first.",
    shell_complete=complete.jobs,
)
@click.option(
    "--when", metavar="T", help="The job does not run before this time: 2h (from now), or 2030-01-31T18:00."
)
@click.option(
    "--method", "--fit", cls=Method, help="The method of a fit; default: {}.", shell_complete=_methods
)
@click.option("--starts", type=int, help="The number of points from which a fit starts.")
@click.option(
    "--set",
    "settings",
    metavar="NAME=VALUE",
    multiple=True,
    help="An option of the fit's method. The flags of bumps work too: --steps=500, --samples=10000, --burn=200, --pop=20.",
)
@bumps_options
@click.option(
    "--pars",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Start a fit from the values in this file, such as the .par file of an earlier fit.",
)
@click.option(
    "--export",
    metavar="FOLDER",
    type=click.Path(file_okay=False, path_type=Path),
    help="Wait, and write bumps' files of each fit into this folder.",
)
@click.option(
    "--args", metavar="ARG...", help="Arguments of the script, as in bumps; the same as arguments behind --."
)
@click.option("--seed", type=int, help="Makes random numbers repeat.")
@click.option("--cpus", type=int, help="Threads that a unit may use.")
@click.option("--gpus", type=float, help="GPUs that a unit needs; 0.5: half a GPU.")
@click.option(
    "--environment", metavar="NAME", help="Run in the environment that kernels have under this name."
)
@click.option("--memory", help="Memory that a unit needs, such as 4GB.")
@click.option("--label", "labels", multiple=True, help="A label that a kernel must have.")
@click.option("--max-time", help="The job is stopped after running for this time, such as 3h.")
@click.option("--grace", help="The job is aborted if it does not stop within this time after --max-time.")
@click.option(
    "--time",
    "hours",
    type=click.FloatRange(0, min_open=True),
    hidden=True,
    help="The same as --max-time, in hours.",
)
@click.option(
    "--mail", metavar="ADDR", help="Tell this address when the jobs have ended; default: $PARKMAIL."
)
@click.option(
    "--mail-type",
    type=click.Choice(["daily", "now", "fail", "never"]),
    help="daily: failures at once, the rest in a daily digest. now: all at once. fail: failures alone.",
)
@allocation_options
@click.option(
    "--wait", is_flag=True, help="Wait until the jobs have ended, and show their results, as park wait does."
)
@click.option("--parsable", is_flag=True, help="Print the numbers of the jobs only.")
@click.option(
    "--json", "as_json", is_flag=True, help="One JSON array of records; with --wait the records at the end."
)
@click.option(
    "--dry-run", is_flag=True, help="Load and check all targets and say what would be sent, but send nothing."
)
def submit(
    broker: str | None,
    targets: tuple[str, ...],
    args: tuple[str, ...],
    inputs: str | None,
    after: tuple[str, ...],
    wait: bool,
    parsable: bool,
    as_json: bool,
    dry_run: bool,
    export: Path | None,
    **options: Any,
) -> None:
    """Submit jobs, one for each TARGET.

    \b
    MODEL.py       a script that defines a problem (a bumps FitProblem or a
                   park.fit Assembly): it is fitted
    FILE.py:NAME   a function, or an object with a run method: it runs once,
    MODULE:NAME    or with --inputs once for each of them
    -- ARG...      the arguments of each target, in its sys.argv[1:]

    All targets are loaded and checked here before the first one is sent. Modules that lie beside the script, or in the
    working folder, travel with it; others must be installed where the kernels run.
    """
    with in_words():
        allocation = wanted(options, broker)
        fields, given = _fields(options, private=allocation is not None), _read(inputs)
        ready = [_prepare(target, args, given, dict(fields)) for target in targets]
        if dry_run:
            if allocation is not None:
                show_script(allocation, broker, err=as_json)
            return _foresee(broker, ready, after, as_json)
        service = open_service(broker)
        first = _numbers(service, after)
        brief = parsable or not sys.stdout.isatty()
        sent: list[JobRecord] = []
        left: dict[int, None] = {}
        bad = False
        try:
            with leaving_alone(left):
                for each in ready:
                    sent.append(_send(service, each, first))
                    left[sent[-1].job] = None
                    if not as_json:
                        said = f"job {sent[-1].job} was submitted: {each.about}"
                        click.echo(sent[-1].job if brief else plain(said))
                if allocation is not None:
                    said = give_allocation(service, sent[-1].job, allocation, broker)
                    click.echo(plain(said), err=brief or as_json)
                sys.stdout.flush()
                if wait or export is not None:
                    bad = _wait(service, sent, left, brief, silent=as_json, results=not parsable)
                if export is not None:
                    _export(service, sent, export)
        finally:
            if as_json:
                click.echo(json.dumps([record.as_map() for record in sent], indent=2))
        if bad:
            sys.exit(1)


def _read(inputs: str | None) -> Sequence[Any] | None:
    """The inputs in the file of ``--inputs``. Raises InvalidRequest."""
    from park.cli.inputs import read_inputs

    return None if inputs is None else read_inputs(inputs)


def _fields(options: dict[str, Any], private: bool) -> dict[str, Any]:
    """The fields of a request, and the settings of a fit, that the options of the command give. Raises InvalidRequest."""
    words = {name: options.pop(name) for name in BUMPS_OPTIONS}
    options["settings"] = (*options["settings"], *(f"{n}={v}" for n, v in words.items() if v is not None))
    hours, when, mail, mail_type = (options.pop(name) for name in ("hours", "when", "mail", "mail_type"))
    fields = {name: value for name, value in options.items() if value not in (None, ())}
    if private:
        fields["private"] = True
    if hours is not None:
        fields.setdefault("max_time", 3600 * hours)
    if mail is not None or mail_type is not None:
        fields["notify"] = _notify(mail, mail_type or "daily")
    if when is not None:
        fields["when"] = moment(when)
    return fields


def _notify(mail: str | None, when: str) -> str:
    """The *notify* of ``--mail`` and ``--mail-type``. Raises InvalidRequest."""
    from park.errors import InvalidRequest
    from park.identity import own_notify
    from park.model import notify_address, split_notify

    if when == "never":
        return when
    address = notify_address(mail, "--mail") if mail is not None else split_notify(own_notify())[0]
    if not address:
        raise InvalidRequest(f"--mail-type {when} needs an address: give --mail ADDR, or set PARKMAIL")
    return f"{address} {when}"


def moment(text: str) -> datetime | float:
    """The *when* of a request: seconds from now, or a time. Raises InvalidRequest.

    >>> moment("2h"), moment("2030-01-31T18:00")
    (7200.0, datetime.datetime(2030, 1, 31, 18, 0))
    """
    from park.errors import InvalidRequest
    from park.model import duration

    with contextlib.suppress(InvalidRequest):
        return duration(text, "when")
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise InvalidRequest(
            f"--when {text!r} is neither a length of time, such as 90s, 2h or 1d, nor a time, such as 2030-01-31T18:00"
        ) from None


def option(text: str) -> tuple[str, Any]:
    """A method's option: its name, and its value, a number or a word. Raises InvalidRequest.

    >>> option("steps=500"), option("init=lhs")
    (('steps', 500), ('init', 'lhs'))
    """
    from park.errors import InvalidRequest

    name, is_one, value = text.partition("=")
    if not is_one or not name.strip():
        raise InvalidRequest(f"--set {text!r} is no option of a method: write it like steps=500")
    try:
        return name.strip(), ast.literal_eval(value.strip())
    except (ValueError, SyntaxError):
        return name.strip(), value.strip()


def _prepare(
    target: str, args: Sequence[str], inputs: Sequence[Any] | None, fields: dict[str, Any]
) -> CheckedTarget:
    """The request for *target*, loaded with *args*, checked and pickled for once. Raises InvalidRequest."""
    from park.body import payload
    from park.body.inputs import check_function
    from park.cli.targets import PROBLEM, opened, split
    from park.errors import InvalidRequest
    from park.fit.problem.assembly import is_problem
    from park.model import make_request

    of_fits: dict[str, Any] = {
        name: fields.pop(name) for name in ("method", "starts", "pars", "settings") if name in fields
    }
    place, name = split(target)
    fields["name"] = fields.get("name") or (Path(place).stem if name == PROBLEM else name)
    fields["argv"] = (target, *args)
    with opened(target, args) as found:
        if name == PROBLEM or is_problem(found):
            from park.fit.job import fit_request

            if inputs is not None:
                raise InvalidRequest("a fit has no inputs: leave out --inputs, or name a function")
            settings = dict(map(option, of_fits.pop("settings", ())))
            if "pars" in of_fits:
                of_fits["start"] = values_of(of_fits.pop("pars"))
            request = fit_request(found, **of_fits, options=settings, **fields)
        else:
            if of_fits:
                what = "set" if "settings" in of_fits else next(iter(of_fits))
                raise InvalidRequest(f"this is no problem to be fitted: --{what} is for fits")
            request = make_request(check_function(found, name), inputs, fields)
        return CheckedTarget(command_of((target, *args)), request, len(payload.dumps(request.body, name)))


def values_of(file: Path) -> dict[str, float]:
    """The values in a file of bumps' (.par): a name and a number a line. Raises InvalidRequest."""
    from park.errors import InvalidRequest

    found: dict[str, float] = {}
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        name, _, value = line.strip().rpartition(" ")
        if not line.strip() or line.startswith("#"):
            continue
        try:
            found[name.strip()] = float(value)
        except ValueError:
            raise InvalidRequest(
                f"{file}, line {number}: {line!r:.60} is not a name and a number, as bumps writes them"
            ) from None
    return found


def _export(service: ServerProxy, sent: list[JobRecord], folder: Path) -> None:
    """Write the files of the fits that are complete; those of several into folders of their own."""
    for record in sent:
        if record.state == "complete" and record.kind in FIT_KINDS:
            own = folder if len(sent) == 1 else folder / f"{record.job}-{record.name}"
            service.wait(record.job).save(own, record.name)
            click.echo(plain(f"the files of job {record.job} are in {own}"), err=True)


def _numbers(service: ServerProxy, after: tuple[str, ...]) -> list[int]:
    """The jobs that come first. Raises UnknownJob."""
    return [record.job for record in records_of(service, chosen(service, after))] if after else []


def _send(service: ServerProxy, ready: CheckedTarget, after: list[int]) -> JobRecord:
    from park.errors import ParkError

    try:
        return service.status(service.submit(replace(ready.request, after=after)))
    except ParkError as error:
        raise type(error)(f"{ready.target} was not submitted: {error}") from error


def _wait(
    service: ServerProxy,
    sent: list[JobRecord],
    left: dict[int, None],
    brief: bool,
    silent: bool,
    results: bool,
) -> bool:
    """Wait for those that are *left*; the records *sent* become those at the end. Whether one failed or was aborted.

    *brief*: a program reads the numbers on stdout, and the rest goes to stderr. *silent*: nothing goes there of jobs
    that are complete.
    """
    places = {record.job: n for n, record in enumerate(sent)}
    results = results and not silent and len(sent) <= MAX_RESULTS_SHOWN

    def tell(record: JobRecord) -> None:
        sent[places[record.job]] = record
        if record.state == "complete" and (brief or silent):
            if not silent:
                tell_remark(record)
        else:
            tell_end(record)
        if results:
            show_result(service, record, err=brief)

    return until_ended(service, left, tell)


def _foresee(broker: str | None, ready: list[CheckedTarget], after: tuple[str, ...], as_json: bool) -> None:
    """Say what would be sent, and whether the broker's limits leave room for it. Raises LimitReached."""
    from park.body.inputs import MAX_BATCH_UNITS, batches_of
    from park.broker.accounts.quotas import JOB_RECORD_BYTES, Limits, Tally, check_quota
    from park.errors import NoBroker

    rows: list[dict[str, Any]] = []
    for each in ready:
        inputs = each.request.inputs
        packs = [] if inputs is None else batches_of(inputs, lambda: MAX_BATCH_UNITS)
        size = sum(len(data) for data, _ in packs)
        rows.append(
            {
                "target": each.request.argv[0],
                "args": list(each.request.argv[1:]),
                "name": each.request.name,
                "kind": each.request.kind,
                "units": None if inputs is None else len(inputs),
                "body": each.size,
                "inputs": size,
            }
        )
        if not as_json:
            sizes = f"{each.size:,} bytes" + ("" if inputs is None else f", and {size:,} of inputs")
            click.echo(plain(f"{each.target} would be {each.about}: {sizes}"))
    if as_json:
        click.echo(json.dumps(rows, indent=2))
    try:
        service = open_service(broker)
    except NoBroker as error:
        click.echo(plain(f"park: {error}"), err=True)
        return
    _numbers(service, after)
    (account,) = service.credits()
    if not account.limits:
        return
    most = Limits(**{what: limit for what, (_, limit) in account.limits.items()})
    has = Tally(**{what: number for what, (number, _) in account.limits.items()})
    for row in rows:
        units, size = row["units"] or 1, JOB_RECORD_BYTES + row["body"] + row["inputs"]
        check_quota(account.owner, most, has, 1, units, size)
        has = Tally(has.jobs + 1, has.units + units, has.bytes + size)
    if not as_json:
        then = ", ".join(f"{getattr(has, what):,} of {m:,} {what}" for what, (_, m) in account.limits.items())
        click.echo(plain(f"{account.owner} would have {then}"))
