"""The store of jobs: records in namespaces, changed by durable transactions.

A store is a handful of namespaces, each an ordered map from keys to bytes. A key is a tuple of integers, bytes and
texts. Keys sort like their tuples; in one place an integer comes before bytes, and bytes before a text. So all records
of a job lie together, and a scan by prefix yields them in order.

`JobStore` keeps its records in LMDB: when `commit` returns, all its
writes are on the disk, and a process killed at any moment leaves either all or none of them. Three
rules keep that promise:

* One process at a time. The store locks a file of the folder before LMDB opens anything. The lock ends with its
  process, however that ends.
* Local disks only. LMDB shares memory maps, which network file systems do not keep coherent.
* An error of the disk is final. After a failed sync the kernel may drop what it could not write and report success the
  next time, so the store takes no further writes. A full disk is no such error. But LMDB reports a write that was cut
  short as an I/O error, so the store looks at the free bytes first, and refuses a commit that would leave too few.
  `free_bytes` leaves a reserve before that, for deletions, small changes and a restart; half of it belongs to the file
  already (`park.broker.storage.spare`).

Every record carries its format and a checksum over key and value. A damaged record is reported by name, and never used.
Long values lie in pieces (`park.broker.storage.pieces`).
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import struct
import sys
import threading
import time
import weakref
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import lmdb

from park.broker.effects import Key, Ref, Write
from park.broker.storage.filesystems import mounted_over_network
from park.broker.storage.keys import PAST_PREFIX, decode_key, encode_key
from park.broker.storage.pieces import LONG_VALUE_BYTES, LongValue, names
from park.broker.storage.recent_values import RecentValues
from park.broker.storage.spare import FULL_ERRNOS, Spare
from park.errors import StoreError

if sys.platform != "win32":
    import fcntl

NAMESPACES = (
    "meta",  # identity, schema and clock of the store
    "job",  # the state of each job in memory
    "submit",  # its request
    "key",  # the keys of requests that were taken, so that a repeated one is recognised
    "blob",  # code, by its hash
    "units",  # packs of inputs
    "results",  # packs of results
    "account",  # credits of owners
    "charge",  # seconds that jobs have used
    "kernel",  # kernels that hold attempts
    "attempt",  # leased units, and who holds them
    "checkpoint",  # the newest state of units
    "archive",  # records of ended jobs that have left the memory
    "spans",  # what the archive holds, by blocks
    "trash",  # jobs whose other records are still to be deleted
    "log",  # tails of the logs of jobs
    "said",  # tails of the other messages of jobs
    "stream",  # the newest message of each kind that stays true, such as progress
    "file",  # files of jobs
    "control",  # control messages that bodies have not taken
    "piece",  # pieces of long values of the other namespaces
    "draft",  # pieces that no record names yet
    "mail",  # letters and the news for them
)

#: The system's texts for EDQUOT and EFBIG: LMDB passes on the text of such an error without its number.
_QUOTA_WORDS = (os.strerror(errno.EDQUOT), os.strerror(errno.EFBIG))
#: Seconds between two looks for readers that have died.
READER_CHECK_SECONDS = 1.0
#: Namespaces of the store itself: the pieces of long values, and which of these no record names.
OWN_NAMESPACES = ("piece", "draft")
#: Namespaces of the few small records that a restart and a deletion need. They may use the reserve of the disk.
_FOR_ALL = ("meta", "trash", "draft")
#: Bytes of a record that needs no pages of its own, side by side.
_SMALL = 1500
#: Errors of the operating system for a folder that this user may not write to.
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)

#: The remedy after an input/output error.
_AFTER_AN_ERROR = (
    ": nothing that was acknowledged is lost; look at the disk (dmesg), and start park-broker again, on another disk "
    "with a copy from `park backup` (park-broker --restore)"
)
#: The format that this release writes. A store with a higher number is refused.
SCHEMA = 2


class Store(ABC):
    """Namespaces of records, and the identity: *id* (32 hex digits, for ever), *epoch* (0 before its first life)."""

    id: str
    epoch: int
    #: its place, for people
    place: str = "memory"

    @abstractmethod
    def commit(self, writes: Iterable[Write]) -> None:
        """Carry out all *writes*, in order; they are durable on return. With StoreError none of them is carried out."""

    @abstractmethod
    def get(self, namespace: str, key: Key) -> bytes | None:
        """The value at *key*, or None."""

    def find(self, namespace: str, key: Key) -> Any:
        """The value as `get` gives it; a long value as a `LongValue`, whose bytes are not read."""
        return self.get(namespace, key)

    @abstractmethod
    def count(self, namespace: str, prefix: Key = ()) -> int:
        """The number of records of *namespace* under *prefix*; it walks them, unless *prefix* is empty."""

    def free_bytes(self) -> int:
        """Bytes that jobs, inputs and results may still take (less than 0: the reserve is used)."""
        return sys.maxsize

    def unused_bytes(self) -> int:
        """Bytes of the store's file in pages that hold nothing."""
        return 0

    @abstractmethod
    def keys(self, namespace: str, prefix: Key, most: int) -> list[Key]:
        """The first keys of *namespace* that start with *prefix*, at most *most* of them. Their values are not read."""

    @abstractmethod
    def close(self) -> None:
        """Let go of everything; harmless when repeated."""

    @abstractmethod
    def _batch(self, namespace: str, first: bytes, last: bytes) -> list[tuple[bytes, Any]]:
        """Some of the next records from *first* on and below *last* (encoded); none: there are no more."""

    def scan(self, namespace: str, prefix: Key = ()) -> Iterator[tuple[Key, Any]]:
        """The records whose keys start with *prefix*, in the order of their keys.

        The records are read in batches, so that a slow reader blocks no commit. It may or may not see a commit that
        happens meanwhile. A long value comes as a `LongValue`.
        """
        first = encode_key(prefix)
        last = first + PAST_PREFIX
        while batch := self._batch(namespace, first, last):
            first = batch[-1][0] + b"\x00"
            for raw, value in batch:
                yield decode_key(raw), value

    def open_epoch(self) -> int:
        """Begin a new life: the next epoch, on disk before it is returned."""
        self.commit([Write("meta", ("epoch",), b"%d" % (self.epoch + 1))])
        self.epoch += 1
        return self.epoch

    def _introduce(self) -> None:
        """Read id and epoch, or give a new store its own. Raises StoreError for a store that a newer release wrote."""
        schema = self.get("meta", ("schema",))
        if schema is None:
            self.commit(
                [
                    Write("meta", ("schema",), b"%d" % SCHEMA),
                    Write("meta", ("id",), os.urandom(16).hex().encode()),
                    Write("meta", ("epoch",), b"0"),
                ]
            )
        elif int(schema) > SCHEMA:
            raise StoreError(
                f"the store was written by a newer PARK (its schema is {int(schema)}, this one knows"
                f" {SCHEMA}): upgrade PARK, or use another home"
            )
        elif int(schema) < SCHEMA:
            self.commit([Write("meta", ("schema",), b"%d" % SCHEMA)])
        self.id = (self.get("meta", ("id",)) or b"").decode()
        self.epoch = int(self.get("meta", ("epoch",)) or 0)


