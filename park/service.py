"""A broker as an object: `ServiceManager` joins one `JobManager` to sockets or lanes; `connect` finds one."""

from __future__ import annotations

import atexit
import hashlib
import json
import os
import shutil
import stat
import tempfile
import time
from pathlib import Path
from typing import Self

from park.core.loop import BrokerLoop
from park.core.manager import JobManager
from park.core.server import ServerProxy, usertag
from park.errors import InvalidRequest, NoBroker, Refused
from park.link import Link
from park.util.lanes import Junction
from park.util.reactor import Reactor

#: Seconds in which a broker must answer the first hello.
FIRST_ANSWER = 4.5
#: The broker's port for clients; kernels use the next one, the table the one after it.
PORT = 7275
#: The longest path of an ipc socket, bytes.
MAX_IPC_PATH = 107
_NAMES = ("clients", "kernels", "table")


class ServiceManager:
    """One broker in this process: its jobs, and the doors through which clients and kernels come.

    Without `listen` the doors are lanes, for links and kernels of the same thread.
    """

    def __init__(self, manager: JobManager, reactor: Reactor | None = None) -> None:
        self.manager = manager
        self.reactor = reactor if reactor is not None else Reactor()
        self.clients, self.kernels, self.board = Junction(), Junction(), Junction()
        self.loop: BrokerLoop | None = None
        self._folder: Path | None = None
        self.endpoints: dict[str, str] = {}

    def __repr__(self) -> str:
        where = self.endpoints.get("clients", "this process")
        return f"<ServiceManager at {where}: {self.manager!r}>"

    def open(self) -> Self:
        """Take up the stored jobs and begin to serve, over lanes."""
        self.loop = BrokerLoop(self.manager, self.clients, self.kernels, self.board)
        self.reactor.call(lambda: self.reactor.add(self.loop))  # type: ignore[arg-type]
        return self

    def listen(self, bind: str | None = None, home: Path | None = None) -> Self:
        """Begin to serve over sockets: *bind* is ``tcp://HOST:PORT``, None: ipc in *home*, or a private folder.

        Raises Refused for an address beyond this machine, NoBroker where nothing can be bound.
        """
        from park.util.sockets import Publisher, Router

        addresses = check_bind(bind) if bind is not None else self._ipc(home)
        doors = (Router(), Router(), Publisher())
        try:
            for name, door, address in zip(_NAMES, doors, addresses, strict=True):
                self.endpoints[name] = door.bind(address)
        except NoBroker:
            for door in doors:
                door.close()
            raise
        self.loop = BrokerLoop(self.manager, *doors)
        self.reactor.listen(doors[0].fileno())
        self.reactor.listen(doors[1].fileno())
        self.reactor.add(self.loop)
        return self

    def write_connection(self, file: Path) -> None:
        """Write the connection file (mode 0600), whole or not at all."""
        text = json.dumps(
            {"version": 1, "store": self.manager.store.id, "pid": os.getpid(), **self.endpoints}, indent=2
        )
        part = file.with_name(f".{file.name}.{os.getpid()}")
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as out:
            out.write(text + "\n")
        part.replace(file)

    def close(self) -> None:
        """Stop serving; stored jobs stay."""
        self.reactor.stop()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _ipc(self, home: Path | None) -> list[str]:
        folder = home / "sockets" if home is not None else None
        if folder is None:
            folder = self._folder = Path(tempfile.mkdtemp(prefix="park-"))
        elif len(os.fsencode(folder / _NAMES[0])) > MAX_IPC_PATH:
            folder = self._folder = short_folder(folder)
        _make_private(folder)
        return [f"ipc://{folder / name}" for name in _NAMES]


def short_folder(folder: Path) -> Path:
    """Where the sockets of a home lie whose path is too long: always the same place, so that peers come back to it."""
    where = os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()
    name = hashlib.blake2b(os.fsencode(folder.resolve()), digest_size=6).hexdigest()
    return Path(where) / f"park-{os.getuid()}-{name}"


def _make_private(folder: Path) -> None:
    """Make a folder of mode 0700, or take the one that is there if it is this user's. Raises Refused."""
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise Refused(
            f"{folder} belongs to somebody else, so the broker's sockets cannot lie there: remove it"
        )
    folder.chmod(0o700)


