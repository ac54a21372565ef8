"""``park wait``: until jobs have ended, with their progress on a terminal."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from park.cli.common import broker_option, in_words, open_service
from park.cli.select import chosen_to_follow, records_of, selectors_argument
from park.cli.show import tables
from park.errors import with_cause
from park.util.pace import Pace, counted, span

if TYPE_CHECKING:
    from rich.live import Live

    from park.client.job_waits import Reason
    from park.core.server import ServerProxy
    from park.model import JobRecord

#: Seconds between two looks while nothing changes, and before the bars appear.
UPDATE_SECONDS, BAR_DELAY_SECONDS = 0.2, 1.0
#: The most jobs that the broker is asked about why they wait; the width of a bar in cells.
MAX_JOBS_ASKED, BAR_CELLS = 5, 20
#: Kinds of jobs whose results are those of fits; results are shown for this number of jobs at most.
FIT_KINDS, MAX_RESULTS_SHOWN = ("fit", "uncertainty"), 10

#: Says how a job ended.
Tell = Callable[["JobRecord"], None]


@click.command()
@broker_option
@selectors_argument
@click.option(
    "--timeout", type=click.FloatRange(0), help="The longest time to wait for all jobs together (seconds)."
)
@click.option(
    "--json", "as_json", is_flag=True, help="A line of JSON, the record, for each job when it has ended."
)
def wait(broker: str | None, selectors: tuple[str, ...], timeout: float | None, as_json: bool) -> None:
    """Wait until jobs have ended.

    The results of your own fits, up to ten, are shown, as park fetch does. Remarks on a result, such as that a fit has not
    converged, are written to stderr.

    The exit code is 0 if all are complete, also with remarks on their results, 1 if one failed or was aborted, 5 after the
    timeout. Ctrl-C ends only the waiting.
    """
    with in_words():
        from park.errors import WaitTimeout

        service = open_service(broker)
        #: the jobs that have not ended, as far as is known
        jobs = chosen_to_follow(service, selectors)
        if any("-" in text for text in selectors):  # some numbers of a range may be no jobs
            jobs = [(record.job, True) for record in records_of(service, jobs)]
        left = dict.fromkeys(job for job, _ in jobs)
        few = len(left) <= MAX_RESULTS_SHOWN

        def tell(record: JobRecord) -> None:
            if as_json:
                click.echo(json.dumps(record.as_map()))
                return
            tell_end(record)
            if few:
                show_result(service, record)

        with leaving_alone(left, " ".join(selectors)):
            bad = until_ended(service, left, tell, timeout)
        if left:
            record = service.status(next(iter(left)))
            reason = f": {record.reason}" if record.reason else ""
            others = f"; {_go(left)} on" if len(left) > 1 else ""
            raise WaitTimeout(f"job {record.job} is {record.state} after {timeout:g} s{reason}{others}")
        if bad:
            sys.exit(1)


@contextmanager
def leaving_alone(left: dict[int, None], named: str = "") -> Iterator[None]:
    """Ctrl-C in the block leaves alone the jobs that are *left*, and says how to wait again for what was *named*."""
    try:
        yield
    except KeyboardInterrupt:
        if not named or len(left) <= 10:
            named = ",".join(map(str, left))
        if left:
            click.echo(f"park: {_go(left)} on; `park wait {named}` waits again", err=True)
        raise


def until_ended(
    service: ServerProxy, left: dict[int, None], tell: Tell, timeout: float | None = None
) -> bool:
    """Wait until nothing is *left*, or the time is over, and *tell* of each end. Whether a job failed or was aborted.

    On a terminal there are bars.
    """
    with _shown(service, tell) as shown:
        return _run(service, left, timeout, shown)


def _run(service: ServerProxy, left: dict[int, None], timeout: float | None, shown: EndLines) -> bool:
    bad = False
    deadline = float("inf") if timeout is None else time.monotonic() + timeout
    ends = service.ends(left)
    while left:
        now = time.monotonic()
        record = ends.next(max(0.0, min(UPDATE_SECONDS, deadline - now)))
        if record is not None:
            del left[record.job]
            bad |= record.state != "complete"
            shown.say(record)
        elif now >= deadline:
            break
        else:
            shown.draw(left)
    for record in [service.status(job) for job in left]:
        if record.state.ended:  # the answer is on its way
            del left[record.job]
            bad |= record.state != "complete"
            shown.say(record)
    return bad


def _go(jobs: dict[int, None]) -> str:
    return f"job {next(iter(jobs))} goes" if len(jobs) == 1 else f"{len(jobs)} jobs go"


def tell_end(record: JobRecord) -> None:
    """Print how a job ended: on stderr where it did not end well."""
    job, reason = record.job, record.reason
    text = f"job {job} is {record.state}"
    if record.state == "failed":
        hint = f" (park fetch {job}: traceback)" if record.failed else ""
        text = with_cause(f"park: job {job} failed", reason) + hint
    elif record.state == "aborted":
        text = with_cause(f"park: job {job} was aborted", reason)
    click.echo(tables.plain(text), err=record.state != "complete")
    tell_remark(record)


def tell_remark(record: JobRecord) -> None:
    """Print on stderr what the job's body has to say of its result, such as that a fit has not converged."""
    if record.remark:
        text = tables.plain(f"park: job {record.job}: {record.remark}")
        colours = tables.can_draw(sys.stderr) and tables.has_colours()
        click.echo(click.style(text, fg="yellow", bold=True) if colours else text, err=True)


