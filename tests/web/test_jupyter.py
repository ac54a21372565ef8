"""The page under a real Jupyter server with jupyter-server-proxy."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import httpx
import pytest

from tests.support.fabric import Fabric, Process, until


@pytest.mark.heavy
def test_the_page_under_a_proxy(tmp_path: Path) -> None:
    """The page opens without a token of its own, follows events, and takes changes from its own address only."""
    pytest.importorskip("jupyter_server_proxy")
    with Fabric(tmp_path) as fabric:
        fabric.start_kernels(1)
        with fabric.connect() as service:
            number = service.start(abs, [-1], name="under a proxy")
            service.wait(number, 60)
        command = [
            sys.executable,
            "-m",
            "jupyter_server",
            "--allow-root",
            "--no-browser",
            "--ServerApp.port=0",
        ]
        names = ("HOME", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_DATA_DIR")
        home = {name: str(tmp_path / "jupyter") for name in names}
        environment = home | {
            "PARK_BROKER": str(fabric.connection),
            "PYTHONWARNINGS": "ignore",
            "JUPYTER_TOKEN": "letmein",
        }
        jupyter = Process(
            [*command, "--ServerApp.base_url=/user/ada/"], tmp_path / "log", env=environment, cwd=tmp_path
        )
        try:
            place = re.compile(r"http://(?:localhost|127\.0\.0\.1):(\d+)/user/ada/")
            found = until(lambda: place.search(jupyter.text), 60, lambda: jupyter.text)
            origin = f"http://127.0.0.1:{found[1]}"
            base = f"{origin}/user/ada/park"
            with httpx.Client(
                headers={"Authorization": "token letmein"}, timeout=60, trust_env=False
            ) as http:
                page = http.get(f"{base}/")
                assert page.status_code == 200, page.text
                xsrf = {"X-Park-XSRF": re.search(r'name="xsrf" content="(\w+)"', page.text)[1]}  # type: ignore[index]
                assert [row["name"] for row in http.get(f"{base}/api/jobs").json()["rows"]] == [
                    "under a proxy"
                ]
                with http.stream("GET", f"{base}/events", headers={"Accept": "text/event-stream"}) as events:
                    assert next(events.iter_lines()) == "event: snapshot"
                retry = f"{base}/api/job/{number}/retry"
                assert (
                    http.post(
                        retry, json={}, headers=xsrf | {"Origin": "http://evil.example.org"}
                    ).status_code
                    == 403
                )
                assert http.post(retry, json={}, headers={"Origin": origin}).status_code == 403
                assert http.post(retry, json={}, headers=xsrf | {"Origin": origin}).status_code == 200
                port = re.search(r"--port (\d+)|'--port', '(\d+)'", jupyter.text)
            if port is not None:  # a client that reaches the port itself is not let in
                assert httpx.get(f"http://127.0.0.1:{port[1] or port[2]}/").status_code == 401
        finally:
            jupyter.end()
