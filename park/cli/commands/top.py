"""``park top``: the whole fabric on one screen."""

from __future__ import annotations

import json
import shutil
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from park.cli.commands import kernels
from park.cli.common import broker_option, in_words, open_service
from park.cli.show import columns, tables
from park.cli.show.tables import Line
from park.util.pace import bounded

if TYPE_CHECKING:
    from park.client.live_table import LiveTable
    from park.core.broker_info import BrokerInfo
    from park.core.server import ServerProxy
    from park.model import AccountRecord, JobRecord

#: Seconds between two looks at the accounts while they are watched: they change all the time.
ACCOUNT_POLL_SECONDS = 2.0
#: Lines of the kernels, and of the owners, that a screen shows at least, if there are as many.
MIN_ROWS = 3
_KERNELS = ("KERNEL", "HOST", "SLOTS", "GPUS", "DRIVERS", "MEMORY", "STATE")
_OWNERS = ("OWNER", "SHARE", "CREDITS", "USE (s)", "RUNNING", "QUEUED", "JOBS")
_JOBS = ("job", "owner", "name", "priority", "running", "done", "elapsed", "left", "used")


@click.command()
@broker_option
@click.option(
    "--json", "as_json", is_flag=True, help="One JSON object with everything that the screen shows."
)
@click.option("-w", "--watch", is_flag=True, help="On a terminal: update the screen until q or Ctrl-C.")
def top(broker: str | None, as_json: bool, watch: bool) -> None:
    """Show the fabric on one screen.

    The broker, its kernels, the owners of jobs with their share of all slots, their credits and their recent use, and
    the jobs that have slots now.
    """
    with in_words():
        service = open_service(broker)
        if as_json:
            click.echo(json.dumps(_as_map(service), indent=2))
        elif watch and sys.stdout.isatty():
            _watch(service)
        else:
            terminal = sys.stdout.isatty()
            seen = Seen(service.about(), service.table, service.credits("*"))
            tables.print_lines(picture(seen, shutil.get_terminal_size().columns if terminal else None))


class Seen(NamedTuple):
    """The content of the screen."""

    about: BrokerInfo
    table: LiveTable
    accounts: list[AccountRecord]

    def having_slots(self) -> list[JobRecord]:
        """The jobs that have slots, those with the most first."""
        return sorted((r for r in self.table.jobs.values() if r.running), key=lambda r: (-r.running, r.job))

    def owners(self) -> list[tuple[AccountRecord, Counter[str]]]:
        """The owners who have jobs that have not ended, by their share, with these jobs by state.

        Under "slots" what of theirs runs now.
        """
        counts: dict[str, Counter[str]] = {}
        for r in self.table.jobs.values():
            if not r.state.ended:
                count = counts.setdefault(r.owner, Counter())
                count[r.state.value] += 1
                count["slots"] += r.running
        known = [(a, counts[a.owner]) for a in self.accounts if a.owner in counts]
        return sorted(known, key=lambda pair: (-pair[0].share, pair[0].owner))

    def states(self) -> Counter[str]:
        """The number of jobs in each state."""
        return Counter(r.state.value for r in self.table.jobs.values())


def _as_map(service: ServerProxy) -> dict[str, Any]:
    from msgspec.structs import asdict

    seen = Seen(service.about(), service.table, service.credits("*"))
    owners = [
        {k: v for k, v in a.as_map().items() if k != "jobs"} | {"slots": count.pop("slots"), "jobs": count}
        for a, count in seen.owners()
    ]
    return {
        "service": asdict(seen.about) | {"seq": seen.table.seq, "stale": seen.table.stale},
        "jobs": dict(seen.states()),
        "kernels": [k.as_map() for k in sorted(seen.table.kernels.values(), key=lambda k: k.kernel)],
        "owners": owners,
        "running": [r.as_map() for r in seen.having_slots()],
    }


