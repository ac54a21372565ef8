"""A broker as an object: `ServiceManager` joins one `JobManager` to sockets or lanes; `connect` finds one."""

from __future__ import annotations

import atexit
import hashlib
import json
import os
import platform
import shutil
import stat
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from park.core.server import ServerProxy, usertag
from park.core.stack import service_stack
from park.errors import InvalidRequest, NoBroker, ParkError, Refused
from park.link import PATIENCE, Link
from park.model import owner_name
from park.util.addresses import (
    NAMES,
    VERSION,
    Place,
    check_bind,
    find_broker,
    said_broker,
    seen_from_elsewhere,
)
from park.util.keys import CLIENT, SUFFIX, Key, Keyring, find_key, read_key
from park.util.lanes import Junction
from park.util.reactor import Reactor

if TYPE_CHECKING:  # clients load nothing of the broker's
    from park.core.loop import BrokerLoop
    from park.core.manager import JobManager
    from park.util.sockets import Doorkeeper, Publisher, Router

#: Seconds in which a broker must answer the first hello.
FIRST_ANSWER = 4.5
#: The longest path of an ipc socket, bytes.
MAX_IPC_PATH = 107
#: Seconds that the first hello waits for a connection; the next one is said a second later.
FIRST_HELLO = 0.5
#: How often three free ports in a row are looked for.
PORT_TRIES = 50


class ServiceManager:
    """One broker in this process: its jobs, and the doors through which clients and kernels come.

    Without `listen` the doors are lanes, for links and kernels of the same thread.
    """

    def __init__(self, manager: JobManager, reactor: Reactor | None = None) -> None:
        self.manager = manager
        self.reactor = reactor if reactor is not None else Reactor()
        self.clients, self.kernels, self.board = Junction(), Junction(), Junction()
        self.loop: BrokerLoop | None = None
        self._home: Path | None = None
        #: a folder of its own, which goes with it
        self._folder: Path | None = None
        #: where it listens, by name: over ipc, and over tcp
        self.endpoints: dict[str, str] = {}
        self.tcp: dict[str, str] = {}
        self.keyring: Keyring | None = None

    def __repr__(self) -> str:
        where = self.tcp.get("clients") or self.endpoints.get("clients", "this process")
        return f"<ServiceManager at {where}: {self.manager!r}>"

    def open(self) -> Self:
        """Take up the stored jobs and begin to serve, over lanes."""
        from park.core.loop import BrokerLoop

        self.loop = BrokerLoop(self.manager, self.clients, self.kernels, self.board, self.reactor.wake)
        self.reactor.call(lambda: self.reactor.add(self.loop))  # type: ignore[arg-type]
        return self

    def listen(self, bind: str | None = None, home: Path | None = None) -> Self:
        """Begin to serve over sockets: over ipc in *home* (None: in a private folder), and at *bind* if it is given.

        *bind* is ``tcp://HOST:PORT``, of any of this machine's addresses, PORT 0 for three free ones in a row:
        there only those are let in who have a key, which the broker knows from *home*. Raises InvalidRequest,
        Refused for key files that others could have changed, NoBroker where nothing can be bound.
        """
        from park.core.loop import BrokerLoop
        from park.util.sockets import Publisher, Router, has_curve

        if bind is not None:
            check_bind(bind)
        folder = self._sockets(home)
        self._home = home
        if bind is not None or has_curve():
            self.keyring = Keyring(home if home is not None else folder)
            self.keyring.pair()
        local = (Router(), Router(), Publisher())
        try:
            for name, door in zip(NAMES, local, strict=True):
                self.endpoints[name] = door.bind(f"ipc://{folder / name}")
            keyed = self._keyed(bind, self.keyring) if bind is not None and self.keyring is not None else None
        except ParkError:
            for door in local:
                door.close()
            raise
        self.loop = BrokerLoop(self.manager, *local, self.reactor.wake, keyed)
        for router in (*local[:2], *(keyed[:2] if keyed is not None else ())):
            self.reactor.listen(router.fileno(), router.stir)
        self.reactor.add(self.loop)
        return self

    def _keyed(self, bind: str, keyring: Keyring) -> tuple[Router, Router, Publisher]:
        """The doors at *bind*, and a doorkeeper in the reactor who knows the *keyring*."""
        from park.util.sockets import Doorkeeper

        keyring.entries()  # refuses what others could have changed
        keyring.own(usertag())
        keeper = Doorkeeper(keyring.pair(), keyring.find)
        for tries_left in reversed(range(PORT_TRIES if bind.endswith(":0") else 1)):
            try:
                doors = self._row(bind, keeper)
                break
            except NoBroker:
                if not tries_left:
                    keeper.close()
                    raise
        self.reactor.listen(keeper.fileno(), keeper.stir)
        self.reactor.add(keeper)
        return doors

    def _row(self, bind: str, keeper: Doorkeeper) -> tuple[Router, Router, Publisher]:
        """Doors at a port and the two after it. Raises NoBroker if one of them is taken."""
        from park.util.sockets import KeyedRouter, Publisher

        doors = (KeyedRouter(keeper, "clients"), KeyedRouter(keeper, "kernels"), Publisher(keeper))
        try:
            first = self.tcp["clients"] = doors[0].bind(bind)
            for name, door, address in zip(NAMES[1:], doors[1:], check_bind(first)[1:], strict=True):
                self.tcp[name] = door.bind(address)
        except (NoBroker, InvalidRequest) as error:
            for door in doors:
                door.close()
            raise NoBroker(str(error)) from error
        return doors

    def write_connection(self, file: Path) -> None:
        """Write the connection file (mode 0600), whole or not at all."""
        fields: dict[str, Any] = {
            "version": VERSION,
            "store": self.manager.store.id,
            "pid": os.getpid(),
            "host": platform.node(),
            **self.endpoints,
        }
        if self._home is not None:
            fields["home"] = str(self._home)
        if self.keyring is not None:
            fields["public"] = self.keyring.pair().public
        if self.tcp and self.keyring is not None:
            fields["tcp"] = {name: seen_from_elsewhere(address) for name, address in self.tcp.items()}
            fields["key"] = str(self.keyring.own(usertag()))
        part = file.with_name(f".{file.name}.{os.getpid()}")
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as out:
            out.write(json.dumps(fields, indent=2) + "\n")
        part.replace(file)

    def close(self) -> None:
        """Stop serving; stored jobs stay."""
        self.reactor.stop()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _sockets(self, home: Path | None) -> Path:
        """The folder of the ipc sockets."""
        folder = home / "sockets" if home is not None else None
        if folder is None:
            folder = self._folder = Path(tempfile.mkdtemp(prefix="park-"))
        elif len(os.fsencode(folder / NAMES[0])) > MAX_IPC_PATH:
            folder = self._folder = short_folder(folder)
        _make_private(folder)
        return folder


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


