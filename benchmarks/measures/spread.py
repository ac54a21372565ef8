"""One long body on eight kernels of one slot: the seconds until it is there, beside bare copies.

The body is a function with an array. *bytes*: from the call of the client until the last slot process begins to unpickle
the body. *ready*: until the last one has read each page of it. *pickled*: of these, until the client has pickled and hashed
it, before anything is sent. *passes*: by how many times its length the body crossed the wire from the broker to kernels.
The reference is two bare copies over plain TCP, one after the other: a process fills a buffer of its own.

On *one machine* kernels share a file in memory. On *machines* of their own, as they believe, they fetch the body from each
other, encrypted; here all of them have the same few processors.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import socket
import struct
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import services
from benchmarks.measures.payloads import all_of
from benchmarks.scale import Mark, Rows, Scale

UNITS = {"pickled": "s", "bytes": "s", "ready": "s", "of copies": "x", "passes": "x"}
COPIES = "two plain copies"
SYSTEMS = (COPIES, "one machine, ipc", "one machine, tcp", "machines, tcp")
KERNELS = 8
#: Seconds for which a unit holds its slot, so that each kernel gets one.
HOLD_SECONDS = 0.5
#: `pidfd_getfd`, which Python does not have, and where `tcpi_bytes_acked`, 64 bits, stands in `struct tcp_info`.
_GETFD, _ACKED_AT = 438, 120


class Body:
    """A function with a long array. It knows when its unpickling began and ended."""

    def __init__(self, data: np.ndarray[Any, Any]) -> None:
        self.data = data

    def __reduce__(self) -> Any:
        return _Opened, (_Now(), self.data)

    def __call__(self, _: Any) -> None:
        """It is another object in a kernel."""


class _Now:
    """The time at which it is unpickled."""

    def __reduce__(self) -> Any:
        return time.time, ()


class _Opened:
    def __init__(self, began: float, data: np.ndarray[Any, Any]) -> None:
        self._began = began
        self._data = data

    def __call__(self, _: Any) -> tuple[int, float, float, int]:
        read = int(self._data[::512].sum())  # each page
        ended = time.time()
        time.sleep(HOLD_SECONDS)
        return os.getpid(), self._began, ended, read


def measure(system: str, scale: Scale) -> Rows:
    data = np.frombuffer(os.urandom(scale.body), np.int64)
    if system == COPIES:
        return {COPIES: {"bytes": _copies(data.tobytes())}}
    name = system.rpartition(" ")[2]
    with services.broker(name) as (address, start_kernel):
        for number in range(KERNELS):
            start_kernel(1, f"machine {number}" if system.startswith("machines") else "")
        with services.remote(address, kernels=KERNELS) as service:
            list(service.map(Body(data[:1024]), range(KERNELS)))  # imports
            sent = _sent_bytes() if name == "tcp" else 0
            began = time.time()
            run = service.map(Body(data), range(KERNELS))
            pickled = time.time() - began
            found = list(run)
            sent = _sent_bytes() - sent if name == "tcp" else 0
    assert len({pid for pid, *_ in found}) == KERNELS
    assert {read for *_, read in found} == {int(data[::512].sum())}
    row = {
        "pickled": pickled,
        "bytes": max(at for _, at, _, _ in found) - began,
        "ready": max(at for _, _, at, _ in found) - began,
    }
    if sent:
        row["passes"] = sent / data.nbytes
    return {system: row}


def derive(rows: Rows) -> None:
    reference = rows.get(COPIES)
    if reference is not None:
        for columns in rows.values():
            columns["of copies"] = columns["bytes"] / reference["bytes"]


def marks() -> list[Mark]:
    kinds = SYSTEMS[1:]
    return [
        *(Mark(kind, "of copies", 1.2) for kind in kinds),
        *(Mark(kind, "passes", 2.0) for kind in kinds if kind.endswith("tcp")),
    ]


def _copies(data: bytes) -> float:
    """Seconds that two copies to another process take, one after the other."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        end = multiprocessing.Process(target=_take, args=(server.getsockname()[1], len(data)))
        end.start()
        with server.accept()[0] as line:
            began = time.perf_counter()
            for _ in range(2):
                line.sendall(data)
                assert line.recv(1)
            seconds = time.perf_counter() - began
        end.join(10)
    return seconds


def _take(port: int, size: int) -> None:
    with socket.create_connection(("127.0.0.1", port)) as line:
        for _ in range(2):
            all_of(line, size)
            line.sendall(b"!")


def _sent_bytes() -> int:
    """The bytes that the broker, a child of this process, has sent over its connections."""
    call, total = ctypes.CDLL(None, use_errno=True).syscall, 0
    for child in Path("/proc/self/task").glob("*/children"):
        for pid in map(int, child.read_text().split()):
            if b"park.cli.broker" not in Path(f"/proc/{pid}/cmdline").read_bytes():
                continue
            process = os.pidfd_open(pid)
            for file in Path(f"/proc/{pid}/fd").iterdir():
                with suppress(OSError):
                    if os.readlink(file).startswith("socket:"):
                        total += _sent(call(_GETFD, process, int(file.name), 0))
            os.close(process)
    return total


def _sent(descriptor: int) -> int:
    with suppress(OSError, struct.error), socket.socket(fileno=descriptor) as connection:
        if connection.family in (socket.AF_INET, socket.AF_INET6):
            counts = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
            return int(struct.unpack_from("Q", counts, _ACKED_AT)[0])
    return 0