def encoded(write: Write) -> tuple[bytes, Any]:
    """The key and value of *write* as bytes. The caller of `commit` has loaded the payload that it refers to."""
    if isinstance(write.value, Ref):
        raise StoreError(
            f"{write.key!r} in namespace {write.namespace!r} refers to {write.value!r}: load that first"
        )
    return encode_key(write.key), write.value


def no_namespace(namespace: str) -> StoreError:
    """The error for a namespace that stores do not have."""
    return StoreError(f"there is no namespace {namespace!r} in a store, only {', '.join(NAMESPACES)}")


#: The error of each operation after `Store.close`.
CLOSED = "the store is closed"


_RECORD = struct.Struct(">BI")  # format, checksum
#: The kinds of records: the value itself, or the name of its pieces.
_WHOLE, _IN_PIECES = 1, 2


def _record(key: bytes, value: bytes | memoryview, format: int = _WHOLE) -> bytes:
    return b"".join((_RECORD.pack(format, zlib.crc32(value, zlib.crc32(key))), value))


def _opened(namespace: str, key: bytes, record: memoryview) -> tuple[int, memoryview]:
    """The kind of a record, and its content. Raises StoreError if the checksum does not match."""
    if len(record) >= _RECORD.size:
        format, checksum = _RECORD.unpack_from(record)
        rest = record[_RECORD.size :]
        if format in (_WHOLE, _IN_PIECES) and zlib.crc32(rest, zlib.crc32(key)) == checksum:
            return format, rest
    raise StoreError(
        f"the record {decode_key(key)!r} in namespace {namespace!r} of the store is damaged (its checksum differs)"
    )