def check_bind(bind: str) -> list[str]:
    """The three addresses of a broker at *bind*. Raises InvalidRequest, or Refused for one beyond this machine."""
    from park.util.sockets import check_address

    addresses = _tcp(bind)
    if not addresses:
        raise InvalidRequest(f"{bind!r} is no address to listen at: give tcp://127.0.0.1:{PORT}")
    check_address(bind)
    return addresses


def _tcp(url: str) -> list[str]:
    """The addresses at a port and the two after it; none if *url* is no address of tcp."""
    host, _, port = url.removeprefix("tcp://").rpartition(":")
    if not url.startswith("tcp://") or not host or not port.isdigit() or int(port) > 65533:
        return []
    return [f"tcp://{host}:{int(port) + i if int(port) else 0}" for i in range(3)]


def read_connection(broker: str | os.PathLike[str] | None) -> dict[str, str]:
    """The endpoints of a broker, by name, from a URL or a connection file (None: $PARK_BROKER, then the home's).

    Raises NoBroker in words.
    """
    where = (
        os.fspath(broker)
        if broker is not None
        else os.environ.get("PARK_BROKER") or str(default_home() / "connection.json")
    )
    if addresses := _tcp(where):
        return dict(zip(_NAMES, addresses, strict=True))
    if "://" in where and not where.startswith("ipc://"):
        raise NoBroker(
            f"{where!r} is no address of a broker: give tcp://HOST:PORT, ipc://FOLDER, or the path of a connection file"
        )
    if where.startswith("ipc://"):
        folder = where.removesuffix("/clients")
        return {name: f"{folder}/{name}" for name in _NAMES}
    file = Path(where).expanduser()
    if file.is_dir():
        file = file / "connection.json"
    try:
        found = json.loads(file.read_text())
        if found["version"] != 1:
            raise NoBroker(
                f"{file} was written by another release of PARK (version {found['version']}, not 1)"
            )
        return {name: str(found[name]) for name in _NAMES}
    except FileNotFoundError:
        raise NoBroker(
            f"no broker: {file} does not exist. Start one with `park-broker`, or give its connection file or its "
            "address (tcp://HOST:PORT) as --broker, PARK_BROKER or park.connect(...)"
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise NoBroker(f"{file} is no connection file of a broker: {error}") from error


def default_home() -> Path:
    """The broker's home without ``--home``: $PARK_HOME, else the user's state folder."""
    if home := os.environ.get("PARK_HOME"):
        return Path(home).expanduser()
    state = os.environ.get("XDG_STATE_HOME")
    return (Path(state) if state else Path.home() / ".local" / "state") / "park"


def connect(broker: str | os.PathLike[str] | None = None, user: str | None = None) -> ServerProxy:
    """The service of a running broker: a URL (``tcp://127.0.0.1:7275``), or the path of its connection file.

    None: $PARK_BROKER, else the file of the broker in the default home. *user*: who you are, by default
    `park.usertag()`. Raises NoBroker when none answers within 5 s.
    """
    from park.util.sockets import Dealer, Subscriber, check_listener

    began = time.monotonic()
    endpoints = read_connection(broker)
    name = os.fspath(broker) if broker is not None else os.environ.get("PARK_BROKER") or endpoints["clients"]
    check_listener(endpoints["clients"], FIRST_ANSWER)
    reactor = Reactor()
    line, table = Dealer(endpoints["clients"]), Subscriber(endpoints["table"])
    link = Link(reactor, line, table, user or usertag(), name)
    reactor.listen(line.fileno())
    reactor.listen(table.fileno())
    reactor.add(link)
    reactor.start("park-link")
    if not link.wait_live(began + FIRST_ANSWER - time.monotonic()):
        reactor.stop()
        raise NoBroker(
            f"no broker answers at {endpoints['clients']} within {FIRST_ANSWER:.1f} s, though something listens "
            "there: is it a broker, and does it work?"
        )
    return RemoteService(link, reactor)


class RemoteService(ServerProxy):
    """A broker in another process, through `park.connect`."""

    def __init__(self, link: Link, reactor: Reactor) -> None:
        super().__init__(link)
        self._reactor = reactor
        atexit.register(self.close)

    def close(self) -> None:
        """End the connection; jobs go on, sessions end."""
        atexit.unregister(self.close)
        self._reactor.stop()
