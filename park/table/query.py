"""Queries on jobs: by owner, tag, state, text and time, fast among a hundred thousand.

A `JobIndex` keeps the numbers of the jobs of each owner, state and tag. `JobIndex.find` starts from the smallest of the
sets that a `Query` names, and reads only the records in it. The index must see every change of the table.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice

from msgspec import Struct

from park.model import ENDED, JobRecord, JobState
from park.table.table import AnyRecord

#: The states of jobs that have not ended.
ACTIVE = tuple(state for state in JobState if state not in ENDED)


class Query(Struct, frozen=True, gc=False):
    """The conditions on a job; a field with its default sets none.

    *owner* "*" matches every owner. *tags* must all be present. *word* is a state, a tag or a part of the name. *since*
    is the earliest time of submission, seconds since 1970. *newest* is the largest number of jobs to return (0: all).
    """

    owner: str = "*"
    states: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    word: str = ""
    since: float = 0.0
    newest: int = 0

    def matches(self, record: JobRecord) -> bool:
        """Whether *record* meets all conditions."""
        return (
            self.owner in ("*", record.owner)
            and (not self.states or record.state.value in self.states)
            and all(tag in record.tags for tag in self.tags)
            and (not self.word or self.word in (record.state.value, *record.tags) or self.word in record.name)
            and record.submitted >= self.since
        )


class JobIndex:
    """The numbers of jobs by owner, state and tag."""

    def __init__(self, records: Iterable[JobRecord] = ()) -> None:
        #: by ("owner", name), ("state", state) and ("tag", tag)
        self._jobs: dict[tuple[str, str], set[int]] = {}
        for record in records:
            self.change(None, record)

    def change(self, old: AnyRecord | None, new: AnyRecord | None) -> None:
        """Note that a record was added, changed or removed (None: no record). Only records of jobs count."""
        jobs = isinstance(old, JobRecord) and isinstance(new, JobRecord)
        if jobs and old.state is new.state and old.tags == new.tags:  # type: ignore[union-attr]
            return
        before, after = _keys(old), _keys(new)
        for key in after - before:
            self._jobs.setdefault(key, set()).add(new.job)  # type: ignore[union-attr]
        for key in before - after:
            self._jobs[key].discard(old.job)  # type: ignore[union-attr]
            if not self._jobs[key]:
                del self._jobs[key]

    def find(self, query: Query, records: Mapping[int, JobRecord]) -> list[int]:
        """The numbers of the *records* that match *query*, in ascending order."""
        narrow: list[set[int]] = [self._jobs.get(("tag", tag), set()) for tag in query.tags]
        if query.owner != "*":
            narrow.append(self._jobs.get(("owner", query.owner), set()))
        if query.states:
            narrow.append(set().union(*(self._jobs.get(("state", state), ()) for state in query.states)))
        candidates = sorted(min(narrow, key=len) if narrow else records)
        if not query.newest:
            return [number for number in candidates if query.matches(records[number])]
        newest = (number for number in reversed(candidates) if query.matches(records[number]))
        return list(islice(newest, query.newest))[::-1]


def _keys(record: AnyRecord | None) -> set[tuple[str, str]]:
    """The keys under which the index has a job."""
    if not isinstance(record, JobRecord):
        return set()
    return {("owner", record.owner), ("state", record.state.value), *(("tag", tag) for tag in record.tags)}
