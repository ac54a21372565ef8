"""Code in encrypted form: encrypted once, and then the same bytes for every kernel that fetches the code.

The bytes are cut into pieces of `PIECE_BYTES`. Each piece is encrypted by AES-256-GCM with the key of this one
ciphertext; its nonce is its number, and its number and the size of the whole are authenticated with it. So moving a
piece or leaving one out is noticed. A piece is followed by its tag.

The name of a ciphertext is the hash of all tags. A kernel that has the key and knows the hash of the code can check
everything: the same bytes under the same key and nonces have only one ciphertext.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import struct
from collections.abc import Callable, Iterator
from typing import Any

from park.wire.pack import Buffer

#: Bytes of code in a piece, of its tag, and of a key.
PIECE_BYTES, TAG_BYTES, KEY_BYTES = 1 << 20, 16, 32
#: Bytes of the name of a ciphertext.
NAME_BYTES = 16


class DamagedPiece(ValueError):
    """A piece is not what the holder of the key has encrypted."""


def encrypted_size(size: int) -> int:
    """The bytes of the ciphertext of *size* bytes."""
    return size + TAG_BYTES * -(-size // PIECE_BYTES)


def piece_sizes(size: int) -> Iterator[int]:
    """The sizes of the encrypted pieces of *size* bytes."""
    for start in range(0, size, PIECE_BYTES):
        yield min(PIECE_BYTES, size - start) + TAG_BYTES


class Cipher:
    """The encryption of one code of *size* bytes. Its *key* encrypts nothing else."""

    def __init__(self, key: bytes, size: int) -> None:
        # it takes some 50 ms, and most kernels never need it
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        self._invalid = InvalidTag
        self._aes: Any = AESGCM(key)
        self._size = size
        self._tags = hashlib.blake2b(digest_size=NAME_BYTES)

    def encrypt(self, number: int, piece: Buffer) -> bytes:
        """The encrypted piece of this number; pieces come in their order."""
        found: bytes = self._aes.encrypt(_nonce(number), piece, self._bound(number))
        self._tags.update(found[-TAG_BYTES:])
        return found

    def decrypt(self, number: int, piece: Buffer) -> bytes:
        """The bytes of the encrypted piece of this number; pieces come in their order. Raises DamagedPiece."""
        try:
            found: bytes = self._aes.decrypt(_nonce(number), piece, self._bound(number))
        except self._invalid:
            raise DamagedPiece(f"piece {number} is damaged") from None
        self._tags.update(piece[-TAG_BYTES:])
        return found

    @property
    def name(self) -> bytes:
        """The name of the ciphertext, once all pieces were seen."""
        return self._tags.digest()

    def _bound(self, number: int) -> bytes:
        return struct.pack("<QQ", number, self._size)


def _nonce(number: int) -> bytes:
    return number.to_bytes(12, "big")


def encrypt(data: Buffer, write: Callable[[bytes], Any]) -> tuple[bytes, bytes]:
    """Encrypt *data* under a new key, and *write* the pieces. Returns the name of the ciphertext and the key."""
    view, key = memoryview(data), os.urandom(KEY_BYTES)
    cipher = Cipher(key, len(view))
    for number, start in enumerate(range(0, len(view), PIECE_BYTES)):
        write(cipher.encrypt(number, view[start : start + PIECE_BYTES]))
    return cipher.name, key


def is_available() -> bool:
    """Whether this Python can encrypt code."""
    return importlib.util.find_spec("cryptography") is not None
