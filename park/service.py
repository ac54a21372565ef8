"""A broker as an object: `ServiceManager` joins one `JobManager` to sockets or lanes."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import platform
import shutil
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from park.errors import InvalidRequest, NoBroker, ParkError, Refused, StoreError
from park.identity import usertag
from park.net.addresses import (
    ADDRESS_NAMES,
    CONNECTION_FILE_VERSION,
    check_bind,
    seen_from_elsewhere,
)
from park.net.inproc import InprocRouter
from park.net.keys import Keyring
from park.net.reactor import Reactor

if TYPE_CHECKING:  # clients load nothing of the broker's
    from park.broker.loop import BrokerLoop
    from park.broker.manager import JobManager
    from park.net.authenticator import Authenticator
    from park.net.intake import Intake
    from park.net.sockets import Publisher, Router

#: The longest path of an ipc socket, bytes.
MAX_IPC_PATH = 107
#: Attempts to find three free ports in a row.
PORT_TRIES = 50


class ServiceManager:
    """One broker in this process: its jobs, and the sockets to which clients and kernels connect.

    Without `listen` lanes take the place of sockets, for links and kernels of the same thread.
    """

    def __init__(
        self, manager: JobManager, reactor: Reactor | None = None, kernels: InprocRouter | None = None
    ) -> None:
        self._manager = manager
        self.reactor = reactor or Reactor()
        self.clients, self.kernels, self.board = InprocRouter(), kernels or InprocRouter(), InprocRouter()
        self.loop: BrokerLoop | None = None
        self._home: Path | None = None
        #: a folder of its own, which goes with it
        self._folder: Path | None = None
        #: the addresses at which it listens, by name: over ipc, and over tcp
        self.endpoints: dict[str, str] = {}
        self.tcp: dict[str, str] = {}
        self.keyring: Keyring | None = None

    def __repr__(self) -> str:
        where = self.tcp.get("clients") or self.endpoints.get("clients", "this process")
        return f"<ServiceManager at {where}: {self.manager!r}>"

    @property
    def manager(self) -> JobManager:
        """The jobs, of the broker's present life."""
        return self._manager if self.loop is None else self.loop.manager

    def open(self) -> Self:
        """Take up the stored jobs and begin to serve, over lanes."""
        from park.broker.loop import BrokerLoop

        self.loop = BrokerLoop(self.manager, self.clients, self.kernels, self.board, self.reactor.wake)
        self.reactor.call(lambda: self.reactor.add(self.loop))  # type: ignore[arg-type]
        return self

    def listen(self, bind: str | None = None, home: Path | None = None) -> Self:
        """Begin to serve over sockets: over ipc in *home* (None: in a private folder), and at *bind* if it is given.

        *bind* is ``tcp://HOST:PORT``, of any of this machine's addresses, PORT 0 for three free ones in a row:
        only peers with a key that the broker knows from *home* may connect there. Raises InvalidRequest,
        Refused for key files that others could have changed, NoBroker where nothing can be bound.
        """
        from park.broker.loop import LONG_MESSAGES, BrokerLoop
        from park.net.curve import has_curve
        from park.net.descriptors import raise_limit
        from park.net.intake import Intake
        from park.net.sockets import Publisher, Router

        if bind is not None:
            check_bind(bind)
        limit = raise_limit()
        folder = self._sockets(home)
        self._home = home
        if bind is not None or has_curve():
            self.keyring = Keyring(home if home is not None else folder)
            self.keyring.pair()
        intake = Intake(LONG_MESSAGES)
        local = (Router(None, intake), Router(None, intake), Publisher())
        try:
            for name, listener in zip(ADDRESS_NAMES, local, strict=True):
                self.endpoints[name] = listener.bind(f"ipc://{folder / name}")
            keyed = (
                self._keyed(bind, self.keyring, limit, intake)
                if bind is not None and self.keyring is not None
                else None
            )
        except ParkError:
            for listener in local:
                listener.close()
            raise
        self.loop = BrokerLoop(self.manager, *local, self.reactor.wake, keyed)
        for router in (*local[:2], *(keyed[:2] if keyed is not None else ())):
            self.reactor.listen(router.fileno(), router.stir)
        self.reactor.add(self.loop)
        return self

    def _keyed(
        self, bind: str, keyring: Keyring, limit: int, intake: Intake
    ) -> tuple[Router, Router, Publisher]:
        """The sockets at *bind*, and an authenticator in the reactor that checks keys by the *keyring*.

        *limit*: of open files.
        """
        from park.net.authenticator import Authenticator
        from park.net.descriptors import DescriptorReserve

        keyring.entries()  # refuses what others could have changed
        keyring.own(usertag())
        keeper = Authenticator(keyring.pair(), keyring.find, DescriptorReserve(limit), keyring)
        for tries_left in reversed(range(PORT_TRIES if bind.endswith(":0") else 1)):
            try:
                listeners = self._three(bind, keeper, intake)
                break
            except NoBroker:
                if not tries_left:
                    keeper.close()
                    raise
        if keeper.reserve is not None:
            keeper.reserve.start()
        self.reactor.listen(keeper.fileno(), keeper.stir)
        self.reactor.add(keeper)
        return listeners

    def _three(self, bind: str, keeper: Authenticator, intake: Intake) -> tuple[Router, Router, Publisher]:
        """Sockets at a port and the two after it. Raises NoBroker if one of the ports is taken."""
        from park.net.sockets import KeyedRouter, Publisher

        listeners = (
            KeyedRouter(keeper, "clients", intake),
            KeyedRouter(keeper, "kernels", intake),
            Publisher(keeper),
        )
        try:
            first = self.tcp["clients"] = listeners[0].bind(bind)
            for name, listener, address in zip(
                ADDRESS_NAMES[1:], listeners[1:], check_bind(first)[1:], strict=True
            ):
                self.tcp[name] = listener.bind(address)
        except (NoBroker, InvalidRequest) as error:
            for listener in listeners:
                listener.close()
            raise NoBroker(str(error)) from error
        return listeners

    def write_connection(self, file: Path) -> None:
        """Write the connection file (mode 0600), whole or not at all; on a full disk in place of the last one.

        Raises StoreError where there is no room for it.
        """
        fields: dict[str, Any] = {
            "version": CONNECTION_FILE_VERSION,
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
        data = json.dumps(fields, indent=2).encode() + b"\n"
        part = file.with_name(f".{file.name}.{os.getpid()}")
        try:
            _write(part, data)
            part.replace(file)
        except OSError as error:
            part.unlink(missing_ok=True)
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            try:  # the bytes of the last life's file are there to be used
                _write(file, data)
            except OSError as again:
                raise StoreError(
                    f"cannot write {file}: {again.strerror}: make room there, or name a --connection-file elsewhere"
                ) from again

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
        elif len(os.fsencode(folder / ADDRESS_NAMES[0])) > MAX_IPC_PATH:
            folder = self._folder = short_folder(folder)
        _make_private(folder)
        return folder


def _write(file: Path, data: bytes) -> None:
    """Write a file of mode 0600; one that is there keeps its place on the disk."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        if os.write(descriptor, data) < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.ftruncate(descriptor, len(data))
    finally:
        os.close(descriptor)


def short_folder(folder: Path) -> Path:
    """The folder for the sockets of a home whose path is too long: always the same, so that peers come back to it."""
    where = os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()
    name = hashlib.blake2b(os.fsencode(folder.resolve()), digest_size=6).hexdigest()
    return Path(where) / f"park-{os.getuid()}-{name}"


def _make_private(folder: Path) -> None:
    """Make a folder of mode 0700, or take the one that is there if it is this user's. Raises Refused."""
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise Refused(
            f"{folder} belongs to another user, so the broker's sockets cannot lie there: remove it"
        )
    folder.chmod(0o700)
