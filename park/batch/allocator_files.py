"""The files of allocators, in the folder ``alloc`` of the broker's home.

``allocators.json`` has their definitions; the command ``park alloc`` writes it. ``record.json`` has the knowledge of
the allocators, and ``NAME.log`` the actions of one, cut when it grows. The process that runs the allocators writes
both. It holds ``lock`` while it lives, so that there is only one such process.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TypeVar

import msgspec
from msgspec import Struct, field

from park.batch.allocator import AllocatorState, Policy
from park.errors import InvalidRequest, StoreError, did_you_mean
from park.util.file_lock import locked

T = TypeVar("T")
#: Bytes of a log from which on its first half is dropped.
MAX_LOG_BYTES = 1 << 16
#: The mark of definitions that are not there.
NO_DEFINITIONS = (0, 0)


class AllocatorRecord(Struct, kw_only=True):
    """The knowledge of the allocators of one broker."""

    #: the letters that stand for the broker in the names of allocations, and the number of the last name
    broker: str = ""
    number: int = 0
    #: seconds for which allocators have run, over all processes
    clock: float = 0.0
    #: wall clock of the last look, for people
    looked: float = 0.0
    states: dict[str, AllocatorState] = field(default_factory=dict)
    #: why nothing more is done, by allocator
    why: dict[str, str] = field(default_factory=dict)


class AllocatorFiles:
    """The files of the broker that lives in *home*."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.folder = home / "alloc"
        self._definitions = self.folder / "allocators.json"
        self._record = self.folder / "record.json"

    @property
    def changed(self) -> tuple[int, int]:
        """A mark that changes whenever the definitions change; `NO_DEFINITIONS`: there are none."""
        try:
            found = self._definitions.stat()
            return found.st_ino, found.st_mtime_ns
        except OSError:
            return NO_DEFINITIONS

    def definitions(self) -> dict[str, Policy]:
        """The allocators that there are, by name. Raises StoreError."""
        return _read(self._definitions, dict[str, Policy]) or {}

    @contextlib.contextmanager
    def change(self) -> Iterator[dict[str, Policy]]:
        """The definitions, to be changed in place: they are written at the end, unless that is by an error."""
        self.folder.mkdir(mode=0o700, exist_ok=True)
        with locked(self.folder / "allocators.lock", wait=True):
            found = self.definitions()
            before = dict(found)
            yield found
            if found != before:
                if found:
                    _write(self._definitions, found)
                else:
                    self._definitions.unlink(missing_ok=True)

    def record(self) -> AllocatorRecord:
        """The records of the allocators. Raises StoreError."""
        return _read(self._record, AllocatorRecord) or AllocatorRecord()

    def write_record(self, record: AllocatorRecord, durable: bool = False) -> None:
        """Write down what they know. *durable*: it outlives a failure of the power, too."""
        self.folder.mkdir(mode=0o700, exist_ok=True)
        _write(self._record, record, durable)

    @contextlib.contextmanager
    def hold(self) -> Iterator[bool]:
        """Be the one process that runs the allocators meanwhile; false where there is another."""
        self.folder.mkdir(mode=0o700, exist_ok=True)
        with locked(self.folder / "lock") as held:
            yield held

    @property
    def is_held(self) -> bool:
        """Whether a process runs the allocators now."""
        if not self.folder.is_dir():
            return False
        with locked(self.folder / "lock") as held:
            return not held

    # -- logs --------------------------------------------------------------------------------------

    def log(self, name: str, wall: float, texts: list[str]) -> None:
        """Add lines to the log of an allocator, if the disk takes them."""
        if not texts:
            return
        file = self.folder / f"{name}.log"
        time = datetime.fromtimestamp(wall).isoformat(" ", "seconds")
        with contextlib.suppress(OSError):  # StoreError is one
            with file.open("a", encoding="utf-8") as out:
                out.writelines(f"{time} {text}\n" for text in texts)
            if file.stat().st_size > MAX_LOG_BYTES:
                lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
                _replace(file, "".join(lines[len(lines) // 2 :]).encode())

    def log_lines(self, name: str) -> list[str]:
        """The log of an allocator."""
        try:
            return (self.folder / f"{name}.log").read_text(encoding="utf-8", errors="replace").splitlines()
        except FileNotFoundError:
            return []

    def drop_log(self, name: str) -> None:
        """Forget the log of an allocator that is removed."""
        (self.folder / f"{name}.log").unlink(missing_ok=True)


def _read(file: Path, kind: type[T]) -> T | None:
    """The value in a file; None where there is no such file. Raises StoreError."""
    try:
        return msgspec.json.decode(file.read_bytes(), type=kind)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreError(f"{file} cannot be read: {error.strerror}") from error
    except msgspec.MsgspecError as error:
        raise StoreError(
            f"{file} is damaged, or of another release of PARK ({error}): remove it, and add again"
        ) from None


def _write(file: Path, value: object, durable: bool = True) -> None:
    _replace(file, msgspec.json.format(msgspec.json.encode(value)), durable)


def _replace(file: Path, data: bytes, durable: bool = False) -> None:
    """Write a file of mode 0600, whole or not at all. Raises StoreError."""
    part = ""
    try:
        descriptor, part = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
        with os.fdopen(descriptor, "wb") as out:
            out.write(data)
            out.flush()
            if durable:
                os.fsync(out.fileno())
        os.replace(part, file)
    except OSError as error:
        if part:
            Path(part).unlink(missing_ok=True)
        raise StoreError(f"{file} cannot be written: {error.strerror}") from error


def known(definitions: dict[str, Policy], name: str) -> Policy:
    """The allocator of that name. Raises InvalidRequest."""
    if name not in definitions:
        there = ", ".join(definitions) or "none"
        raise InvalidRequest(
            f"there is no allocator {name!r}; there are {there}{did_you_mean(name, definitions)}"
        )
    return definitions[name]
