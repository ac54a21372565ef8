"""The live part of a job's page: its log, its improvements and its messages, one feed a job however many pages show it.

A thread follows the job's stream and opens no pickle. Entries are numbered, so that a page asks for those after the last
one that it has.
"""

from __future__ import annotations

import contextlib
import math
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from park.client.stream import Abort, Complete, Error, Messages, Opaque
from park.core.server import ServerProxy
from park.errors import NoBroker, ParkError
from park.model import Improvement, Log, Progress
from park.text import visible

#: Entries of each kind that a feed keeps.
MAX_LINES, MAX_STEPS, MAX_MESSAGES = 5_000, 2_000, 200
#: Feeds at once, and seconds after which a feed that no page asks for is closed.
MAX_FEEDS, IDLE_SECONDS = 32, 30.0
#: Characters of a message, and of a line of a log, that a page shows.
MAX_SHOWN_CHARS, MAX_LINE_CHARS = 2_000, 10_000


class Feed:
    """The entries of one job. *news* is called in the feed's own thread after each entry."""

    def __init__(self, service: ServerProxy, job: int, news: Callable[[int], None]) -> None:
        self._service, self._job, self._news = service, job, news
        self._lock = threading.Lock()
        self._messages: Messages | None = None
        self._closed = False
        #: the name of this feed: numbers of entries of another feed mean nothing here
        self.life = secrets.token_hex(4)
        self.number = 0
        #: contact with the broker was lost: a new feed must take the place of this one
        self.lost = False
        #: why there is no feed, in words
        self.trouble = ""
        self.asked = time.monotonic()
        self._entries: dict[str, deque[tuple[int, Any]]] = {
            "log": deque(maxlen=MAX_LINES),
            "steps": deque(maxlen=MAX_STEPS),
            "messages": deque(maxlen=MAX_MESSAGES),
        }
        threading.Thread(target=self._follow, name=f"park-web-feed-{job}", daemon=True).start()

    def after(self, number: int) -> dict[str, Any]:
        """The entries after that *number*, by kind."""
        self.asked = time.monotonic()
        with self._lock:
            found: dict[str, Any] = {
                kind: [entry for n, entry in entries if n > number] for kind, entries in self._entries.items()
            }
            return found | {"life": self.life, "number": self.number, "trouble": self.trouble}

    def close(self) -> None:
        """Follow the job no longer."""
        self._closed = True
        if self._messages is not None:
            self._messages.close()

    def _follow(self) -> None:
        try:
            self._messages = self._service.stream(self._job, logs=True, unpickle=False)
            if self._closed:
                self._messages.close()
            for message in self._messages:
                self._take(message)
        except ParkError as error:
            with self._lock:
                self.trouble, self.lost = visible(str(error)), isinstance(error, NoBroker)
                self.number += 1
        with contextlib.suppress(RuntimeError):  # the page's loop is closed
            self._news(self._job)

    def _take(self, message: Any) -> None:
        kind: str
        entries: list[list[Any]]
        match message:
            case Log():
                kind, entries = "log", _lines(message.time, message.level, message.text)
            case Improvement():
                kind, entries = "steps", [_step(message)]
            case Error(record=None):
                kind, entries = "log", _lines(time.time(), "error", message.text)
            case Complete() | Abort() | Error():
                kind, entries = "log", []
            case Opaque(kind="progress") | Progress():
                return
            case Opaque():
                text = f"{message.size:,} bytes in a pickle, which this page does not open"
                kind, entries = "messages", [[time.time(), visible(message.kind), text]]
            case dict():
                text = ", ".join(f"{key}={value!r}" for key, value in message.items() if key != "kind")
                shown = visible(text[:MAX_SHOWN_CHARS])
                kind, entries = "messages", [[time.time(), visible(str(message.get("kind"))), shown]]
            case _:
                return
        with self._lock:
            self.number += 1  # the end of a job is news without an entry
            self._entries[kind].extend((self.number, entry) for entry in entries)
        with contextlib.suppress(RuntimeError):
            self._news(self._job)


def _lines(moment: float, level: str, text: str) -> list[list[Any]]:
    """A message of a log as the lines that a page shows: a body's lines come several in a message."""
    return [[moment, level, _line(line)] for line in text.split("\n")]


def _line(text: str) -> str:
    """A line of a log as a page shows it."""
    if len(text) > MAX_LINE_CHARS:
        text = f"{text[:MAX_LINE_CHARS]} ... ({len(text):,} characters)"
    return visible(text, lines=True)


def _step(message: Improvement) -> list[Any]:
    """An improvement as the page draws it: its step, its value and its point by name."""
    point = message.point if isinstance(message.point, dict) else {}
    named = {visible(str(name))[:200]: _number(value) for name, value in list(point.items())[:200]}
    return [_number(message.step), _number(message.value), named]


def _number(value: Any) -> float | None:
    """*value* as JSON has numbers; None for one that is not finite, or is no number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return value


class Feeds:
    """The feeds of the jobs whose pages are open."""

    def __init__(self, service: ServerProxy, news: Callable[[int], None]) -> None:
        self._service, self._news = service, news
        self._feeds: dict[int, Feed] = {}

    def of(self, job: int) -> Feed:
        """The feed of *job*, from now on if there is none yet."""
        feed = self._feeds.get(job)
        if feed is not None and feed.lost:
            self.drop(job)
            feed = None
        if feed is None:
            while len(self._feeds) >= MAX_FEEDS:
                self.drop(min(self._feeds, key=lambda n: self._feeds[n].asked))
            feed = self._feeds[job] = Feed(self._service, job, self._news)
        return feed

    def number(self, job: int) -> int:
        """The number of the last entry of a job's feed; 0: there is no feed."""
        feed = self._feeds.get(job)
        return feed.number if feed is not None else 0

    def drop(self, job: int) -> None:
        """Close the feed of *job*."""
        if (feed := self._feeds.pop(job, None)) is not None:
            feed.close()

    def sweep(self, now: float) -> None:
        """Close the feeds that no page has asked for lately."""
        for job, feed in list(self._feeds.items()):
            if now - feed.asked > IDLE_SECONDS:
                self.drop(job)

    def close(self) -> None:
        """Close all."""
        for job in list(self._feeds):
            self.drop(job)
