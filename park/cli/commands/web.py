"""``park web``: the page in a browser."""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING

import click

from park.cli.common import broker_option, in_words, tell

if TYPE_CHECKING:
    from park.web.serving import PageServer

#: Seconds without the broker after which the page answers questions with an error.
QUESTION_PATIENCE_SECONDS = 3.0


@click.command()
@broker_option
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=7280,
    show_default=True,
    help="The port of the page; 0: any free port.",
)
@click.option(
    "--allow-host",
    "hosts",
    multiple=True,
    metavar="NAME",
    help="Also answer requests with this host name, which a proxy passes on; may be given several times.",
)
@click.option(
    "--local",
    is_flag=True,
    help="Print a new address of the page that a script shows by park.local_service.web().",
)
@click.option("--no-browser", is_flag=True, help="Print the address without opening a browser.")
def web(broker: str | None, port: int, hosts: tuple[str, ...], local: bool, no_browser: bool) -> None:
    """Show and steer jobs in a browser.

    The page shows kernels and owners, too. It answers on this machine only; from another one, reach it through ssh -L
    7280:localhost:7280. The address that is printed opens it once; press Enter for another one. It shows the jobs that
    you may see, and steers those that you may steer.
    """
    with in_words():
        server_type = _server_type()
        from park.config import said_broker
        from park.core.connect import connect
        from park.net.addresses import find_broker

        where = "" if local else broker or said_broker()[0]
        if address := _running(where, port, local):
            click.echo(f"park: the page runs already, at {address}")
            return
        service = connect(broker, patience=QUESTION_PATIENCE_SECONDS)
        with service.hush():
            server = server_type(service, find_broker(where).is_local, where, port, hosts)
            address = server.address()
            click.echo(f"park: the page is at {address}")
            click.echo("park: this address works once, within ten minutes; Ctrl-C ends the page", err=True)
            if not no_browser:
                _open(address)
            if sys.stdin is not None and sys.stdin.isatty():
                threading.Thread(target=_print_more, args=(server,), daemon=True).start()
            server.run()


def _running(place: str, port: int, local: bool) -> str | None:
    """A new address of a page of this user that shows the same already. Raises InvalidRequest where *local* finds none."""
    from park.errors import InvalidRequest
    from park.web.page_file import new_address, pages

    for page in pages():
        if page.place == place and (local or page.port == port) and (address := new_address(page)):
            return address
    if local:
        raise InvalidRequest(
            "no script of yours shows its local service now: a script does with park.local_service.web()"
        )
    return None


def _server_type() -> type[PageServer]:
    """The server. Raises InvalidRequest where its libraries are not installed."""
    from park.errors import InvalidRequest

    try:
        from park.web.serving import PageServer
    except ModuleNotFoundError as error:
        raise InvalidRequest(
            f"the page needs {error.name}, which is not installed: pip install 'park-fit[web]' brings it"
        ) from None
    return PageServer


def _print_more(server: PageServer) -> None:
    """Each line that is entered is answered with a new address."""
    for _ in sys.stdin:
        click.echo(f"park: {server.address()}")


def _open(address: str) -> None:
    """Open a browser where there is a screen. Its address is in a private file: others can read arguments of processes."""
    import os
    import tempfile
    import webbrowser
    from pathlib import Path

    if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return
    descriptor, name = tempfile.mkstemp(prefix="park-web-", suffix=".html")
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(f'<!doctype html><meta http-equiv="refresh" content="0;url={address}">\n')
    timer = threading.Timer(60.0, Path(name).unlink, kwargs={"missing_ok": True})
    timer.daemon = True
    timer.start()
    if not webbrowser.open(Path(name).as_uri()):
        tell("park: no browser could be opened: open the address in one")
