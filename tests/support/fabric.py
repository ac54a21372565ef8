"""Real brokers, kernels and scripts for the tests: started, found, stopped and killed by process id.

Everything that a `Fabric` or `Script` starts is gone when its ``with`` ends, however the test went.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Self

import pytest

from park.core.connect import connect
from park.core.server import ServerProxy
from park.net.keys import CLIENT, POOL, Keyring, key_folder

ROOT = Path(__file__).parents[2]
#: This checkout's park, whether or not it is installed, and none of the settings of who runs the tests.
ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.startswith(("PARK", "PYTHONUNBUFFERED"))} | {
    "PYTHONPATH": str(ROOT),
    "PARKTAG": "tester",
    "XDG_CONFIG_DIRS": "/nowhere",
    # scripts of tests fork beside their threads on purpose, of which Python warns from 3.12 on
    "PYTHONWARNINGS": "ignore:This process:DeprecationWarning",
}


def until(condition: Callable[[], Any], seconds: float = 60.0, why: Callable[[], str] = str) -> Any:
    """Wait for a condition, and return what it gave; fail with *why* if it does not come."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"the condition did not come true in {seconds} s: {why()}"
        time.sleep(0.01)
    return found


def alive(pid: int) -> bool:
    """Whether the process is there and has not ended."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def slots_of(pid: int) -> list[int]:
    """The slot processes of a supervisor."""
    found = []
    for listed in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for child in map(int, listed.read_text().split()):
                if "park.slot.slot" in Path(f"/proc/{child}/cmdline").read_text() and alive(child):
                    found.append(child)
    return found


class Process:
    """A process of the test's, with what it wrote."""

    def __init__(self, command: list[str], log: Path, **options: Any) -> None:
        self.log = log
        options["env"] = ENVIRONMENT | options.pop("env", {})
        with log.open("wb") as out:
            self.popen = subprocess.Popen(command, **({"stdout": out, "stderr": out} | options))
        self.pid = self.popen.pid

    @property
    def text(self) -> str:
        return self.log.read_text(errors="replace")

    @property
    def running(self) -> bool:
        return self.popen.poll() is None

    def signal(self, number: int) -> None:
        self.popen.send_signal(number)

    def wait(self, seconds: float = 60.0) -> int:
        """Its exit code."""
        try:
            return self.popen.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.popen.args} goes on after {seconds} s: {self.text}") from None

    def kill(self) -> None:
        self.popen.kill()
        self.popen.wait()

    def end(self) -> None:
        """Stop it in good order; kill it if it does not obey."""
        if self.running:
            self.popen.send_signal(signal.SIGCONT)
            for seconds in (1, 4):  # a kernel that drains ends at the second signal
                self.popen.terminate()
                with suppress(subprocess.TimeoutExpired):
                    self.popen.wait(seconds)
                    break
        self.kill()
        for stream in (self.popen.stdin, self.popen.stdout, self.popen.stderr):
            if stream is not None:
                stream.close()


class Fabric(ExitStack):
    """A broker and kernels in processes of their own, with a short lease.

    *keys*: over tcp, with keys for the client "tester" and for a pool kernel, found where people's keys lie.
    *settings*: variables of the broker's environment. *command*: the module that is the broker, and what it needs first.
    """

    def __init__(
        self,
        folder: Path,
        *options: str,
        lease: float = 1.0,
        heartbeat: float = 0.2,
        home: Path | None = None,
        keys: bool = False,
        settings: dict[str, str] | None = None,
        command: tuple[str, ...] = ("park.cli.broker",),
    ) -> None:
        super().__init__()
        if keys:
            options = (*options, "--bind", "tcp://127.0.0.1:0")
        self._keys = keys
        #: where this fabric's people have their settings
        self.config = folder / "config"
        self.folder = folder
        self.home = home if home is not None else folder / "home"
        self.connection = self.home / "connection.json"
        self.options = [*options, "--lease", str(lease), "--heartbeat", str(heartbeat)]
        self._settings = settings or {}
        self._command = command
        self._count = 0
        self.broker: Process

    def __enter__(self) -> Self:
        self.start_broker()
        if self._keys:
            patch = pytest.MonkeyPatch()
            self.callback(patch.undo)
            patch.setenv("XDG_CONFIG_HOME", str(self.config))
            self.new_key("tester")
            self.new_key("tester", POOL)
        return super().__enter__()

    @property
    def url(self) -> str:
        """The bare URL of a broker that listens on tcp."""
        return str(self.endpoints["tcp"]["clients"])

    @property
    def address(self) -> str:
        """The address for clients and kernels: the connection file, or with keys the bare URL."""
        return self.url if self._keys else str(self.connection)

    def new_key(self, name: str, role: str = CLIENT, file: Path | None = None) -> Path:
        """A key for this broker, by default where its owner's processes look for it."""
        if file is None:
            folder = key_folder(self.url)
            folder.mkdir(parents=True, exist_ok=True)
            file = folder / f"{name}.{role}.key"
        Keyring(self.home).new(name, role, file)
        return file

    def start(self, *command: str, **options: Any) -> Process:
        """A Python process that ends with the fabric."""
        self._count += 1
        log = self.folder / f"log{self._count}"
        options["env"] = {"XDG_CONFIG_HOME": str(self.config)} | options.get("env", {})
        process = Process([sys.executable, *command], log, **options)
        self.callback(process.end)
        return process

    def start_broker(self) -> Process:
        """A broker on the home, again if there was one; ready when this returns."""
        self.broker = self.start(
            "-m", *self._command, "--home", str(self.home), *self.options, env=self._settings
        )
        until(lambda: "serving at" in self.broker.text or not self.broker.running)
        assert self.broker.running, self.broker.text
        return self.broker

    def start_kernel(self, *options: str, slots: int = 1) -> Process:
        """A kernel; it need not be connected yet."""
        grace = () if "--grace" in options else ("--grace", "0.3")
        command = ("-m", "park.cli.kernel", "--broker", self.address, "--slots", str(slots), *grace, *options)
        return self.start(*command, cwd=self.folder)

    def start_kernels(self, count: int) -> list[Process]:
        """Kernels of one slot, connected when this returns."""
        kernels = [self.start_kernel() for _ in range(count)]
        with self.connect() as service:
            until(lambda: {k.pid for k in kernels} <= {k.pid for k in service.kernels()})
        return kernels

    def connect(self, user: str = "tester") -> ServerProxy:
        """A client's connection, which ends with the fabric at the latest."""
        service = connect(self.address, user)
        self.callback(service.close)  # type: ignore[attr-defined]
        return service

    def script(self, text: str, *arguments: str, **options: Any) -> Process:
        """A script that finds this broker through PARK_BROKER."""
        env = {"PARK_BROKER": self.address} | options.pop("env", {})
        return self.start("-c", textwrap.dedent(text), *arguments, env=env, **options)

    def park(self, *arguments: str) -> Process:
        """A ``park`` command."""
        return self.start("-m", "park.cli.park", *arguments, env={"PARK_BROKER": self.address})

    @property
    def endpoints(self) -> dict[str, Any]:
        return dict(json.loads(self.connection.read_text()))
