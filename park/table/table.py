"""The public table: every job, kernel and owner as clients may see them, and its changes.

The table has a number, `seq`, that each applied `Delta` advances by one. The dispatcher decides deltas; the
broker's own table, the table of a restarted broker and every mirror fold them in with the same `Table.apply`.
So two tables that start equal and meet the same deltas stay equal, and a mirror can say exactly which
change of the broker's table it has reached.
"""

from __future__ import annotations

import types
import typing
from collections.abc import ItemsView, Iterable, Iterator, Mapping, ValuesView
from typing import Any, TypeVar

from msgspec.structs import asdict

from park.errors import ProtocolError
from park.model import Delta, JobRecord, JobState, KernelRecord, OwnerRecord
from park.wire.codec import Buffer, pack, unpack

#: Which state may follow which; None stands for a job that is not in the table yet. A job that is
#: queued may end without running: a session, or one with no inputs. Work that is given back leaves a running
#: job queued. A paused job goes back to where its `after`, its `when` and its units leave it.
TRANSITIONS: dict[JobState | None, frozenset[JobState]] = {
    None: frozenset({JobState.WAITING, JobState.QUEUED, JobState.PAUSED}),
    JobState.WAITING: frozenset({JobState.QUEUED, JobState.PAUSED, JobState.FAILED, JobState.ABORTED}),
    JobState.QUEUED: frozenset(
        {JobState.RUNNING, JobState.PAUSED, JobState.COMPLETE, JobState.FAILED, JobState.ABORTED}
    ),
    JobState.RUNNING: frozenset(
        {JobState.QUEUED, JobState.PAUSED, JobState.COMPLETE, JobState.FAILED, JobState.ABORTED}
    ),
    JobState.PAUSED: frozenset(
        {
            JobState.WAITING,
            JobState.QUEUED,
            JobState.RUNNING,
            JobState.COMPLETE,
            JobState.FAILED,
            JobState.ABORTED,
        }
    ),
    JobState.COMPLETE: frozenset(),
    JobState.FAILED: frozenset(),
    JobState.ABORTED: frozenset(),
}

AnyRecord = JobRecord | KernelRecord | OwnerRecord
K = TypeVar("K", bound=int | str)
R = TypeVar("R", bound=AnyRecord)


class Rows(Mapping[K, R]):
    """One kind of record by number or name, to read. Iterating sees one moment, whatever changes then."""

    __slots__ = ("_rows",)

    def __init__(self, rows: dict[K, R]) -> None:
        self._rows = rows

    def __getitem__(self, key: K) -> R:
        return self._rows[key]

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[K]:
        return iter(self._rows.copy())

    def items(self) -> ItemsView[K, R]:
        return self._rows.copy().items()

    def values(self) -> ValuesView[R]:
        return self._rows.copy().values()

    def __repr__(self) -> str:
        return f"<Rows {', '.join(map(str, self._rows))}>"


class _Kind:
    """The key and the types of the fields of one class of records, worked out once."""

    def __init__(self, cls: type[AnyRecord], key: str, key_type: type) -> None:
        hints = typing.get_type_hints(cls)
        self.cls: Any = cls
        #: the field that names the row
        self.key = key
        self.key_type = key_type
        #: the types in which each field arrives
        self.takes = {name: _takes(hints[name]) for name in cls.__struct_fields__}

    def checked(self, key: object, change: object) -> dict[str, Any]:
        """The *change* of the row at *key*, with its lists as tuples; ProtocolError when it cannot be one."""
        if type(key) is not self.key_type or type(change) is not dict:
            raise ProtocolError(f"{key!r}: {change!r:.60} is no change in the table of {self.key}s")
        fields = change.copy()
        for name, value in change.items():
            takes = self.takes.get(name)
            if takes is None:
                raise ProtocolError(f"{self.key}s have no field {name!r}")
            if type(value) not in takes and not isinstance(value, takes):
                raise ProtocolError(f"{name} of {self.key} {key} cannot be {value!r}")
            if type(value) is list:
                fields[name] = tuple(value)
        if fields.get(self.key, key) != key:
            raise ProtocolError(f"the {self.key} {key} cannot become {fields[self.key]}")
        return fields

    def record(self, key: int | str, fields: dict[str, Any]) -> Any:
        try:
            return self.cls(**fields)
        except (TypeError, ValueError) as error:
            raise ProtocolError(f"{self.key} {key} cannot be: {error}") from error


