"""What deleted jobs leave in the store goes bit by bit, so that no large deletion holds anything up.

A deletion itself is a few records: the job's own goes, and its number comes to the room "trash". Everything else of the
job is found under its number, and goes in transactions of a bounded number of records; when nothing is left, the number
leaves the trash. A broker that dies in between goes on with what lies in the trash.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from park.core.outcome import Write
from park.core.store import Store

#: Rooms whose keys begin with the number of a job, and that hold what is its own.
# fmt: off
OF_JOBS = (
    "submit", "units", "results", "attempt", "checkpoint", "spans", "log", "said", "stream", "file", "control",
)
# fmt: on
#: Records in one transaction.
MOST = 500


def leavings(store: Store, number: int, most: int) -> list[Write]:
    """What takes away records of a deleted job, *most* of them at a time."""
    found: list[Write] = []
    for room in OF_JOBS:
        found += [Write(room, key, None) for key in store.keys(room, (number,), most - len(found))]
    return found


class Sweeper:
    """Makes the writes; one lot of them is on disk before the next is asked for."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._trash: deque[int] = deque()
        self._under_way = False

    def add(self, jobs: Iterable[int]) -> None:
        """These jobs were deleted, and that is on disk."""
        self._trash.extend(jobs)

    @property
    def due(self) -> bool:
        """Whether `writes` has something to give."""
        return bool(self._trash) and not self._under_way

    def writes(self) -> list[Write]:
        """The next lot."""
        found: list[Write] = []
        while self._trash and len(found) < MOST:
            number = self._trash[0]
            found += leavings(self._store, number, MOST - len(found))
            if len(found) < MOST:
                found.append(Write("trash", (number,), None))
                self._trash.popleft()
        self._under_way = bool(found)
        return found

    def committed(self) -> None:
        """What was given last is on disk."""
        self._under_way = False
