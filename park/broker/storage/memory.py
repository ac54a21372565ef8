"""A store in memory: for services that keep nothing, and for tests."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Iterable
from typing import Any

from park.broker.effects import Key, Write
from park.broker.storage.keys import PAST_PREFIX, decode_key, encode_key
from park.broker.storage.store import CLOSED, NAMESPACES, Store, encoded, no_namespace
from park.errors import StoreError
from park.util.sealed import descriptor_of
from park.wire.pack import Buffer

#: Values that stay in the sealed files in which they came; each file keeps a descriptor open.
MAX_FILES = 16


class MemoryStore(Store):
    """A store without a disk, for one thread. It has the same rules, and ends with the process."""

    _BATCH = 1024

    def __init__(self) -> None:
        #: one dict a namespace, None once closed
        self._namespaces: dict[str, dict[bytes, Buffer]] | None = {namespace: {} for namespace in NAMESPACES}
        #: the namespaces and keys of the newest values that were not copied
        self._in_files: deque[tuple[str, bytes]] = deque()
        #: the sorted keys of each namespace that was scanned, as long as it has only grown at the end since
        self._sorted: dict[str, list[bytes]] = {}
        self._introduce()

    def __repr__(self) -> str:
        jobs = "closed" if self._namespaces is None else f"{len(self._namespaces['job'])} jobs"
        return f"<MemoryStore {self.id[:8]} [{jobs}] epoch {self.epoch}>"

    def _records(self, namespace: str) -> dict[bytes, Buffer]:
        if self._namespaces is None:
            raise StoreError(CLOSED)
        try:
            return self._namespaces[namespace]
        except KeyError:
            raise no_namespace(namespace) from None

    def _keys(self, namespace: str) -> list[bytes]:
        """The keys of *namespace* in order. They are sorted at the first call after a change."""
        records = self._records(namespace)
        if namespace not in self._sorted:
            self._sorted[namespace] = sorted(records)
        return self._sorted[namespace]

    def commit(self, writes: Iterable[Write]) -> None:
        records = [(write.namespace, self._records(write.namespace), *encoded(write)) for write in writes]
        for namespace, kept, key, value in records:
            if value is None:
                if kept.pop(key, None) is not None:
                    self._sorted.pop(namespace, None)
                continue
            if key not in kept and (keys := self._sorted.get(namespace)) is not None:
                if not keys or keys[-1] < key:
                    keys.append(key)
                else:
                    del self._sorted[namespace]
            if descriptor_of(value) < 0:
                kept[key] = bytes(value[:])
                continue
            kept[key] = value
            self._in_files.append((namespace, key))
            if len(self._in_files) > MAX_FILES:
                self._copy_oldest()

    def _copy_oldest(self) -> None:
        """Copy the oldest value that lies in a file, if it is still there."""
        namespace, key = self._in_files.popleft()
        records = self._records(namespace)
        if key in records:
            records[key] = bytes(records[key])

    def get(self, namespace: str, key: Key) -> bytes | None:
        value = self.find(namespace, key)
        return None if value is None else bytes(value)

    def find(self, namespace: str, key: Key) -> Any:
        return self._records(namespace).get(encode_key(key))

    def count(self, namespace: str, prefix: Key = ()) -> int:
        if not prefix:
            return len(self._records(namespace))
        keys, first = self._keys(namespace), encode_key(prefix)
        return bisect_left(keys, first + PAST_PREFIX) - bisect_left(keys, first)

    def keys(self, namespace: str, prefix: Key, most: int) -> list[Key]:
        keys, first = self._keys(namespace), encode_key(prefix)
        start = bisect_left(keys, first)
        stop = min(bisect_left(keys, first + PAST_PREFIX), start + most)
        return [decode_key(key) for key in keys[start:stop]]

    def _batch(self, namespace: str, first: bytes, last: bytes) -> list[tuple[bytes, Any]]:
        keys, records = self._keys(namespace), self._records(namespace)
        start = bisect_left(keys, first)
        stop = min(bisect_left(keys, last), start + self._BATCH)
        return [(key, records[key]) for key in keys[start:stop]]

    def close(self) -> None:
        self._namespaces = None