def connect(
    broker: str | os.PathLike[str] | None = None,
    user: str | None = None,
    patience: float = PATIENCE,
    token: str | os.PathLike[str] | None = None,
) -> ServerProxy:
    """The service of a running broker: a URL (``tcp://head:7275``), or the path of its connection file.

    None: $PARK_BROKER, else ``broker`` of a park.toml, else the file of the broker in the default home. On the broker's
    machine its file leads over ipc, and *user* is who you are, by default `park.usertag()`. Over tcp you are whose key
    you have, in ``~/.config/park/keys/HOST_PORT``; *user* says which, if there are several, and of several with one name
    *token*: the public key, as ``park keys list`` shows it, or its first letters, or the secret key; or the path of a key
    file, which may lie elsewhere. The first tag of your jobs is your `park.usertag()`, whosever key it is. Raises NoBroker
    when none answers within 5 s, or lets you in; Refused for a key that others could have read, and for a *token* that is
    of no key; InvalidRequest for a *user* who has none.

    Later the broker may go away, and come back: jobs, maps, mappers and executors go on. While something waits for it
    a line on stderr says so. After *patience* seconds without it (600, ten minutes; ``float("inf")``: no limit) whatever
    waits, and all that is asked from then on until it is back, raises NoBroker::

        with park.connect("tcp://head:7275") as service:
            print(service.start(abs, range(-3, 0)))
    """
    from park.util.sockets import Dealer, Subscriber, check_listener

    began = time.monotonic()
    if isinstance(patience, bool) or not isinstance(patience, int | float) or not patience >= 0:
        raise InvalidRequest(f"patience={patience!r} is not a number of seconds from 0")
    said = said_broker()[0] if broker is None else broker
    place = find_broker(said)
    name = os.fspath(broker) if broker is not None else os.environ.get("PARK_BROKER") or place.clients
    check_listener(place.clients, FIRST_ANSWER)
    key = key_for(place, (CLIENT,), user, token=token)
    # the broker charges the key's name, whoever we say that we are
    whose = key.name if key is not None else owner_name(user) if user else usertag()
    # several people may share a key: their jobs are told apart by a tag
    tags = [tag for tag in (usertag(),) if key is not None and tag != whose and tag.isprintable()]
    reactor = Reactor()
    line = Dealer(place.clients, key)
    line.wait(FIRST_HELLO)

    def listen() -> Subscriber:
        table = Subscriber(place.table, key)
        reactor.listen(table.fileno(), table.stir)
        return table

    link = Link(reactor, line, listen, whose, name, patience)
    reactor.listen(line.fileno(), line.stir)
    reactor.add(link)
    reactor.start("park-link")
    if not link.wait_live(began + FIRST_ANSWER - time.monotonic()):
        trouble = reactor.call(line.trouble)
        reactor.stop()
        raise NoBroker(
            refusal(place.clients, key, trouble)
            or f"no broker answers at {place.clients} within {FIRST_ANSWER:.1f} s, though something listens "
            "there: is it a broker, and does it work?"
        )
    service = RemoteService(link, reactor, said)
    service.set_tags(tags)
    return service


