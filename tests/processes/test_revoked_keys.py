"""Keys that end: revoked, expired, rotated; observers; and the audit log that tells of all."""

from __future__ import annotations

import stat
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
import zmq
from click.testing import CliRunner

import park
from park.cli.park import main
from park.core.connect import connect
from park.core.server import ServerProxy
from park.errors import NoBroker, Refused
from park.net.audit import MAX_AUDIT_BYTES, AuditLog
from park.net.authenticator import Authenticator
from park.net.keys import CLIENT, KERNEL, OBSERVER, POOL, Keyring, read_key
from park.net.sockets import KeyedRouter
from park.wire import codec, messages
from tests.support.fabric import Fabric, until

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # kernels need not have this folder


def square(x: int) -> int:
    return x * x


def nap(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def keys(fabric: Fabric, *arguments: str, code: int = 0) -> str:
    """The output of ``park keys``."""
    done = CliRunner().invoke(main, ["keys", *arguments, "--home", str(fabric.home)])
    assert done.exit_code == code, done.output
    return done.output


@pytest.fixture
def fabric(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fabric]:
    """A broker whose lease is long, so that it is not the lease that ends a member."""
    monkeypatch.chdir(tmp_path)
    with Fabric(tmp_path, keys=True, lease=60.0) as fabric:
        yield fabric


def opened(fabric: Fabric, file: Path, patience: float = 1.0) -> ServerProxy:
    service = connect(fabric.url, token=file, patience=patience)
    fabric.callback(service.close)  # type: ignore[attr-defined]
    return service


def test_a_revoked_key_is_cut_within_two_seconds(fabric: Fabric, tmp_path: Path) -> None:
    """Given a client and a kernel with keys, when these are revoked, then both are gone, and the job goes on elsewhere."""
    ada = opened(fabric, fabric.new_key("ada", file=tmp_path / "ada.key"))
    file = fabric.new_key("ada", POOL, tmp_path / "ada.pool.key")
    first = fabric.start_kernel("--key", str(file))
    tester = fabric.connect()
    until(lambda: [k.pid for k in tester.kernels()] == [first.pid])
    job = ada.start(nap, [1.0, 1.0], name="naps")
    until(lambda: tester.status(job).running)
    assert "opens nothing any more" in keys(fabric, "revoke", "ada")
    began = time.monotonic()
    until(lambda: not tester.kernels(), 20.0)
    assert time.monotonic() - began < 3.0  # two seconds, and the time of an answer
    assert tester.status(job).state not in ("aborted", "failed")
    with pytest.raises(park.ParkError):
        ada.wait(job, timeout=5.0)
    with pytest.raises(NoBroker, match="does not let us in"):
        connect(fabric.url, token=tmp_path / "ada.key", patience=1.0)
    fabric.start_kernel()  # of the tester's pool
    until(lambda: tester.status(job).state == "complete")
    said = (fabric.home / "audit.log").read_text()
    for words in (
        "made client ada",
        "connected client ada",
        "from 127.0.0.1 to clients",
        "revoked client ada",
    ):
        assert words in said
    assert "cut pool ada" in said
    assert "refused a connection from 127.0.0.1 to clients: no such key" in said
    assert stat.S_IMODE((fabric.home / "audit.log").stat().st_mode) == 0o600


def test_who_subscribes_when_its_key_has_been_revoked_hears_nothing(fabric: Fabric, tmp_path: Path) -> None:
    key = read_key(fabric.new_key("ada", file=tmp_path / "ada.key"))
    opened(fabric, tmp_path / "ada.key").close()  # the broker knows the key now
    audit = fabric.home / "audit.log"
    with zmq.Context() as context, context.socket(zmq.SUB) as mirror:
        mirror.linger = 0
        mirror.curve_publickey, mirror.curve_secretkey = key.public.encode(), key.secret.encode()
        mirror.curve_serverkey = key.broker.encode()
        mirror.connect(fabric.endpoints["tcp"]["table"])
        until(lambda: "from 127.0.0.1 to table" in audit.read_text(), 12.0, audit.read_text)
        keys(fabric, "revoke", "ada")
        until(lambda: "cut client ada" in audit.read_text())
        # the table has not seen it before
        mirror.subscribe(b"")
        until(
            lambda: "refused a connection from 127.0.0.1 to table" in audit.read_text(), 12.0, audit.read_text
        )
        while mirror.poll(0):
            mirror.recv_multipart()  # a head that was published in between
        tester = fabric.connect()
        tester.start(square, [1])
        assert not mirror.poll(3000)


@pytest.mark.parametrize("what", ["a job", "a map", "messages", "a long request"])
def test_who_waits_hears_that_its_key_was_revoked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """Whatever it waits for, and at its next request, too."""
    monkeypatch.chdir(tmp_path)
    with Fabric(tmp_path, keys=True) as fabric:
        fabric.start_kernel()
        ada = opened(fabric, fabric.new_key("ada", file=tmp_path / "ada.key"), patience=600.0)

        def waits() -> None:
            match what:
                case "a job":
                    ada.wait(ada.start(nap, [60.0]), timeout=60)
                case "a map":
                    list(ada.map(nap, [0.1] * 600))
                case "messages":
                    list(ada.job(ada.start(nap, [60.0])).stream())
                case _:
                    while True:
                        ada.wait(ada.start(len, [bytes(20 << 20)]), timeout=60)

        revoke = threading.Timer(1.5, keys, (fabric, "revoke", "ada"))
        revoke.start()
        try:
            with pytest.raises(NoBroker, match=r"does not let us in .* the key of ada is not, or no longer,"):
                waits()
        finally:
            revoke.join()
        with pytest.raises(NoBroker, match="does not let us in"):
            ada.jobs()


@pytest.mark.heavy
def test_an_expired_key_is_cut(fabric: Fabric, tmp_path: Path) -> None:
    keys(fabric, "new", "bob", "--expires", "3s", "-o", "bob.key")
    bob = opened(fabric, tmp_path / "bob.key")
    assert bob.kernels() == []
    assert "bob" in keys(fabric, "list")
    until(lambda: "cut client bob" in (fabric.home / "audit.log").read_text())
    with pytest.raises(park.ParkError):
        bob.start(square, [1])
    assert "(expired)" in keys(fabric, "list")


def test_a_key_is_rotated(fabric: Fabric, tmp_path: Path) -> None:
    old = fabric.new_key("ada", KERNEL, tmp_path / "old.key")
    said = keys(fabric, "rotate", "ada", "-o", "new.key")
    assert "new.key is a key for a kernel of ada" in said
    assert read_key(tmp_path / "new.key").role == KERNEL
    (entry,) = (e for e in Keyring(fabric.home).entries() if e.name == "ada")
    assert entry.public == read_key(tmp_path / "new.key").public != read_key(old).public
    assert "no key that is registered" in keys(fabric, "revoke", "old.key", code=6)
    assert "opens nothing" in keys(fabric, "revoke", "new.key")
    assert "no key that is registered" in keys(fabric, "revoke", "nobody", code=6)


def test_an_observer_sees_the_table_and_nothing_else(fabric: Fabric, tmp_path: Path) -> None:
    keys(fabric, "new", "eve", "--observer", "-o", "eve.key")
    assert read_key(tmp_path / "eve.key").role == OBSERVER
    tester = fabric.connect()
    job = tester.start(square, [3], name="hers")
    fabric.start_kernel()
    assert tester.wait(job, timeout=60) == [9]
    eve = opened(fabric, tmp_path / "eve.key", patience=5.0)
    until(lambda: job in eve.table.jobs)
    assert eve.status(job).name == "hers"
    for ask in (
        lambda: eve.start(square, [1]),
        lambda: eve.wait(job, timeout=5),
        lambda: eve.logs(job),
        lambda: eve.fetch(job),
        lambda: eve.abort(job),
        lambda: next(eve.stream(job)),
    ):
        with pytest.raises(Refused, match="an observer's"):
            ask()
    assert "refused a request of observer eve" in (fabric.home / "audit.log").read_text()


def test_a_list_shows_when_keys_were_used(tmp_path: Path) -> None:
    ring = Keyring(tmp_path / "home")
    key = ring.new("ada", CLIENT, tmp_path / "ada.key")
    assert ring.entries()[0].used is None
    found = ring.find(key.public, 0.0)
    assert found is not None
    ring.use(found)
    ring.write_used()
    used = Keyring(tmp_path / "home").entries()[0].used
    assert used is not None
    assert abs(used - time.time()) < 60


def test_the_audit_log_is_bounded_and_says_a_refusal_once_a_minute(tmp_path: Path) -> None:
    log = AuditLog(tmp_path)
    for now in (0.0, 1.0, 59.0, 61.0):
        log.refused("a\x1b[2J\nstranger", now)
    assert [line.partition(" ")[2] for line in log.path.read_text().splitlines()] == [
        r"refused a\x1b[2J\nstranger"
    ] * 2
    for _ in range(2 * MAX_AUDIT_BYTES // 400):
        log.write("x" * 1000)
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == ["audit.log", "audit.log.1"]
    assert all(file.stat().st_size <= MAX_AUDIT_BYTES + 600 for file in files)


class Doorway:
    """A door with an authenticator, and raw peers that have keys for it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ring = Keyring(folder / "home")
        self._keeper = Authenticator(self._ring.pair(), self._ring.find)
        self.door = KeyedRouter(self._keeper, "clients")
        self._address = self.door.bind("tcp://127.0.0.1:0")
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._sockets: list[zmq.Socket[bytes]] = []

    def call(self, name: str, routing: bytes = b"") -> zmq.Socket[bytes]:
        """A connection with a new key of this name."""
        key = self._ring.new(name, CLIENT, self._folder / f"{name}.key")
        socket = self._context.socket(zmq.DEALER)
        socket.linger = 0
        if routing:
            socket.setsockopt(zmq.ROUTING_ID, routing)
        socket.curve_publickey, socket.curve_secretkey = key.public.encode(), key.secret.encode()
        socket.curve_serverkey = key.broker.encode()
        socket.connect(self._address)
        self._sockets.append(socket)
        return socket

    def heard(self) -> tuple[bytes, Any] | None:
        """The next message that the door lets through."""
        self._keeper.stir()
        self._keeper.turn(time.monotonic())
        self.door.stir()
        if (got := self.door.receive()) is None:
            return None
        return got[0], codec.decode(got[1])[0]

    def close(self) -> None:
        self._context.destroy(0)
        self.door.close()
        self._keeper.close()


@pytest.fixture
def doorway(tmp_path: Path) -> Iterator[Doorway]:
    doorway = Doorway(tmp_path)
    yield doorway
    doorway.close()


def test_another_key_under_the_same_routing_id_gets_nothing_of_the_first(doorway: Doorway) -> None:
    """Given a client that has left, when one with another key takes its routing id, then it gets none of its messages."""
    ada = doorway.call("ada", b"same")
    ada.send_multipart(codec.encode(messages.Heartbeat()))
    hers, _ = until(doorway.heard)
    ada.close()
    time.sleep(1.1)  # after a second the key that was made since counts
    bobs = []

    def bob_is_heard() -> tuple[bytes, Any] | None:
        # ZeroMQ ignores a connection while it remembers another one with the same routing id
        bobs.append(doorway.call(f"bob{len(bobs)}", b"same"))
        bobs[-1].send_multipart(codec.encode(messages.Heartbeat()))
        bobs[-1].send_multipart(codec.encode(messages.Heartbeat()))
        until_seconds = time.monotonic() + 20
        while time.monotonic() < until_seconds:
            if heard := doorway.heard():
                return heard
        bobs[-1].close()
        return None

    his, _ = until(bob_is_heard)
    bob = bobs[-1]
    assert his != hers
    doorway.door.send(hers, [b"for ada"])
    doorway.door.send(his, [b"for bob"])
    assert bob.poll(5000)
    assert bob.recv() == b"for bob"
    assert not bob.poll(100)


def test_before_a_hello_a_peer_may_cost_little(doorway: Doorway, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given a peer that has not said hello, when it sends what is long, or nothing of its own, then none of it is kept."""
    monkeypatch.setattr("park.net.sockets.HELLO_SECONDS", 0.5)
    ada, door = doorway.call("ada"), doorway.door
    blob = codec.encode(messages.Blob(b"x" * 16), bytes(100 << 10))
    ada.send_multipart(blob)
    part = codec.encode(messages.Part(0, 512 << 20, len(blob[0])), blob[0])
    ada.send_multipart(part)
    for _ in range(2):  # in their place the broker sees what it answers with: say hello
        assert isinstance(until(doorway.heard)[1], messages.Heartbeat)
    assert not door._joiners
    assert not door.lively()
    monitor = ada.get_monitor_socket(zmq.EVENT_DISCONNECTED)
    time.sleep(0.6)
    door.lively()
    assert monitor.poll(5000)  # it was hung up
    ada.disable_monitor()
    monitor.close(0)
    monkeypatch.setattr("park.net.sockets.HELLO_SECONDS", 10.0)
    # it comes back and says hello: now it may send what is long, up to its budget
    hello = codec.encode(messages.Hello(b"i" * 16, "ada", "3.11", 1))
    ada.send_multipart(hello)
    until(lambda: isinstance((doorway.heard() or (0, 0))[1], messages.Hello))
    ada.send_multipart(blob)
    assert isinstance(until(doorway.heard)[1], messages.Blob)


def test_an_unfinished_message_ends_unless_it_waits_for_room(
    doorway: Doorway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("park.net.sockets.STALE_PIECES_SECONDS", 0.4)
    ada, door = doorway.call("ada"), doorway.door
    ada.send_multipart(codec.encode(messages.Hello(b"i" * 16, "ada", "3.11", 1)))
    name, _ = until(doorway.heard)
    head = codec.encode(messages.Blob(b"x" * 16))[0]

    def begin(size: int) -> None:
        ada.send_multipart(codec.encode(messages.Part(0, size, len(head)), head))

    begin((512 << 20) + len(head) + 1)  # too long: the loop hears of it, and nothing is kept
    assert isinstance(until(doorway.heard)[1], messages.Part)
    assert not door._joiners
    begin(1 << 19)
    until(lambda: doorway.heard() is None and door._joiners)
    assert door._intake.used == (1 << 19) - len(head)
    until(lambda: door.lively() is not None and not door._joiners)  # without another message
    assert not door._intake.used
    door._intake.keep("other", name[-10:], 1 << 30)  # the budget of its key is used up
    begin(1 << 19)
    until(lambda: doorway.heard() is None and door._joiners)
    ((_, incoming),) = door._joiners.values()
    incoming.at -= 1.0
    door._drop_stale()
    assert door._joiners
