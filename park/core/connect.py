"""`connect`: the way from a client to the broker of another process, and the key to show there."""

from __future__ import annotations

import atexit
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from park.client.link import Link
from park.config import said_broker
from park.core.server import ServerProxy, usertag
from park.core.service_stack import service_stack
from park.errors import InvalidRequest, NoBroker, Refused
from park.model import owner_name
from park.net.addresses import BrokerAddresses, find_broker
from park.net.keys import CLIENT, KEY_SUFFIX, OBSERVER, Key, find_key, read_key
from park.net.reactor import Reactor
from park.util.stdio import tell

if TYPE_CHECKING:
    from park.net.callers import Dealer

#: Seconds for which a broker may be away before waits for it end.
PATIENCE_SECONDS = 600.0
#: Seconds in which a broker must answer the first hello.
FIRST_ANSWER_SECONDS = 4.5
#: Seconds in which a broker that has taken the connection must answer: with thousands of kernels it may be busy.
BUSY_ANSWER_SECONDS = 30.0
#: Seconds that the first hello waits for a connection; the next one is sent a second later.
FIRST_HELLO_SECONDS = 0.5


def connect(
    broker: str | os.PathLike[str] | None = None,
    user: str | None = None,
    patience: float = PATIENCE_SECONDS,
    token: str | os.PathLike[str] | None = None,
) -> RemoteService:
    """The service of a running broker: a URL (``tcp://head:7275``), or the path of its connection file.

    None: $PARK_BROKER, else ``broker`` of a park.toml, else the file of the broker in the default home. On the broker's
    machine its file leads over ipc, and *user* is who you are, by default `park.usertag()`. Over tcp you are whose key
    you have, in ``~/.config/park/keys/HOST_PORT``; *user* says which, if there are several, and of several with one name
    *token*: the public key, as ``park keys list`` shows it, or its first letters, or the secret key; or the path of a key
    file, which may lie elsewhere. The first tag of your jobs is your `park.usertag()`, whosever key it is. Raises NoBroker
    when none answers within 5 s (30 s, if it has taken the connection and is busy), or lets you in; Refused for a key that
    others could have read, and for a *token* that is of no key; InvalidRequest for a *user* who has none.

    Later the broker may go away, and come back: jobs, maps, mappers and executors go on. While something waits for it
    a line on stderr says so. After *patience* seconds without it (600, ten minutes; ``float("inf")``: no limit) whatever
    waits, and all that is asked from then on until it is back, raises NoBroker::

        with park.connect("tcp://head:7275") as service:
            print(service.start(abs, range(-3, 0)))
    """
    from park.net.callers import check_listener

    began = time.monotonic()
    if isinstance(patience, bool) or not isinstance(patience, int | float) or not patience >= 0:
        raise InvalidRequest(f"patience={patience!r} is not a number of seconds from 0")
    said = said_broker()[0] if broker is None else broker
    place = find_broker(said)
    name = os.fspath(broker) if broker is not None else os.environ.get("PARK_BROKER") or place.clients
    check_listener(place.clients, FIRST_ANSWER_SECONDS)
    key = key_for(place, (CLIENT, OBSERVER), user, token=token)
    # the broker charges the name of the key, whatever name the client gives
    whose = key.name if key is not None else owner_name(user) if user else usertag()
    # several people may share a key: their jobs are told apart by a tag
    tags = [tag for tag in (usertag(),) if key is not None and tag != whose and tag.isprintable()]
    service = RemoteService(*_linked(place, key, whose, name, patience, began), said)
    service.set_tags(tags)
    return service


def _linked(
    place: BrokerAddresses, key: Key | None, whose: str, name: str, patience: float, began: float
) -> tuple[Link, Reactor]:
    """A link that the broker at *place* has welcomed, and the reactor that drives it. Raises NoBroker."""
    from park.net.callers import Dealer, Subscriber

    reactor = Reactor()
    line = Dealer(place.clients, key)
    line.wait(FIRST_HELLO_SECONDS)

    def listen() -> Subscriber:
        table = Subscriber(place.table, key)
        reactor.listen(table.fileno(), table.stir)
        return table

    link = Link(reactor, line, listen, whose, name, patience)
    reactor.listen(line.fileno(), line.stir)
    reactor.add(link)
    reactor.start("park-link")
    if not _answers(link, reactor, line, began, place.clients):
        trouble = reactor.call(line.trouble)
        reactor.stop()
        waited = time.monotonic() - began
        raise NoBroker(
            refusal(place.clients, key, trouble)
            or f"no broker answers at {place.clients} within {waited:.1f} s, though something listens "
            "there: is it a broker, and does it work?"
        )
    return link, reactor


def _answers(link: Link, reactor: Reactor, line: Dealer, began: float, address: str) -> bool:
    """Whether the broker welcomes the client in time: *began* is when the client has called it first."""
    if link.wait_live(began + FIRST_ANSWER_SECONDS - time.monotonic()):
        return True
    if not reactor.call(
        lambda: line.wait(0.0)
    ):  # the process that listens there has not taken the connection
        return False
    tell(
        f"park: the broker at {address} has taken the connection and does not answer yet: waiting for it",
        "warning",
    )
    return link.wait_live(began + BUSY_ANSWER_SECONDS - time.monotonic())


def key_for(
    place: BrokerAddresses,
    roles: tuple[str, ...],
    user: str | None = None,
    file: Path | None = None,
    token: str | os.PathLike[str] | None = None,
) -> Key | None:
    """The key to show at *place*, of *file* if it is given; None over ipc, where none is needed.

    Raises NoBroker where there is none, Refused for one that others could have read, or that is for other *roles*;
    more about *user* and *token* at `park.net.keys.find_key`.
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
    elif isinstance(token, os.PathLike) or token.endswith(KEY_SUFFIX):
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
