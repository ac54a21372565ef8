"""Long payloads are laid down before their messages are decided; what has nothing to do with them goes on."""

from __future__ import annotations

import os
import random
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

import park
from park.broker import spooling
from park.broker.effects import Event, Flow, Tick
from park.broker.spooling import Hold, Spooler
from park.broker.storage.pieces import LONG_VALUE_BYTES, LongValue
from park.net.keys import key_folder
from park.wire import messages
from park.wire.pack import code_hash
from tests.campaign.proxy import Proxy, three_ports
from tests.support.fabric import Fabric, until

LONG_ONE = bytes(LONG_VALUE_BYTES + 1)


class Bench:
    """A `Spooler` that hashes the code of sessions, and lays down all else but controls; and what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int, bool]] = []
        self.woken = threading.Event()
        self.laying = Spooler(
            lambda number, value, hashed: self.asked.append((number, len(value), hashed)), self.woken.set
        )

    def sift(self, *events: Any) -> list[Any]:
        return self.laying.sift(events, self.hold)

    @staticmethod
    def hold(event: Event) -> Hold:
        if isinstance(event.message, messages.Blob) and event.message.brief:
            return Hold.HASH
        return Hold.NOT if isinstance(event.message, messages.Control) else Hold.LAY


def said(number: int, size: int = 0, peer: bytes = b"k1") -> Event:
    return Event(peer, messages.Finished(number, b"m%d" % number, 0, 1, 0.0), bytes(size))


def draft(size: int = len(LONG_ONE)) -> LongValue:
    return LongValue(1, size, lambda key: None)


def test_a_long_payload_is_decided_as_a_draft_when_it_is_laid_down() -> None:
    bench = Bench()
    assert bench.sift(said(1), Tick(0.0)) == [said(1), Tick(0.0)]
    assert bench.sift(said(2, LONG_VALUE_BYTES + 1)) == [Flow(b"k1", "alive")]
    assert bench.asked == [(1, LONG_VALUE_BYTES + 1, False)]
    assert bench.laying
    there = draft()
    (event,) = bench.laying.laid([(1, there)])
    assert event.payload is there
    assert event.message == said(2).message
    assert not bench.laying


def test_where_there_is_no_room_the_payload_stays_what_it_was() -> None:
    bench = Bench()
    long = said(2, LONG_VALUE_BYTES + 1)
    bench.sift(long)
    assert bench.laying.laid([(1, None)]) == [long]


def test_what_is_of_the_same_thing_waits_behind_and_all_else_passes() -> None:
    bench = Bench()
    control = Event(b"k1", messages.Control(1), LONG_ONE)
    assert bench.sift(control) == [control]
    first, second = said(1, LONG_VALUE_BYTES + 1), said(3, LONG_VALUE_BYTES + 2)
    crash = Event(b"k1", messages.Crashed([1], "", ""))
    goodbye = Event(b"k1", messages.Goodbye())
    other, passing, late = said(9, peer=b"k2"), said(2), said(4)
    alive = Flow(b"k1", "alive")
    assert bench.sift(first, other, crash, passing, second) == [alive, other, alive, passing, alive]
    assert bench.sift(goodbye, late) == [alive, alive]
    # in the order in which they came, whatever is laid down first
    assert bench.laying.laid([(2, draft())]) == []
    assert [event.message for event in bench.laying.laid([(1, draft())])] == [
        event.message for event in (first, crash, second, goodbye, late)
    ]
    assert not bench.laying


def test_the_hash_of_code_is_made_on_the_way() -> None:
    bench = Bench()
    bench.sift(Event(b"c1", messages.Blob(b"h" * 16), LONG_ONE))
    assert bench.asked == [(1, LONG_VALUE_BYTES + 1, True)]


def test_the_code_of_a_session_is_hashed_and_not_written() -> None:
    bench = Bench()
    blob = Event(b"c1", messages.Blob(b"h" * 16, brief=True), LONG_ONE)
    call = Event(b"c1", messages.Map(b"m", 1, b"h" * 16, 1, True, 0))
    assert bench.sift(blob, call) == [Flow(b"c1", "alive")] * 2
    assert bench.woken.wait(20)
    assert bench.laying.has_hashed
    first, second = bench.laying.laid([])
    assert (first.message, second) == (blob.message, call)
    assert first.payload.digest == code_hash(LONG_ONE)
    assert first.payload[:] == LONG_ONE
    assert bench.asked == []
    assert not bench.laying


@pytest.mark.parametrize("limit", ["MAX_BEHIND_MESSAGES", "MAX_BEHIND_BYTES"])
def test_a_peer_of_which_too_much_waits_behind_is_cut_off(
    limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spooling, limit, 2 if limit == "MAX_BEHIND_MESSAGES" else 20)
    bench = Bench()
    long, late = said(1, LONG_VALUE_BYTES + 1), said(1, 15)
    assert bench.sift(long, late) == [Flow(b"k1", "alive")] * 2
    other = said(1, 15, peer=b"k2")
    assert bench.sift(late, other) == [Flow(b"k1", "cut"), other]
    assert bench.laying.dropped == [late, late]
    (event,) = bench.laying.laid([(1, draft())])  # its payload is on its way to the disk
    assert event.message == long.message
    assert not bench.laying


# -- real processes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("keys", [pytest.param(False, marks=pytest.mark.heavy), True], ids=["ipc", "tcp"])
def test_whatever_is_long_arrives(tmp_path: Path, keys: bool) -> None:
    def echo(data: bytes) -> bytes:
        return data

    class Heavy:
        """Code that is long."""

        def __init__(self, data: bytes) -> None:
            self.data = data

        def __call__(self, unit: int) -> int:
            return len(self.data) + unit

    def drive() -> list[int]:
        import park

        env = park.environment()
        size = 3 << 20
        env.store["file"] = bytes(size)
        assert env.checkpoint(bytes(size), wait=20.0)
        return [len(env.store["file"]), *(len(r) for r in env.map(lambda n: bytes(n), [size, size]))]

    with Fabric(tmp_path, keys=keys) as fabric:
        service = fabric.connect()
        fabric.start_kernels(2)
        inputs = [os.urandom(size) for size in (3 << 20, 5, 2 << 20)]
        job = service.start(echo, inputs)
        heavy = service.start(Heavy(inputs[0]), [1, 2])
        driver = service.start(drive)
        assert service.wait(job, timeout=60) == inputs
        assert list(service.map(echo, inputs)) == inputs
        assert service.wait(heavy, timeout=60) == [len(inputs[0]) + 1, len(inputs[0]) + 2]
        assert service.wait(driver, timeout=60) == [3 << 20] * 3
        assert len(service.files(driver)["file"]) == 3 << 20
        if not keys:
            fabric.broker.kill()
            fabric.start_broker()
            assert service.wait(job, timeout=60) == inputs


@pytest.mark.heavy
def test_a_slow_link_is_no_reason_to_cut_anybody_off(tmp_path: Path) -> None:
    def echo(data: bytes) -> bytes:
        return data

    with Fabric(tmp_path, keys=True) as fabric:
        # each message is longer on its way than a lease
        proxy = Proxy(three_ports(random.Random(2)), int(fabric.url.rpartition(":")[2]), rate=1.2e6)
        fabric.callback(proxy.close)
        shutil.copytree(key_folder(fabric.url), key_folder(proxy.url))
        near = fabric.connect()
        kernel = fabric.start("-m", "park.cli.kernel", "--broker", proxy.url, "--slots", "1", cwd=tmp_path)
        until(lambda: near.kernels(), why=lambda: kernel.text)
        (number,) = [k.kernel for k in near.kernels()]
        data = os.urandom(1_600_000)
        with park.connect(proxy.url) as far:
            assert far.wait(far.start(echo, [data]), timeout=40) == [data]
        assert [k.kernel for k in near.kernels()] == [number], "the same all the time"
        assert kernel.running


def test_what_jobs_that_are_deleted_took_is_used_again(tmp_path: Path) -> None:
    def long(n: int) -> bytes:
        return bytes(n)

    with Fabric(tmp_path) as fabric:
        service = fabric.connect()
        fabric.start_kernels(1)
        sizes = []
        for _ in range(5):
            job = service.start(long, [4 << 20, 3 << 20])
            assert len(service.wait(job, timeout=60)) == 2
            service.delete(job)
            until(lambda: not sum(1 for _ in service.jobs(owner="*")))
            service.wait(service.start(abs, [-1]), timeout=60)  # deleted records are swept out meanwhile
            service.delete(service.jobs(owner="*")[-1].id)
            sizes.append((fabric.home / "jobs.mdb").stat().st_size)
        assert sizes[-1] <= sizes[2], sizes


@pytest.mark.heavy
@pytest.mark.parametrize("keys", [False, True], ids=["ipc", "tcp"])
def test_four_hundred_megabytes_arrive_and_are_held_once(tmp_path: Path, keys: bool) -> None:
    size = 400 << 20

    def long(n: int) -> bytes:
        return bytes(n)

    def drive(n: int) -> list[int]:
        import park

        env = park.environment()
        env.store["file"] = bytes(n)
        assert env.checkpoint(bytes(n), wait=60.0)
        return [len(env.store["file"]), *map(len, env.map(long, [n]))]

    with Fabric(tmp_path, keys=keys, lease=20.0, heartbeat=2.0) as fabric:
        service = fabric.connect()
        fabric.start_kernels(2)
        service.wait(service.start(long, [1]), timeout=60)
        first, most = resident(fabric.broker.pid), 0
        over = threading.Event()

        def watch() -> None:
            nonlocal most
            while not over.wait(0.02):
                most = max(most, resident(fabric.broker.pid))

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            assert [len(r) for r in service.wait(service.start(long, [size]), timeout=60)] == [size]
            assert service.wait(service.start(len, [bytes(size)]), timeout=60) == [size]
            assert service.wait(service.start(drive, [size]), timeout=60) == [[size, size]]
            assert [len(r) for r in service.map(long, [size])] == [size]
            assert list(service.map(len, [bytes(size)])) == [size]
        finally:
            over.set()
            thread.join()
        assert most - first < 1.5 * size


def resident(pid: int) -> int:
    """Bytes of memory that the process has."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))
