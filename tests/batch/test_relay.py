"""The kernels of an allocation reach the broker through one connection of a real ssh."""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from park.kernel.relay import Relay, free_port
from tests.support.fabric import Fabric, Process, until

SSHD = shutil.which("sshd", path=os.environ.get("PATH", "") + ":/usr/sbin")
MISSING = "" if SSHD and os.geteuid() == 0 else "it needs root, and sshd: apt-get install openssh-server"

pytestmark = [pytest.mark.heavy, pytest.mark.skipif(bool(MISSING), reason=MISSING or "it is there")]


@pytest.fixture
def fabric(tmp_path: Path) -> Iterator[Fabric]:
    with Fabric(tmp_path, keys=True) as fabric:
        yield fabric


@pytest.fixture
def head(tmp_path: Path) -> Iterator[tuple[str, Process]]:
    """A host that ssh reaches, as the relay is told of it, and its server."""
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / name], check=True)
    (tmp_path / "known").write_text((tmp_path / "user.pub").read_text())
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    port = free_port("127.0.0.1")
    (tmp_path / "sshd").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {tmp_path / 'host'}\nUsePAM no\nStrictModes no\n"
        f"AuthorizedKeysFile {tmp_path / 'known'}\nPidFile {tmp_path / 'pid'}\nPermitRootLogin yes\n"
    )
    (tmp_path / "ssh").write_text(
        f"Host head\nHostName 127.0.0.1\nPort {port}\nUser {getpass.getuser()}\nIdentitiesOnly yes\n"
        f"IdentityFile {tmp_path / 'user'}\nStrictHostKeyChecking no\nUserKnownHostsFile /dev/null\nLogLevel ERROR\n"
    )
    server = Process([str(SSHD), "-D", "-e", "-f", str(tmp_path / "sshd")], tmp_path / "sshd.log")
    try:
        until(lambda: "listening on" in server.text, 50, lambda: server.text)
        yield f"-F {tmp_path / 'ssh'} head", server
    finally:
        server.end()


def test_kernels_go_through_the_relay_and_leave_in_good_order(
    fabric: Fabric, head: tuple[str, Process], tmp_path: Path
) -> None:
    (tmp_path / "nodes").write_text(f"{socket.gethostname()}\n" * 2)
    environment = {
        "PBS_JOBID": "4711.head",
        "PBS_NODEFILE": str(tmp_path / "nodes"),
        "PATH": "/usr/bin:/bin",
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }
    command = ("-m", "park.cli.kernel", "--nodes", "--relay", head[0], "--broker", fabric.url, "--grace", "1")
    watch = fabric.start(*command, env=environment, cwd=tmp_path)
    service = fabric.connect()
    until(lambda: len(service.kernels()) == 1, 60, lambda: watch.text)
    assert service.wait(service.start(abs, range(-5, 0)), 60) == [5, 4, 3, 2, 1]
    assert fabric.url not in watch.text, "the kernel has the relay's address"
    watch.signal(signal.SIGTERM)
    assert watch.wait(60) == 0, watch.text
    assert "1 of 1 nodes came up, and all have left" in watch.text


def test_a_relay_that_breaks_is_opened_again(
    head: tuple[str, Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("park.kernel.relay.SSH_RETRY_SECONDS", 0.2)
    said: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as target:
        where = f"127.0.0.1:{target.getsockname()[1]}"
        with Relay(head[0], "127.0.0.1", where, said.append) as relay:
            assert relay._process is not None
            relay._process.kill()
            until(lambda: said)

            def passes() -> bool:
                try:
                    socket.create_connection(("127.0.0.1", relay.port), 5.0).close()
                except OSError:
                    return False
                return True

            until(passes)
    assert "the relay is opened again: ssh has ended with code -9" in said[0]


def test_a_host_that_ssh_does_not_reach_is_told() -> None:
    with pytest.raises(OSError, match=r"no relay: ssh .* -L .* nowhere.invalid: .*nowhere.invalid"):
        Relay("nowhere.invalid", "127.0.0.1", "127.0.0.1:9", print).__enter__()
