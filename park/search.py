"""Finding jobs: by owner, tag, state, text and time, quickly among a hundred thousand.

An `Index` keeps, for each owner, state and tag, the numbers of the jobs that have it; `find` starts from the smallest of
the sets that a `Query` names and looks at those records only. It is told of every change of the table.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice

from msgspec import Struct

from park.model import ENDED, JobRecord, JobState
from park.table import AnyRecord

#: The states of jobs that have not ended.
ACTIVE = tuple(state for state in JobState if state not in ENDED)


class Query(Struct, frozen=True, gc=False):
    """Which jobs; what is left out does not matter.

    *owner* "*" is everybody. *tags* must all be there. *word* is a state, a tag or a part of the name. *since*: submitted
    at that time or later, seconds since 1970. *newest*: so many at most, 0 is all.
    """

    owner: str = "*"
    states: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    word: str = ""
    since: float = 0.0
    newest: int = 0

    def matches(self, record: JobRecord) -> bool:
        """Whether *record* is one of them."""
        return (
            self.owner in ("*", record.owner)
            and (not self.states or record.state.value in self.states)
            and all(tag in record.tags for tag in self.tags)
            and (not self.word or self.word in (record.state.value, *record.tags) or self.word in record.name)
            and record.submitted >= self.since
        )


class Index:
    """Which jobs have an owner, a state, a tag."""

    def __init__(self, records: Iterable[JobRecord] = ()) -> None:
        self._owners: dict[str, set[int]] = {}
        self._states: dict[str, set[int]] = {}
        self._tags: dict[str, set[int]] = {}
        for record in records:
            self.change(None, record)

    def change(self, old: AnyRecord | None, new: AnyRecord | None) -> None:
        """A record was added, changed or taken away (None: there is no such record). Only those of jobs count."""
        jobs = isinstance(old, JobRecord) and isinstance(new, JobRecord)
        if jobs and old.state is new.state and old.tags == new.tags:  # type: ignore[union-attr]
            return
        for record, add in ((old, False), (new, True)):
            if isinstance(record, JobRecord):
                self._put(self._owners, record.owner, record.job, add)
                self._put(self._states, record.state.value, record.job, add)
                for tag in record.tags:
                    self._put(self._tags, tag, record.job, add)

    @staticmethod
    def _put(sets: dict[str, set[int]], key: str, job: int, add: bool) -> None:
        if add:
            sets.setdefault(key, set()).add(job)
            return
        found = sets.get(key, set())
        found.discard(job)
        if not found:
            sets.pop(key, None)

    def find(self, query: Query, records: Mapping[int, JobRecord]) -> list[int]:
        """The numbers of the *records* that match *query*, in their order."""
        narrow: list[set[int]] = [self._tags.get(tag, set()) for tag in query.tags]
        if query.owner != "*":
            narrow.append(self._owners.get(query.owner, set()))
        if query.states:
            narrow.append(set().union(*(self._states.get(state, ()) for state in query.states)))
        candidates = sorted(min(narrow, key=len) if narrow else records)
        if not query.newest:
            return [number for number in candidates if query.matches(records[number])]
        newest = (number for number in reversed(candidates) if query.matches(records[number]))
        return list(islice(newest, query.newest))[::-1]
