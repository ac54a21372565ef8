"""Deleting the records of deleted jobs bit by bit, so that no large deletion holds up a turn.

A deletion itself writes a few records: it deletes the job's own record, and puts its number into the namespace "trash".
The other records of the job are found under its number, and are deleted in transactions of a bounded number of records.
At last the number leaves the trash. After a crash the next life goes on with the numbers in the trash.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from park.broker.effects import Write
from park.broker.storage.store import Store

#: Namespaces with a job's own records; their keys begin with its number.
# fmt: off
OF_JOBS = (
    "submit", "units", "results", "attempt", "checkpoint", "spans", "log", "said", "stream", "file", "control",
)
# fmt: on
#: Records in one transaction.
MAX_SWEEP_RECORDS = 500


def leavings(store: Store, number: int, most: int) -> list[Write]:
    """The writes that delete records of a deleted job, at most *most* of them."""
    found: list[Write] = []
    for namespace in OF_JOBS:
        found += [Write(namespace, key, None) for key in store.keys(namespace, (number,), most - len(found))]
    return found


class Sweeper:
    """Makes the writes. Each group must be on disk before the next is requested."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._trash: deque[int] = deque()
        self._under_way = False

    def add(self, jobs: Iterable[int]) -> None:
        """Sweep out these jobs: their deletion is on disk."""
        self._trash.extend(jobs)

    @property
    def due(self) -> bool:
        """Whether records wait to be deleted, and the last lot is on disk."""
        return bool(self._trash) and not self._under_way

    def writes(self) -> list[Write]:
        """The next lot."""
        found: list[Write] = []
        while self._trash and len(found) < MAX_SWEEP_RECORDS:
            number = self._trash[0]
            found += leavings(self._store, number, MAX_SWEEP_RECORDS - len(found))
            if len(found) < MAX_SWEEP_RECORDS:
                found.append(Write("trash", (number,), None))
                self._trash.popleft()
        self._under_way = bool(found)
        return found

    def committed(self) -> None:
        """The last lot is on disk: the next may be asked for."""
        self._under_way = False
