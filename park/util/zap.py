"""Who may come in: the answer to what ZeroMQ asks of every connection to a socket with CURVE.

ZeroMQ asks over its authentication protocol, ZAP (rfc.zeromq.org/spec/27): which socket, by its domain; which
mechanism; which public key, whose secret half the peer has proved to have. The answer is a status and a User-Id, which
comes with every message of the connection; it says whom the key is registered for, and no peer can choose it.

Two answers: 200, come in, and 400, no. The peer is told so, and its ZeroMQ rests until it is told to connect again, as
`park.util.sockets.Caller` does: its key may just have been made. (300, "later", would fit better, but then the broker's
ZeroMQ often says nothing at all until the time for a handshake is over.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from park.util.keys import CLIENT, KERNEL, POOL, ROLES, Entry

#: Roles of keys that each door takes. All may see the table.
DOMAINS: dict[str, tuple[str, ...]] = {"clients": (CLIENT,), "kernels": (KERNEL, POOL), "table": ROLES}
VERSION = b"1.0"

#: From a public key to whom it is registered for.
Lookup = Callable[[bytes], Entry | None]


@dataclass(frozen=True, slots=True)
class Verdict:
    """*who* is the User-Id: a role and a name."""

    status: int
    text: str
    who: str = ""


def decide(domain: str, mechanism: str, entry: Entry | None) -> Verdict:
    """Whether somebody with a key of *entry* may come in at the door *domain*.

    >>> decide("clients", "CURVE", Entry("ada", "client", "", 0.0))
    Verdict(status=200, text='OK', who='client ada')
    >>> decide("kernels", "CURVE", Entry("ada", "client", "", 0.0)).status
    400
    """
    if mechanism != "CURVE":
        return Verdict(400, "only CURVE is taken")
    if entry is None:
        return Verdict(400, "no such key")
    if entry.role not in DOMAINS.get(domain, ()):
        return Verdict(400, f"a {entry.role}'s key opens no {domain}")
    return Verdict(200, "OK", f"{entry.role} {entry.name}")


def answer(frames: list[bytes], find: Lookup) -> list[bytes]:
    """The frames of the reply to a request of ZeroMQ's."""
    version, request, domain, _address, _identity, mechanism, *credentials = frames
    entry = find(credentials[0]) if mechanism == b"CURVE" and len(credentials) == 1 else None
    verdict = decide(domain.decode(), mechanism.decode(), entry)
    return [version, request, b"%d" % verdict.status, verdict.text.encode(), verdict.who.encode(), b""]
