"""Names of hosts: one host may be spelled in several ways."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterable

#: All addresses of the loopback interface count as this one.
LOOPBACK = "127.0.0.1"


def plain_host(host: str) -> str:
    """The host in the spelling in which it is filed: lower case, no brackets, no dot at the end.

    >>> plain_host("Head.Example.ORG."), plain_host("[::1]")
    ('head.example.org', '::1')
    """
    return host.strip("[]").lower().rstrip(".")


def addresses_of(host: str) -> frozenset[str]:
    """The addresses that the host's name stands for; none if it has none."""
    if is_loopback(host):
        return frozenset((LOOPBACK,))
    with contextlib.suppress(OSError, UnicodeError):
        found = {str(entry[4][0]) for entry in socket.getaddrinfo(host, None)}
        return frozenset(LOOPBACK if is_loopback(address) else address for address in found)
    return frozenset()


def is_loopback(host: str) -> bool:
    """Whether the host's name or address means this machine, to itself.

    >>> is_loopback("localhost"), is_loopback("127.0.1.1"), is_loopback("head")
    (True, True, False)
    """
    return host in ("localhost", "::1") or host.startswith("127.") or host.endswith(".localhost")


def same_host(
    host: str, others: Iterable[str], resolve: Callable[[str], frozenset[str]] = addresses_of
) -> list[str]:
    """The *others* that are other names of *host*: they stand for a common address."""
    known = resolve(plain_host(host))
    return [other for other in others if known & resolve(plain_host(other))]
