"""``park web`` as people start it."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from park.errors import InvalidRequest
from park.web.serving import listen
from tests.support.fabric import Fabric, Process, until
from tests.web.site import Visitor

WEB = (sys.executable, "-m", "park.cli.park", "web", "--no-browser")


def printed(process: Process) -> str:
    """The address that it has printed."""

    def look() -> str | None:
        assert process.running, process.text
        found = re.search(r"http://\S+", process.text)
        return found and found[0]

    return str(until(look, 50))


def test_without_a_broker_it_says_so(tmp_path: Path) -> None:
    process = Process([*WEB, "--broker", str(tmp_path / "nowhere")], tmp_path / "log")
    assert process.wait(50) == 4
    assert "broker" in process.text
    assert "Traceback" not in process.text


def test_a_port_that_is_in_use_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InvalidRequest, match=f"port {port} is in use"):
            listen(port)


@pytest.mark.heavy
def test_beside_a_broker(tmp_path: Path) -> None:
    """The page answers, and outlives the death of the broker: stale, then live again."""
    with Fabric(tmp_path) as fabric:
        fabric.start_kernel(slots=1)
        command = [*WEB, "--broker", fabric.address, "--port"]
        web = Process([*command, "0"], tmp_path / "web")
        try:
            address = printed(web)
            with Visitor(address) as visitor:
                visitor.enter()
                fabric.broker.kill()
                until(lambda: visitor.http.get("/health").status_code == 503, 50)
                assert visitor.get("/api/jobs")["rows"] == []  # the last known table is still shown
                fabric.start_broker()
                until(lambda: visitor.http.get("/health").status_code == 200, 50)
        finally:
            web.end()
        assert "Traceback" not in web.text


@pytest.mark.heavy
def test_a_page_that_runs_already_is_named(tmp_path: Path) -> None:
    """A second park web, and park web --local for a script, print a new address of it."""
    runtime = {"XDG_RUNTIME_DIR": str(tmp_path)}
    script = "import park, sys; print(park.local_service.web(0), flush=True); sys.stdin.read()"
    local = [*WEB, "--local"]
    none = Process(local, tmp_path / "none", env=runtime)
    assert none.wait(50) == 2
    assert "park.local_service.web()" in none.text
    process = Process([sys.executable, "-c", script], tmp_path / "script", env=runtime, stdin=subprocess.PIPE)
    try:
        with Visitor(printed(process)) as visitor:
            assert visitor.enter().get("/api/jobs")["total"] == 0
        again = Process(local, tmp_path / "again", env=runtime)
        assert again.wait(50) == 0
        address = re.search(r"http://\S+", again.text)
        assert address is not None
        with Visitor(address[0]) as visitor:
            visitor.enter()
            assert visitor.http.post("/token").status_code == 403
            assert visitor.http.post("/token", headers={"X-Park-Page": "guess"}).status_code == 403
        (file,) = tmp_path.glob("park-web-*/*.json")
        assert file.stat().st_mode & 0o777 == 0o600
    finally:
        process.end()
    with Fabric(tmp_path) as fabric:
        command = [*WEB, "--broker", fabric.address, "--port"]
        web = Process([*command, "0"], tmp_path / "web", env=runtime)
        try:
            port = printed(web).split(":")[2].split("/")[0]
            second = Process([*command, port], tmp_path / "second", env=runtime)
            assert second.wait(50) == 0
            assert "runs already" in second.text
        finally:
            web.end()
