"""Copies of a store: one that is made while a broker works on it, and a home that begins with one.

LMDB lets other processes read while one writes, and each reads the store as it was at one commit. So `back_up` needs no
help of the broker: the copy has everything that was acknowledged when it began, and no half of a transaction.

A broker that goes on with a copy has another store. Under the old id, kernels and mirrors would mistake its jobs,
attempts and changes for those that they know. So `restore` gives the copy an id of its own and forgets the kernels. It
also leaves a gap in the job numbers, so that no number that was given after the copy is given again. It cannot undo one
thing: units that were answered after the copy run again and are paid again.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import lmdb
from msgspec import Struct

from park.broker.effects import Write
from park.broker.storage.keys import encode_key
from park.broker.storage.store import NAMESPACES, SCHEMA, JobStore, stored_value
from park.errors import StoreError
from park.wire import codec

if sys.platform != "win32":
    import fcntl

#: Job numbers that are left out after a restore, because the broker may have given them out since the copy.
JOB_NUMBER_GAP = 10_000
#: The end of the name of a copy that is not whole.
_PART = ".park-backup"
#: The file of the store in a broker's home.
STORE_FILE = "jobs.mdb"


class Copy(Struct, frozen=True):
    """The figures of a copy: *jobs* in all, *epoch* the broker's life, *size* in bytes."""

    jobs: int
    epoch: int
    size: int


def back_up(home: Path, file: Path) -> Copy:
    """Write the store in *home* to *file*, a new one of mode 0600; a broker may work on it meanwhile.

    Raises StoreError, in words, where there is no store, or *file* is there already or cannot be written.
    """
    source = home / STORE_FILE
    if not source.is_file():
        raise StoreError(f"there is no store in {home}: name a broker's home with --home")
    part = file.with_name(f".{file.name}.{os.getpid()}{_PART}")
    try:
        if file.exists():
            raise StoreError(f"{file} is there already: name a new file")
        _sweep(file.parent)
        with _begun(part) as descriptor:
            with lmdb.open(str(source), subdir=False, readonly=True, max_dbs=len(NAMESPACES)) as env:
                env.copyfd(descriptor, compact=True)
            os.fsync(descriptor)
            copy = _looked_at(part)
            os.link(part, file)  # unlike a rename it never takes the place of another file
        _sync(file.parent)
        return copy
    except (OSError, lmdb.Error) as error:
        if isinstance(error, StoreError):
            raise
        raise StoreError(f"cannot copy {source} to {file}: {error}") from error
    finally:
        part.unlink(missing_ok=True)


def restore(file: Path, home: Path) -> Copy:
    """Make the store of *home*, which must have none, from the copy in *file*. Every record of the copy is checked.

    Raises StoreError, in words, and the home has no store then.
    """
    if (home / STORE_FILE).exists():
        raise StoreError(f"{home} has a store already, which would be lost: restore into another home")
    found = _looked_at(file, everything=True)
    folder = home / f"restoring.{os.getpid()}"
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)  # parents that it makes would have looser modes
        folder.mkdir(mode=0o700)
        with file.open("rb") as source, open(folder / STORE_FILE, "xb", opener=_private) as target:
            while data := source.read(1 << 20):
                target.write(data)
        store = JobStore(folder)
        try:
            next_job = store.get("meta", ("next_job",))
            number = (codec.unpack(next_job) if next_job is not None else 1) + JOB_NUMBER_GAP
            store.commit(
                [
                    Write("meta", ("id",), os.urandom(16).hex().encode()),
                    Write("meta", ("next_job",), codec.pack(number)),
                    *(Write("kernel", key, None) for key, _ in store.scan("kernel")),
                ]
            )
        finally:
            store.close()
        os.link(folder / STORE_FILE, home / STORE_FILE)
        _sync(home)
    except OSError as error:
        if isinstance(error, StoreError):
            raise
        raise StoreError(f"cannot restore {file} into {home}: {error}") from error
    finally:
        for left in folder.glob("*"):
            left.unlink()
        if folder.exists():
            folder.rmdir()
    return found


def _looked_at(file: Path, everything: bool = False) -> Copy:
    """The figures of a copy; *everything*: each record is compared with its checksum. Raises StoreError."""
    try:
        if not file.is_file() or not file.stat().st_size:
            raise StoreError(f"{file} is no file with a copy of a store")
        with (
            lmdb.open(str(file), subdir=False, readonly=True, lock=False, max_dbs=len(NAMESPACES)) as env,
            env.begin() as txn,
        ):
            if (env.info()["last_pgno"] + 1) * env.stat()["psize"] > file.stat().st_size:
                raise StoreError(f"{file} is cut off: its end is missing")
            meta = env.open_db(b"meta", txn, create=False)

            def said(name: str) -> int:
                key = encode_key((name,))
                record = txn.get(key, db=meta)
                if record is None:
                    raise StoreError(f"{file} is no copy of a store of PARK: it has no {name}")
                return int(stored_value("meta", key, memoryview(record)))

            if said("schema") > SCHEMA:
                raise StoreError(f"{file} was written by a newer PARK: upgrade this one")
            jobs = 0
            for namespace in NAMESPACES:
                try:
                    db = env.open_db(namespace.encode(), txn, create=False)
                except lmdb.NotFoundError:  # an older release had none
                    continue
                jobs += txn.stat(db)["entries"] if namespace in ("job", "archive") else 0
                for key, record in txn.cursor(db) if everything else ():
                    _check(file, namespace, key, record)
            return Copy(jobs, said("epoch"), file.stat().st_size)
    except lmdb.Error as error:
        raise StoreError(f"{file} is no copy of a store of PARK, or is damaged: {error}") from error
    except StoreError:
        raise
    except OSError as error:
        raise StoreError(f"cannot read {file}: {error.strerror}") from error


def _check(file: Path, namespace: str, key: bytes, record: bytes) -> None:
    try:
        stored_value(namespace, key, memoryview(record))
    except StoreError as error:
        raise StoreError(f"{file} is damaged: {error}") from None


@contextmanager
def _begun(part: Path) -> Iterator[int]:
    """A new file for a copy, locked as long as it is written."""
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if not os.fstat(descriptor).st_nlink:
            raise StoreError(f"another backup has swept {part} away: try again")
        yield descriptor
    finally:
        os.close(descriptor)


def _sweep(folder: Path) -> None:
    """Delete what backups that were killed have left in the folder."""
    for part in folder.glob(f".*{_PART}"):
        with suppress(OSError):  # it is gone, or somebody else's
            descriptor = os.open(part, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                part.unlink()
            finally:
                os.close(descriptor)


def _private(file: str, flags: int) -> int:
    return os.open(file, flags, 0o600)


def _sync(folder: Path) -> None:
    """Names of files in it are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
