"""A client of the page for tests: it logs in as a browser does, and sends what a browser sends."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
from msgspec import json


class Visitor:
    """A browser without a screen. *address*: as ``park web`` prints it."""

    def __init__(self, address: str) -> None:
        self.base, _, self._login = address.rpartition("/")
        self.http = httpx.Client(base_url=self.base, timeout=30, trust_env=False)
        self.xsrf = ""

    def __enter__(self) -> Visitor:
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()

    def enter(self) -> Visitor:
        assert self.http.get(f"/{self._login}").status_code == 200
        page = self.http.get("/").text
        self.xsrf = re.search(r'name="xsrf" content="(\w+)"', page)[1]  # type: ignore[index]
        return self

    def get(self, path: str, status: int = 200) -> Any:
        answer = self.http.get(path)
        assert answer.status_code == status, answer.text
        return json.decode(answer.content)

    def post(self, path: str, body: Any = None, **headers: str) -> httpx.Response:
        sent = {"Origin": self.base, "X-Park-XSRF": self.xsrf} | {
            k.replace("_", "-"): v for k, v in headers.items()
        }
        return self.http.post(
            path, content=json.encode(body or {}), headers={k: v for k, v in sent.items() if v}
        )

    @contextmanager
    def events(self, last: str = "") -> Iterator[Iterator[tuple[str, str, Any]]]:
        """The events of a stream: kind, id, data."""
        headers = {"Last-Event-ID": last} if last else {}
        with self.http.stream("GET", "/events", headers=headers) as answer:
            assert answer.status_code == 200
            yield _events(answer.iter_lines())


def _events(lines: Iterator[str]) -> Iterator[tuple[str, str, Any]]:
    fields: dict[str, str] = {}
    for line in lines:
        if line.startswith(":"):
            continue
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
        elif fields:
            yield fields["event"], fields["id"], json.decode(fields["data"])
            fields = {}
