"""Long code between real kernels: it crosses the broker's wire once for each machine."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

from park.kernel.exchange import CodeExchange, this_machine
from park.net.reactor import Reactor
from park.util import sealed
from park.wire.messages import Offer, Serve
from park.wire.pack import code_hash
from tests.support.fabric import Fabric, Process, until

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # kernels need not have this folder

MB = 1 << 20


def with_data() -> Any:
    """A function that holds 2 MB. It returns its kernel, and the last of its bytes."""
    data = os.urandom(2 * MB)

    def function(seconds: float) -> tuple[int, bytes]:
        import os
        import time

        time.sleep(seconds)
        return os.getppid(), data[-8:]

    function.data = data  # type: ignore[attr-defined]
    return function


def files_of(pid: int) -> set[int]:
    """The long files in memory that a process holds."""
    found = set()
    for file in Path(f"/proc/{pid}/fd").iterdir():
        if "memfd:park-payload" in os.readlink(file) and file.stat().st_size > MB:
            found.add(file.stat().st_ino)
    return found


@pytest.mark.parametrize("keys", [True, pytest.param(False, marks=pytest.mark.heavy)], ids=["tcp", "ipc"])
def test_kernels_of_one_machine_share_one_file(keys: bool, tmp_path: Path) -> None:
    with Fabric(tmp_path, lease=20.0, keys=keys) as fabric:
        kernels = fabric.start_kernels(3)
        function = with_data()
        with fabric.connect() as service:
            found = list(service.map(function, [0.5] * 3))
        assert {pid for pid, _ in found} == {kernel.pid for kernel in kernels}
        assert {last for _, last in found} == {function.data[-8:]}
        files = [files_of(kernel.pid) for kernel in kernels]
        assert len(files[0]) == 1
        assert files[0] == files[1] == files[2]


def test_a_kernel_that_stops_with_the_code_is_replaced(tmp_path: Path) -> None:
    with Fabric(tmp_path, lease=1.0) as fabric:
        (first,) = fabric.start_kernels(1)
        function = with_data()
        with fabric.connect() as service:
            assert next(iter(service.map(function, [0]))) == (first.pid, function.data[-8:])
            first.signal(signal.SIGSTOP)
            others = [fabric.start_kernel() for _ in range(2)]
            until(lambda: len(service.kernels()) >= 2)
            found = list(service.map(function, [0.2] * 4))
        assert {pid for pid, _ in found} <= {other.pid for other in others}
        assert {last for _, last in found} == {function.data[-8:]}


def on_machine(fabric: Fabric, name: str, *options: str) -> Process:
    """A kernel that believes to be on another machine than those with other names."""
    program = f"from park.kernel import exchange; exchange.this_machine = lambda: {name!r};"
    program += "from park.cli.kernel import main; main()"
    return fabric.start(
        "-c", program, "--broker", fabric.address, "--slots", "1", *options, cwd=fabric.folder
    )


def ciphertexts_of(kernel: Process) -> list[bytes]:
    """The encrypted codes that a kernel holds on the disk."""
    found = []
    for file in Path(f"/proc/{kernel.pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            link = os.readlink(file)
            if "memfd" not in link and link.endswith("(deleted)") and file.stat().st_size > 2 * MB:
                found.append(file.read_bytes())
    return found


def test_machines_fetch_code_from_each_other_and_outlive_a_holder(tmp_path: Path) -> None:
    with Fabric(tmp_path, lease=1.0, keys=True) as fabric:
        kernels = [on_machine(fabric, name) for name in "ab"]
        function = with_data()
        with fabric.connect() as service:
            until(lambda: len(service.kernels()) == 2)
            found = list(service.map(function, [0.5] * 2))
            assert {pid for pid, _ in found} == {kernel.pid for kernel in kernels}
            first, second = (ciphertexts_of(kernel) for kernel in kernels)
            assert len(first) == len(second) == 1
            assert first == second, "it is encrypted once"
            assert function.data[:64] not in first[0]
            kernels[0].kill()
            last = on_machine(fabric, "c")
            until(lambda: last.pid in {k.pid for k in service.kernels()})
            found += service.map(function, [0.5] * 3)
        assert {last for _, last in found} == {function.data[-8:]}
        assert last.pid in {pid for pid, _ in found}


def test_bytes_with_another_hash_are_refused() -> None:
    good, bad = (sealed.sealed(os.urandom(MB)) for _ in range(2))
    reactor, taken, come = Reactor(), [], threading.Semaphore(0)
    reactor.start("test")
    try:
        exchange = CodeExchange(reactor, this_machine())
        for data in (good, bad):
            offer = Offer(code_hash(good), MB, os.getpid(), sealed.descriptor_of(data))
            exchange.take(offer, lambda found: (taken.append(found), come.release()))
            assert come.acquire(timeout=60)
        assert taken == [good, None]
    finally:
        reactor.stop()


def test_a_kernel_that_cannot_serve_code_keeps_the_code_that_it_has_fetched() -> None:
    data, reactor = os.urandom(MB), Reactor()
    code, ticket, found, come = code_hash(data), os.urandom(32), [], threading.Semaphore(0)
    # the second one has an address of another machine (RFC 5737), and cannot listen there
    holder, taker = (CodeExchange(reactor, "m", host) for host in ("127.0.0.1", "192.0.2.1"))
    reactor.start("test")
    try:
        holder.share(code, data, True, lambda *shared: (found.append(shared[1]), come.release()))
        assert come.acquire(timeout=60)
        where = found.pop()
        holder.serve(Serve(where.cipher, ticket, 30.0))
        address = f"127.0.0.1:{where.port}"
        offer = Offer(code, MB, address=address, cipher=where.cipher, key=where.key, ticket=ticket)
        taker.take(offer, lambda data: (found.append(data), come.release()))
        assert come.acquire(timeout=60)
        assert found == [data]
    finally:
        holder.close()
        reactor.stop()
