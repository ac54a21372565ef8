"""ZeroMQ holds few bytes of a connection, also of one message of very many frames; connections that are cut."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from park.net import connections, sockets
from park.net.audit import AUDIT_FILE
from park.net.authenticator import Authenticator
from park.net.callers import Subscriber
from park.net.connections import socket_at
from park.net.descriptors import DescriptorReserve
from park.net.keys import CLIENT, Key, Keyring
from park.net.packet_filters import drop_all
from park.net.sockets import KeyedRouter, Publisher
from park.util.sealed import descriptor_of as file_of
from park.util.sealed import sealed
from park.wire import codec, messages
from park.wire.fragments import PIECE_BYTES
from tests.support.fabric import until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the system's counts of a connection's bytes")
FRAME = bytes(500_000)


class Door:
    """A broker's door for clients, with its keeper."""

    def __init__(self, folder: Path) -> None:
        self.ring = Keyring(folder)
        self.audit = folder / AUDIT_FILE
        reserve = DescriptorReserve(1000)
        self.keeper = Authenticator(self.ring.pair(), self.ring.find, reserve, self.ring)
        self.router = KeyedRouter(self.keeper, "clients")
        self.address = self.router.bind("tcp://127.0.0.1:0")
        self.board = Publisher(self.keeper)
        self.table = self.board.bind("tcp://127.0.0.1:0")
        reserve.start()
        self.key = self.ring.new("mallory", CLIENT, folder / "mallory.key")
        self.peers: list[Any] = []

    def connect(self, kind: int, address: str, key: Key | None = None) -> Any:
        key = key or self.key
        peer = zmq.Context.instance().socket(kind)
        self.peers.append(peer)
        peer.linger, peer.sndhwm = 0, 0
        peer.curve_publickey, peer.curve_secretkey = key.public.encode(), key.secret.encode()
        peer.curve_serverkey = key.broker.encode()
        peer.connect(address)
        return peer

    def peer(self, key: Key | None = None) -> Any:
        """A connection whose first message has come."""
        peer = self.connect(zmq.DEALER, self.address, key)
        peer.send_multipart(codec.encode(messages.Hello(bytes(16), "mallory", "3.11")))
        until(self.look)
        return peer

    def look(self) -> Any:
        """The next message."""
        self.keeper.stir()
        self.keeper.turn(time.monotonic())
        self.router.stir()
        return self.router.receive()

    def refusals(self, words: str = "complete") -> list[str]:
        self.look()
        self.board.publish([b"news"])
        return [line for line in self.audit.read_text().splitlines() if words in line]


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    door = Door(tmp_path)
    yield door
    for peer in door.peers:
        peer.close()
    door.router.close()
    door.board.close()
    door.keeper.close()


#: A process that sends one long message from each of some connections. ZeroMQ may end it when it is cut, and not the tests.
FLOOD = """
    import sys, zmq
    address, public, secret, broker, count = sys.argv[1:]
    for _ in range(int(count)):
        peer = zmq.Context().socket(zmq.DEALER)
        peer.sndhwm = 0
        peer.curve_publickey, peer.curve_secretkey, peer.curve_serverkey = (k.encode() for k in (public, secret, broker))
        peer.connect(address)
        frame = zmq.Frame(bytes(500_000))
        for _ in range(120):
            peer.send(frame, zmq.SNDMORE, copy=False)
        peer.send(b"the end")
    sys.stdin.read()
"""


