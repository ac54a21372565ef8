"""The guard in front of every route: host names, sessions, changes from other sites, and the headers of each answer."""

from __future__ import annotations

import re
from collections.abc import Callable
from http.cookies import CookieError, SimpleCookie
from typing import Any

from msgspec import json
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import HTMLResponse, Response

from park.web.access import PROXY_HEADER, Gate, is_same_origin
from park.web.connections import ADMITTED
from park.web.page_file import HEADER

#: Paths that need no session, because they show no secret and change no job.
OPEN_PATHS = ("/login", "/health", "/metrics")
XSRF_HEADER = "x-park-xsrf"
_PREFIX = re.compile(r"/[\w.~/%@:+-]{0,300}")

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "worker-src 'self'; manifest-src 'self'; font-src 'self'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


class Guard:
    """An ASGI application around *app*. *page* makes an HTML page of a title and a sentence."""

    def __init__(self, app: Any, gate: Gate, cookie: str, page: Callable[[str, str], str]) -> None:
        self._app = app
        self._gate = gate
        self._cookie = cookie
        self._page = page

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return

        async def guarded(message: Any) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                headers["Cache-Control"] = "no-cache" if _is_static(scope) else "no-store"
            await send(message)

        refusal = self._refusal(scope)
        await (self._app if refusal is None else refusal)(scope, receive, guarded)

    def _refusal(self, scope: Any) -> Response | None:
        """The answer to a request that does not get through; None: it does."""
        headers = Headers(scope=scope)
        proxied = self._gate.is_proxy(headers.get(PROXY_HEADER, ""))
        hosts = headers.getlist("host")
        if not proxied and (len(hosts) != 1 or not self._gate.allows_host(hosts[0])):
            return self._answer(
                scope,
                403,
                "This page does not answer to that host name",
                "Use the address that park web printed, or start park web with --allow-host and the name.",
            )
        if scope["path"] == "/token" and self._gate.is_file_secret(headers.get(HEADER, "")):
            return None if scope["method"] == "POST" else Response(status_code=405)
        if scope["path"] in OPEN_PATHS or _is_static(scope):
            return None if scope["method"] in ("GET", "HEAD") else Response(status_code=405)
        session = session_of(scope, self._cookie)
        if not proxied and not self._gate.admits(session):
            return self._answer(
                scope,
                401,
                "This browser has not been let in",
                "Open the address that park web printed. Press Enter in the terminal where it runs for a new one.",
            )
        scope[ADMITTED] = True
        if scope["method"] in ("GET", "HEAD"):
            return None
        own = [*hosts, *(headers.getlist("x-forwarded-host") if proxied else [])]
        if not is_same_origin(headers.get("origin", ""), tuple(name.lower() for name in own)):
            return self._answer(scope, 403, "Refused", "A change must come from a page of this address.")
        if headers.get("sec-fetch-site", "same-origin") != "same-origin":
            return self._answer(scope, 403, "Refused", "A change must come from a page of this address.")
        if not self._gate.is_xsrf(session, headers.get(XSRF_HEADER, "")):
            return self._answer(
                scope, 403, "Refused", "This page is from an earlier life of park web: load it again."
            )
        return None

    def _answer(self, scope: Any, status: int, title: str, text: str) -> Response:
        if scope["path"].startswith(("/api/", "/events")):
            return Response(json.encode({"error": f"{title}: {text}"}), status, media_type="application/json")
        return HTMLResponse(self._page(title, text), status)


def session_of(scope: Any, name: str) -> str:
    """The key of the session in the cookie *name* of a request; "" where there is none."""
    try:
        cookies = SimpleCookie("; ".join(Headers(scope=scope).getlist("cookie")))
    except CookieError:
        return ""
    return cookies[name].value if name in cookies else ""


def prefix_of(scope: Any) -> str:
    """The path under which a proxy shows the page, for the cookie."""
    prefix = Headers(scope=scope).get("x-forwarded-prefix", "")
    if _PREFIX.fullmatch(prefix) and "//" not in prefix:
        return prefix.rstrip("/") or "/"
    return "/"


def _is_static(scope: Any) -> bool:
    return bool(scope["path"].startswith("/static/"))
