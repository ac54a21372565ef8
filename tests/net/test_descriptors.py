"""The reserve of descriptors: strangers on TCP take their share and no more, and the broker outlives them."""

from __future__ import annotations

import contextlib
import doctest
import os
import socket
import sys
import time
from pathlib import Path

import pytest

from park.core.connect import connect
from park.net import descriptors
from tests.support.fabric import Process, until


def test_the_examples_of_the_module() -> None:
    assert doctest.testmod(descriptors).failed == 0


@pytest.mark.skipif(sys.platform != "linux", reason="packet filters of listening sockets")
def test_strangers_take_connections_only_up_to_a_share(tmp_path: Path) -> None:
    """Given a low limit, when strangers connect without end, then ipc goes on; when they leave, the doors open again."""
    home = tmp_path / "home"
    start = 'ulimit -n 512; exec "$@"'
    command = (
        sys.executable,
        *("-m", "park.cli.broker", "--bind", "tcp://127.0.0.1:0", "--home", str(home)),
    )
    broker = Process(["bash", "-c", start, "bash", *command], tmp_path / "log")
    strangers: list[socket.socket] = []
    try:
        until(lambda: "serving at" in broker.text or not broker.running)
        text = broker.text
        port = int(text.partition("tcp://127.0.0.1:")[2].partition(",")[0])
        for _ in range(600):
            strangers.append(socket.socket())
            strangers[-1].setblocking(False)
            with contextlib.suppress(BlockingIOError):
                strangers[-1].connect(("127.0.0.1", port))
        until(lambda: "no connection over TCP is accepted" in broker.text or not broker.running)
        taken = len(os.listdir(f"/proc/{broker.pid}/fd"))
        assert 240 <= taken < 512  # the broker itself opens and closes a few
        with connect(str(home / "connection.json"), "ada") as service:
            assert not service.jobs()
        while strangers:
            strangers.pop().close()
        until(lambda: "accepted again" in broker.text)
        until(lambda: _can_connect(port))
        assert broker.running, broker.text
    finally:
        for stranger in strangers:
            stranger.close()
        broker.end()


def _can_connect(port: int) -> bool:
    began = time.monotonic()
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
        return time.monotonic() < began + 1.0
    return False
