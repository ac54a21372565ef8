"""The index of archived jobs: owner, state, tags, name and time, in some thirty bytes of memory a job.

The records themselves lie in the store; the index has columns, sorted by number. The index keeps a value that many jobs
share, such as an owner or a name, only once. A search first finds the values that match, then the jobs that have them:
among a hundred thousand jobs in some hundredths of a second.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from park.table.query import Query


class RetentionPolicy(Struct, frozen=True):
    """The retention of ended jobs: *age* in seconds, *size* in bytes of all of them together; None: for ever.

    *jobs*: the number of ended jobs in memory; older ones are archived.
    """

    age: float | None = None
    size: int | None = None
    jobs: int = 10_000


class Archive:
    """The archived jobs, the one that ended first at first: their numbers, when they ended, and their bytes."""

    def __init__(self) -> None:
        self._numbers, self._clocks, self._sizes = array("q"), array("d"), array("q")
        self._start = 0
        #: deleted jobs that still have a row
        self._gone: set[int] = set()

    def __len__(self) -> int:
        return len(self._numbers) - self._start - len(self._gone)

    def __iter__(self) -> Iterator[tuple[int, float, int]]:
        """Number, clock and size of each job. The index must not change meanwhile."""
        while self._start < len(self._numbers) and self._numbers[self._start] in self._gone:
            self._gone.discard(self._numbers[self._start])
            self._step()
        for i in range(self._start, len(self._numbers)):
            if self._numbers[i] not in self._gone:
                yield self._numbers[i], self._clocks[i], self._sizes[i]

    def add(self, number: int, clock: float, size: int) -> None:
        # nearly always at the end; only a job that was needed for long is archived after younger ones
        at = bisect_right(self._clocks, clock, self._start)
        self._numbers.insert(at, number)
        self._clocks.insert(at, clock)
        self._sizes.insert(at, size)

    def remove(self, number: int) -> None:
        """Remove a deleted job, anywhere in the order."""
        self._gone.add(number)
        if len(self._gone) > 1024 and 2 * len(self._gone) > len(self._numbers) - self._start:
            left = list(self)
            self._numbers, self._clocks, self._sizes = array("q"), array("d"), array("q")
            self._start = 0
            self._gone.clear()
            for one in left:
                self.add(*one)

    def last(self) -> list[tuple[int, float, int]]:
        """The last one, if there is one."""
        return [(self._numbers[-1], self._clocks[-1], self._sizes[-1])] if self._numbers else []

    def _step(self) -> None:
        self._start += 1
        if self._start > 1024 and 2 * self._start > len(self._numbers):
            for column in (self._numbers, self._clocks, self._sizes):
                del column[: self._start]
            self._start = 0


#: Columns with shared values; each row also has its own time of submission.
_SHARED = ("owner", "state", "tags", "name")


class _Shared:
    """Values of one column, each once, by number; how many rows have each."""

    def __init__(self) -> None:
        self._numbers: dict[Any, int] = {}
        self.values: dict[int, Any] = {}
        self._counts: dict[int, int] = {}
        self._next = 0

    def put(self, value: Any) -> int:
        number = self._numbers.get(value)
        if number is None:
            self._next += 1
            number = self._numbers[value] = self._next
            self.values[number] = value
            self._counts[number] = 0
        self._counts[number] += 1
        return number

    def drop(self, number: int) -> None:
        self._counts[number] -= 1
        if not self._counts[number]:
            del self._counts[number], self._numbers[self.values.pop(number)]


class Catalogue:
    """The index of archived jobs, as the module explains it."""

    def __init__(self) -> None:
        self._jobs = array("q")
        self._submitted = array("d")
        self._columns = {name: array("Q") for name in _SHARED}
        self._shared = {name: _Shared() for name in _SHARED}

    def __len__(self) -> int:
        return len(self._jobs)

    def __repr__(self) -> str:
        return f"<Catalogue of {len(self)} jobs>"

    def add(self, record: dict[str, Any]) -> None:
        """A job that is in the archive now: its record, as a map."""
        at = bisect_left(self._jobs, record["job"])  # nearly always at the end
        self._jobs.insert(at, record["job"])
        self._submitted.insert(at, record["submitted"])
        for name in _SHARED:
            value = record[name]
            self._columns[name].insert(at, self._shared[name].put(tuple(value) if name == "tags" else value))

    def remove(self, job: int) -> None:
        """Remove a deleted job."""
        at = bisect_left(self._jobs, job)
        if at < len(self._jobs) and self._jobs[at] == job:
            for name, column in self._columns.items():
                self._shared[name].drop(column.pop(at))
            self._jobs.pop(at)
            self._submitted.pop(at)

    def find(self, query: Query, below: int) -> Iterator[int]:
        """The jobs with numbers *below* that match, the newest first."""
        word = query.word
        must = [  # the columns that the query names
            (self._columns[name], self._matching(name, matches))
            for name, asked, matches in (
                ("owner", query.owner != "*", lambda owner: owner == query.owner),
                ("state", query.states, lambda state: state in query.states),
                ("tags", query.tags, lambda tags: all(tag in tags for tag in query.tags)),
            )
            if asked
        ]
        may = [
            (self._columns[name], self._matching(name, matches))
            for name, matches in (
                ("state", lambda state: state == word),
                ("tags", lambda tags: word in tags),
                ("name", lambda name: word in name),
            )
            if word
        ]
        for i in range(bisect_left(self._jobs, below) - 1, -1, -1):
            if (
                all(column[i] in found for column, found in must)
                and (not may or any(column[i] in found for column, found in may))
                and self._submitted[i] >= query.since
            ):
                yield self._jobs[i]

    def count(self, query: Query, below: int) -> int:
        """The number of jobs that `find` finds."""
        if replace(query, newest=0) == Query() and below > max(self._jobs[-1:], default=0):
            return len(self)
        return sum(1 for _ in self.find(query, below))

    def _matching(self, name: str, matches: Callable[[Any], bool]) -> set[int]:
        return {number for number, value in self._shared[name].values.items() if matches(value)}
