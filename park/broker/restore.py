"""Reading the store into a dispatcher: all jobs when a life of the broker begins, an archived job when it is needed.

`restore` reads the records in the order of the job numbers, each namespace once. Of archived jobs it reads only the
fields that they are found by; `recall` reads the rest.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

from park.broker.accounts.quotas import JOB_RECORD_BYTES
from park.broker.dispatcher import Dispatcher
from park.broker.effects import Key
from park.broker.handlers import charging
from park.broker.handlers.retention import LISTED_FIELDS
from park.broker.handlers.startup import StoredRecords
from park.broker.storage.store import Store
from park.errors import ParkError, StoreError
from park.model import Delta
from park.util.stdio import tell
from park.wire import codec
from park.wire.messages import Message, Submit
from park.wire.pack import ERROR, Pack, said_count


def restore(store: Store, dispatcher: Dispatcher, outlived: bool, now: float, wall: float) -> list[Delta]:
    """Put all stored jobs into a new *dispatcher*; units without an answer wait again. Returns the public table's rows.

    *outlived*: the kernels of the last life may come back with their attempts. Raises StoreError for a job that cannot
    be read.
    """
    if outlived:
        dispatcher.expect({key for (key,), _ in store.scan("kernel") if isinstance(key, bytes)})
    ledger = dispatcher.state.ledger
    for (owner,), value in store.scan("account"):
        ledger.restore_account(str(owner), codec.unpack(value), now)
    for (job, epoch), value in store.scan("charge"):
        ledger.restore_charge(_integer(job), _integer(epoch), codec.unpack(value))
    for (kind, which), value in store.scan("mail"):
        dispatcher.restore_mail(str(kind), which, codec.unpack(value), now)
    clock = store.get("meta", ("clock",))
    if clock is not None:
        dispatcher.restore_clock(*codec.unpack(clock))
    dispatcher.restore_archived(list(_archived(store)))
    records = _RecordsByJob(store)
    for (number,), value in store.scan("job"):
        try:
            dispatcher.restore(*records.job(_integer(number), value))
        except (ParkError, TypeError, ValueError, KeyError) as error:
            raise StoreError(f"job {number!r} cannot be read from the store: {error}") from error
    out = dispatcher.settle(now, wall)
    if out.writes:
        store.commit(out.writes)
    dispatcher.committed(out.archived, out.deleted)
    rows: list[Delta] = [Delta("job", j.number, j.record.as_map()) for j in dispatcher.state.jobs.values()]
    return rows + [Delta("owner", o.owner, o.as_map()) for o in charging.owners(dispatcher.state)]


def deleted(store: Store) -> Iterator[int]:
    """The numbers of deleted jobs whose other records are still in the store."""
    return (_integer(number) for (number,), _ in store.scan("trash"))


def recall(store: Store, dispatcher: Dispatcher, number: int) -> None:
    """Take the job out of the archive, if it lies there. Raises StoreError if it cannot be read."""
    state = dispatcher.state
    if number in state.jobs or not state.job_list.given(number):
        return
    try:
        stored = store.get("archive", (number,))
        if stored is None:
            return
        submit = codec.build(Submit, codec.unpack(store.get("submit", (number,)) or b""))
        units, results = (store.get("spans", (number, what)) or b"" for what in ("units", "results"))
        dispatcher.recall(codec.unpack(stored), submit, units, results)
    except (ParkError, TypeError, ValueError, KeyError, struct.error) as error:
        raise _unreadable(number, error) from error


def recall_named(store: Store, dispatcher: Dispatcher, message: Message) -> None:
    """Take the jobs that the message names out of the archive, if they lie there. Raises StoreError as `recall` does."""
    number = getattr(message, "job", 0)
    if number and number not in dispatcher.state.jobs:
        recall(store, dispatcher, number)
    if isinstance(message, Submit):
        for number in message.after:
            recall(store, dispatcher, number)
        if message.key not in dispatcher.state.job_list.by_key and len(message.key) == 16:
            known = store.get("key", (message.key,))
            if known is not None:
                recall(store, dispatcher, codec.unpack(known))


def warn(error: StoreError) -> None:
    """Name an archived job that cannot be read on the broker's standard error."""
    tell(f"park: {error}", "warning")


def _archived(store: Store) -> Iterator[dict[str, Any]]:
    """The fields by which archived jobs are found. A job whose record is damaged is named and left out."""
    last: Key = ()
    try:
        for last, value in store.scan("archive"):
            yield from _listed(last, lambda v=value: v)  # type: ignore[misc]
    except StoreError:  # the scan ends at a damaged record: the others are read one by one
        for key in store.keys("archive", (), sys.maxsize):
            if key > last:
                yield from _listed(key, lambda k=key: store.get("archive", k) or b"")  # type: ignore[misc]


