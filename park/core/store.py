"""Where jobs live: records in rooms, changed by durable transactions.

A store is a handful of rooms, each an ordered map from keys to bytes. A key is a tuple of integers,
bytes and texts; keys sort like their tuples (an integer before bytes before a text in one place), so
that all records of a job lie together and a scan by prefix meets them in order.

`MemoryStore` forgets with the process. `JobStore` keeps its records in LMDB: when `commit` returns, all its
writes are on the disk, and a process killed at any moment leaves either all or none of them. Three
rules keep that promise:

* One process at a time. A lock on a file of the folder is taken before LMDB opens anything, and goes
  with its process however that ends.
* Local disks only. LMDB shares memory maps, which network file systems do not keep coherent.
* An error of the disk is final. After a failed sync the kernel may drop what it could not write and
  report success the next time, so the store takes no further writes. A full disk must not look like
  one, and to LMDB it can (a write that got only half through is an I/O error): the store looks at the free
  space first, and refuses what would come too near to its end. What is `room` leaves a reserve before that, for
  deletions, small changes and a restart.

Every record carries its format and a checksum over key and value: a damaged one is named, never used. Long values lie in
pieces (`park.core.pieces`).
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
import struct
import sys
import threading
import weakref
import zlib
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import lmdb

from park.core.outcome import Key, Ref, Write
from park.core.pieces import LONG, Laid, names
from park.errors import StoreError

if sys.platform != "win32":
    import fcntl

# fmt: off
ROOMS = (
    "meta", "job", "submit", "key", "blob", "units", "results", "account", "charge", "kernel", "attempt",
    "checkpoint", "archive", "spans", "trash", "log", "said", "stream", "file", "control", "piece", "draft",
)
# fmt: on

#: Rooms of the store itself: the pieces of long values, and which of these no record names.
OWN = ("piece", "draft")
#: Rooms of the few small records that a restart and a deletion need, and so may take from the last of the disk.
_FOR_ALL = ("meta", "trash", "draft")
#: Bytes of a record that needs no pages of its own, side by side.
_SMALL = 1500
#: What an operating system says of a folder that somebody may not write to.
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)

#: What this release writes. A store with a higher number is refused.
SCHEMA = 2

# -- keys ----------------------------------------------------------------------------------------
#
# Each part is a tag, then an integer shifted into 8 big-endian bytes, or the bytes (a text: its
# UTF-8) with every 00 written as 00 FF and ended by 00 01. A part's end is never the start of a
# longer one, so the records under a prefix are exactly those from its encoding on and below that
# encoding + FF.

_INT, _BYTES, _TEXT = b"\x01", b"\x02", b"\x03"
_SHIFT = 1 << 63
_U64 = struct.Struct(">Q")
_END = b"\x00\x01"
_PAST = b"\xff"
MAX_KEY = 511


def encode_key(key: Key) -> bytes:
    """The bytes of *key*, which sort as the tuples do. StoreError for what cannot be one."""
    parts = []
    try:
        for part in key:
            if isinstance(part, int):
                parts.append(_INT + _U64.pack(part + _SHIFT))
            elif isinstance(part, bytes):
                parts.append(_BYTES + part.replace(b"\x00", b"\x00\xff") + _END)
            else:
                parts.append(_TEXT + part.encode().replace(b"\x00", b"\x00\xff") + _END)
    except (struct.error, AttributeError, UnicodeError):
        raise StoreError(f"{part!r} in the key {key!r} is no 64-bit integer, bytes or text") from None
    raw = b"".join(parts)
    if len(raw) > MAX_KEY:
        raise StoreError(f"the key {key!r} takes {len(raw)} bytes, more than {MAX_KEY}")
    return raw


def decode_key(raw: bytes) -> Key:
    """The tuple that `encode_key` made into *raw*. StoreError when it made no such bytes."""
    parts: list[int | bytes | str] = []
    at = 0
    try:
        while at < len(raw):
            tag = raw[at : at + 1]
            if tag == _INT:
                parts.append(_U64.unpack_from(raw, at + 1)[0] - _SHIFT)
                at += 9
            elif tag in (_BYTES, _TEXT):
                end = raw.index(_END, at + 1)
                part = raw[at + 1 : end].replace(b"\x00\xff", b"\x00")
                parts.append(part if tag == _BYTES else part.decode())
                at = end + 2
            else:
                raise ValueError(tag)
    except (ValueError, struct.error):
        raise StoreError(f"the store holds {raw!r}, which is no key; it is damaged") from None
    return tuple(parts)


# -- what both stores share ------------------------------------------------------------------------


class Store(ABC):
    """Rooms of records, and who it is: *id* (32 hex digits, for ever), *epoch* (0 before its first life)."""

    id: str
    epoch: int
    #: where it is, for people
    place: str = "memory"

    @abstractmethod
    def commit(self, writes: Iterable[Write]) -> None:
        """Carry out all *writes*, in order, or with StoreError none of them. Durable on return."""

    @abstractmethod
    def get(self, room: str, key: Key) -> bytes | None:
        """The value at *key*, or None."""

    def find(self, room: str, key: Key) -> Any:
        """The same; a long one as a `Laid`, whose bytes are not read."""
        return self.get(room, key)

    @abstractmethod
    def count(self, room: str, prefix: Key = ()) -> int:
        """How many records of *room* have keys that start with *prefix* (walks them, unless it is empty)."""

    def room(self) -> int:
        """Bytes that jobs, inputs and results may still take (less than 0: the reserve is used)."""
        return sys.maxsize

    @abstractmethod
    def keys(self, room: str, prefix: Key, most: int) -> list[Key]:
        """The first keys of *room* that start with *prefix*, at most so many; their values are not read."""

    @abstractmethod
    def close(self) -> None:
        """Let go of everything; harmless when repeated."""

    @abstractmethod
    def _batch(self, room: str, first: bytes, last: bytes) -> list[tuple[bytes, Any]]:
        """Some of the next records from *first* on and below *last* (encoded); none: there are no more."""

    def scan(self, room: str, prefix: Key = ()) -> Iterator[tuple[Key, Any]]:
        """The records whose keys start with *prefix*, in the order of their keys.

        Read in batches, so that a slow reader holds nothing up; a commit meanwhile may or may not show. A long value comes
        as a `Laid`.
        """
        first = encode_key(prefix)
        last = first + _PAST
        while batch := self._batch(room, first, last):
            first = batch[-1][0] + b"\x00"
            for raw, value in batch:
                yield decode_key(raw), value

    def open_epoch(self) -> int:
        """Begin a new life: the next epoch, on disk before it is returned."""
        self.commit([Write("meta", ("epoch",), b"%d" % (self.epoch + 1))])
        self.epoch += 1
        return self.epoch

    def _introduce(self) -> None:
        """Learn id and epoch, or give a new store its own; refuse what a newer release wrote."""
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


def _encoded(write: Write) -> tuple[bytes, Any]:
    """The key and value of *write* as bytes; what it refers to has been loaded by whoever commits it."""
    if isinstance(write.value, Ref):
        raise StoreError(f"{write.key!r} in room {write.room!r} refers to {write.value!r}: load that first")
    return encode_key(write.key), write.value


def _no_room(room: str) -> StoreError:
    return StoreError(f"there is no room {room!r} in a store, only {', '.join(ROOMS)}")


_CLOSED = "the store is closed"


# -- in memory -------------------------------------------------------------------------------------


class MemoryStore(Store):
    """A store without a disk: the same rules, and it ends with the process. For one thread."""

    _BATCH = 1024

    def __init__(self) -> None:
        #: one dict a room, None once closed
        self._rooms: dict[str, dict[bytes, bytes]] | None = {room: {} for room in ROOMS}
        #: the sorted keys of rooms that were scanned and only grew at the end since
        self._sorted: dict[str, list[bytes]] = {}
        self._introduce()

    def __repr__(self) -> str:
        jobs = "closed" if self._rooms is None else f"{len(self._rooms['job'])} jobs"
        return f"<MemoryStore {self.id[:8]} [{jobs}] epoch {self.epoch}>"

    def _room(self, room: str) -> dict[bytes, bytes]:
        if self._rooms is None:
            raise StoreError(_CLOSED)
        try:
            return self._rooms[room]
        except KeyError:
            raise _no_room(room) from None

    def _keys(self, room: str) -> list[bytes]:
        """The keys of *room* in order. Sorting is put off until somebody asks."""
        records = self._room(room)
        if room not in self._sorted:
            self._sorted[room] = sorted(records)
        return self._sorted[room]

    def commit(self, writes: Iterable[Write]) -> None:
        records = [(write.room, self._room(write.room), *_encoded(write)) for write in writes]
        for room, kept, key, value in records:
            if value is None:
                if kept.pop(key, None) is not None:
                    self._sorted.pop(room, None)
                continue
            if key not in kept and (keys := self._sorted.get(room)) is not None:
                if not keys or keys[-1] < key:
                    keys.append(key)
                else:
                    del self._sorted[room]
            kept[key] = bytes(value[:])

    def get(self, room: str, key: Key) -> bytes | None:
        return self._room(room).get(encode_key(key))

    def count(self, room: str, prefix: Key = ()) -> int:
        if not prefix:
            return len(self._room(room))
        keys, first = self._keys(room), encode_key(prefix)
        return bisect_left(keys, first + _PAST) - bisect_left(keys, first)

    def keys(self, room: str, prefix: Key, most: int) -> list[Key]:
        keys, first = self._keys(room), encode_key(prefix)
        start = bisect_left(keys, first)
        stop = min(bisect_left(keys, first + _PAST), start + most)
        return [decode_key(key) for key in keys[start:stop]]

    def _batch(self, room: str, first: bytes, last: bytes) -> list[tuple[bytes, Any]]:
        keys, records = self._keys(room), self._room(room)
        start = bisect_left(keys, first)
        stop = min(bisect_left(keys, last), start + self._BATCH)
        return [(key, records[key]) for key in keys[start:stop]]

    def close(self) -> None:
        self._rooms = None


# -- on disk ---------------------------------------------------------------------------------------

_RECORD = struct.Struct(">BI")  # format, checksum
#: What follows is the value, or the name of its pieces.
_WHOLE, _IN_PIECES = 1, 2


def _record(key: bytes, value: bytes | memoryview, format: int = _WHOLE) -> bytes:
    return b"".join((_RECORD.pack(format, zlib.crc32(value, zlib.crc32(key))), value))


def _opened(room: str, key: bytes, record: memoryview) -> tuple[int, memoryview]:
    """The format of a record, and what follows; StoreError when it is not as it was written."""
    if len(record) >= _RECORD.size:
        format, checksum = _RECORD.unpack_from(record)
        rest = record[_RECORD.size :]
        if format in (_WHOLE, _IN_PIECES) and zlib.crc32(rest, zlib.crc32(key)) == checksum:
            return format, rest
    raise StoreError(
        f"the record {decode_key(key)!r} in room {room!r} of the store is damaged (its checksum differs)"
    )


def stored_value(room: str, key: bytes, record: memoryview) -> bytes:
    """The value of a record; of a long one the place where it lies. Raises StoreError if it is not as it was written."""
    return bytes(_opened(room, key, record)[1])


class JobStore(Store):
    """The store in *folder* (made if it is missing, for its owner alone), on disk.

    Any thread may read while one commits. Opening raises StoreError, in words, when another process has
    the folder, when it cannot be written or lies on a network file system, when the store is damaged,
    or when a newer release wrote it.
    """

    _BATCH = 256
    _BATCH_BYTES = 4 << 20
    _FIRST_SIZE = 64 << 20  # of the map; the file itself grows as it is written
    _RESERVE = 16 << 20  # of free space, that is no room for jobs
    _LEAST = 4 << 20  # of it, more than the pages that a commit rewrites beside its values
    #: Bytes of pages that were read, after which the map is laid anew: they count as the process's own.
    _MAPPED = 16 << 20

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(os.path.realpath(folder))
        self.place = str(self.folder)
        self._file = self.folder / "jobs.mdb"
        self._env: lmdb.Environment | None = None
        self._rooms: dict[str, lmdb._Database] = {}
        self._lock: int | None = None
        #: an error after which nothing that is written can be believed
        self._lost: str = ""
        #: held for a transaction that writes
        self._writing = threading.Lock()
        #: held for one that reads, and while the map is replaced under the readers
        self._reading = threading.Lock()
        #: sizes of drafts; long values that somebody has, by the number of their pieces; the next such number
        self._drafts: dict[int, int] = {}
        self._held: weakref.WeakValueDictionary[int, Laid] = weakref.WeakValueDictionary()
        self._ids = count(1)
        #: bytes that were read since the map was laid
        self._mapped = 0
        try:
            self._open()
        except BaseException as error:
            self.close()
            if isinstance(error, StoreError) or not isinstance(error, OSError | lmdb.Error):
                raise
            raise self._said(error, "cannot open the store") from error

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
            str(self._file), subdir=False, map_size=self._FIRST_SIZE, max_dbs=len(ROOMS), mode=0o600
        )
        # So would a page that the file ought to have and has not; a page of zeros is an error in words.
        whole = (env.info()["last_pgno"] + 1) * env.stat()["psize"]
        if self._file.stat().st_size < whole:
            os.truncate(self._file, whole)
        self._rooms["meta"] = env.open_db(b"meta")
        self._introduce()
        with env.begin(write=True) as txn:
            self._rooms.update((room, env.open_db(room.encode(), txn)) for room in ROOMS)
        self._drafts = {int(id): names(value)[1] for (id,), value in self.scan("draft")}
        with env.begin(db=self._rooms["piece"]) as txn, txn.cursor() as cursor:
            last = decode_key(cursor.key())[0] if cursor.last() else 0
            self._ids = count(int(last) + 1)

    def _said(self, error: Exception, what: str) -> StoreError:
        """*error* in words; its errno says whether the disk is full."""
        full = isinstance(error, lmdb.DiskError) or getattr(error, "errno", None) == errno.ENOSPC
        reason = "the disk is full" if full else getattr(error, "strerror", None) or str(error)
        if isinstance(error, lmdb.InvalidError | lmdb.CorruptedError | lmdb.PageNotFoundError):
            reason = f"{self._file.name} is damaged, or no store of PARK ({error})"
        if getattr(error, "errno", None) in _FORBIDDEN:
            reason += ": name a home that you may write to"
        said = StoreError(f"{what} in {self.folder}: {reason}")
        said.errno = errno.ENOSPC if full else getattr(error, "errno", None) or errno.EIO
        return said

    def _live(self, room: str) -> tuple[lmdb.Environment, lmdb._Database]:
        if self._env is None:
            raise StoreError(_CLOSED)
        try:
            return self._env, self._rooms[room]
        except KeyError:
            raise _no_room(room) from None

    def commit(self, writes: Iterable[Write]) -> None:
        """Carry out all *writes* or, with StoreError, none.

        `errno.ENOSPC` in its ``errno``: the disk is as good as full; deletions still work, small records as long as the
        file has unused pages for them, and the rest when there is room. Any other error of the disk is final: this and
        every later commit raises, and the broker had better exit.
        """
        records: list[tuple[str, bytes, bytes | None]] = []
        size, large = 0, False
        for write in self._in_pieces(writes):
            key, value = _encoded(write)
            if isinstance(value, Laid):
                record: bytes | None = _record(key, value.named(), _IN_PIECES)
            else:
                record = None if value is None else _record(key, value)
            self._live(write.room)
            records.append((write.room, key, record))
            if record is not None and write.room not in _FOR_ALL:
                size += len(key) + len(record)
                large = large or len(record) > _SMALL
        if not records:
            return
        tight = size and self._free() < size + self._LEAST
        if tight and (large or self._unused() < 2 * size + self._LEAST):
            raise self._said(OSError(errno.ENOSPC, ""), "cannot write to the store")
        with self._writing:
            env, _ = self._live("meta")
            if self._lost:
                raise StoreError(self._lost)
            try:
                self._carry_out(env, records)
                self._tidy(env)
            except lmdb.Error as error:
                said = self._said(error, "cannot write to the store")
                if said.errno != errno.ENOSPC:
                    self._lost = str(said)
                raise said from error
            if self._mapped > self._MAPPED:
                self._lay_map(env)

    def new_draft(self, size: int) -> Laid:
        """A long value of so many bytes, of which nothing is written yet: `Laid.writes` says how."""
        return self._laid(next(self._ids), size)

    def _laid(self, id: int, size: int) -> Laid:
        laid = self._held.get(id)
        if laid is None:
            laid = self._held[id] = Laid(id, size, self._piece)
        return laid

    def _in_pieces(self, writes: Iterable[Write]) -> Iterator[Write]:
        """The same, with long values in pieces: a draft becomes the first record's that has it."""
        drafts = set(self._drafts)
        for write in writes:
            value = write.value
            if value is None or isinstance(value, Ref) or len(value) <= LONG:
                yield write
                continue
            laid: Any = value
            if not isinstance(value, Laid) or value.id not in drafts:
                laid = self.new_draft(len(value))
                yield from list(laid.writes(value))[1:]
            drafts.discard(laid.id)
            yield Write(write.room, write.key, laid)
            yield Write("draft", (laid.id,), None)

    def _carry_out(self, env: lmdb.Environment, records: list[tuple[str, bytes, bytes | None]]) -> None:
        """One transaction, in a map that is large enough for it."""
        drafts = dict(self._drafts)
        try:
            with env.begin(write=True, buffers=True) as txn:
                put, delete, rooms = txn.put, txn.delete, self._rooms
                for room, key, value in records:
                    db = rooms[room]
                    if value is None:
                        self._let_go(txn, room, key, drafts)
                        delete(key, db=db)
                    elif not put(key, value, db=db, overwrite=False):
                        self._let_go(txn, room, key, drafts)
                        put(key, value, db=db)
                    if room == "draft":
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

    def _let_go(self, txn: lmdb.Transaction, room: str, key: bytes, drafts: dict[int, int]) -> None:
        """The record goes; a long value that it names is a draft again."""
        old = txn.get(key, db=self._rooms[room])
        if old is not None and len(old) and old[0] == _IN_PIECES:
            id, size = names(_opened(room, key, memoryview(old))[1])
            name = encode_key((id,))
            txn.put(name, _record(name, bytes(old[_RECORD.size :])), db=self._rooms["draft"])
            drafts[id] = size

    def _tidy(self, env: lmdb.Environment) -> None:
        """Drafts go that nobody has any more."""
        if not self._drafts:
            return
        with self._reading:  # whoever has found one has it by now
            gone = {id: size for id, size in self._drafts.items() if id not in self._held}
        for id, size in gone.items():
            laid = Laid(id, size, self._piece)
            keys: list[tuple[str, bytes, bytes | None]] = []
            keys += [("piece", encode_key(key), None) for key in laid.pieces()]
            # at last: what is left when the process dies goes later
            keys.append(("draft", encode_key((id,)), None))
            for at in range(0, len(keys), self._BATCH):
                self._carry_out(env, keys[at : at + self._BATCH])
                self._lay_map(env)  # each piece was looked at, and some pages around it

    def _lay_map(self, env: lmdb.Environment) -> None:
        """Pages that were read stay in the system's cache, and are not this process's any more; nobody writes."""
        with self._reading:
            env.set_mapsize(env.info()["map_size"])
            self._mapped = 0

    def room(self) -> int:
        free = self._free()
        # what is unused in the file may be in pieces too small for what comes
        return min(free - 2 * self._LEAST, free + self._unused() - self._RESERVE)

    def _free(self) -> int:
        """Bytes that this user may still write there."""
        try:
            return shutil.disk_usage(self.folder).free
        except OSError as error:
            raise self._said(error, "cannot see how much room there is for the store") from error

    def _unused(self) -> int:
        """Bytes of the file's pages that hold nothing."""
        with self._reading:
            env, _ = self._live("meta")
            try:
                with env.begin() as txn:
                    info = env.info()
                    stats = [txn.stat(db) for db in self._rooms.values()]
            except lmdb.Error as error:
                raise self._said(error, "cannot read the store") from error
        used = sum(s["branch_pages"] + s["leaf_pages"] + s["overflow_pages"] for s in stats)
        return int((info["last_pgno"] + 1 - used) * stats[0]["psize"])

    def get(self, room: str, key: Key) -> bytes | None:
        found = self.find(room, key)
        return found[:] if isinstance(found, Laid) else found

    def find(self, room: str, key: Key) -> Any:
        raw = encode_key(key)
        with self._reading:
            env, db = self._live(room)
            try:
                with env.begin(db=db, buffers=True) as txn:
                    record = txn.get(raw)
                    return None if record is None else self._value(room, raw, memoryview(record))
            except lmdb.Error as error:
                raise self._said(error, f"cannot read {key!r} in room {room!r} of the store") from error

    def _value(self, room: str, key: bytes, record: memoryview) -> Any:
        """The value of a record: bytes, or a `Laid`. The caller holds the lock of the readers."""
        format, rest = _opened(room, key, record)
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

    def count(self, room: str, prefix: Key = ()) -> int:
        first = encode_key(prefix)
        last = first + _PAST
        with self._reading:
            env, db = self._live(room)
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
                raise self._said(error, f"cannot read room {room!r} of the store") from error

    def keys(self, room: str, prefix: Key, most: int) -> list[Key]:
        first = encode_key(prefix)
        last = first + _PAST
        found: list[Key] = []
        with self._reading:
            env, db = self._live(room)
            try:
                with env.begin(db=db) as txn, txn.cursor() as cursor:
                    if most > 0 and cursor.set_range(first):
                        for key in cursor.iternext(keys=True, values=False):
                            if key >= last or len(found) == most:
                                break
                            found.append(decode_key(key))
            except lmdb.Error as error:
                raise self._said(error, f"cannot read room {room!r} of the store") from error
        return found

    def _batch(self, room: str, first: bytes, last: bytes) -> list[tuple[bytes, Any]]:
        batch: list[tuple[bytes, Any]] = []
        size = 0
        with self._reading:
            env, db = self._live(room)
            try:
                with env.begin(db=db, buffers=True) as txn, txn.cursor() as cursor:
                    if cursor.set_range(first):
                        for view, record in cursor.iternext():
                            key = bytes(view)
                            if key >= last or len(batch) >= self._BATCH or size >= self._BATCH_BYTES:
                                break
                            batch.append((key, self._value(room, key, memoryview(record))))
                            size += len(record)
            except lmdb.Error as error:
                raise self._said(error, f"cannot read room {room!r} of the store") from error
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
    """From now on nobody but its owner can get at *path*. StoreError where it is another's, or has another purpose."""
    found = path.stat()
    if sys.platform == "win32" or not found.st_mode & 0o077:
        return
    names = {file.name for file in path.iterdir()} if path.is_dir() else set()
    other = names and not names & {"jobs.mdb", "keys"}
    if found.st_uid != os.getuid() or found.st_mode & stat.S_ISVTX or other:
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


