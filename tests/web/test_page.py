"""The page over the local service, as a browser's requests reach it, without a browser."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from msgspec import json

import park
from park.web.serving import PageServer, served
from tests.support.fabric import until
from tests.web.site import Visitor


@pytest.fixture(scope="module")
def server() -> Iterator[PageServer]:
    with served(park.local_service, admin=True, place="", port=0) as server:
        yield server


@pytest.fixture
def visitor(server: PageServer) -> Iterator[Visitor]:
    with Visitor(server.address()) as visitor:
        yield visitor.enter()


def nap(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def endless() -> str:
    env = park.environment()
    while not env.should_stop:
        env.ready()
        time.sleep(0.01)
    return "best so far"


def rude(x: int) -> None:
    print("\x1b[31mred\u202e", flush=True)
    raise ValueError("\x1b[2J<script>alert(1)</script>")


class Tellable:
    def run(self) -> str:
        while not hasattr(self, "told"):
            park.environment().ready()
            time.sleep(0.01)
        return str(self.told)

    def on_report(self, message: dict[str, Any]) -> None:
        self.told = message["value"]


# -- who is let in -----------------------------------------------------------------------------


def test_the_printed_address_opens_the_page_once(server: PageServer) -> None:
    address = server.address()
    with Visitor(address) as first, Visitor(address) as second:
        cookie = first.http.get(address).headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=strict" in cookie
        assert "Path=/" in cookie
        assert first.http.get("/").status_code == 200
        again = second.http.get(address)
        assert again.status_code == 403
        assert "prints a new one" in again.text
        assert first.http.get(address).status_code == 303  # it is in already


@pytest.mark.parametrize(
    "path", ["/", "/job?n=1", "/events", "/api/jobs", "/api/job/1", "/api/job/1/file?name=x"]
)
def test_without_a_cookie_nothing_is_shown(server: PageServer, path: str) -> None:
    with Visitor(server.address()) as stranger:
        answer = stranger.http.get(path)
    assert answer.status_code == 401
    assert "park web" in answer.text
    assert "xsrf" not in answer.text


def test_another_host_name_is_refused(server: PageServer, visitor: Visitor) -> None:
    for path in ("/", "/api/jobs", "/health", "/metrics", "/static/park.css", "/login?token=x"):
        answer = visitor.http.get(path, headers={"Host": f"evil.example.org:{server.port}"})
        assert answer.status_code == 403
        assert "host name" in answer.text


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example.org"},
        {"Origin": "null"},
        {"Origin": ""},
        {"X-Park-XSRF": ""},
        {"X-Park-XSRF": "0" * 64},
        {"Sec-Fetch-Site": "cross-site"},
        {"Host": "evil.example.org"},
    ],
    ids=str,
)
def test_a_change_from_elsewhere_is_refused(visitor: Visitor, headers: dict[str, str]) -> None:
    number = park.local_service.start(endless)
    assert visitor.post(f"/api/job/{number}/abort", **headers).status_code == 403
    assert not park.local_service.status(number).state.ended
    assert visitor.post(f"/api/job/{number}/abort").status_code == 200
    with pytest.raises(park.JobAborted):
        park.local_service.wait(number, 60)


def test_each_answer_has_a_strict_policy(visitor: Visitor) -> None:
    for path in ("/", "/job?n=1", "/compare", "/api/jobs", "/static/jobs.js", "/health", "/nowhere"):
        headers = visitor.http.get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert "server" not in headers


def test_pages_have_no_inline_script_and_only_relative_addresses(visitor: Visitor) -> None:
    for path in ("/", "/job?n=1", "/compare?n=1,2"):
        page = visitor.http.get(path, headers={"X-Forwarded-Prefix": "/user/ada/park"}).text
        assert "<script>" not in page
        assert " style=" not in page
        assert 'href="/' not in page
        assert 'src="/' not in page


def test_the_cookie_of_a_page_behind_a_proxy_is_for_its_path(server: PageServer) -> None:
    for prefix, path in (("/user/ada/park/", "/user/ada/park"), ("/x; Domain=evil", "/"), ("//evil", "/")):
        with Visitor(server.address()) as visitor:
            cookie = visitor.http.get(server.address(), headers={"X-Forwarded-Prefix": prefix}).headers[
                "set-cookie"
            ]
        assert f"Path={path};" in cookie


def test_files_of_the_package_stay_inside(visitor: Visitor) -> None:
    for path in ("/static/../app.py", "/static/..%2fapp.py", "/static/%2e%2e/app.py", "/static//etc/passwd"):
        assert visitor.http.get(path).status_code == 404


# -- what is shown -----------------------------------------------------------------------------


def test_health_and_metrics_tell_no_secrets(server: PageServer) -> None:
    number = park.local_service.start(nap, [0.0], name="a secret name", tags="a secret tag")
    park.local_service.wait(number, 60)
    with Visitor(server.address()) as stranger:
        assert stranger.get("/health")["status"] == "ok"
        text = until(  # the broker tells the number of its clients each second
            lambda: (
                (found := stranger.http.get("/metrics").text)
                and "park_broker_clients 0.0" not in found
                and found
            )
        )
    assert 'park_jobs{state="complete"}' in text
    assert "park_slots " in text
    assert "park_broker_clients " in text
    assert "park_broker_commit_seconds" in text
    assert "park_web_resident_bytes" in text
    assert "secret" not in text
    assert park.usertag() not in text


def test_the_table_is_filtered_by_its_address(visitor: Visitor) -> None:
    numbers = [park.local_service.start(nap, [0.0], name=f"nap {n}", tags=f"page-{n}") for n in range(3)]
    for number in numbers:
        park.local_service.wait(number, 60)
    page = visitor.get("/api/jobs?tag=page-1&choices=1")
    assert [row["job"] for row in page["rows"]] == [numbers[1]]
    assert page["rows"][0]["word"] == "complete"
    assert page["total"] == 1
    assert "page-2" in page["choices"]["tags"]
    assert "choose from" in visitor.get("/api/jobs?state=gone", 400)["error"]
    assert "no number of a job" in visitor.get("/api/job/x", 404)["error"]
    visitor.get("/api/job/999999", 404)


def test_what_a_job_says_is_text(visitor: Visitor) -> None:
    number = park.local_service.start(rude, [1], name="<b>bold</b>", tags="<script>alert(1)</script>")
    with pytest.raises(park.JobFailed):
        park.local_service.wait(number, 60)
    answer = visitor.http.get(f"/api/job/{number}")
    assert answer.headers["content-type"] == "application/json"
    found = answer.json()
    assert "<script>alert(1)</script>" in found["tags"]
    assert "\x1b" not in found["reason"]
    assert "alert(1)" not in visitor.http.get(f"/job?n={number}").text
    lines = until(lambda: visitor.get(f"/api/job/{number}/feed")["log"])
    assert "\\x1b[31mred\\u202e" in [text for _, _, text in lines]


def test_the_page_opens_no_pickle(visitor: Visitor, monkeypatch: pytest.MonkeyPatch) -> None:
    """A message that only a pickle can hold is told by its kind and size, and a retry sends the request as it is."""

    def body() -> None:
        env = park.environment()
        env.publish({"kind": "plain", "value": [1, 2.5, None]})
        env.publish({"kind": "pickled", "value": {1, 2}})
        env.publish(park.Improvement(3.5, {"a": 1.0}, 7))
        env.store["notes.txt"] = b"kept"
        while not env.should_stop:
            env.ready()
            time.sleep(0.01)

    number = park.local_service.start(body)
    until(lambda: park.local_service.status(number).state == "running")
    monkeypatch.setattr("park.body.payload.loads", lambda *_: pytest.fail("something was unpickled"))
    feed: dict[str, Any] = {}

    def complete() -> bool:
        feed.update(visitor.get(f"/api/job/{number}/feed"))
        return bool(feed["steps"])

    until(complete)
    assert feed["steps"] == [[7, 3.5, {"a": 1.0}]]
    again = visitor.post(f"/api/job/{number}/retry").json()["job"]
    until(lambda: "notes.txt" in visitor.get(f"/api/job/{again}")["files"])
    assert visitor.http.get(f"/api/job/{again}/file?name=notes.txt").content == b"kept"
    for each in (number, again):
        assert visitor.post(f"/api/job/{each}/stop").status_code == 200
        until(lambda each=each: park.local_service.status(each).state.ended)


def test_messages_are_told_while_a_page_looks(visitor: Visitor) -> None:
    class Teller:
        def run(self) -> None:
            env = park.environment()
            while not env.should_stop:
                env.publish({"kind": "plain", "value": [1, 2.5, None]})
                env.publish({"kind": "pickled", "value": {1, 2}})
                env.ready()
                time.sleep(0.05)

    number = park.local_service.start(Teller())
    messages = until(lambda: visitor.get(f"/api/job/{number}/feed")["messages"][-2:][1:])
    messages = visitor.get(f"/api/job/{number}/feed")["messages"]
    told = {kind: text for _, kind, text in messages}
    assert told["plain"] == "value=[1, 2.5, None]"
    assert "does not open" in told["pickled"]
    visitor.post(f"/api/job/{number}/stop")
    until(lambda: park.local_service.status(number).state.ended)


def test_a_file_is_saved_and_never_shown_as_a_page(visitor: Visitor) -> None:
    def body() -> None:
        park.environment().store['x".html'] = b"<script>alert(1)</script>"

    number = park.local_service.start(body)
    park.local_service.wait(number, 60)
    answer = visitor.http.get(f"/api/job/{number}/file", params={"name": 'x".html'})
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-disposition"] == "attachment; filename*=UTF-8''x_.html"
    visitor.get(f"/api/job/{number}/file?name=other", 404)


# -- steering ----------------------------------------------------------------------------------


def test_a_job_is_steered(visitor: Visitor) -> None:
    service = park.local_service
    number = service.start(Tellable())
    assert visitor.post(f"/api/job/{number}/priority", {"priority": "high"}).status_code == 200
    assert visitor.post(f"/api/job/{number}/tags", {"tags": ["a", "b=2"]}).status_code == 200
    assert service.status(number).priority == 4
    assert service.status(number).tags == ("a", "b=2")
    assert visitor.post(f"/api/job/{number}/pause").status_code == 200
    assert service.status(number).state == "paused"
    assert visitor.get(f"/api/job/{number}")["actions"][1] == "resume"
    assert visitor.post(f"/api/job/{number}/resume").status_code == 200
    bad = visitor.post(f"/api/job/{number}/control", {"kind": "report", "fields": "{"})
    assert (bad.status_code, "no JSON" in bad.json()["error"]) == (400, True)
    visitor.post(f"/api/job/{number}/control", {"kind": "report", "fields": '{"value": "heard"}'})
    assert service.wait(number, 60) == "heard"
    assert visitor.post(f"/api/job/{number}/abort").status_code == 404  # it has ended
    assert visitor.post(f"/api/job/{number}/delete").status_code == 200
    with pytest.raises(park.UnknownJob):
        service.status(number)


@pytest.mark.parametrize("action", ["explode", "__class__", "close"])
def test_there_are_no_other_actions(visitor: Visitor, action: str) -> None:
    answer = visitor.post(f"/api/job/1/{action}")
    assert (answer.status_code, "cannot do" in answer.json()["error"]) == (400, True)


def test_a_change_is_small_and_a_map(visitor: Visitor) -> None:
    assert visitor.post("/api/job/1/tags", {"tags": ["x" * 100_000]}).status_code == 400
    assert visitor.post("/api/job/1/tags", ["x"]).status_code == 400
    assert visitor.post("/api/job/1/tags", {"tags": "x"}).status_code == 400


# -- live --------------------------------------------------------------------------------------


def test_events_begin_with_a_snapshot_and_go_on_where_they_were_left(visitor: Visitor) -> None:
    with visitor.events() as events:
        kind, _, data = next(events)
        assert kind == "snapshot"
        assert not data["stale"]
        assert data["kernels"][0]["slots"] >= 1
        number = park.local_service.start(nap, [0.0])
        for kind, last, data in events:  # noqa: B007
            assert kind == "delta"
            if any(row["job"] == number and row["state"] == "complete" for row in data.get("jobs", ())):
                break
        with visitor.events(last) as others:
            again = park.local_service.start(nap, [0.0])
            kind, at, data = next(others)
            assert kind == "delta"
            assert int(at.split(".")[1]) > int(last.split(".")[1])
            park.local_service.wait(again, 60)


def test_all_streams_share_one_mirror(visitor: Visitor) -> None:
    from contextlib import ExitStack

    mirror = park.local_service.table._mirror
    before = len(mirror._callbacks)
    with ExitStack() as stack:
        streams = [stack.enter_context(visitor.events()) for _ in range(20)]
        for events in streams:
            next(events)
        assert len(mirror._callbacks) == before
        until(lambda: b"park_web_streams 20.0" in visitor.http.get("/metrics").content)


def test_a_thread_serves_until_it_is_closed() -> None:
    server = PageServer(park.local_service, admin=True, place="", port=0)
    server.start()
    with Visitor(server.address()) as visitor, visitor.enter().events() as events:
        next(events)
        server.close()
        with pytest.raises((StopIteration, httpx.RemoteProtocolError)):
            exhaust(events)


def exhaust(events: Iterator[Any]) -> None:
    while True:
        next(events)


def test_the_board_for_grafana_asks_for_metrics_that_there_are(visitor: Visitor) -> None:
    """Each panel's expression names a family of ``/metrics``."""
    board = json.decode((Path(__file__).parents[2] / "docs" / "grafana-board.json").read_bytes())
    families = set(re.findall(r"^(park_\w+)", visitor.http.get("/metrics").text, re.MULTILINE))
    asked = {
        name
        for panel in board["panels"]
        for target in panel["targets"]
        for name in re.findall(r"park_\w+", target["expr"])
    }
    assert asked
    assert asked <= families
