"""A web process, or a thread of one: the socket, the server, and the address that is printed."""

from __future__ import annotations

import atexit
import contextlib
import errno
import os
import socket
import threading
import time
from collections.abc import Iterator

import uvicorn

from park.core.server import ServerProxy
from park.errors import InvalidRequest, ParkError
from park.web.access import Gate
from park.web.app import make_app
from park.web.connections import PageConnection
from park.web.page_file import PageFile, written
from park.web.watch import FabricWatch

#: The port that is tried first, and the address at which the page listens: other machines cannot reach it.
PORT, ADDRESS = 7280, "127.0.0.1"
#: A proxy of the same user, such as Jupyter's, shares this secret with the page.
PROXY_VARIABLE = "PARK_WEB_PROXY"
#: Seconds that `PageServer.start` waits for the server.
START_SECONDS = 20.0


class PageServer:
    """The page of *service*. *admin*: its user is the broker's own. *place*: where the broker is, for copied scripts."""

    def __init__(
        self,
        service: ServerProxy,
        admin: bool,
        place: str,
        port: int = PORT,
        hosts: tuple[str, ...] = (),
    ) -> None:
        self.gate = Gate(hosts, os.environ.get(PROXY_VARIABLE, ""))
        self._socket = listen(port)
        self.port = self._socket.getsockname()[1]
        self._watch = FabricWatch(service, admin)
        app = make_app(self._watch, self.gate, f"park-web-{self.port}", place)
        config = uvicorn.Config(
            app,
            log_level="error",  # a stranger could fill the log with warnings
            access_log=False,
            http=PageConnection,
            ws="none",
            loop="asyncio",
            lifespan="on",
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=2,
        )
        self._server = uvicorn.Server(config)
        self._file = PageFile(os.getpid(), self.port, self.gate.file_secret, place)
        self._thread: threading.Thread | None = None

    @property
    def streams(self) -> int:
        """Browsers that follow the page now."""
        return self._watch.board.streams

    def address(self) -> str:
        """An address that opens the page once."""
        token = self.gate.new_token(time.monotonic())
        return f"http://{ADDRESS}:{self.port}/login?token={token}"

    def run(self) -> None:
        """Serve until SIGINT or SIGTERM."""
        with contextlib.suppress(KeyboardInterrupt), written(self._file):
            self._server.run(sockets=[self._socket])

    def start(self) -> None:
        """Serve in a thread; returns when the page answers."""
        self._thread = threading.Thread(target=self.run, name="park-web", daemon=True)
        self._thread.start()
        give_up = time.monotonic() + START_SECONDS
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > give_up:
                raise ParkError("the page did not start: the lines above say why")
            time.sleep(0.01)

    def close(self) -> None:
        """End the thread, and with it all streams."""
        self._server.should_exit = True
        if self._thread is not None:
            self._thread.join(10.0)


def listen(port: int) -> socket.socket:
    """A socket at *port* of this machine's own address (0: any that is free). Raises InvalidRequest in words."""
    found = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((ADDRESS, port))
        found.listen(128)
    except OSError as error:
        found.close()
        if error.errno == errno.EADDRINUSE:
            raise InvalidRequest(
                f"port {port} is in use, perhaps by a park web of yours: take another one with --port, or --port 0 "
                "for any that is free"
            ) from None
        raise InvalidRequest(f"port {port} cannot be used: {error.strerror}") from None
    return found


_local: dict[int, PageServer] = {}


def local_page(service: ServerProxy, port: int) -> str:
    """An address of the page of this process's own service, which begins with the first call and ends with the process."""
    server = _local.get(os.getpid())
    if server is None:
        try:
            server = PageServer(service, True, "", port)
        except InvalidRequest:  # another script has a page, or park web runs
            server = PageServer(service, True, "", 0)
        server.start()
        _local[os.getpid()] = server
        atexit.register(server.close)
    return server.address()


@contextlib.contextmanager
def served(service: ServerProxy, admin: bool, place: str, port: int = 0) -> Iterator[PageServer]:
    """The page of a service while a ``with`` lasts."""
    server = PageServer(service, admin, place, port)
    server.start()
    try:
        yield server
    finally:
        server.close()
