"""Encrypted code for other kernels: what is served to whom, and what is believed."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from park.net import ciphertext, code_server
from park.net.ciphertext import TAG_BYTES, Cipher, DamagedPiece, encrypted_size, piece_sizes
from park.net.code_server import Ciphertext, CodeServer, NamelessFile, fetch, interface_to

PIECE = 64
TICKET = b"t" * 32
CODE = os.urandom(3 << 20)


# -- encryption --------------------------------------------------------------------------------------


def open_(pieces: list[bytes], key: bytes, size: int) -> tuple[bytes, bytes]:
    """The bytes of a ciphertext, and its name."""
    cipher = Cipher(key, size)
    found = b"".join(cipher.decrypt(number, piece) for number, piece in enumerate(pieces))
    return found, cipher.name


@given(st.binary(max_size=5 * PIECE), st.data())
def test_each_change_of_a_ciphertext_is_noticed(data: bytes, draw: st.DataObject) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ciphertext, "PIECE_BYTES", PIECE)
        pieces: list[bytes] = []
        name, key = ciphertext.encrypt(data, pieces.append)
        assert [len(p) for p in pieces] == list(piece_sizes(len(data)))
        assert sum(map(len, pieces)) == encrypted_size(len(data))
        assert open_(pieces, key, len(data)) == (data, name)
        if not pieces:
            return
        changed = list(pieces)
        number = draw.draw(st.integers(0, len(pieces) - 1))
        how = draw.draw(st.sampled_from(["flip", "cut", "swap", "drop", "size", "key"]))
        size, other = len(data), draw.draw(st.integers(0, len(pieces) - 1))
        if how == "flip":
            bit = draw.draw(st.integers(0, 8 * len(pieces[number]) - 1))
            flipped = bytearray(pieces[number])
            flipped[bit // 8] ^= 1 << bit % 8
            changed[number] = bytes(flipped)
        elif how == "cut":
            changed[number] = pieces[number][: draw.draw(st.integers(0, len(pieces[number]) - 1))]
        elif how == "swap" and number != other:
            changed[number], changed[other] = pieces[other], pieces[number]
        elif how == "drop" and number < len(pieces) - 1:
            del changed[number]
        elif how == "size":
            size += draw.draw(st.sampled_from([-1, 1, PIECE]))
        else:
            key = bytes(32)
        with pytest.raises(DamagedPiece):
            open_(changed, key, size)


def test_equal_code_has_another_ciphertext_each_time() -> None:
    one, two = [], []
    assert ciphertext.encrypt(CODE, one.append) != ciphertext.encrypt(CODE, two.append)
    assert not set(one) & set(two)


# -- the server --------------------------------------------------------------------------------------


@pytest.fixture
def server() -> Iterator[CodeServer]:
    found = CodeServer("127.0.0.1")
    yield found
    found.close()


@pytest.fixture
def stored(server: CodeServer) -> Ciphertext:
    return store(server, CODE)


def store(server: CodeServer, code: bytes) -> Ciphertext:
    file = NamelessFile(len(code))
    name, key = ciphertext.encrypt(code, file.write)
    found = Ciphertext(b"code", name, key, b"s" * 32, len(code), file)
    server.store(found)
    return found


def get(server: CodeServer, stored: Ciphertext, ticket: bytes = TICKET, name: bytes = b"") -> bytes:
    return b"".join(fetch(f"127.0.0.1:{server.port}", name or stored.name, ticket, stored.size))


def test_a_ticket_counts_once(
    server: CodeServer, stored: Ciphertext, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.admit(stored.name, TICKET, 30.0)
    found = get(server, stored)
    pieces = [
        found[i : i + ciphertext.PIECE_BYTES + TAG_BYTES] for i in range(0, len(found), (1 << 20) + TAG_BYTES)
    ]
    assert open_(pieces, stored.key, stored.size) == (CODE, stored.name)
    monkeypatch.setattr(code_server, "ANSWER_SECONDS", 0.3)
    with pytest.raises((EOFError, OSError)):
        get(server, stored)


@pytest.mark.parametrize(
    "what", ["no ticket", "another ticket", "too late", "another ciphertext", "nothing there"]
)
def test_who_may_not_fetch(
    what: str, server: CodeServer, stored: Ciphertext, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, ticket = stored.name, TICKET
    if what == "another ticket":
        server.admit(stored.name, b"u" * 32, 30.0)
    elif what == "too late":
        server.admit(stored.name, TICKET, -1.0)
    elif what == "another ciphertext":
        name = store(server, b"other code").name
        server.admit(stored.name, TICKET, 30.0)
    elif what == "nothing there":
        name = b"n" * 16
        server.admit(name, TICKET, 30.0)
    with monkeypatch.context() as patch:
        patch.setattr(code_server, "ANSWER_SECONDS", 0.2)
        with pytest.raises((EOFError, OSError)):
            get(server, stored, ticket, name)
    server.admit(stored.name, b"v" * 32, 30.0)
    assert len(get(server, stored, b"v" * 32)) == encrypted_size(len(CODE))


def test_strangers_without_words_take_no_place_for_long(
    server: CodeServer, stored: Ciphertext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(code_server, "ANSWER_SECONDS", 0.3)
    strangers = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(60)]
    try:
        deadline = time.monotonic() + 30
        while True:
            server.admit(stored.name, TICKET, 30.0)
            try:
                assert len(get(server, stored)) == encrypted_size(len(CODE))
                break
            except (EOFError, OSError):
                assert time.monotonic() < deadline
    finally:
        for stranger in strangers:
            stranger.close()


def test_a_server_without_free_descriptors_serves_again_later(server: CodeServer) -> None:
    kept = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket() as first, socket.socket() as second:
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, kept[1]))
        try:
            for caller in (first, second):  # the system may have reserved a descriptor for the first one
                caller.settimeout(10)
                caller.connect(("127.0.0.1", server.port))
            second.settimeout(2 * code_server.RETRY_SECONDS)
            with pytest.raises(TimeoutError):
                second.recv(1)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, kept)
        second.settimeout(10)
        assert second.recv(100).startswith(code_server.GREETING)


def test_few_ciphertexts_are_kept(server: CodeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code_server, "MAX_STORED_BYTES", 25)
    found = [store(server, b"0123456789") for _ in range(3)]
    for each, there in zip(found, [False, True, True], strict=True):
        server.admit(each.name, TICKET, 30.0)
        if there:
            assert len(get(server, each)) == encrypted_size(10)
        else:
            with pytest.raises((EOFError, OSError)):
                get(server, each)


def test_another_service_is_told_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        other.settimeout(10)
        stream = fetch(f"127.0.0.1:{other.getsockname()[1]}", b"n" * 16, TICKET, 100)

        heard: list[int] = []

        def listen() -> None:
            connection, _ = other.accept()
            with connection:
                connection.sendall(b"220 mail.example.org ESMTP ready\r\n")
                connection.settimeout(10)
                with contextlib.suppress(ConnectionResetError):  # our words were not all read
                    heard.extend(connection.recv(100))

        thread = threading.Thread(target=listen)
        thread.start()
        with pytest.raises(ValueError, match="serves no code"):
            next(stream)
        thread.join()
    assert heard == []


def test_the_interface_to_a_broker_on_this_machine_is_seen_by_nobody_else() -> None:
    assert interface_to("127.0.0.1", 7275) == "127.0.0.1"


def test_a_full_disk_takes_no_ciphertext(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code_server, "MIN_FREE_BYTES", 1 << 62)
    with pytest.raises(OSError, match="nearly full"):
        NamelessFile(10)