def _listed(key: Key, load: Callable[[], bytes]) -> Iterator[dict[str, Any]]:
    try:
        found = codec.unpack(load())
        yield {name: found[name] for name in LISTED_FIELDS}
    except (ParkError, TypeError, KeyError) as error:
        warn(_unreadable(key[0], error))


class _Scan:
    """The records of one namespace, read once, for jobs in the order of their numbers. A damaged record yields its
    error.
    """

    def __init__(self, store: Store, namespace: str) -> None:
        self._records = records = _with_errors(store, namespace)
        self._next = next(records, None)

    def of(self, number: int) -> list[tuple[Key, Any]]:
        found = []
        while self._next is not None and self._next[0][0] <= number:  # type: ignore[operator]
            if self._next[0][0] == number:
                found.append(self._next)
            self._next = next(self._records, None)
        return found


def _with_errors(store: Store, namespace: str) -> Iterator[tuple[Key, Any]]:
    last: Key = ()
    try:
        for last, value in store.scan(namespace):
            yield last, value
    except StoreError:  # the scan ends at a damaged record: the others are read one by one
        for key in store.keys(namespace, (), sys.maxsize):
            if key > last:
                try:
                    yield key, store.find(namespace, key)
                except StoreError as error:
                    yield key, error


def _pack_sizes(packs: list[tuple[Key, Any]], total: int | None) -> dict[int, int]:
    """The number of units in each pack, by its first unit. A damaged pack counts up to the next one, or to the end."""
    sizes: dict[int, int] = {}
    for at, (key, value) in enumerate(packs):
        start = _start(key)
        try:
            sizes[start] = said_count(_sound(value))
        except StoreError:
            stop = _start(packs[at + 1][0]) if at + 1 < len(packs) else total
            if stop is None:
                raise
            sizes[start] = stop - start
    return sizes


def _sound(value: Any) -> Any:
    """The value of a record. Raises the error of a damaged one."""
    if isinstance(value, StoreError):
        raise value
    return value


def _is_sound(value: Any) -> bool:
    """Whether all its bytes can be read."""
    try:
        return bool(len(_sound(value)[:]))
    except StoreError:
        return False


class _RecordsByJob:
    """The records that the store has of each job, for jobs in the order of their numbers."""

    def __init__(self, store: Store) -> None:
        self._requests, self._inputs, self._answers, self._risks, self._controls = (
            _Scan(store, namespace) for namespace in ("submit", "units", "results", "attempt", "control")
        )

    def job(self, number: int, value: bytes) -> tuple[dict[str, Any], Submit, StoredRecords]:
        """The job's own record *value* as a map, its request, and its other records."""
        stored = codec.unpack(value)
        request = next((v for _, v in self._requests.of(number)), b"")
        submit = codec.build(Submit, codec.unpack(_sound(request)))
        inputs = self._inputs.of(number)
        segments = _pack_sizes(inputs, stored["total"])
        if any(start + count != after for (start, count), (after, _) in pairwise(sorted(segments.items()))):
            raise StoreError(f"the store is damaged: the units of job {number} do not follow each other")
        answers = self._answers.of(number)
        if stored["ended"] is None and submit.idempotent:  # units whose answer is damaged run again
            answers = [(key, v) for key, v in answers if _is_sound(v)]
        answered = list(_pack_sizes(answers, stored["total"]).items())
        risky = [(_start(key), codec.unpack(_sound(v))) for key, v in self._risks.of(number)]
        controls = [(_start(key), _control_key(key), len(_sound(v))) for key, v in self._controls.of(number)]
        size = JOB_RECORD_BYTES + len(request) + stored["code"] + sum(stored.get("files", {}).values())
        size += sum(len(v) for _, v in (*inputs, *answers) if not isinstance(v, StoreError))
        size += sum(length for _, _, length in controls)
        if stored["ended"] is None:  # an ended job's record has the count
            stored["failed"] = sum(_failed(Pack(_sound(v)[:])) for _, v in answers)
        return stored, submit, StoredRecords(segments, answered, risky, size, controls)


def _failed(pack: Pack) -> int:
    return 0 if pack.rows is not None else sum(bytes(entry[:1]) == ERROR for entry in pack.entries())


def _unreadable(number: int | bytes | str, error: Exception) -> StoreError:
    return StoreError(f"job {number!r} cannot be read from the archive: {error}")


def _integer(part: int | bytes | str) -> int:
    assert isinstance(part, int)
    return part


def _start(key: Key) -> int:
    """The first unit of a pack, or the number of a control."""
    return _integer(key[1])


def _control_key(key: Key) -> bytes:
    found = key[2]
    assert isinstance(found, bytes)
    return found
