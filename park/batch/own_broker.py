"""A broker of one's own, in a process that ends with this one. Its home is on the local disk."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Self

from park.errors import NoBroker
from park.identity import usertag
from park.net.keys import POOL, Keyring, plain_name

#: Seconds in which the broker must be ready, and in which it must have ended.
READY_SECONDS, ENDING_SECONDS = 60.0, 20.0


class OwnBroker:
    """The broker with the home *home*. *host*: other machines reach it at this address; "": it serves this one only.

    It begins with the jobs of the copy *restored*, if one is named. Its output goes to *log*. Raises NoBroker, with its
    last words, where it does not begin.
    """

    def __init__(self, home: Path, log: Path, host: str = "", restored: Path | None = None) -> None:
        self.home = home
        self.connection = home / "connection.json"
        command = [sys.executable, "-m", "park.cli.broker", "--home", str(home), "--until-eof"]
        if host:
            command += ["--bind", f"tcp://{host}:0"]
        if restored is not None:
            command += ["--restore", str(restored)]
        with log.open("wb") as out:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=out, stderr=out, start_new_session=True
            )
        deadline = time.monotonic() + READY_SECONDS
        while not self.connection.exists():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.close()
                raise NoBroker(f"the broker did not begin: {log.read_text(errors='replace').strip()[-500:]}")
            time.sleep(0.02)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    @property
    def address(self) -> str:
        """The address for kernels on any node that it serves."""
        tcp = json.loads(self.connection.read_text()).get("tcp")
        return str(self.connection if tcp is None else tcp["clients"])

    def new_key(self, file: Path) -> Path:
        """Write a key for kernels that serve all users of this broker."""
        Keyring(self.home).new(plain_name(usertag()), POOL, file)
        return file

    def close(self) -> None:
        """End the broker; its home stays."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        if self._process.poll() is None:
            os.kill(self._process.pid, signal.SIGINT)
        try:
            self._process.wait(ENDING_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
