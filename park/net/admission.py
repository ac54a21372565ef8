"""The key that a client or a kernel shows to a broker, and the reason for which a broker does not let it in."""

from __future__ import annotations

import os
from pathlib import Path

from park.errors import InvalidRequest, Refused
from park.identity import usertag
from park.net.addresses import BrokerAddresses
from park.net.keys import CLIENT, KEY_SUFFIX, Key, find_key, read_key

#: Seconds that the first hello waits for a connection; the next one is sent a second later.
FIRST_HELLO_SECONDS = 0.5


def key_for(
    addresses: BrokerAddresses,
    roles: tuple[str, ...],
    user: str | None = None,
    file: Path | None = None,
    token: str | os.PathLike[str] | None = None,
) -> Key | None:
    """The key for the broker at *addresses*, from *file* if it is given; None over ipc, which needs no key.

    Raises NoBroker if there is no key, Refused for a key that other users could have read or that is for other *roles*.
    `park.net.keys.find_key` explains *user* and *token*.
    """
    if addresses.is_local:
        for name, given in (("--key", file), ("token=", token)):
            if given is not None:
                raise InvalidRequest(
                    f"{addresses.clients} takes no key: with {name} give the broker's tcp address"
                )
        return None
    own = addresses.key if CLIENT in roles and addresses.key is not None and addresses.key.exists() else None
    if token is None:
        file = own if file is None and user is None else file
    elif isinstance(token, os.PathLike) or token.endswith(KEY_SUFFIX):
        file, token = Path(token).expanduser(), None
    if file is None:
        return find_key(addresses.clients, roles, user, usertag(), token, own)
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
    """Why the broker at *address* does not let us in, by what our socket has seen (`Caller.trouble`); "": unknown."""
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
