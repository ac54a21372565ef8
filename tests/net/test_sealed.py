"""Files in memory that several processes read."""

from __future__ import annotations

import fcntl
import os
import socket
from pathlib import Path

import pytest

from park.net.channel import MIN_SHARED_BYTES, Channel
from park.util import sealed

pytestmark = pytest.mark.skipif(
    not hasattr(fcntl, "F_SEAL_WRITE"), reason="this system has no sealed files in memory"
)
DATA = os.urandom(MIN_SHARED_BYTES + 5)


def inode(data: memoryview) -> int:
    return os.fstat(sealed.descriptor_of(data)).st_ino


def test_bytes_are_the_same_file_at_every_hop() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        first = sealed.sealed(DATA)
        assert sealed.sealed(first) is first
        Channel(ours).send([b"", first])
        _, second = Channel(theirs).recv(5)
        third = sealed.open_of(os.getpid(), sealed.descriptor_of(second), len(DATA))
        assert first == second == third == DATA
        assert inode(first) == inode(second) == inode(third)
        assert sealed.descriptor_of(first[1:]) == sealed.descriptor_of(DATA) == -1


def test_a_file_is_written_in_pieces_and_then_never_again() -> None:
    target = sealed.SealedBuffer(10)
    target.put(5, b"world")
    target.put(0, b"hello")
    data = target.done()
    assert bytes(data) == b"helloworld"
    with pytest.raises(OSError, match="not permitted"):
        os.pwrite(sealed.descriptor_of(data), b"x", 0)


def test_descriptors_close_with_the_bytes() -> None:
    before = set(os.listdir("/proc/self/fd"))
    data = sealed.sealed(DATA)
    sealed.SealedBuffer(10)
    del data
    assert set(os.listdir("/proc/self/fd")) == before


def test_what_is_no_sealed_file_of_that_size_is_not_opened(tmp_path: Path) -> None:
    good = sealed.sealed(DATA)
    loose = sealed.new_file()
    os.write(loose, DATA)
    plain = os.open(tmp_path / "plain", os.O_CREAT | os.O_RDWR)
    os.write(plain, DATA)
    reader, writer = os.pipe()
    try:
        for process, file, size in (
            (os.getpid(), sealed.descriptor_of(good), len(DATA) - 1),
            (os.getpid(), loose, len(DATA)),
            (os.getpid(), plain, len(DATA)),
            (os.getpid(), reader, len(DATA)),
            (os.getpid(), 10**6, len(DATA)),
            (2**40, 3, len(DATA)),
        ):
            with pytest.raises(OSError, match=r"."):
                sealed.open_of(process, file, size)
    finally:
        for descriptor in (loose, plain, reader, writer):
            os.close(descriptor)
