"""The services that are measured: the local one, and a real broker with one kernel over ipc and over TCP."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import park
from benchmarks.scale import SLOTS
from park.core.server import ServerProxy
from park.net.keys import CLIENT, POOL, Keyring, key_folder

NAMES = ("local", "ipc", "tcp")
ROOT = Path(__file__).resolve().parents[1]


def environment() -> dict[str, str]:
    """The environment of everything that is measured: this checkout, one thread a process, two slots."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PARK_")}
    threads = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
    return kept | dict.fromkeys(threads, "1") | {"PYTHONPATH": str(ROOT), "PARK_SLOTS": str(SLOTS)}


@contextmanager
def service(name: str, profiles: Path | None = None) -> Iterator[ServerProxy]:
    """One of `NAMES`. *profiles*: a folder for cProfile's files of the broker and the kernel."""
    if name == "local":
        park.local_service.configure(slots=SLOTS)
        with park.local_service:
            yield park.local_service
        park.local_service.close()
        return
    with fabric(name, profiles) as address, remote(address) as found:
        yield found


class Processes(ExitStack):
    """Python processes that end with the block; what they say lies in *folder*."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder

    def start(self, name: str, *arguments: str) -> subprocess.Popen[bytes]:
        with (self._folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, *arguments], stdout=log, stderr=log, env=environment(), cwd=ROOT
            )
        self.callback(end, process)
        return process


@contextmanager
def remote(address: str, user: str | None = None, kernels: int = 1) -> Iterator[ServerProxy]:
    """The service at *address* as *user*, with its kernels."""
    found = park.connect(address, user=user)
    try:
        until(lambda: len(found.kernels()) == kernels, 120.0)
        yield found
    finally:
        found.close()  # type: ignore[attr-defined]


@contextmanager
def fabric(name: str, profiles: Path | None = None) -> Iterator[str]:
    """The address of a broker with one kernel, over "ipc" or "tcp"."""
    with broker(name, profiles) as (address, start):
        start()
        yield address


@contextmanager
def broker(name: str, profiles: Path | None = None) -> Iterator[tuple[str, Callable[..., None]]]:
    """The address of a broker over "ipc" or "tcp", and a function that starts a kernel: with some slots, and on a machine
    of its own, as it believes, where *machine* has a name.
    """
    with tempfile.TemporaryDirectory(prefix="park-bench-") as folder, ExitStack() as processes:
        home = Path(folder)

        def start(command: str, *arguments: str, program: str = "") -> subprocess.Popen[bytes]:
            profile = ["-m", "cProfile", "-o", str(profiles / command)] if profiles else []
            run = ["-c", program] if program else [*profile, "-m", f"park.cli.{command}"]
            with (home / f"{command}.log").open("ab") as log:
                process = subprocess.Popen(
                    [sys.executable, *run, *arguments], stdout=log, stderr=log, env=environment()
                )
            processes.callback(end, process)
            return process

        file = home / "connection.json"
        tcp = name == "tcp"
        bind = ["--bind", "tcp://127.0.0.1:0"] if tcp else []
        server = start("broker", "--home", folder, *bind)
        until(lambda: file.exists() or server.poll() is not None)
        if not file.exists():
            raise RuntimeError((home / "broker.log").read_text())
        address, options = str(file), []
        if tcp:
            address = json.loads(file.read_text())["tcp"]["clients"]
            Keyring(home).new("bench", POOL, home / "kernel.key")
            options = ["--key", str(home / "kernel.key")]
            os.environ["XDG_CONFIG_HOME"] = str(home / "config")
            key_folder(address).mkdir(parents=True)
            Keyring(home).new("bench", CLIENT, key_folder(address) / "bench.key")

        def start_kernel(slots: int = SLOTS, machine: str = "") -> None:
            believes = f"from park.kernel import exchange; exchange.this_machine = lambda: {machine!r};"
            program = f"{believes} from park.cli.kernel import main; main()" if machine else ""
            start("kernel", "--broker", address, "--slots", str(slots), *options, program=program)

        yield address, start_kernel


def end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def until(true: Callable[[], bool], seconds: float = 20.0) -> None:
    give_up = time.monotonic() + seconds
    while not true():
        if time.monotonic() > give_up:
            raise TimeoutError("the broker or the kernel did not come up")
        time.sleep(0.01)