def _takes(hint: Any) -> tuple[type, ...]:
    origin = typing.get_origin(hint)
    if origin is types.UnionType:
        return tuple(one for part in typing.get_args(hint) for one in _takes(part))
    if origin is tuple:
        return (tuple, list)
    if hint is float:
        return (float, int)
    return (str,) if hint is JobState else (hint,)


_KINDS = {
    "job": _Kind(JobRecord, "job", int),
    "kernel": _Kind(KernelRecord, "kernel", int),
    "owner": _Kind(OwnerRecord, "owner", str),
}


class Table:
    """The public table at change number `seq`.

    *jobs*, *kernels* and *owners* are read-only mappings from numbers or names to records. Only `apply`
    changes them.
    """

    def __init__(self) -> None:
        self._rows: dict[str, dict[Any, Any]] = {name: {} for name in _KINDS}
        self.seq = 0
        self.jobs: Rows[int, JobRecord] = Rows(self._rows["job"])
        self.kernels: Rows[int, KernelRecord] = Rows(self._rows["kernel"])
        self.owners: Rows[str, OwnerRecord] = Rows(self._rows["owner"])

    def __repr__(self) -> str:
        return f"<Table at {self.seq}: {len(self.jobs)} jobs, {len(self.kernels)} kernels>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Table) and (self.seq, self._rows) == (other.seq, other._rows)

    def apply(self, delta: Delta) -> tuple[AnyRecord | None, AnyRecord | None]:
        """Fold *delta* in. Returns the record before (None: a new row) and after it (None: the row is gone).

        Raises ProtocolError, without any change, for a delta that no correct broker makes: an unknown table, row or
        field, a value of a wrong type, a state that may not follow.
        """
        kind = _KINDS.get(delta.table)
        if kind is None:
            raise ProtocolError(f"there is no table {delta.table!r}")
        rows, key = self._rows[delta.table], delta.key
        fields = kind.checked(key, {} if delta.change is None else delta.change)
        old = rows.get(key)
        if delta.change is None:
            if old is None:
                raise ProtocolError(f"there is no {kind.key} {key} to remove")
            if isinstance(old, JobRecord) and not old.state.ended:
                raise ProtocolError(f"job {key} is {old.state} and cannot go before it has ended")
            del rows[key]
            self.seq += 1
            return old, None
        new = kind.record(key, fields if old is None else {**asdict(old), **fields})
        if isinstance(new, JobRecord):
            before = old.state if old is not None else None
            if new.state is not before and new.state not in TRANSITIONS[before]:
                raise ProtocolError(f"job {key} is {before or 'new'} and cannot become {new.state}")
        rows[key] = new
        self.seq += 1
        return old, new

    def names(self) -> set[tuple[str, int | str]]:
        """The table and the key of each row."""
        return {(name, key) for name, rows in self._rows.items() for key in rows}

    def changes(self, other: Table) -> list[tuple[AnyRecord | None, AnyRecord | None]]:
        """The differences of *other*: (row of this table, row of *other*) for each row that is new, changed or gone."""
        return [
            (rows.get(key), other._rows[name].get(key))
            for name, rows in self._rows.items()
            for key in {**rows, **other._rows[name]}
            if rows.get(key) != other._rows[name].get(key)
        ]

    def header(self) -> bytes:
        """The payload of Header: all rows, as a packed list of [table, key, fields]."""
        return pack(
            [[name, key, asdict(record)] for name, rows in self._rows.items() for key, record in rows.items()]
        )

    @classmethod
    def from_header(cls, payload: Buffer, seq: int) -> Table:
        """The table whose `header` *payload* was, at number *seq*. ProtocolError for anything else."""
        table = cls()
        for name, key, fields in _triples(payload):
            kind = _KINDS[name]
            table._rows[name][key] = kind.record(key, {kind.key: key, **kind.checked(key, fields)})
        table.seq = seq
        return table


def pack_deltas(deltas: Iterable[Delta]) -> bytes:
    """The payload of Deltas: a packed list of [table, key, changed fields, or None]."""
    return pack([(delta.table, delta.key, delta.change) for delta in deltas])


def unpack_deltas(payload: Buffer) -> list[Delta]:
    """The deltas that `pack_deltas` put into *payload*. ProtocolError for anything else."""
    return [Delta(name, key, change) for name, key, change in _triples(payload)]


def _triples(payload: Buffer) -> list[list[Any]]:
    rows = unpack(payload)
    if type(rows) is not list:
        raise ProtocolError("the rows of a table are not a list")
    for row in rows:
        if type(row) is not list or len(row) != 3 or type(row[0]) is not str or row[0] not in _KINDS:
            raise ProtocolError(f"{row!r:.60} is no row of a table")
    return rows