def stored_value(namespace: str, key: bytes, record: memoryview) -> bytes:
    """The value of a record; a long one as a `LongValue`. Raises StoreError if the checksum does not match."""
    return bytes(_opened(namespace, key, record)[1])


class JobStore(Store):
    """The store in *folder* (made if it is missing, for its owner alone), on disk.

    Any thread may read while one commits. Raises StoreError if another process has the folder, if the folder cannot be
    written or lies on a network file system, if the store is damaged, or if a newer release wrote it.
    """

    _BATCH = 256
    _BATCH_BYTES = 4 << 20
    _FIRST_SIZE = 64 << 20  # bytes of the map; the file itself grows as it is written
    _RESERVE = 16 << 20  # bytes of free space that jobs may not use
    _LEAST = (
        4 << 20
    )  # bytes of the reserve: more than the pages that a commit rewrites besides the values themselves
    #: Bytes of pages that were read, after which the map is laid anew: they count as the process's own.
    _MAPPED = 16 << 20

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(os.path.realpath(folder))
        self.place = str(self.folder)
        self._file = self.folder / "jobs.mdb"
        self._env: lmdb.Environment | None = None
        self._namespaces: dict[str, lmdb._Database] = {}
        self._lock: int | None = None
        #: where the content of the file ends, and the bytes beyond
        self._end = 0
        self._spare = Spare(self._file, 0)
        #: an error after which nothing that is written can be believed
        self._lost: str = ""
        #: held for a transaction that writes
        self._writing = threading.Lock()
        #: when readers that have died are looked for again, monotonic seconds
        self._readers_due = 0.0
        #: held for one that reads, and while the map is replaced under the readers
        self._reading = threading.Lock()
        #: sizes of drafts; the long values in use, by number; the next number
        self._drafts: dict[int, int] = {}
        self._referenced: weakref.WeakValueDictionary[int, LongValue] = weakref.WeakValueDictionary()
        self._ids = count(1)
        #: long values that are still in memory
        self.recent = RecentValues()
        #: bytes that were read since the map was laid
        self._mapped = 0
        try:
            self._open()
        except BaseException as error:
            self.close()
            if isinstance(error, StoreError) or not isinstance(error, OSError | lmdb.Error):
                raise
            raise self._error(error, "cannot open the store") from error

    def __repr__(self) -> str:
        jobs = "closed" if self._env is None else f"{self.count('job')} jobs"
        return f"<JobStore {self.folder} [{jobs}] epoch {self.epoch}>"

    def _open(self) -> None:
        kind = mounted_over_network(self.folder)
        if kind:
            name = os.environ.get("USER") or "me"
            raise StoreError(
                f"{self.folder} is on a network file system ({kind}), where a store cannot live:"
                f" name a folder on a local disk, such as /var/tmp/park-{name}"
            )
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _shut(self.folder)
        self._lock = _take(self.folder / "broker.lock")
        # LMDB maps its lock file sparse: on a full disk the first touch would be a bus error.
        if hasattr(os, "posix_fallocate"):
            descriptor = os.open(f"{self._file}-lock", os.O_RDWR | os.O_CREAT, 0o600)
            try:
                os.posix_fallocate(descriptor, 0, 8192)
            finally:
                os.close(descriptor)
        if not self._file.exists():
            make_empty(self._file)
        _shut(self._file)
        env = self._env = lmdb.open(
            str(self._file), subdir=False, map_size=self._FIRST_SIZE, max_dbs=len(NAMESPACES), mode=0o600
        )
        # Reading a page that the file lacks would end the process, too. A page of zeros is an error in words.
        whole = self._content(env)
        if self._file.stat().st_size < whole:
            os.truncate(self._file, whole)
        self._namespaces["meta"] = env.open_db(b"meta")
        self._introduce()
        with env.begin(write=True) as txn:
            self._namespaces.update(
                (namespace, env.open_db(namespace.encode(), txn)) for namespace in NAMESPACES
            )
        self._end = self._content(env)
        self._spare = Spare(self._file, self._end)
        self._spare.fill(self._end)
        self._drafts = {int(id): names(value)[1] for (id,), value in self.scan("draft")}
        with env.begin(db=self._namespaces["piece"]) as txn, txn.cursor() as cursor:
            last = decode_key(cursor.key())[0] if cursor.last() else 0
            self._ids = count(int(last) + 1)

    def _error(self, error: Exception, what: str) -> StoreError:
        """*error* in words; its errno says whether the disk is full."""
        full = isinstance(error, lmdb.DiskError) or getattr(error, "errno", None) in FULL_ERRNOS
        over = next((words for words in _QUOTA_WORDS if words in str(error)), "")
        full = full or bool(over)
        reason = over or "the disk is full" if full else getattr(error, "strerror", None) or str(error)
        if isinstance(error, lmdb.InvalidError | lmdb.CorruptedError | lmdb.PageNotFoundError):
            reason = f"{self._file.name} is damaged, or no store of PARK ({error})"
        elif getattr(error, "errno", None) in _FORBIDDEN:
            reason += ": name a home that you may write to"
        elif os.strerror(errno.EIO) in reason:
            reason += _AFTER_AN_ERROR
        said = StoreError(f"{what} in {self.folder}: {reason}")
        said.errno = errno.ENOSPC if full else getattr(error, "errno", None) or errno.EIO
        return said

    def _live(self, namespace: str) -> tuple[lmdb.Environment, lmdb._Database]:
        if self._env is None:
            raise StoreError(CLOSED)
        try:
            return self._env, self._namespaces[namespace]
        except KeyError:
            raise no_namespace(namespace) from None

    def commit(self, writes: Iterable[Write]) -> None:
        """Carry out all *writes* or, with StoreError, none.

        With `errno.ENOSPC` in its ``errno`` the disk is as good as full: deletions still work, small records work while
        the file has unused pages, and all else waits for free bytes. Any other error of the disk is final: this and
        every later commit raises, and the broker should exit.
        """
        records: list[tuple[str, bytes, bytes | None]] = []
        size, large = 0, False
        for write in self._in_pieces(writes):
            key, value = encoded(write)
            if isinstance(value, LongValue):
                record: bytes | None = _record(key, value.named(), _IN_PIECES)
            else:
                record = None if value is None else _record(key, value)
            self._live(write.namespace)
            records.append((write.namespace, key, record))
            if record is not None and write.namespace not in _FOR_ALL:
                size += len(key) + len(record)
                large = large or len(record) > _SMALL
        if not records:
            return
        tight = size and self._free() < size + self._LEAST
        if tight and (large or self.unused_bytes() < 2 * size + self._LEAST):
            raise self._error(OSError(errno.ENOSPC, ""), "cannot write to the store")
        with self._writing:
            env, _ = self._live("meta")
            if self._lost:
                raise StoreError(self._lost)
            try:
                self._forget_dead_readers(env)
                self._carry_out(env, records)
                self._tidy(env)
                self._end = self._content(env)
                self._spare.fill(self._end)
            except lmdb.Error as error:
                said = self._error(error, "cannot write to the store")
                if said.errno != errno.ENOSPC:
                    self._lost = str(said)
                raise said from error
            if self._mapped > self._MAPPED:
                self._lay_map(env)

    @staticmethod
    def _content(env: lmdb.Environment) -> int:
        """The byte of the file at which its last page ends."""
        return int((env.info()["last_pgno"] + 1) * env.stat()["psize"])

    def _forget_dead_readers(self, env: lmdb.Environment) -> None:
        """A reader that was killed, such as a backup, would keep LMDB from using freed pages again."""
        now = time.monotonic()
        if now >= self._readers_due:
            self._readers_due = now + READER_CHECK_SECONDS
            env.reader_check()

    def new_draft(self, size: int) -> LongValue:
        """A long value of *size* bytes, not written yet: `LongValue.writes` gives the writes of its pieces."""
        return self._laid(next(self._ids), size)

    def _laid(self, id: int, size: int) -> LongValue:
        laid = self._referenced.get(id)
        if laid is None:
            laid = self._referenced[id] = LongValue(id, size, self._piece, self.recent)
        return laid

    def _in_pieces(self, writes: Iterable[Write]) -> Iterator[Write]:
        """Commit the writes with long values in pieces: a draft becomes the value of the first record with it."""
        drafts = set(self._drafts)
        for write in writes:
            value = write.value
            if value is None or isinstance(value, Ref) or len(value) <= LONG_VALUE_BYTES:
                yield write
                continue
            laid: Any = value
            if not isinstance(value, LongValue) or value.id not in drafts:
                laid = self.new_draft(len(value))
                yield from list(laid.writes(value))[1:]
            drafts.discard(laid.id)
            yield Write(write.namespace, write.key, laid)
            yield Write("draft", (laid.id,), None)

    def _carry_out(self, env: lmdb.Environment, records: list[tuple[str, bytes, bytes | None]]) -> None:
        """One transaction, in a map that is large enough for it."""
        drafts = dict(self._drafts)
        try:
            with env.begin(write=True, buffers=True) as txn:
                put, delete, namespaces = txn.put, txn.delete, self._namespaces
                for namespace, key, value in records:
                    db = namespaces[namespace]
                    if value is None:
                        self._let_go(txn, namespace, key, drafts)
                        delete(key, db=db)
                    elif not put(key, value, db=db, overwrite=False):
                        self._let_go(txn, namespace, key, drafts)
                        put(key, value, db=db)
                    if namespace == "draft":
                        (id,) = decode_key(key)
                        if value is None:
                            drafts.pop(id, None)  # type: ignore[arg-type]
                        else:
                            drafts[id] = names(value[_RECORD.size :])[1]  # type: ignore[index]
        except lmdb.MapFullError:
            with self._reading:
                env.set_mapsize(2 * env.info()["map_size"])
            self._carry_out(env, records)
            return
        self._drafts = drafts

    def _let_go(self, txn: lmdb.Transaction, namespace: str, key: bytes, drafts: dict[int, int]) -> None:
        """The record goes; a long value that it names is a draft again."""
        old = txn.get(key, db=self._namespaces[namespace])
        if old is not None and len(old) and old[0] == _IN_PIECES:
            id, size = names(_opened(namespace, key, memoryview(old))[1])
            name = encode_key((id,))
            txn.put(name, _record(name, bytes(old[_RECORD.size :])), db=self._namespaces["draft"])
            drafts[id] = size

    def _tidy(self, env: lmdb.Environment) -> None:
        """Delete the drafts that are not in use any more."""
        if not self._drafts:
            return
        with self._reading:  # a reader that has found a draft holds it by now
            gone = {id: size for id, size in self._drafts.items() if id not in self._referenced}
        for id, size in gone.items():
            laid = LongValue(id, size, self._piece)
            keys: list[tuple[str, bytes, bytes | None]] = []
            keys += [("piece", encode_key(key), None) for key in laid.pieces()]
            # last: if the process dies before, the remaining pieces are still found under it
            keys.append(("draft", encode_key((id,)), None))
            for at in range(0, len(keys), self._BATCH):
                self._carry_out(env, keys[at : at + self._BATCH])
                self._lay_map(env)  # each piece was looked at, and some pages around it

    def _lay_map(self, env: lmdb.Environment) -> None:
        """Give back pages that were read; they stay in the system's cache. No write may be open."""
        with self._reading:
            env.set_mapsize(env.info()["map_size"])
            self._mapped = 0

    def free_bytes(self) -> int:
        free = self._free()
        # unused pages in the file may be too far apart for a long value
        return min(free - 2 * self._LEAST, free + self.unused_bytes() - self._RESERVE)

    def _free(self) -> int:
        """Bytes that this user may still write there, with those of the spare."""
        spare = self._spare
        if spare.is_short(self._end) and self._writing.acquire(False):
            try:
                spare.fill(self._end)
            finally:
                self._writing.release()
        if spare.refused:
            return spare.size(self._end)
        try:
            return shutil.disk_usage(self.folder).free + spare.size(self._end)
        except OSError as error:
            raise self._error(error, "cannot see how many bytes are free for the store") from error

    def unused_bytes(self) -> int:
        with self._reading:
            env, _ = self._live("meta")
            try:
                with env.begin() as txn:
                    info = env.info()
                    stats = [txn.stat(db) for db in self._namespaces.values()]
            except lmdb.Error as error:
                raise self._error(error, "cannot read the store") from error
        used = sum(s["branch_pages"] + s["leaf_pages"] + s["overflow_pages"] for s in stats)
        return int((info["last_pgno"] + 1 - used) * stats[0]["psize"])

    def get(self, namespace: str, key: Key) -> bytes | None:
        found = self.find(namespace, key)
        return found[:] if isinstance(found, LongValue) else found

    def find(self, namespace: str, key: Key) -> Any:
        raw = encode_key(key)
        with self._reading:
            env, db = self._live(namespace)
            try:
                with env.begin(db=db, buffers=True) as txn:
                    record = txn.get(raw)
                    return None if record is None else self._value(namespace, raw, memoryview(record))
            except lmdb.Error as error:
                raise self._error(
                    error, f"cannot read {key!r} in namespace {namespace!r} of the store"
                ) from error

    def _value(self, namespace: str, key: bytes, record: memoryview) -> Any:
        """The value of a record: bytes, or a `LongValue`. The caller holds the lock of the readers."""
        format, rest = _opened(namespace, key, record)
        return bytes(rest) if format == _WHOLE else self._laid(*names(rest))

    def _piece(self, key: Key) -> bytes | None:
        found: bytes | None = self.find("piece", key)
        self._mapped += len(found or b"")
        if self._mapped > self._MAPPED and self._writing.acquire(False):
            try:
                self._lay_map(self._live("piece")[0])
            finally:
                self._writing.release()
        return found

    def count(self, namespace: str, prefix: Key = ()) -> int:
        first = encode_key(prefix)
        last = first + PAST_PREFIX
        with self._reading:
            env, db = self._live(namespace)
            try:
                with env.begin(db=db) as txn:
                    if not prefix:
                        return int(txn.stat(db)["entries"])
                    number = 0
                    with txn.cursor() as cursor:
                        if cursor.set_range(first):
                            for key in cursor.iternext(keys=True, values=False):
                                if key >= last:
                                    break
                                number += 1
                    return number
            except lmdb.Error as error:
                raise self._error(error, f"cannot read namespace {namespace!r} of the store") from error

    def keys(self, namespace: str, prefix: Key, most: int) -> list[Key]:
        first = encode_key(prefix)
        last = first + PAST_PREFIX
        found: list[Key] = []
        with self._reading:
            env, db = self._live(namespace)
            try:
                with env.begin(db=db) as txn, txn.cursor() as cursor:
                    if most > 0 and cursor.set_range(first):
                        for key in cursor.iternext(keys=True, values=False):
                            if key >= last or len(found) == most:
                                break
                            found.append(decode_key(key))
            except lmdb.Error as error:
                raise self._error(error, f"cannot read namespace {namespace!r} of the store") from error
        return found

    def _batch(self, namespace: str, first: bytes, last: bytes) -> list[tuple[bytes, Any]]:
        batch: list[tuple[bytes, Any]] = []
        size = 0
        with self._reading:
            env, db = self._live(namespace)
            try:
                with env.begin(db=db, buffers=True) as txn, txn.cursor() as cursor:
                    if cursor.set_range(first):
                        for view, record in cursor.iternext():
                            key = bytes(view)
                            if key >= last or len(batch) >= self._BATCH or size >= self._BATCH_BYTES:
                                break
                            batch.append((key, self._value(namespace, key, memoryview(record))))
                            size += len(record)
            except lmdb.Error as error:
                raise self._error(error, f"cannot read namespace {namespace!r} of the store") from error
        return batch

    def close(self) -> None:
        with self._writing, self._reading:
            if self._env is not None:
                self._env.close()
                self._env = None
            if self._lock is not None:
                os.close(self._lock)
                self._lock = None


