"""What archived jobs are found by: owner, state, tags, name and time, in some thirty bytes of memory a job.

Their records lie in the store; here are columns, sorted by number. What many jobs share, such as an owner or a name, is
kept once, and a search looks first which of these match, then for the jobs that have them: a hundred thousand in some
hundredths of a second.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterator
from typing import Any

from park.search import Query

#: What a row refers to, and what it has itself: owner, state, tags, name; when it was submitted.
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
    """See the module."""

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
        """It was deleted."""
        at = bisect_left(self._jobs, job)
        if at < len(self._jobs) and self._jobs[at] == job:
            for name, column in self._columns.items():
                self._shared[name].drop(column.pop(at))
            self._jobs.pop(at)
            self._submitted.pop(at)

    def find(self, query: Query, below: int) -> Iterator[int]:
        """The jobs with numbers *below* that match, the newest first."""
        word = query.word
        must = [  # those that are asked for at all
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

    def _matching(self, name: str, matches: Callable[[Any], bool]) -> set[int]:
        return {number for number, value in self._shared[name].values.items() if matches(value)}
