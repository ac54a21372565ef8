"""Authentication: the answer to the question that ZeroMQ asks about each connection to a socket with CURVE.

ZeroMQ asks over its authentication protocol, ZAP (rfc.zeromq.org/spec/27). The request names the socket (by its domain),
the mechanism, and the public key whose secret half the peer has proved to have. The answer is a status and a User-Id. The
User-Id comes with every message of the connection; it names the owner of the key, and no peer can choose it.

The status is 200 (accepted) or 400 (refused). The peer learns of a refusal, and its ZeroMQ does not try again by
itself. `park.net.callers.Caller` lets it connect again, because the key may be registered only a moment later. (300,
"later", would fit better, but then the broker's ZeroMQ often sends no answer at all until the time limit of the
handshake.)
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct

from park.net.keys import CLIENT, KERNEL, OBSERVER, POOL, ROLES, KeyEntry

#: Roles of the keys that each domain accepts. All roles may read the table.
ROLES_BY_DOMAIN: dict[str, tuple[str, ...]] = {
    "clients": (CLIENT, OBSERVER),
    "kernels": (KERNEL, POOL),
    "table": ROLES,
}

#: Finds the entry of a public key; None: it is not registered.
Lookup = Callable[[bytes], KeyEntry | None]


class ZapAnswer(Struct, frozen=True):
    """*who* is the User-Id: a role, a name and the id of the key."""

    status: int
    text: str
    who: str = ""


def decide(domain: str, mechanism: str, entry: KeyEntry | None) -> ZapAnswer:
    """Whether a peer with the key of *entry* may connect to a socket of *domain*.

    >>> decide("clients", "CURVE", KeyEntry("ada", "client", "", 0.0))
    ZapAnswer(status=200, text='OK', who='client ada 7d64c5272e')
    >>> decide("kernels", "CURVE", KeyEntry("ada", "client", "", 0.0)).status
    400
    """
    if mechanism != "CURVE":
        return ZapAnswer(400, "only CURVE is taken")
    if entry is None:
        return ZapAnswer(400, "no such key")
    if entry.role not in ROLES_BY_DOMAIN.get(domain, ()):
        return ZapAnswer(400, f"a {entry.role}'s key opens no {domain}")
    return ZapAnswer(200, "OK", f"{entry.role} {entry.name} {entry.id}")


def answer(frames: list[bytes], find: Lookup) -> list[bytes]:
    """The frames of the reply to a request of ZeroMQ."""
    version, request, domain, _address, _identity, mechanism, *credentials = frames
    entry = find(credentials[0]) if mechanism == b"CURVE" and len(credentials) == 1 else None
    verdict = decide(domain.decode(), mechanism.decode(), entry)
    return [version, request, b"%d" % verdict.status, verdict.text.encode(), verdict.who.encode(), b""]