def key_for(
    place: Place,
    roles: tuple[str, ...],
    user: str | None = None,
    file: Path | None = None,
    token: str | os.PathLike[str] | None = None,
) -> Key | None:
    """The key to show at *place*, of *file* if it is given; None over ipc, where none is needed.

    Raises NoBroker where there is none, Refused for one that others could have read, or that is for other *roles*;
    more about *user* and *token* at `park.util.keys.find_key`.
    """
    if place.is_local:
        for name, given in (("--key", file), ("token=", token)):
            if given is not None:
                raise InvalidRequest(
                    f"{place.clients} takes no key: with {name} give the broker's tcp address"
                )
        return None
    own = place.key if CLIENT in roles and place.key is not None and place.key.exists() else None
    if token is None:
        file = own if file is None and user is None else file
    elif isinstance(token, os.PathLike) or token.endswith(SUFFIX):
        file, token = Path(token).expanduser(), None
    if file is None:
        return find_key(place.clients, roles, user, usertag(), token, own)
    key = read_key(file)
    if key.role not in roles:
        who, how = ("client", "NAME") if CLIENT in roles else ("kernel", "NAME --kernel")
        raise Refused(
            f"{file} is a {key.role}'s key: a {who} needs a key of its own, from `park keys new {how}`"
        )
    if user is not None and key.name != user:
        raise InvalidRequest(f"{file} is the key of {key.name}, not of {user!r}")
    return key


def refusal(address: str, key: Key | None, trouble: str) -> str:
    """Why the broker at *address* does not let us in, as its socket saw it (`Caller.trouble`); "": it is not known."""
    if key is None or not trouble:
        return ""
    if trouble == "key":
        return (
            f"the broker at {address} does not let us in with {key.path}: the key of {key.name} is not, or no longer, "
            f"registered there as a {key.role}'s (`park keys list` on its machine shows which are)"
        )
    return (
        f"something listens at {address} but does not let us in with {key.path}: that key is for another broker, or "
        "for one that had another home, or what listens there is no broker"
    )


class RemoteService(ServerProxy):
    """A broker in another process, through `park.connect`."""

    def __init__(self, link: Link, reactor: Reactor, broker: str | os.PathLike[str]) -> None:
        super().__init__(link)
        self._reactor = reactor
        self._said = broker
        atexit.register(self.close)
        service_stack.opened(self)

    @property
    def _broker(self) -> str | os.PathLike[str]:
        return self._said

    def close(self) -> None:
        """End the connection; jobs go on, sessions end."""
        service_stack.closed(self)
        atexit.unregister(self.close)
        self._reactor.stop()
