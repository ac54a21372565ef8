"""Long payloads over ipc: the receiver maps the sender's file, or gets pieces where it cannot."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket as plain
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from park.errors import StoreError
from park.net import outbox as outboxes
from park.net import payload_files
from park.net.callers import Dealer
from park.net.intake import Intake, ReceiveBudgets
from park.net.outbox import Outbox
from park.net.sockets import Router
from park.util import sealed
from park.wire import codec, messages
from park.wire.fragments import MAX_PAYLOAD_BYTES, PIECE_BYTES
from park.wire.pack import Buffer

pytestmark = pytest.mark.skipif(not sealed.HAS_FILES, reason="this system has no files in memory")
LONG = os.urandom(3 * PIECE_BYTES + 7)
HEAD = codec.encode(messages.Blob(b"right"), LONG)[0]


class Ends:
    """A broker's socket and a peer's, over ipc, in one process."""

    def __init__(self, folder: Path, room: ReceiveBudgets | None = None) -> None:
        self.router = Router(None, Intake(room))
        self.dealer = Dealer(self.router.bind(f"ipc://{folder}/clients"))
        assert self.dealer.wait(5.0)
        #: what came to the broker and to the peer, and was not asked for
        self.there: tuple[list[Any], list[Any]] = [], []
        self.dealer.clear()  # as before each hello
        self.send(messages.Heartbeat())
        self.name, _, _ = self.at_broker()
        for _ in range(20):
            self.look()
        assert self.router._files is not None

    def send(self, message: messages.Message, payload: Buffer = b"") -> None:
        self.dealer.send(codec.encode(message, payload), message)

    def answer(self, message: messages.Message, payload: Any = b"") -> bool:
        return self.router.send(self.name, codec.encode(message, payload), message)

    def look(self) -> None:
        """Let both read what is about files alone."""
        assert self.turn() == (None, None)
        time.sleep(0.002)

    def turn(self) -> tuple[tuple[bytes, Any] | None, Any]:
        """The messages that the broker and the peer receive now."""
        for end in (self.router, self.dealer):
            end.stir()
            end.waiting()
        return self.router.receive(), self.dealer.receive()

    def at_broker(self) -> tuple[bytes, messages.Message, Buffer]:
        name, frames = until(lambda: self.came(0))
        return name, *codec.decode(frames)

    def at_peer(self) -> tuple[messages.Message, Buffer]:
        return codec.decode(until(lambda: self.came(1)))

    def came(self, end: int) -> Any:
        """The next message at the broker (0) or at the peer (1)."""
        for have, found in zip(self.there, self.turn(), strict=True):
            if found is not None:
                have.append(found)
        return self.there[end].pop(0) if self.there[end] else None

    def close(self) -> None:
        self.dealer.close()
        self.router.close()


def until(found: Callable[[], Any], seconds: float = 20.0) -> Any:
    limit = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < limit, "it does not come"
        time.sleep(0.001)
    return value


@pytest.fixture
def ends(tmp_path: Path) -> Iterator[Ends]:
    both = Ends(tmp_path)
    yield both
    both.close()


@pytest.fixture
def pieces(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of messages that were split."""
    found: list[int] = []
    split = outboxes.split

    def counted(frames: Any, limit: int = PIECE_BYTES) -> Any:
        found.append(sum(map(len, frames)))
        return split(frames, limit)

    monkeypatch.setattr(outboxes, "split", counted)
    return found


def test_a_long_payload_is_the_same_file_at_both_ends(ends: Ends, pieces: list[int]) -> None:
    ends.send(messages.Blob(b"there"), LONG)
    _, message, there = ends.at_broker()
    assert (message, there) == (messages.Blob(b"there"), LONG)
    ends.answer(messages.Blob(b"back"), there)
    message, back = ends.at_peer()
    assert (message, back) == (messages.Blob(b"back"), LONG)
    assert isinstance(there, memoryview)
    assert isinstance(back, memoryview)
    inodes = {os.fstat(sealed.descriptor_of(each)).st_ino for each in (there, back)}
    assert len(inodes) == 1  # what was mapped is passed on, not copied
    assert not pieces


