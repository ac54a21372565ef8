"""``park jobs``, ``show`` and ``why``: look at jobs."""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import click

from park.cli import complete
from park.cli.common import broker_option, in_words, open_service
from park.cli.select import chosen, chosen_to_follow, records_of, selectors_argument
from park.cli.show import columns, tables
from park.cli.show.tables import plain, print_table
from park.util.pace import bounded, counted

if TYPE_CHECKING:
    from park.client.job_waits import Reason
    from park.client.live_table import LiveTable
    from park.core.server import ServerProxy
    from park.model import JobRecord, Progress
    from park.table.query import Query


@click.command()
@broker_option
@click.option("-a", "everybody", is_flag=True, help="The jobs of all owners, ended ones included.")
@click.option("--mine", is_flag=True, help="With -a: only your jobs, ended ones included.")
@click.option(
    "-t",
    "--tag",
    "tags",
    multiple=True,
    help="Only jobs with this tag; may be given several times.",
    shell_complete=complete.tags,
)
@click.option(
    "-s",
    "--state",
    "states",
    multiple=True,
    help="Only jobs in this state; may be given several times.",
    shell_complete=complete.among(tables.STATES),
)
@click.option(
    "-o",
    "--columns",
    "chosen",
    metavar="A,B,...",
    help=f"What to show: {', '.join(columns.COLUMNS)}.",
    shell_complete=complete.among(columns.COLUMNS),
)
@click.option("--json", "as_json", is_flag=True, help="One JSON array of records.")
@click.option(
    "-w", "--watch", is_flag=True, help="Follow the table; in a pipe, or with --json, one JSON line a change."
)
def jobs(
    broker: str | None,
    everybody: bool,
    mine: bool,
    tags: tuple[str, ...],
    states: tuple[str, ...],
    chosen: str | None,
    as_json: bool,
    watch: bool,
) -> None:
    """List your jobs that have not ended; with -a all jobs."""
    with in_words():
        names = columns.parse(chosen)
        wanted = _states(states)
        service = open_service(broker)
        from park.model import JobRecord
        from park.table.query import ACTIVE, Query

        owner = "*" if everybody and not mine else service.user
        query = Query(owner, wanted or (() if everybody else ACTIVE), tags)
        if watch:
            _watch(service, query, names, as_json)
            return
        if as_json:
            fields = JobRecord.__struct_fields__
            records = [dict(zip(fields, row, strict=True)) for row in service.rows(query, fields, True)]
            click.echo(json.dumps(records, indent=2))
        elif rows := service.rows(query, columns.fields_of(names), True):
            print_table(
                *columns.shown(names, columns.lines(rows, names, sys.stdout.isatty()), chosen is None)
            )
            if everybody and sys.stdout.isatty() and (old := service.count_archived(query)):
                click.echo(f"{len(rows):,} jobs, {old:,} of them in the archive")
        else:
            hint = "" if everybody or states else " that have not ended (park jobs -a shows all)"
            click.echo(f"no jobs{hint}", err=True)


def _states(given: tuple[str, ...]) -> tuple[str, ...]:
    from park.errors import InvalidRequest
    from park.model import JobState

    for name in given:
        if name not in list(JobState):
            raise InvalidRequest(f"there is no state {name!r}: choose from {', '.join(JobState)}")
    return given


# -- watching ----------------------------------------------------------------------------------------


def _watch(service: ServerProxy, query: Query, names: Sequence[str], as_json: bool) -> None:
    """Show them until Ctrl-C or q, or until the reader has gone. Raises NoBroker when the connection is closed."""
    from park.cli.show import screen
    from park.errors import NoBroker

    table = service.table
    if sys.stdout.isatty() and not as_json:
        explain = _Explainer(service) if "reason" in names else None
        screen.draw(table, lambda width, height: _picture(table, query, names, width, height, explain))
    else:
        _tell(table, query)
    if table.closed:
        raise NoBroker("the connection to the broker was closed")


def _tell(table: LiveTable, query: Query) -> None:
    """The jobs as they are, a line each, then a line a change: the record after it, None where it has left the table.

    A job that is not asked for any more, as one that has ended, is shown a last time.
    """
    from park.cli.show.screen import changes
    from park.model import JobRecord

    def line(job: int, record: JobRecord | None) -> None:
        click.echo(json.dumps({"job": job, "record": None if record is None else record.as_map()}))

    shown = set()
    news = changes(table)
    for record in table.jobs.values():
        if query.matches(record):
            shown.add(record.job)
            line(record.job, record)
    for old, new in news:
        record = old if new is None else new  # type: ignore[assignment]
        if not isinstance(record, JobRecord):
            continue
        chosen = isinstance(new, JobRecord) and query.matches(new)
        if chosen or record.job in shown:
            (shown.add if chosen else shown.discard)(record.job)
            line(record.job, new)  # type: ignore[arg-type]


class _Explainer:
    """Why the jobs wait that are shown: the table does not say, and the broker is asked about once a second."""

    def __init__(self, service: ServerProxy) -> None:
        self._service = service
        self._reasons: dict[int, Reason] = {}

    def __call__(self, shown: list[JobRecord]) -> list[JobRecord]:
        """The records with their reasons, as far as they are known by now."""
        from msgspec.structs import replace

        waiting = [r for r in shown if not r.reason and not r.state.ended]
        old = self._reasons
        self._reasons = {r.job: old.get(r.job) or self._service.reason(r.job) for r in waiting}
        return [
            replace(r, reason=self._reasons[r.job].look()) if r.job in self._reasons else r for r in shown
        ]