@contextlib.contextmanager
def flood(door: Door, count: int) -> Iterator[None]:
    keys = (door.key.public, door.key.secret, door.key.broker)
    command = [sys.executable, "-c", textwrap.dedent(FLOOD), door.address, *keys, str(count)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            process.kill()


def test_a_message_of_too_many_frames_is_cut_before_it_is_complete(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "MAX_HELD_BYTES", 5_000_000)
    monkeypatch.setattr(connections, "HELD_POLL_SECONDS", 0.001)
    honest = door.peer()
    with flood(door, 1):
        (line, *_) = until(door.refusals)
    assert "refused a connection from 127.0.0.1 without a message" in line
    assert "no complete message" in line
    honest.send_multipart(codec.encode(messages.Heartbeat(1, [])))
    until(door.look)


def test_messages_that_are_taken_do_not_count(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "MAX_HELD_BYTES", 2_000_000)
    peer = door.peer()
    for _ in range(20):
        peer.send_multipart([b"?", FRAME])
        until(door.look)
    assert not door.refusals()


def test_the_longest_goes_first_where_all_together_are_too_long(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "MAX_ALL_HELD_BYTES", 5_000_000)
    monkeypatch.setattr(connections, "HELD_POLL_SECONDS", 0.001)
    with flood(door, 3):
        (line, *_) = until(door.refusals)
    assert "it has the longest" in line


def test_the_last_mirror_may_leave(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """ZeroMQ says so in a message that has no sender."""
    senders: list[int] = []
    find = sockets.descriptor_of
    monkeypatch.setattr(sockets, "descriptor_of", lambda frame: senders.append(find(frame)) or senders[-1])
    for count in (1, 2):
        mirror = Subscriber(door.table, door.key)

        def heard(mirror: Subscriber = mirror) -> Any:
            door.refusals()
            mirror.stir()
            return mirror.receive()

        until(heard)
        mirror.close()
        until(lambda: door.refusals() or senders.count(-1) == count)  # noqa: B023


@pytest.mark.parametrize(
    "sent", [b"\x01a topic", b"a message", b"\x01"], ids=["a topic", "a message", "again"]
)
@pytest.mark.heavy
def test_a_mirror_that_asks_for_more_than_the_table_is_cut(
    door: Door, sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sockets, "SHUT_OUT_SECONDS", 1000.0)
    peer = door.connect(zmq.XSUB, door.table)
    peer.send(b"\x01")

    def cut() -> Any:
        for _ in range(sockets.MAX_SUBSCRIPTIONS):
            peer.send(sent)
        return door.refusals("more than the table")

    assert "client mallory" in until(cut)[0]
    until(lambda: door.refusals("to table: no such key"))  # it comes again at once


def test_a_connection_that_says_nothing_is_cut(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "FIRST_MESSAGE_SECONDS", 0.2)
    monkeypatch.setattr(connections, "SWEEP_SECONDS", 0.1)
    door.peer()
    door.connect(zmq.DEALER, door.address)
    (line, *_) = until(lambda: door.refusals("it has said nothing"))
    assert "without a message" in line


def ends_of_peers(door: Door) -> Iterator[socket.socket]:
    """The other ends of the door's connections, which are in this process."""
    port = int(door.address.rpartition(":")[2])
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError), socket_at(int(name)) as found:
            if found.family == socket.AF_INET and found.getpeername()[1] == port:
                yield found


def test_a_file_that_has_the_descriptor_of_a_connection_is_left_alone(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as file:
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(5):
            assert not connections.connection_of(file.fileno()).hang_up()
            assert connections._signs(file.fileno()) == (0.0, 0, 0)
        assert len(os.listdir("/proc/self/fd")) == before


def test_a_peer_whose_system_gives_no_sign_is_cut(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "SILENCE_SECONDS", 1.0)
    monkeypatch.setattr(connections, "SWEEP_SECONDS", 0.1)
    door.peer()
    for end in ends_of_peers(door):
        drop_all(end)
    assert "with the key" in until(lambda: door.refusals("there is no sign of it"))[0]


def test_a_peer_that_takes_nothing_is_cut(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "SILENCE_SECONDS", 1.0)
    monkeypatch.setattr(connections, "SWEEP_SECONDS", 0.1)
    door.peer()
    (descriptor,) = door.keeper.connections._users
    monkeypatch.setattr(connections, "_signs", lambda d: (0.0, 7, 1 if d == descriptor else 0))
    assert "with the key" in until(lambda: door.refusals("it takes nothing"))[0]


def test_one_key_cannot_take_all_connections(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "SWEEP_SECONDS", 0.05)
    assert door.keeper._watch is not None
    monkeypatch.setattr(door.keeper._watch, "_share", 5)
    honest = door.ring.new("ada", CLIENT, door.audit.parent / "ada.key")
    other = door.peer(honest)
    for _ in range(7):
        door.peer()
    until(lambda: door.refusals("more than 5 connections"))
    other.send_multipart(codec.encode(messages.Heartbeat()))
    until(door.look)


def test_a_connection_that_has_got_the_descriptor_of_another_one_is_not_cut() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ends = [socket.create_connection(listener.getsockname()) for _ in range(2)]
        gone, heir = (listener.accept()[0] for _ in range(2))
    stranger = connections.connection_of(gone.fileno())
    assert stranger.is_open()
    os.dup2(heir.fileno(), gone.fileno())
    assert not stranger.is_open()
    assert stranger.hang_up() == ""
    ends[1].send(b"hello")
    assert heir.recv(10) == b"hello"
    assert connections.connection_of(gone.fileno()).hang_up() == "127.0.0.1"
    assert heir.recv(10) == b""
    for end in (*ends, gone, heir):
        end.close()


def test_a_peer_that_is_heard_is_not_forgotten(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "MAX_CONNECTIONS", 4)
    honest = door.peer()
    for _ in range(6):
        door.peer()
        honest.send_multipart(codec.encode(messages.Heartbeat()))
        until(door.look)
    assert not door.router._strangers


def test_a_silent_connection_has_no_key_from_the_one_whose_descriptor_it_has(door: Door) -> None:
    door.peer()
    ((name, connection),) = door.router._holders.values()
    assert door.keeper.connections.key_of(connection) == name[-sockets.ID_LETTERS :].decode()
    heir = connection._replace(cookie=connection.cookie + 1)
    assert door.keeper.connections.key_of(heir) == ""


def test_a_peer_with_a_key_makes_the_broker_open_no_file(door: Door) -> None:
    """Given a peer over tcp that names a file, when its message comes, then the broker decides it like any other."""
    peer = door.peer()
    file = sealed(b"x" * (PIECE_BYTES + 1))
    for number in (0, 7):
        message = messages.Mapped(
            number, os.getpid(), file_of(file), len(file), os.fstat(file_of(file)).st_ino
        )
        peer.send_multipart(codec.encode(message, codec.encode(messages.Blob(b"h"), file)[0]))
        _, frames = until(door.look)
        assert codec.decode(frames)[0] == message
    with pytest.raises(zmq.Again):
        peer.recv(zmq.DONTWAIT)
