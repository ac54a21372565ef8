"""The channel between kernel and slot process, over real sockets."""

from __future__ import annotations

import array
import fcntl
import mmap
import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from park.errors import ProtocolError
from park.net import channel
from park.net.channel import MIN_SHARED_BYTES, Channel
from park.util import sealed as sealed_files

Pair = tuple[Channel, Channel]
SEALS = (
    getattr(fcntl, "F_SEAL_SHRINK", 0) | getattr(fcntl, "F_SEAL_GROW", 0) | getattr(fcntl, "F_SEAL_WRITE", 0)
)
shares = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="payloads go inline here")


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    yield ours, theirs
    ours.close()
    theirs.close()


@pytest.fixture
def pair(ends: tuple[socket.socket, socket.socket]) -> Iterator[Pair]:
    ours, theirs = Channel(ends[0]), Channel(ends[1])
    yield ours, theirs
    ours.close()
    theirs.close()


def sealed(data: bytes, seals: int = SEALS) -> int:
    """The descriptor of a file in memory."""
    file = os.memfd_create("test", os.MFD_ALLOW_SEALING)
    os.write(file, data)
    fcntl.fcntl(file, fcntl.F_ADD_SEALS, seals)
    return file


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def collect(end: Channel, count: int) -> list[list[object]]:
    """The next messages of a non-blocking end, which come."""
    return [end.recv(10) for _ in range(count)]


def test_messages_arrive_in_order(pair: Pair) -> None:
    ours, theirs = pair
    sent = [[b"no payload"], *([b"head %d" % i, b"payload" * i] for i in range(1, 50))]
    for frames in sent:
        ours.send(frames)
    assert theirs.recv() == sent[0]
    assert theirs.receive() == sent[1:]
    assert theirs.receive() == []
    theirs.send([b""])
    assert ours.recv(1) == [b""]


def test_nobody_waits_longer_than_told(pair: Pair) -> None:
    with pytest.raises(TimeoutError, match=r"no message within 0\.01 s"):
        pair[0].recv(0.01)
    assert pair[0].receive() == []


@shares
@pytest.mark.parametrize("size", [MIN_SHARED_BYTES, 3_000_000])
def test_large_payloads_are_mapped_both_ways(pair: Pair, size: int) -> None:
    before = descriptors()
    ours, theirs = pair
    payload = os.urandom(size)
    for a, b in ((ours, theirs), (theirs, ours)):
        a.send([b"small", b"1"])
        a.send([b"large", payload])
        a.send([b"large too", memoryview(payload)])
        a.send([b"small", b"2"])
        received = [b.recv() for _ in range(4)]
        assert received == [[b"small", b"1"], [b"large", payload], [b"large too", payload], [b"small", b"2"]]
        assert [isinstance(p, memoryview) and isinstance(p.obj, mmap.mmap) for _, p in received] == [
            0,
            1,
            1,
            0,
        ]
        a.send([b"on", received[1][1]])  # a mapped payload can be passed on as it is
        assert b.recv() == [b"on", payload]
        del received
    assert descriptors() == before


@shares
def test_maps_do_not_use_up_the_descriptors(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealed_files, "MAX_OPEN_MAPS", 2)
    before = descriptors()
    payloads = [bytes([i]) * MIN_SHARED_BYTES for i in range(5)]
    for payload in payloads:
        pair[0].send([b"", payload])
    received = [pair[1].recv()[1] for _ in payloads]
    assert received == payloads
    assert descriptors() <= before + 4  # up to two for each map


