"""`connect`: the way from a client to the broker of another process, and the key to show there."""

from __future__ import annotations

import atexit
import os
import time
from typing import TYPE_CHECKING

from park.client.link import Link
from park.config import said_broker
from park.core.server import ServerProxy
from park.core.service_stack import service_stack
from park.errors import InvalidRequest, NoBroker
from park.identity import usertag
from park.model import owner_name
from park.net.addresses import BrokerAddresses, find_broker
from park.net.admission import FIRST_HELLO_SECONDS, key_for, refusal
from park.net.keys import CLIENT, OBSERVER, Key
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

    The broker may go away later and come back: jobs, maps, mappers and executors go on then. While a call waits for the
    broker, a line on stderr says so. After *patience* seconds without the broker (600 by default; ``float("inf")``: no
    limit) all calls that wait, and new ones until it is back, raise NoBroker::

        with park.connect("tcp://head:7275") as service:
            print(service.start(abs, range(-3, 0)))
    """
    from park.net.callers import check_listener

    began = time.monotonic()
    if isinstance(patience, bool) or not isinstance(patience, int | float) or not patience >= 0:
        raise InvalidRequest(f"patience={patience!r} is not a number of seconds from 0")
    broker_named = said_broker()[0] if broker is None else broker
    addresses = find_broker(broker_named)
    name = os.fspath(broker) if broker is not None else os.environ.get("PARK_BROKER") or addresses.clients
    check_listener(addresses.clients, FIRST_ANSWER_SECONDS)
    key = key_for(addresses, (CLIENT, OBSERVER), user, token=token)
    # the broker charges the name of the key, whatever name the client gives
    whose = key.name if key is not None else owner_name(user) if user else usertag()
    # several people may share a key: their jobs are told apart by a tag
    tags = [tag for tag in (usertag(),) if key is not None and tag != whose and tag.isprintable()]
    service = RemoteService(*_linked(addresses, key, whose, name, patience, began), broker_named)
    service.set_tags(tags)
    return service


def _linked(
    addresses: BrokerAddresses, key: Key | None, whose: str, name: str, patience: float, began: float
) -> tuple[Link, Reactor]:
    """A link that the broker at *addresses* has welcomed, and the reactor that drives it. Raises NoBroker."""
    from park.net.callers import Dealer, Subscriber

    connection = Dealer(addresses.clients, key)
    reactor = Reactor()
    connection.wait(FIRST_HELLO_SECONDS)

    def listen() -> Subscriber:
        table = Subscriber(addresses.table, key)
        reactor.listen(table.fileno(), table.stir)
        return table

    def refused() -> str:
        trouble = connection.trouble()  # another one than the key may pass
        return refusal(addresses.clients, key, trouble) if trouble == "key" else ""

    link = Link(reactor, connection, listen, whose, name, patience, refused)
    reactor.listen(connection.fileno(), connection.stir)
    reactor.add(link)
    try:
        reactor.start("park-link")
        if not _answers(link, reactor, connection, began, addresses.clients):
            waited = time.monotonic() - began
            raise NoBroker(
                refusal(addresses.clients, key, reactor.call(connection.trouble))
                or f"no broker answers at {addresses.clients} within {waited:.1f} s, though something listens "
                "there: is it a broker, and does it work?"
            )
    except BaseException:
        reactor.stop()
        raise
    return link, reactor


def _answers(link: Link, reactor: Reactor, connection: Dealer, began: float, address: str) -> bool:
    """Whether the broker welcomes the client in time. *began*: the time of the client's first hello."""
    if link.wait_live(began + FIRST_ANSWER_SECONDS - time.monotonic()):
        return True
    if not reactor.call(lambda: connection.wait(0.0)):  # no process there has taken the connection
        return False
    tell(
        f"park: the broker at {address} has taken the connection and does not answer yet: waiting for it",
        "warning",
    )
    return link.wait_live(began + BUSY_ANSWER_SECONDS - time.monotonic())


class RemoteService(ServerProxy):
    """A broker in another process, through `park.connect`."""

    def __init__(self, link: Link, reactor: Reactor, broker: str | os.PathLike[str]) -> None:
        super().__init__(link)
        self._reactor = reactor
        self._address = broker
        atexit.register(self.close)
        service_stack.opened(self)

    @property
    def _broker(self) -> str | os.PathLike[str]:
        return self._address

    def close(self) -> None:
        """End the connection; jobs go on, sessions end."""
        service_stack.closed(self)
        atexit.unregister(self.close)
        self._reactor.stop()