def _picture(
    table: LiveTable,
    query: Query,
    names: Sequence[str],
    width: int,
    height: int,
    explain: Callable[[list[JobRecord]], list[JobRecord]] | None,
) -> list[tables.Line]:
    """The head of the table and as many lines as fit: of those that run, then of the newest."""
    records = [r for r in table.jobs.values() if query.matches(r)]
    room, count = max(1, height - 2), len(records)
    left = f", {room} of them shown" if len(records) > room else ""
    if left:
        chosen = sorted(records, key=lambda r: (r.running > 0, r.job))[-room:]
        records = sorted(chosen, key=lambda r: r.job)
    said = f"jobs: {count}{left}; kernels: {len(table.kernels)}; {time.strftime('%H:%M:%S')}; q ends"
    if table.stale:
        said = f"no sign of the broker: what follows may be old; {said}"
    if explain is not None and not table.stale:
        records = explain(records)
    heads, rows = columns.shown(names, columns.lines_of(records, names), names is columns.DEFAULT_COLUMNS)
    style = "red" if table.stale else "dim"
    return [[(said, style)], *tables.layout(heads, rows, width)]


# -- one job -----------------------------------------------------------------------------------------


@click.command()
@broker_option
@selectors_argument
@click.option("--json", "as_json", is_flag=True, help="One JSON array of records.")
def show(broker: str | None, selectors: tuple[str, ...], as_json: bool) -> None:
    """Show the records of jobs."""
    with in_words():
        service = open_service(broker)
        records = list(records_of(service, chosen(service, selectors)))
        if as_json:
            click.echo(json.dumps([r.as_map() for r in records], indent=2))
            return
        for n, record in enumerate(records):
            if n:
                click.echo()
            for name, value in _story(record):
                if value:
                    click.echo(f"{name:10}  {plain(value)}")


def _progress(far: Progress) -> str:
    """The progress and the quality that the body has published.

    >>> from park.model import Progress
    >>> _progress(Progress(1200, 10000, "samples", "chisq 1.02"))
    '1,200/10,000 samples, chisq 1.02'
    """
    return ", ".join(filter(None, (counted(far), far.note)))


def _story(r: JobRecord) -> list[tuple[str, str]]:
    """The lines of `show`; those without a text are left out."""
    of = "" if r.total is None else f" of {r.total}"
    units = f"{r.done}{of} done" if of or r.done else ""
    on = f", on {', '.join(r.hosts)}" if r.hosts else ""
    took = (
        f"  (took {bounded(r.ended - r.started, 1)} s)"
        if r.started is not None and r.ended is not None
        else ""
    )
    return [
        ("job", str(r.job)),
        ("name", r.name),
        ("owner", r.owner),
        ("kind", r.kind if r.kind != "job" else ""),
        ("script", shlex.join(r.argv)),
        ("state", r.state.value),
        ("reason", r.reason),
        ("remark", r.remark),
        ("units", units + (f", {r.failed} failed" if r.failed else "")),
        ("progress", _progress(r.how_far) if r.progress is not None else ""),
        ("running", f"{r.running} now{on}" if r.running else ""),
        ("pure", "" if r.doubled is None else _doubled(r.doubled)),
        (
            "used",
            f"{bounded(r.seconds, 2)} slot-seconds, {bounded(r.credits, 2)} credits" if r.seconds else "",
        ),
        ("tags", ", ".join(r.tags)),
        ("priority", columns.priority_name(r.priority)),
        ("after", ", ".join(f"job {number}" for number in r.after)),
        ("not before", columns.clock(r.when)),
        ("submitted", columns.clock(r.submitted)),
        ("started", columns.clock(r.started)),
        ("elapsed", "" if r.ended is not None else columns.elapsed(r.started, None, time.time())),
        ("left", _left(r)),
        ("ended", columns.clock(r.ended) + took if r.ended is not None else ""),
        ("python", r.python),
    ]


def _left(r: JobRecord) -> str:
    """The time at which it ends, if it goes on as it went."""
    left = columns.left(r.state.value, r.done, r.total, r.progress, r.started, time.time())
    return f"about {left}, if it goes on as it went" if left else ""


def _doubled(chunks: int) -> str:
    """The line on second starts for a job with pure units."""
    times = {0: "never yet", 1: "once"}.get(chunks, f"{chunks} times")
    return f"a late unit may be started a second time, beside the first ({times})"


@click.command()
@broker_option
@selectors_argument
@click.option("--json", "as_json", is_flag=True, help="One JSON array of jobs with state, reason and remark.")
def why(broker: str | None, selectors: tuple[str, ...], as_json: bool) -> None:
    """Say why jobs wait, and for about how long, or what ended them."""
    with in_words():
        service = open_service(broker)
        found = []
        for record in records_of(service, chosen_to_follow(service, selectors)):
            reason = record.reason
            if not reason and record.running:
                reason = f"{record.running} of its units run{'s'[: record.running == 1]} now, and none waits"
            found.append(
                {"job": record.job, "state": record.state.value, "reason": reason, "remark": record.remark}
            )
            if not as_json:
                said = "; ".join(filter(None, (reason, record.remark)))
                between = "" if not said else ", " if said.startswith("waiting: ") else ": "
                click.echo(plain(f"job {record.job} is {record.state}{between}{said}"))
        if as_json:
            click.echo(json.dumps(found, indent=2))