def test_payloads_go_inline_where_they_cannot_be_shared(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = pair
    for end in pair:
        monkeypatch.setattr(end, "_shares", False)
    payload = os.urandom(3_000_000)
    thread = threading.Thread(target=lambda: [ours.send([b"h", payload]), ours.send([b"i"])])
    thread.start()
    assert [theirs.recv(), theirs.recv()] == [[b"h", payload], [b"i"]]
    thread.join()


def test_a_non_blocking_end_never_waits(ends: tuple[socket.socket, socket.socket]) -> None:
    ends[0].setblocking(False)
    ours, theirs = map(Channel, ends)
    sent = [[b"%d" % i, bytes([i % 256]) * size] for i, size in enumerate([100, 100_000, 300_000, 1] * 10)]
    for frames in sent:
        ours.send(frames)
    assert ours.pending > 0
    assert not ours.flush()
    received = []
    while not ours.flush():
        received += collect(theirs, 1)
    received += collect(theirs, len(sent) - len(received))
    assert received == sent
    assert ours.pending == 0
    assert ours.flush()


def test_messages_come_in_pieces(ends: tuple[socket.socket, socket.socket]) -> None:
    raw, end = ends[0], Channel(ends[1])
    data = b"".join(struct.pack("<IQB", 2, i, 0) + b"hd" + b"p" * i for i in (0, 5, 300))
    received = []
    for i in range(len(data)):
        raw.sendall(data[i : i + 1])
        received += end.receive()
    assert received == [[b"hd"], [b"hd", b"p" * 5], [b"hd", b"p" * 300]]


@shares
def test_several_descriptors_in_one_read(ends: tuple[socket.socket, socket.socket]) -> None:
    files = [sealed(b"%d" % i * 10) for i in range(3)]
    data = b"".join(struct.pack("<IQB", 1, 10, 1) + b"h" for _ in files)
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", files))]
    ends[0].sendmsg([data[:5]], rights)
    end = Channel(ends[1])
    assert end.receive() == []
    ends[0].sendall(data[5:])
    assert end.receive() == [[b"h", b"%d" % i * 10] for i in range(3)]
    for file in files:
        os.close(file)


def test_the_end_comes_after_the_last_message(pair: Pair) -> None:
    ours, theirs = pair
    ours.send([b"last", b"words"])
    ours.close()
    assert ours.fileno() == -1
    assert theirs.receive() == [[b"last", b"words"]]
    for _ in range(2):
        with pytest.raises(EOFError):
            theirs.receive()
        with pytest.raises(EOFError):
            theirs.recv()


def test_what_is_sent_to_a_closed_peer_is_dropped(pair: Pair) -> None:
    ours, theirs = pair
    ours.send([b"never", b"read"])
    theirs.close()
    for size in (10, MIN_SHARED_BYTES):
        ours.send([b"h", b"x" * size])
        assert ours.pending == 0
    with pytest.raises(EOFError):
        ours.recv(1)


def test_who_finishes_still_reads(pair: Pair) -> None:
    ours, theirs = pair
    ours.finish()
    with pytest.raises(EOFError):
        theirs.recv()
    theirs.send([b"still", b"here"])
    assert ours.recv() == [b"still", b"here"]


@pytest.mark.parametrize(
    "data",
    [
        struct.pack("<IQB", 70_000, 0, 0),
        struct.pack("<IQB", 1, 0, 7) + b"h",
        struct.pack("<IQB", 1, 10, 1) + b"h",
        struct.pack("<IQB", 1, 1 << 60, 0) + b"h",
        struct.pack("<IQB", 1, 1 << 60, 1) + b"h",
        b"print output of a stray write\n",
    ],
)
def test_what_is_no_message_is_refused(ends: tuple[socket.socket, socket.socket], data: bytes) -> None:
    ends[0].sendall(data)
    with pytest.raises(ProtocolError):
        Channel(ends[1]).receive()


@shares
def test_a_file_shorter_than_announced_is_refused(ends: tuple[socket.socket, socket.socket]) -> None:
    before = descriptors()
    file = os.memfd_create("test")
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [file]))]
    ends[0].sendmsg([struct.pack("<IQB", 1, 10, 1) + b"h"], rights)
    os.close(file)
    with pytest.raises(ProtocolError, match="not as long"):
        Channel(ends[1]).receive()
    assert descriptors() == before


@shares
@pytest.mark.parametrize(
    "seals", [0, SEALS & ~getattr(fcntl, "F_SEAL_SHRINK", 0), SEALS & ~getattr(fcntl, "F_SEAL_WRITE", 0)]
)
def test_a_file_that_could_still_change_is_refused(
    ends: tuple[socket.socket, socket.socket], seals: int
) -> None:
    file = sealed(b"0123456789", seals)
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [file]))]
    ends[0].sendmsg([struct.pack("<IQB", 1, 10, 1) + b"h"], rights)
    os.close(file)
    with pytest.raises(ProtocolError, match="could still change"):
        Channel(ends[1]).receive()


@shares
@pytest.mark.parametrize("at_once", [1, 20, 200])
def test_descriptors_without_a_payload_are_refused_before_they_are_many(
    ends: tuple[socket.socket, socket.socket], at_once: int
) -> None:
    file, before = sealed(b"x"), descriptors()
    end = Channel(ends[1])
    ends[0].sendall(struct.pack("<IQB", 60_000, 0, 0))
    with pytest.raises(ProtocolError):  # noqa: PT012
        for _ in range(channel.MAX_DESCRIPTORS + 1):
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [file] * at_once))]
            ends[0].sendmsg([b"."], rights)
            end.receive()
    assert descriptors() <= before + 2 * channel.MAX_DESCRIPTORS
    end.close()
    os.close(file)
    assert descriptors() == before - 2


ECHO = """
import socket, sys
from park.net.channel import Channel
end = Channel(socket.socket(fileno=int(sys.argv[1])))
try:
    while True:
        end.send(end.recv())
except EOFError:
    pass
"""


def test_another_process_answers_and_ends_with_us(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = Channel(ends[0]), ends[1]
    with subprocess.Popen(
        [sys.executable, "-c", ECHO, str(theirs.fileno())], pass_fds=[theirs.fileno()]
    ) as child:
        theirs.close()
        for size in (1, 100, 50_000, MIN_SHARED_BYTES, 2_000_000):
            payload = os.urandom(size)
            ours.send([b"head", payload])
            assert ours.recv(30) == [b"head", payload]
        ours.close()
        assert child.wait(50) == 0


def test_repr_is_a_status_line(pair: Pair) -> None:
    assert "0 bytes to send, 0 messages here" in repr(pair[0])
