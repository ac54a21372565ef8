"""The page and strangers, who are other users of its machine: they reach its port and have no session."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import pytest

import park
from park.model import Log
from park.web import connections, job_feed
from park.web.connections import MAX_CONNECTIONS
from park.web.job_feed import MAX_LINE_CHARS
from park.web.serving import PageServer, served
from tests.support.fabric import until
from tests.web.site import Visitor


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[PageServer]:
    monkeypatch.setattr(connections, "STRANGER_SECONDS", 1.0)
    monkeypatch.setattr(connections, "ANSWER_SECONDS", 3.0)
    with served(park.local_service, admin=True, place="", port=0) as server:
        yield server


def door(server: PageServer, stack: ExitStack) -> socket.socket:
    made = socket.create_connection(("127.0.0.1", server.port), 30.0)
    stack.enter_context(made)
    made.setblocking(False)
    return made


def is_cut(made: socket.socket) -> bool:
    """Whether the page has closed the connection; all that has come is read."""
    try:
        while made.recv(1 << 16):
            pass
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


SAID = {
    "silent": b"",
    "half a head": b"GET / HTTP/1.1\r\nHost: localhost\r\nX-",
    "half a body": b"POST /token HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n",
}


@pytest.mark.parametrize("said", SAID.values(), ids=SAID)
def test_a_stranger_who_waits_is_cut(server: PageServer, said: bytes) -> None:
    with ExitStack() as stack:
        made = door(server, stack)
        made.sendall(said)
        until(lambda: is_cut(made))


def test_a_stranger_who_reads_nothing_is_cut(server: PageServer) -> None:
    with ExitStack() as stack:
        made = door(server, stack)
        request = b"GET /static/uplot.esm.js HTTP/1.1\r\nHost: localhost\r\n\r\n"
        with suppress(OSError):  # the system takes no more
            for _ in range(1000):
                made.sendall(request * 100)
        until(lambda: is_cut(made))


def test_strangers_without_end_do_not_keep_the_user_out(server: PageServer) -> None:
    with ExitStack() as stack, Visitor(server.address()) as visitor:
        visitor.enter()
        with visitor.events() as events:
            assert next(events)[0] == "snapshot"
            crowd = [door(server, stack) for _ in range(2 * MAX_CONNECTIONS)]
            assert visitor.get("/api/jobs")["pages"] >= 1
            # the oldest have gone before their time, and the stream of the user goes on
            until(lambda: sum(map(is_cut, crowd)) >= MAX_CONNECTIONS)
            park.local_service.wait(park.local_service.start(abs, [-1]), timeout=60)
            assert next(events)[0] == "delta"
            until(lambda: all(map(is_cut, crowd)))
            park.local_service.wait(park.local_service.start(abs, [-2]), timeout=60)
            assert next(events)[0] == "delta"


def test_a_long_line_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_feed.Feed, "_follow", lambda self: None)
    feed = job_feed.Feed(park.local_service, 1, lambda job: None)
    feed._take(Log("x" * (1 << 20)))
    ((_, _, text),) = feed.after(0)["log"]
    assert len(text) < MAX_LINE_CHARS + 100
    assert text.endswith("(1,048,576 characters)")


def test_lines_that_come_together_are_lines_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_feed.Feed, "_follow", lambda self: None)
    feed = job_feed.Feed(park.local_service, 1, lambda job: None)
    feed._take(Log("one\ntwo\n\nfour"))
    place = feed.number
    feed._take(Log("five\nsix"))
    assert [text for _, _, text in feed.after(0)["log"]] == ["one", "two", "", "four", "five", "six"]
    assert [text for _, _, text in feed.after(place)["log"]] == ["five", "six"]