def show_result(service: ServerProxy, record: JobRecord, err: bool = False) -> None:
    """Print what a fit of one's own has found, on stdout or stderr; of other jobs nothing.

    A result of another owner is never unpickled. A result that cannot be read here is still there for `park fetch`.
    """
    if record.kind not in FIT_KINDS or record.state != "complete" or record.owner != service.user:
        return
    from park.cli.show import values

    try:
        text = values.as_text(service.wait(record.job))
    except Exception as error:
        text, err = f"park: the result of job {record.job} cannot be shown here: {error}", True
    click.echo("\n".join(map(tables.plain, text.split("\n"))), err=err)


# -- where it is shown -------------------------------------------------------------------------------


@contextmanager
def _shown(service: ServerProxy, tell: Tell) -> Iterator[EndLines]:
    """Show bars on stderr if it is a terminal, else lines."""
    if not tables.can_draw(sys.stderr):
        yield EndLines(tell)
        return
    from rich.console import Console
    from rich.live import Live

    console = Console(stderr=True, highlight=False, no_color=not tables.has_colours())
    live = Live(
        console=console, transient=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False
    )
    with service.hush():
        bars = EndBars(service, live, tell)
        try:
            yield bars
        finally:
            live.stop()


class EndLines:
    """Tells the end of each job."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell

    def draw(self, left: Iterable[int]) -> None:
        """Show the jobs that have not ended: here nothing is drawn."""

    def say(self, record: JobRecord) -> None:
        self._tell(record)


class EndBars(EndLines):
    """Tells the end of each job above bars for jobs that have not ended, as many as fit, with the reason why each waits."""

    def __init__(self, service: ServerProxy, live: Live, tell: Tell) -> None:
        super().__init__(tell)
        self._service = service
        self._live = live
        self._began = time.monotonic()
        self._reasons: dict[int, Reason] = {}
        self._paces: dict[int, Pace] = {}

    def say(self, record: JobRecord) -> None:
        if self._live.is_started:
            self._live.update("", refresh=True)
            self._live.stop()
        super().say(record)

    def draw(self, left: Iterable[int]) -> None:
        now = time.monotonic()
        if now < self._began + BAR_DELAY_SECONDS:
            return
        table = self._service.table
        stale = table.stale
        from rich.text import Text

        console = self._live.console
        room = max(1, console.height - 3)
        known = (table.jobs.get(job) for job in left)
        records = sorted((r for r in known if r is not None), key=lambda r: (-r.running, r.job))
        rows = [self._row(r, i < MAX_JOBS_ASKED and not stale, now) for i, r in enumerate(records[:room])]
        lines = tables.layout(("JOB", "NAME", "STATE", "PROGRESS", "DONE", "REASON"), rows, console.width)[1:]
        if len(records) > room:
            lines.append([(f"and {len(records) - room} more", "dim")])
        if stale:
            lines.append([("no sign of the broker: it is waited for", "red")])
        text = Text("\n", no_wrap=True, overflow="crop").join(
            Text.assemble(*((part, style) for part, style in line)) for line in lines
        )
        if not self._live.is_started:
            self._live.start()
        self._live.update(text, refresh=True)

    def _row(self, r: JobRecord, asked: bool, now: float) -> tuple[str, ...]:
        reason = r.reason
        if asked and not reason and not r.running:
            reason = self._reasons.setdefault(r.job, self._service.reason(r.job)).look()
        far, left = r.how_far, None
        if r.running:
            left = self._paces.setdefault(r.job, Pace()).left(far, now)
        words = ("" if left is None else f"{span(left)} left", far.note, reason)
        return str(r.job), r.name, r.state.value, bar(r), counted(far), ", ".join(filter(None, words))


def bar(r: JobRecord) -> str:
    """The progress of the job as a bar; empty if it is not known.

    >>> from park.model import JobRecord
    >>> bar(JobRecord(1, "ada", done=5, total=8))
    '━━━━━━━━━━━━────────'
    """
    far = r.how_far
    if not far.total:
        return ""
    full = max(0, int(BAR_CELLS * far.fraction))
    return "━" * full + "─" * (BAR_CELLS - full)
