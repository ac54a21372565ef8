"""A relay on one node: the kernels of all nodes reach the broker through one connection of ssh, which this node opens.

CURVE encrypts between kernel and broker, so neither the relay nor its nodes can read or change the messages.
"""

from __future__ import annotations

import contextlib
import shlex
import socket
import subprocess
import threading
from collections.abc import Callable
from typing import Self

#: Options of ssh for a connection that only forwards, fails instead of asking a question, and notices when the other
#: end is gone.
SSH = ("ssh", "-N", "-T", "-g", "-o", "BatchMode=yes", "-o", "ExitOnForwardFailure=yes")
KEEP_ALIVE_OPTIONS = (
    "-o",
    "ServerAliveInterval=15",
    "-o",
    "ServerAliveCountMax=3",
    "-o",
    "ConnectTimeout=20",
)
#: A batch system sends SIGTERM to all processes of a job, and kernels still have checkpoints to bring.
WITHOUT_SIGTERM = ("/bin/sh", "-c", "trap '' TERM; exec \"$@\"", "sh")
#: Seconds until ssh must accept connections, between two tries, and between two looks.
SSH_START_SECONDS, SSH_RETRY_SECONDS, SSH_POLL_SECONDS = 30.0, 5.0, 0.1


def free_port(host: str) -> int:
    """A port of this host that nothing listens at, with a free one before it."""
    for _ in range(50):
        with socket.create_server((host, 0)) as first:
            port = int(first.getsockname()[1])
        with contextlib.suppress(OSError), socket.create_server((host, port - 1)):
            return port
    raise OSError(f"{host} has no two free ports in a row")


def relay_command(through: str, host: str, port: int, target: str) -> list[str]:
    """The command that forwards a port of this *host* to *target*, HOST:PORT as the machine *through* reaches it.

    >>> relay_command("ada@head", "n1", 7300, "head:7276")[-3:]
    ['-L', 'n1:7300:head:7276', 'ada@head']
    """
    return [
        *WITHOUT_SIGTERM,
        *SSH,
        *KEEP_ALIVE_OPTIONS,
        "-L",
        f"{host}:{port}:{target}",
        *shlex.split(through),
    ]


class Relay:
    """The connection, which is opened again when it breaks. *say* tells a line. Entering it raises OSError in words."""

    def __init__(self, through: str, host: str, target: str, say: Callable[[str], None]) -> None:
        self.host, self.port = host, free_port(host)
        self._command = relay_command(through, host, self.port, target)
        self._say = say
        self._over = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._last_words = ""
        self._thread = threading.Thread(target=self._run, name="park-relay", daemon=True)

    @property
    def broker(self) -> str:
        """The broker's address as the nodes see it: the port for kernels is the one after it."""
        return f"tcp://{self.host}:{self.port - 1}"

    def __enter__(self) -> Self:
        self._thread.start()
        for _ in range(round(SSH_START_SECONDS / SSH_POLL_SECONDS)):
            with contextlib.suppress(OSError), socket.create_connection((self.host, self.port), 5.0):
                return self
            if self._last_words or self._over.wait(SSH_POLL_SECONDS):
                break
        self.close()
        raise OSError(
            f"no relay: {shlex.join(self._command[len(WITHOUT_SIGTERM) :])}: {self._last_words or 'it does not answer'}"
        )

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self) -> None:
        while not self._over.is_set():
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
            )
            words = self._process.communicate()[1].decode(errors="replace").strip()
            self._last_words = words[-300:] or f"ssh has ended with code {self._process.returncode}"
            if not self._over.wait(SSH_RETRY_SECONDS):
                self._say(f"the relay is opened again: {self._last_words}")

    def close(self) -> None:
        """End the connection."""
        self._over.set()
        if self._process is not None:
            self._process.kill()
        self._thread.join()
