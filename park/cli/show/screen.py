"""Tables that are watched: drawn again on a terminal when they change, told line by line in a pipe.

Both end with Ctrl-C or q, with the connection, or with the reader of the pipe.
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import click

from park.cli.show.tables import Line

if TYPE_CHECKING:
    from park.client.live_table import LiveTable
    from park.table.mirror import Change

#: Seconds between two drawings of a table that is watched, at least, and at most: time goes on in it too.
MIN_REDRAW_SECONDS, MAX_REDRAW_SECONDS = 0.1, 1.0
#: Seconds for which a table must be stale before a pipe gets a notice: a moment is not worth one.
STALE_NOTICE_SECONDS = 1.0


def draw(table: LiveTable, lines: Callable[[int, int], list[Line]]) -> None:
    """Show the lines that *lines* gives for a number of columns and rows, again whenever the *table* changes.

    It returns at q, and when the connection has ended. Raises InvalidRequest where a terminal cannot be drawn on.
    """
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    from park.cli.show.tables import can_draw, has_colours
    from park.errors import InvalidRequest

    console = Console(highlight=False, no_color=not has_colours())
    if not can_draw(sys.stdout):
        raise InvalidRequest(
            f"nothing can be drawn again and again on this terminal (TERM={os.environ.get('TERM', '')}): leave out -w, or "
            "read it through a pipe (| cat)"
        )

    def picture() -> Text:
        # one row less, so that the terminal never scrolls
        shown = lines(console.width, console.height - 1)[: console.height - 1]
        text = Text("\n", no_wrap=True, overflow="crop").join(
            Text.assemble(*((part, style) for part, style in line)) for line in shown
        )
        text.no_wrap, text.overflow = True, "crop"
        return text

    changes = table.changes()
    with (
        keys() as pressed,
        Live(picture(), console=console, auto_refresh=False, screen=True) as live,
    ):
        drawn, size = time.monotonic(), console.size
        while not table.closed:
            if "q" in pressed(MIN_REDRAW_SECONDS):
                return
            if changes.take() or console.size != size or time.monotonic() - drawn >= MAX_REDRAW_SECONDS:
                live.update(picture(), refresh=True)
                drawn, size = time.monotonic(), console.size


@contextlib.contextmanager
def keys() -> Iterator[Callable[[float], str]]:
    """A function that waits a number of seconds for keys, and returns those that were pressed; "": none were."""
    if not sys.stdin.isatty():

        def wait(seconds: float) -> str:
            time.sleep(seconds)
            return ""

        yield wait
        return
    import termios
    import tty

    number = sys.stdin.fileno()
    before = termios.tcgetattr(number)

    def pressed(seconds: float) -> str:
        ready, _, _ = select.select([number], [], [], seconds)
        if not ready:
            return ""
        return os.read(number, 64).decode(errors="replace") or "q"  # the terminal has gone

    tty.setcbreak(number)
    try:
        yield pressed
    finally:
        with contextlib.suppress(termios.error):  # that terminal is closed
            termios.tcsetattr(number, termios.TCSADRAIN, before)


def changes(table: LiveTable) -> Iterator[Change]:
    """The changes of the *table* from now on for a reader of a pipe, until the connection ends.

    Whether the broker is there is said on stderr, when that changes. Raises BrokenPipeError when the reader has gone.
    """
    return _told(table, table.changes(timeout=MAX_REDRAW_SECONDS))


def _told(table: LiveTable, found: Iterator[Change]) -> Iterator[Change]:
    away: float | None = None
    told = False
    while not table.closed:
        yield from found
        if reader_gone():
            raise BrokenPipeError
        now = time.monotonic()
        away = (away or now) if table.stale and not table.closed else None
        if told and away is None:
            click.echo("park: the broker is back", err=True)
            told = False
        elif not told and away is not None and now - away >= STALE_NOTICE_SECONDS:
            click.echo("park: no sign of the broker: its changes come when it is back", err=True)
            told = True


def reader_gone() -> bool:
    """Whether the reader of stdout has gone."""
    if sys.platform == "win32":
        return False
    poll = select.poll()
    try:
        poll.register(sys.stdout.fileno(), 0)
    except (OSError, ValueError):
        return True
    return any(event & (select.POLLERR | select.POLLNVAL) for _, event in poll.poll(0))