def test_where_files_cannot_be_opened_pieces_go(
    tmp_path: Path, pieces: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(payload_files, "open_payload", lambda message: None)
    both = Ends(tmp_path)
    try:
        both.send(messages.Blob(b"there"), LONG)
        assert both.at_broker()[2] == LONG
        both.answer(messages.Blob(b"back"), LONG)
        assert both.at_peer()[1] == LONG
        assert len(pieces) == 2
    finally:
        both.close()


@pytest.mark.parametrize("who", ["park.net.payload_files", "park.net.callers"])
def test_a_payload_that_cannot_be_opened_comes_in_pieces(
    ends: Ends, pieces: list[int], monkeypatch: pytest.MonkeyPatch, who: str
) -> None:
    """The probe could be opened; later the receiver has no descriptor left."""
    monkeypatch.setattr(f"{who}.open_payload", lambda message: None)
    for number in range(3):
        ends.send(messages.Blob(b"%d" % number), LONG)
        ends.answer(messages.Blob(b"%d" % number), LONG)
    got = [(ends.at_peer(), ends.at_broker()[1:]) for _ in range(3)]
    assert got == [((messages.Blob(b"%d" % n), LONG),) * 2 for n in range(3)]
    assert len(pieces) == 3


def test_a_lost_answer_is_given_again_and_the_message_comes_once(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(payload_files, "REPEAT_SECONDS", 0.01)
    answered, lost = Outbox.answered, []

    def lose(self: Outbox, number: int, opened: bool) -> None:
        if len(lost) < 5:
            lost.append(number)
        else:
            answered(self, number, opened)

    monkeypatch.setattr(Outbox, "answered", lose)
    ends.send(messages.Blob(b"1"), LONG)
    ends.send(messages.Blob(b"1"), b"behind it")
    assert ends.at_broker()[2] == LONG
    assert ends.at_broker()[2] == b"behind it"
    ends.answer(messages.Blob(b"2"), LONG)
    ends.answer(messages.Blob(b"2"), b"behind it")
    assert ends.at_peer()[1] == LONG
    assert ends.at_peer()[1] == b"behind it"
    assert len(lost) == 5
    assert len(set(lost)) == 1
    for _ in range(20):
        ends.look()


def test_a_message_waits_for_room_and_others_pass(tmp_path: Path) -> None:
    both = Ends(tmp_path, ReceiveBudgets(peer=len(LONG) + 10))
    try:
        both.send(messages.Blob(b"1"), LONG)
        both.send(messages.Blob(b"2"), LONG)
        assert both.at_broker()[1] == messages.Blob(b"1")
        both.send(messages.Blob(b"2"), b"the same subject waits")
        both.send(messages.Heartbeat(1))  # and a sign of life goes beside them
        assert both.at_broker()[1] == messages.Heartbeat(1)
        for _ in range(20):
            both.look()
        assert both.router.without_room() == [both.name]
        both.router.release(both.name, len(LONG))
        assert both.at_broker()[1:] == (messages.Blob(b"2"), LONG)
        assert both.at_broker()[1:] == (messages.Blob(b"2"), b"the same subject waits")
        assert not both.router.without_room()
    finally:
        both.close()


def test_nothing_is_kept_for_a_peer_that_has_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(payload_files, "REPEAT_SECONDS", 0.01)
    router = Router()
    script = (
        "import sys, time\n"
        "from park.net.callers import Dealer\n"
        "from park.wire import codec, messages\n"
        "dealer = Dealer(sys.argv[1])\n"
        "dealer.wait(5)\n"
        "dealer.clear()\n"
        "dealer.send(codec.encode(messages.Heartbeat()))\n"
        "until = time.monotonic() + 60\n"
        "while dealer._signs < 2 and time.monotonic() < until: dealer.stir(); dealer.receive()\n"
        "print('asked', flush=True)\n"
        "time.sleep(60)\n"
    )
    address = router.bind(f"ipc://{tmp_path}/clients")
    with subprocess.Popen([sys.executable, "-c", script, address], stdout=subprocess.PIPE) as peer:
        try:
            name, _ = until(lambda: (router.stir(), router.receive())[1])
            assert router._files is not None
            files = router._files
            until(lambda: (router.stir(), router.receive(), files.opens(name))[2])
            before = len(os.listdir("/dev/fd"))
            assert router.send(name, codec.encode(messages.Blob(b"1"), LONG), messages.Blob(b"1"))
            assert len(os.listdir("/dev/fd")) > before
        finally:
            peer.kill()
    until(lambda: (router.flush(), not router.behind())[1])
    assert len(os.listdir("/dev/fd")) <= before
    router.close()


def test_no_file_is_opened_for_whoever_names_one(ends: Ends, tmp_path: Path) -> None:
    """Only a sealed file of the size and the number that were said, and of a size that needs a file."""
    secret = tmp_path / "secret"
    secret.write_bytes(LONG)
    with secret.open("rb") as file, SealedBytes(LONG) as payload:
        inode = os.fstat(payload.descriptor).st_ino
        for number, (descriptor, size, node) in enumerate(
            [
                (file.fileno(), len(LONG), os.fstat(file.fileno()).st_ino),
                (payload.descriptor, len(LONG) - 1, inode),
                (payload.descriptor, len(LONG), inode + 1),
                (payload.descriptor, MAX_PAYLOAD_BYTES + 1, inode),
                (payload.descriptor, PIECE_BYTES, inode),
                (1 << 40, len(LONG), inode),
            ],
            start=1,
        ):
            message = messages.Mapped(number, os.getpid(), descriptor, size, node)
            ends.dealer.send(codec.encode(message, HEAD))
            for _ in range(5):
                ends.look()
        message = messages.Mapped(99, os.getpid(), payload.descriptor, len(LONG), inode)
        ends.dealer.send(codec.encode(message, HEAD))
        assert ends.at_broker()[1:] == (messages.Blob(b"right"), LONG)
    assert ends.router._intake.used == len(LONG)


def in_memory(size: int, *seals: int) -> int:
    """The descriptor of a file in memory with some seals."""
    descriptor = sealed.new_file()
    os.ftruncate(descriptor, size)
    for each in seals:
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, each)
    return descriptor


def pipe(folder: Path) -> int:
    os.mkfifo(folder / "pipe")
    return os.open(folder / "pipe", os.O_RDWR)


def on_disk(folder: Path) -> int:
    descriptor = os.open(folder / "file", os.O_RDWR | os.O_CREAT)
    os.ftruncate(descriptor, len(LONG))
    return descriptor


SHRINKS_NOT, GROWS_NOT = fcntl.F_SEAL_SHRINK, fcntl.F_SEAL_GROW
#: Files of which a peer says that they are a payload.
LIES: dict[str, Callable[[Path], int]] = {
    "no seal": lambda folder: in_memory(len(LONG)),
    "written later": lambda folder: in_memory(len(LONG), SHRINKS_NOT, GROWS_NOT),
    "shrinks": lambda folder: in_memory(len(LONG), GROWS_NOT, fcntl.F_SEAL_WRITE),
    "too short": lambda folder: in_memory(len(LONG) - 1, SHRINKS_NOT, GROWS_NOT, fcntl.F_SEAL_WRITE),
    "empty": lambda folder: in_memory(0, SHRINKS_NOT, GROWS_NOT, fcntl.F_SEAL_WRITE),
    "a pipe with a name": pipe,
    "a file on the disk": on_disk,
    "a socket": lambda folder: plain.socket(plain.AF_UNIX).detach(),
    "a device": lambda folder: os.open("/dev/zero", os.O_RDWR),
    "a folder": lambda folder: os.open(folder, os.O_RDONLY),
    "a file of the system": lambda folder: os.open("/proc/self/maps", os.O_RDONLY),
    "closed": lambda folder: 1 << 40,
}


def descriptors_of(inode: int) -> int:
    """The number of descriptors of this process for files with this inode."""
    count = 0
    for number in map(int, os.listdir("/dev/fd")):
        with contextlib.suppress(OSError):  # the listing's own
            count += os.fstat(number).st_ino == inode
    return count


@pytest.mark.parametrize("lie", LIES)
def test_a_peer_that_lies_about_its_file_is_told_that_it_cannot_be_opened(
    ends: Ends, tmp_path: Path, lie: str
) -> None:
    descriptor = LIES[lie](tmp_path)
    try:
        inode = 7 if lie == "closed" else os.fstat(descriptor).st_ino
        message = messages.Mapped(1, os.getpid(), descriptor, len(LONG), inode)
        assert payload_files.open_payload(message) is None
        before = descriptors_of(inode)
        ends.dealer.send(codec.encode(message, HEAD))
        ends.router._put([ends.name, *codec.encode(message, HEAD)])
        for _ in range(10):
            ends.look()
        assert descriptors_of(inode) == before
        assert ends.router._intake.used == 0
    finally:
        if lie != "closed":
            os.close(descriptor)
    ends.send(messages.Blob(b"there"), LONG)
    assert ends.at_broker()[1:] == (messages.Blob(b"there"), LONG)
    ends.answer(messages.Blob(b"back"), LONG)
    assert ends.at_peer() == (messages.Blob(b"back"), LONG)


class SealedBytes:
    """A sealed file with these bytes."""

    def __init__(self, data: bytes) -> None:
        self._payload = sealed.SealedPayload(data)
        self._payload.fill(len(data))

    def __enter__(self) -> sealed.SealedPayload:
        return self._payload

    def __exit__(self, *error: object) -> None:
        self._payload.close()


class OnDisk:
    """A payload that is read slice by slice, and cannot be read from byte *bad* on."""

    def __init__(self, data: bytes, bad: int) -> None:
        self._data, self._bad = data, bad

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, part: slice) -> bytes:
        if part.stop > self._bad:
            raise StoreError("it is damaged")
        return self._data[part]