def _shut(path: Path) -> None:
    """Close *path* to all but its owner. Raises StoreError if it is another user's, or serves another purpose."""
    found = path.stat()
    if sys.platform == "win32":
        return
    if found.st_uid != os.getuid():
        raise StoreError(
            f"{path} belongs to user {found.st_uid}, who can get at it, where jobs would lie: name a folder of your own"
        )
    if not found.st_mode & 0o077:
        return
    names = {file.name for file in path.iterdir()} if path.is_dir() else set()
    other = names and not names & {"jobs.mdb", "keys"}
    if found.st_mode & stat.S_ISVTX or other:
        raise StoreError(
            f"others can get at {path} (its mode is {stat.S_IMODE(found.st_mode):04o}), where jobs would lie: name a"
            " new folder, or one of your own with mode 0700"
        )
    path.chmod(stat.S_IMODE(found.st_mode) & 0o700)


def make_empty(file: Path) -> None:
    """Make a file that holds nothing, whole or not at all; LMDB by itself makes one step by step."""
    new = file.with_suffix(".new")
    new.unlink(missing_ok=True)
    env = lmdb.open(str(new), subdir=False, map_size=1 << 20, max_dbs=1, mode=0o600, lock=False)
    env.open_db(b"meta")
    env.sync(True)
    env.close()
    new.replace(file)
    if sys.platform != "win32":
        folder = os.open(file.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _take(file: Path) -> int | None:
    """Lock *file* while this process lives (None where no such locks exist); StoreError names the holder."""
    if sys.platform == "win32":
        return None
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, b"%d" % os.getpid(), 0)
    except BlockingIOError:
        holder = os.pread(descriptor, 20, 0).decode("ascii", "replace")
        os.close(descriptor)
        raise StoreError(
            f"another broker (process {holder}) has the home {file.parent}: stop it, or name another home"
        ) from None
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