def _watch(service: ServerProxy) -> None:
    from park.cli.show import screen
    from park.errors import NoBroker, ParkError

    table = service.table
    accounts = service.credits("*")

    def look() -> None:
        nonlocal accounts
        while not table.closed:
            time.sleep(ACCOUNT_POLL_SECONDS)
            try:
                accounts = service.credits("*")
            except ParkError:  # the broker is away: what was known stays on the screen, and its head says so
                continue

    threading.Thread(target=look, name="park-accounts", daemon=True).start()
    with service.hush():
        screen.draw(
            table,
            lambda width, height: picture(Seen(service.about(), table, accounts), width, height, time.time()),
        )
    if table.closed:
        raise NoBroker("the connection to the broker was closed")


def picture(seen: Seen, width: int | None, height: int | None = None, now: float | None = None) -> list[Line]:
    """The lines of the screen, *width* cells and *height* lines at most; None: as many as there are.

    *now*, wall clock, is shown where the picture changes.
    """
    table = seen.table
    running = seen.having_slots()
    names = (*_JOBS, "remark") if any(r.remark for r in running) else _JOBS
    sections = [
        (_KERNELS, [_kernel(r) for r in sorted(table.kernels.values(), key=lambda r: r.kernel)]),
        (_OWNERS, [_owner(a, count) for a, count in seen.owners()]),
        columns.shown(names, columns.lines_of(running, names), True),
    ]
    head = _head(seen, now)
    room = None if height is None else height - len(head) - 2 * sum(1 for _, rows in sections if rows)
    lines = head
    for (heads, rows), count in zip(
        sections, _shared([len(rows) for _, rows in sections], room), strict=True
    ):
        if not rows or not count:
            continue
        shown, left = rows[:count], len(rows) - count
        if left > 0 and count > 1:
            shown, left = rows[: count - 1], left + 1
        lines += [[("", "")], *tables.layout(heads, shown, width)]
        if left > 0 and count > 1:
            lines.append([(f"and {left} more", "dim")])
    return lines


def _shared(wanted: Sequence[int], room: int | None) -> list[int]:
    """The lines of *room* that each section gets: `MIN_ROWS` if that can be, then the last one is filled up first.

    >>> _shared([100, 2, 10], 20), _shared([1, 1, 50], 20), _shared([5, 5, 5], None)
    ([8, 2, 10], [1, 1, 18], [5, 5, 5])
    """
    if room is None:
        return list(wanted)
    given = [min(want, MIN_ROWS, max(0, room // len(wanted))) for want in wanted]
    for i in reversed(range(len(wanted))):
        given[i] += min(wanted[i] - given[i], max(0, room - sum(given)))
    return given


def _head(seen: Seen, now: float | None) -> list[Line]:
    about, table, states = seen.about, seen.table, seen.states()
    since = columns.clock(about.since, short=True)
    first = f"{about.place}: PARK {about.release}, life {about.epoch}, since {since}"
    if now is not None:
        first = f"{time.strftime('%H:%M:%S', time.localtime(now))} (q ends)  {first}"
    slots, busy = (sum(getattr(k, what) for k in table.kernels.values()) for what in ("slots", "busy"))
    count = len(table.kernels)
    told = ", ".join(f"{states[s]} {s}" for s in tables.STATES if states[s]) or "none"
    lines: list[Line] = [
        [(tables.plain(first), "bold")],
        [(f"slots: {busy} of {slots} busy, on {count} kernel{'s'[: count != 1]}; jobs: {told}", "")],
    ]
    if about.faults:
        words = (
            f"the broker has failed at {about.faults} message{'s'[: about.faults != 1]}: its log says more"
        )
        lines.append([(words, "red")])
    if about.full:
        lines.append([(tables.plain(about.full), "red")])
    if table.stale:
        lines.insert(0, [("no sign of the broker: what follows may be old", "bold red")])
    return lines


def _kernel(record: Any) -> tuple[str, ...]:
    cells = dict(zip(kernels.HEADS, kernels.row(record), strict=True))
    return tuple(cells[head] for head in _KERNELS)


def _owner(a: AccountRecord, count: Counter[str]) -> tuple[str, ...]:
    balance = "no limit" if a.balance is None else bounded(a.balance)
    jobs = sum(count.values()) - count["slots"]
    numbers = (str(number or "") for number in (count["slots"], count["queued"], jobs))
    return (a.owner, f"{100 * a.share:.3g} %", balance, bounded(a.use), *numbers)
