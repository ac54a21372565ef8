"""The addresses of a broker, and the connection file that names them.

A broker has three addresses: for clients, for kernels, and of the table. Over ipc they are three sockets in one folder,
over tcp three consecutive ports.
"""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Self

from msgspec import Struct

from park.config import DEFAULT_PORT, said_broker
from park.errors import InvalidRequest, NoBroker

#: The purposes of a broker's three addresses.
ADDRESS_NAMES = ("clients", "kernels", "table")
CONNECTION_FILE_VERSION = 1
#: Hosts that stand for all addresses of this machine.
_ANY = ("*", "0.0.0.0", "[::]")


class BrokerAddresses(Struct, frozen=True):
    """The three addresses of a broker. *key* is the file of a client's key that its connection file names."""

    clients: str
    kernels: str
    table: str
    key: Path | None = None

    @classmethod
    def of(cls, addresses: Iterable[str], key: Path | None = None) -> Self:
        """Build from the three addresses in their order."""
        clients, kernels, table = addresses
        return cls(clients, kernels, table, key)

    @property
    def is_local(self) -> bool:
        """Whether no key is needed, because only the broker's own Unix user can connect."""
        return self.clients.startswith("ipc://")


def tcp_addresses(url: str) -> list[str]:
    """The addresses at a port and at the two ports after it; an empty list if *url* is no tcp address.

    >>> tcp_addresses("tcp://head:7275")
    ['tcp://head:7275', 'tcp://head:7276', 'tcp://head:7277']
    """
    host, _, port = url.removeprefix("tcp://").rpartition(":")
    if not url.startswith("tcp://") or not host or not port.isdigit() or int(port) > 65533:
        return []
    return [f"tcp://{host}:{int(port) + i if int(port) else 0}" for i in range(3)]


def with_port(url: str) -> str:
    """A tcp address with its port (the default port if it names none). Any other text is returned as it is.

    >>> with_port("tcp://head"), with_port("tcp://[::1]"), with_port("tcp://head:80"), with_port("head")
    ('tcp://head:7275', 'tcp://[::1]:7275', 'tcp://head:80', 'head')
    """
    host = url.removeprefix("tcp://")
    if url == host or not re.fullmatch(r"[\w.-]+|\[[\da-fA-F:.]+\]", host):
        return url
    return f"{url}:{DEFAULT_PORT}"


def check_bind(bind: str) -> list[str]:
    """The three addresses of a broker at *bind*; all ports are 0 if its port is. Raises InvalidRequest."""
    addresses = tcp_addresses(bind)
    if not addresses:
        raise InvalidRequest(f"{bind!r} is no address to listen at: give tcp://HOST:{DEFAULT_PORT}")
    return addresses


def seen_from_elsewhere(address: str) -> str:
    """The address under which other machines reach a listener at *address*."""
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    return f"tcp://{platform.node()}:{port}" if host in _ANY else address


def find_broker(broker: str | os.PathLike[str] | None, elsewhere: bool = False) -> BrokerAddresses:
    """The address of a broker, by a URL or a connection file (None: see `said_broker`). Raises NoBroker in words.

    *elsewhere*: the address for other machines that read the same file; a local address if they cannot reach the
    broker.
    """
    where = said_broker()[0] if broker is None else os.fspath(broker)
    if addresses := tcp_addresses(with_port(where)):
        return BrokerAddresses.of(addresses)
    if "://" in where and not where.startswith("ipc://"):
        raise NoBroker(
            f"{where!r} is no address of a broker: give tcp://HOST:PORT, ipc://FOLDER, or the path of a connection file"
        )
    if where.startswith("ipc://"):
        folder = where.removesuffix("/clients")
        return BrokerAddresses.of(f"{folder}/{name}" for name in ADDRESS_NAMES)
    return _read(Path(where).expanduser(), elsewhere)


def _read(file: Path, elsewhere: bool) -> BrokerAddresses:
    if file.is_dir():
        file = file / "connection.json"
    try:
        found = json.loads(file.read_text())
        if found["version"] != CONNECTION_FILE_VERSION:
            raise NoBroker(
                f"{file} was written by another release of PARK (version {found['version']}, not {CONNECTION_FILE_VERSION})"
            )
        local = BrokerAddresses.of(str(found[name]) for name in ADDRESS_NAMES)
        tcp, key = found.get("tcp"), found.get("key")
        # on the broker's own machine ipc needs no key; other machines may read the file too, and need tcp
        here = found.get("host") == platform.node() and os.path.exists(local.clients.removeprefix("ipc://"))
        if tcp is None or (here and not elsewhere):
            return local
        return BrokerAddresses.of(
            (str(tcp[name]) for name in ADDRESS_NAMES), None if key is None else Path(key)
        )
    except FileNotFoundError:
        raise NoBroker(
            f"no broker: {file} does not exist. Start one with `park-broker`, or give its connection file or its "
            "address (tcp://HOST:PORT) as --broker, PARK_BROKER or park.connect(...)"
        ) from None
    except KeyError as error:
        raise NoBroker(f"{file} is no connection file of a broker: it has no {error}") from error
    except (OSError, ValueError, TypeError) as error:
        raise NoBroker(f"{file} is no connection file of a broker: {error}") from error