# -- file systems ----------------------------------------------------------------------------------

#: Types of mounts whose files other machines may change.
# fmt: off
NETWORK = frozenset({
    "9p", "acfs", "afs", "beegfs", "beegfs_nodev", "ceph", "cifs", "coda", "davfs", "fhgfs", "gfs", "gfs2",
    "glusterfs", "gpfs", "lustre", "ncpfs", "nfs", "nfs4", "ocfs2", "orangefs", "panfs", "pvfs2", "smb3",
    "smbfs", "sshfs", "vboxsf", "wekafs",
})
# fmt: on


def network_file_system(folder: Path, mountinfo: str) -> str | None:
    """The type of the network file system that *folder* (absolute, no links) is on, else None.

    *mountinfo* is the text of Linux's /proc/self/mountinfo: a mount a line, later ones lie over
    earlier ones. Unreadable lines are passed over.
    """
    depth, kind = -1, ""
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        fields, types = left.split(" "), right.split(" ")
        if len(fields) < 5 or not types[0]:
            continue
        # spaces and the like are written as \040
        mount = Path(re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), fields[4]))
        if folder.is_relative_to(mount) and len(mount.parts) >= depth:
            depth, kind = len(mount.parts), types[0]
    return kind if kind.removeprefix("fuse.") in NETWORK else None


def mounted_over_network(folder: Path) -> str | None:
    """The type of the network file system that *folder* is on now, else None."""
    return network_file_system(folder, _mountinfo())


def _mountinfo() -> str:
    try:
        return Path("/proc/self/mountinfo").read_text(errors="replace")
    except OSError:
        return ""
