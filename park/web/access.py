"""The access to the page: tokens, sessions, host names, origins.

A token opens the page once, within `TOKEN_SECONDS`; it is in the address that ``park web`` prints. The browser gets the
key of a session for it, as a cookie that no other site can send. A change needs the session's XSRF token and an Origin
of the page's own besides. All secrets live in memory only, as hashes where they are compared.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from urllib.parse import urlsplit

from park.errors import InvalidRequest

#: How long a printed address opens the page (seconds).
TOKEN_SECONDS = 600.0
#: Sessions that are open at once; the oldest goes.
MAX_SESSIONS = 64
#: Names under which a browser reaches this machine itself.
LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
#: The header in which a proxy of the same user shows its secret.
PROXY_HEADER = "x-park-proxy"


class Gate:
    """The sessions and tokens of one web process. *names*: host names that are allowed besides those of loopback. Raises
    InvalidRequest for what is none.

    *proxy* is the secret of a proxy that has checked the user already, such as Jupyter's; "": there is none.
    """

    def __init__(self, names: tuple[str, ...] = (), proxy: str = "") -> None:
        self.names = LOOPBACK_NAMES | {host_name(name) for name in names}
        self._proxy = proxy
        self._secret = secrets.token_bytes(32)
        #: the secret that another process of the same user shows to get a token (`park.web.page_file`)
        self.file_secret = secrets.token_urlsafe(32)
        #: the end of each token's life, by its hash
        self._tokens: dict[bytes, float] = {}
        #: hashes of the keys of sessions, the oldest first
        self._sessions: dict[bytes, None] = {}

    def new_token(self, now: float) -> str:
        """A token that opens one session."""
        self._tokens = {known: end for known, end in self._tokens.items() if now < end}
        token = secrets.token_urlsafe(32)
        self._tokens[_hash(token)] = now + TOKEN_SECONDS
        return token

    def redeem(self, token: str, now: float) -> str | None:
        """The key of a new session for a token; None: it is wrong, used or too old."""
        end = self._tokens.pop(_hash(token), None)
        if end is None or now >= end:
            return None
        session = secrets.token_urlsafe(32)
        self._sessions[_hash(session)] = None
        while len(self._sessions) > MAX_SESSIONS:
            del self._sessions[next(iter(self._sessions))]
        return session

    def admits(self, session: str) -> bool:
        """Whether *session* is the key of an open session."""
        return bool(session) and _hash(session) in self._sessions

    def is_file_secret(self, shown: str) -> bool:
        """Whether *shown* is the secret of the private file."""
        return hmac.compare_digest(shown.encode("utf-8", "replace"), self.file_secret.encode())

    def is_proxy(self, shown: str) -> bool:
        """Whether *shown* is the secret of the proxy that has checked the user."""
        return bool(self._proxy) and hmac.compare_digest(
            shown.encode("utf-8", "replace"), self._proxy.encode()
        )

    def xsrf(self, session: str) -> str:
        """The token that changes of this session carry; that of the proxy's users for ""."""
        return hmac.new(self._secret, b"xsrf " + session.encode(), hashlib.sha256).hexdigest()

    def is_xsrf(self, session: str, shown: str) -> bool:
        """Whether *shown* is that token."""
        return hmac.compare_digest(self.xsrf(session).encode(), shown.encode("utf-8", "replace"))

    def allows_host(self, host: str) -> bool:
        """Whether a request for *host* (its name, perhaps with a port) is meant for this page."""
        return _name(host) in self.names


def is_same_origin(origin: str, hosts: tuple[str, ...]) -> bool:
    """Whether *origin* is a page that came from one of the *hosts* (names with their ports, as the requests say them).

    >>> is_same_origin("http://localhost:7280", ("localhost:7280",)), is_same_origin("null", ("localhost:7280",))
    (True, False)
    """
    parts = urlsplit(origin)
    return parts.scheme in ("http", "https") and bool(parts.netloc) and parts.netloc.lower() in hosts


def host_name(text: str) -> str:
    """The host name that a person gives, perhaps with a port, in its one spelling. Raises InvalidRequest.

    >>> host_name("Head.example.org:8443"), host_name("[::1]"), host_name("::1")
    ('head.example.org', '::1', '::1')
    """
    name = text.strip().lower()
    if not re.fullmatch(r"(?:[\w.-]+|\[[0-9a-f:.]+\])(?::\d+)?|[0-9a-f]*:[0-9a-f:.]*:[0-9a-f:.]*", name):
        raise InvalidRequest(f"{text!r:.80} is no name of a host: write it like head.example.org")
    return name if name.count(":") > 1 and not name.startswith("[") else _name(name)


def _name(host: str) -> str:
    """The name in a Host header, lower case, without its port and brackets."""
    try:
        return (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return ""


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "replace")).digest()