@pytest.mark.parametrize("bad", [1, 2 * PIECE_BYTES, 1 << 40])
def test_a_payload_on_the_disk_becomes_a_file_and_one_that_is_damaged_words(ends: Ends, bad: int) -> None:
    def made(failed: Exception | None = None) -> Any:
        if failed is not None:
            return codec.encode(messages.Failure(3, "StoreError", str(failed)))
        return [head, OnDisk(LONG * 20, bad * 20)]

    head = codec.encode(messages.Blob(b"disk"), LONG)[0]
    ends.router.send(ends.name, made, messages.Blob(b"disk"))
    message, payload = ends.at_peer()
    if bad > len(LONG):
        assert (message, payload) == (messages.Blob(b"disk"), LONG * 20)
    else:
        assert message == messages.Failure(3, "StoreError", "it is damaged")


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3), st.integers(0, 3 * PIECE_BYTES)), max_size=30))
@settings(max_examples=25)
def test_whatever_goes_comes_once_and_in_the_order_of_its_subject(
    plan: list[tuple[bool, int, int]],
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        both = Ends(Path(folder))
        try:
            before = len(os.listdir("/dev/fd"))
            sent = {
                up: [(b"%d" % s, bytes((s,)) * size) for u, s, size in plan if u is up]
                for up in (True, False)
            }
            for up, subject, size in plan:
                (both.send if up else both.answer)(messages.Blob(b"%d" % subject), bytes((subject,)) * size)
            got = exchange(both, {up: len(those) for up, those in sent.items()})
            for up in sent:
                for subject in range(4):
                    name = b"%d" % subject
                    assert [m for m in got[up] if m[0] == name] == [m for m in sent[up] if m[0] == name]
            assert both.router._intake.used == 0
            until(lambda: (both.look(), len(os.listdir("/dev/fd")) <= before)[1])
        finally:
            both.close()


def exchange(both: Ends, counts: dict[bool, int]) -> dict[bool, list[tuple[bytes, bytes]]]:
    """The messages that come to the broker (True) and to the peer, copied."""
    got: dict[bool, list[tuple[bytes, bytes]]] = {True: [], False: []}

    def step() -> bool:
        for up, found in zip((True, False), both.turn(), strict=True):
            if found is not None:
                message, payload = codec.decode(found[1] if up else found)  # type: ignore[arg-type]
                assert isinstance(message, messages.Blob)
                if up and len(payload) > PIECE_BYTES:
                    both.router.release(both.name, len(payload))
                got[up].append((message.hash, bytes(payload)))
        return all(len(got[up]) >= count for up, count in counts.items())

    until(step)
    return got
