"""Where a broker is: its addresses, and the connection file in which it says so.

A broker has three addresses: for clients, for kernels, and of the table. Over ipc they are three sockets in one folder,
over tcp three ports in a row.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from park.errors import InvalidRequest, NoBroker

#: The broker's port for clients; kernels use the next one, the table the one after it.
PORT = 7275
#: What a broker's three addresses are for.
NAMES = ("clients", "kernels", "table")
VERSION = 1
#: Hosts that stand for all addresses of this machine.
_ANY = ("*", "0.0.0.0", "[::]")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a broker is. *key*: the file of a client's key that its connection file names."""

    clients: str
    kernels: str
    table: str
    key: Path | None = None

    @classmethod
    def of(cls, addresses: Iterable[str], key: Path | None = None) -> Self:
        """From the three addresses in their order."""
        clients, kernels, table = addresses
        return cls(clients, kernels, table, key)

    @property
    def is_local(self) -> bool:
        """Whether no key is needed: only the broker's own Unix user can connect."""
        return self.clients.startswith("ipc://")


def tcp_addresses(url: str) -> list[str]:
    """The addresses at a port and the two after it; none if *url* is no address of tcp.

    >>> tcp_addresses("tcp://head:7275")
    ['tcp://head:7275', 'tcp://head:7276', 'tcp://head:7277']
    """
    host, _, port = url.removeprefix("tcp://").rpartition(":")
    if not url.startswith("tcp://") or not host or not port.isdigit() or int(port) > 65533:
        return []
    return [f"tcp://{host}:{int(port) + i if int(port) else 0}" for i in range(3)]


def check_bind(bind: str) -> list[str]:
    """The three addresses of a broker at *bind*; all ports are 0 if its port is. Raises InvalidRequest."""
    addresses = tcp_addresses(bind)
    if not addresses:
        raise InvalidRequest(f"{bind!r} is no address to listen at: give tcp://HOST:{PORT}")
    return addresses


def seen_from_elsewhere(address: str) -> str:
    """The address under which others find what listens at *address*."""
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    return f"tcp://{platform.node()}:{port}" if host in _ANY else address


def default_home() -> Path:
    """The broker's home without ``--home``: $PARK_HOME, else the user's state folder."""
    if home := os.environ.get("PARK_HOME"):
        return Path(home).expanduser()
    state = os.environ.get("XDG_STATE_HOME")
    return (Path(state) if state else Path.home() / ".local" / "state") / "park"


def config_files(environment: Mapping[str, str]) -> Iterator[Path]:
    """The park.toml of the site and of the user, which need not be there, the one that counts least first."""
    for folder in reversed((environment.get("XDG_CONFIG_DIRS") or "/etc/xdg").split(os.pathsep)):
        if os.path.isabs(folder):  # others are to be ignored, says XDG
            yield Path(folder, "park", "park.toml")
    home = environment.get("XDG_CONFIG_HOME")
    yield (Path(home) if home else Path.home() / ".config") / "park" / "park.toml"


def said_broker(environment: Mapping[str, str] | None = None) -> tuple[str, str]:
    """Where the broker is said to be, and by what, "" for nothing: $PARK_BROKER, then ``broker`` of a park.toml.

    Raises InvalidRequest for a file that cannot be read.
    """
    environment = os.environ if environment is None else environment
    if broker := environment.get("PARK_BROKER"):
        return broker, "PARK_BROKER"
    for file in reversed(list(config_files(environment))):
        if file.exists():
            import tomllib

            try:
                found = tomllib.loads(file.read_text(encoding="utf-8")).get("broker")
            except OSError as error:
                raise InvalidRequest(f"{file} cannot be read: {error.strerror}") from error
            except ValueError as error:  # no TOML, or no text
                raise InvalidRequest(f"{file} is no TOML: {error}") from error
            if found is not None:
                check_said(found, f"{file}: broker")
                return found, str(file)
    return str(default_home() / "connection.json"), ""


def check_said(broker: Any, where: str) -> None:
    """Raises InvalidRequest for what cannot be where a broker is; *where* is who says so."""
    if not isinstance(broker, str) or not broker.strip():
        raise InvalidRequest(
            f"{where} = {broker!r} is no text: give tcp://HOST:{PORT}, or the path of a connection file"
        )


def find_broker(broker: str | os.PathLike[str] | None) -> Place:
    """Where a broker is, by a URL or a connection file (None: see `said_broker`). Raises NoBroker in words."""
    where = said_broker()[0] if broker is None else os.fspath(broker)
    if addresses := tcp_addresses(where):
        return Place.of(addresses)
    if "://" in where and not where.startswith("ipc://"):
        raise NoBroker(
            f"{where!r} is no address of a broker: give tcp://HOST:PORT, ipc://FOLDER, or the path of a connection file"
        )
    if where.startswith("ipc://"):
        folder = where.removesuffix("/clients")
        return Place.of(f"{folder}/{name}" for name in NAMES)
    return _read(Path(where).expanduser())


def _read(file: Path) -> Place:
    if file.is_dir():
        file = file / "connection.json"
    try:
        found = json.loads(file.read_text())
        if found["version"] != VERSION:
            raise NoBroker(
                f"{file} was written by another release of PARK (version {found['version']}, not {VERSION})"
            )
        local = Place.of(str(found[name]) for name in NAMES)
        tcp, key = found.get("tcp"), found.get("key")
        # on the broker's own machine ipc needs no key; the file may be seen from others, which need tcp
        here = found.get("host") == platform.node() and os.path.exists(local.clients.removeprefix("ipc://"))
        if tcp is None or here:
            return local
        return Place.of((str(tcp[name]) for name in NAMES), None if key is None else Path(key))
    except FileNotFoundError:
        raise NoBroker(
            f"no broker: {file} does not exist. Start one with `park-broker`, or give its connection file or its "
            "address (tcp://HOST:PORT) as --broker, PARK_BROKER or park.connect(...)"
        ) from None
    except KeyError as error:
        raise NoBroker(f"{file} is no connection file of a broker: it has no {error}") from error
    except (OSError, ValueError, TypeError) as error:
        raise NoBroker(f"{file} is no connection file of a broker: {error}") from error
