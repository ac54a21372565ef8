"""Turns: the effects of the events of one moment, until they are on disk.

While the disk is full, perhaps for hours, no turn is completed, but the broker goes on. So turns that have waited for
some time are merged: of several writes of a record only the last stays, and of several changes of a row the last value
of each field. Then the number of records bounds what waits, and not the time.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct, field

from park.broker.effects import Peer, Send, Write
from park.broker.storage.job_messages import Batch
from park.broker.storage.pieces import LongValue
from park.mail.notices import Letter
from park.model import Delta
from park.wire import messages

#: Bytes in memory for a change of the table, and for a record beside its value.
_CHANGE_BYTES = 250


class Turn(Struct):
    """The effects of one turn. The loop sends, calls `JobManager.hand_in`, and publishes and acknowledges at completion."""

    number: int = 0
    #: when it was decided, monotonic seconds
    at: float = 0.0
    sends: list[Send] = field(default_factory=list)
    writes: list[Write] = field(default_factory=list)
    #: the number with which its last writes were given to the disk; 0: it has none
    put: int = 0
    deltas: list[Delta] = field(default_factory=list)
    sends_after_commit: list[Send] = field(default_factory=list)
    #: readers that ask for a job now whose changes are not on disk: the job, by peer and request
    readers: dict[tuple[Peer, int], int] = field(default_factory=dict)
    #: messages of jobs that go to their followers when the turn is completed
    said: list[Batch] = field(default_factory=list)
    #: about the bytes in memory that the turn holds until it is completed
    size: int = 0
    #: for a completed turn that changes the table: the Deltas message with its payload
    publish: tuple[messages.Deltas, bytes] | None = None
    #: the jobs that this turn archives, and deletes
    archived: list[int] = field(default_factory=list)
    deleted: list[int] = field(default_factory=list)
    #: senders of long messages that are decided, or dropped, with the bytes of their payloads
    taken: list[tuple[Peer, int]] = field(default_factory=list)
    #: mails that are due
    letters: list[Letter] = field(default_factory=list)
    #: the numbers of mails that have left
    posted: list[int] = field(default_factory=list)
    #: the turn deletes records that deleted jobs have left
    sweeps: bool = False

    def measure(self) -> None:
        """Sum up its *size*. A draft is on disk already."""
        values = (w.value for w in self.writes if w.value is not None and not isinstance(w.value, LongValue))
        self.size = sum(map(len, values)) + _CHANGE_BYTES * (len(self.writes) + len(self.deltas))  # type: ignore[arg-type]


def as_one(turns: list[Turn], rows: set[tuple[str, int | str]]) -> tuple[Turn, list[Write]]:
    """One turn in place of these, in their order; and the writes that later ones have replaced. *rows*: the rows on
    disk.
    """
    writes = {(w.namespace, w.key): w for turn in turns for w in turn.writes}
    kept = set(map(id, writes.values()))
    one = Turn(turns[-1].number, turns[-1].at, writes=list(writes.values()))
    one.put = max(turn.put for turn in turns)
    one.deltas = in_fewer((delta for turn in turns for delta in turn.deltas), rows)
    for turn in turns:
        for name in ("sends_after_commit", "said", "archived", "deleted", "letters", "posted"):
            getattr(one, name).extend(getattr(turn, name))
        one.readers |= turn.readers
        one.sweeps |= turn.sweeps
    one.measure()
    return one, [w for turn in turns for w in turn.writes if id(w) not in kept]


def in_fewer(deltas: Iterable[Delta], rows: set[tuple[str, int | str]]) -> list[Delta]:
    """Fewer changes that lead to the same table. Each change of a job's state stays, because followers are told of it.

    >>> in_fewer([Delta("owner", "ann", {"balance": n}) for n in (1.0, 2.0)], set())
    [Delta(table='owner', key='ann', change={'balance': 2.0})]
    """
    found: dict[tuple[str, int | str], list[Delta]] = {}
    for delta in deltas:
        row = (delta.table, delta.key)
        of_row = found.setdefault(row, [])
        last = of_row[-1].change if of_row else None
        if delta.change is None and delta.table != "job" and row not in rows:
            of_row.clear()  # it has come and gone
        elif delta.change is not None and last is not None and "state" not in delta.change:
            of_row[-1] = Delta(*row, {**last, **delta.change})
        else:
            of_row.append(delta)
    return [delta for of_row in found.values() for delta in of_row]
