"""One page of the table of jobs: filtered, sorted and cut here, so ten thousand jobs cost a browser no more than ten."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from msgspec import Struct

from park.errors import InvalidRequest
from park.model import JobRecord, JobState
from park.table.query import Query
from park.text import visible

#: Jobs on one page.
PAGE_ROWS = 50
#: The most tags and owners that a filter offers: those with the most jobs.
MAX_CHOICES = 50

#: The order of states in a sorted table: the liveliest first.
_STATES = {
    state: n
    for n, state in enumerate(
        (
            JobState.RUNNING,
            JobState.QUEUED,
            JobState.WAITING,
            JobState.PAUSED,
            JobState.FAILED,
            JobState.ABORTED,
            JobState.COMPLETE,
        )
    )
}
#: The value that a column sorts by.
SORTS: dict[str, Callable[[JobRecord], Any]] = {
    "job": lambda r: r.job,
    "name": lambda r: r.name.lower(),
    "owner": lambda r: r.owner.lower(),
    "state": lambda r: _STATES[r.state],
    "priority": lambda r: r.priority,
    "progress": lambda r: r.how_far.fraction,
    "slots": lambda r: r.running,
    "age": lambda r: -r.submitted,
}


class View(Struct, frozen=True):
    """A table as its address describes it. *text* is a part of the name, a tag or the number; *page* counts from 1.

    *sort* is a column of `SORTS`, after a minus sign for the other direction.
    """

    text: str = ""
    tag: str = ""
    owner: str = ""
    states: frozenset[JobState] = frozenset()
    sort: str = "-job"
    page: int = 1

    @classmethod
    def of(cls, query: Mapping[str, str]) -> View:
        """The view that a query string names. Raises InvalidRequest in words."""
        states = [state for state in query.get("state", "").split(",") if state]
        if unknown := sorted(set(states).difference(list(JobState))):
            raise InvalidRequest(f"there is no state {unknown[0]!r:.40}: choose from {', '.join(JobState)}")
        sort = query.get("sort") or "-job"
        if sort.removeprefix("-") not in SORTS:
            raise InvalidRequest(f"nothing sorts by {sort!r:.40}: choose from {', '.join(SORTS)}")
        page = query.get("page") or "1"
        if not (page.isascii() and page.isdigit() and 1 <= int(page[:9]) <= 10**8):
            raise InvalidRequest(f"{page!r:.40} is no number of a page: they count from 1")
        return cls(
            query.get("text", "")[:200].strip().lower(),
            query.get("tag", "")[:1000],
            query.get("owner", "")[:1000],
            frozenset(JobState(state) for state in states),
            sort,
            int(page),
        )

    def has(self, record: JobRecord) -> bool:
        """Whether *record* passes all filters but that of states."""
        if self.owner and self.owner not in (record.owner, visible(record.owner)):
            return False
        if self.tag and self.tag not in record.tags and self.tag not in map(visible, record.tags):
            return False
        return not self.text or self._reads(record)

    def _reads(self, record: JobRecord) -> bool:
        text = self.text
        return (
            text in record.name.lower()
            or text == str(record.job)
            or text in record.owner.lower()
            or any(text in tag.lower() for tag in record.tags)
        )


class ArchiveView(Struct, frozen=True):
    """A page of the archive as its address describes it: the jobs with numbers *below*, the newest first; 0: all.

    *number*: the text is the number of a job, which comes first; 0: it is none.
    """

    query: Query
    number: int
    below: int

    @classmethod
    def of(cls, query: Mapping[str, str]) -> ArchiveView:
        """The page that a query string names. Raises InvalidRequest in words."""
        view = View.of({name: value for name, value in query.items() if name not in ("sort", "page")})
        below = query.get("below") or "0"
        if not (below.isascii() and below.isdigit() and len(below) < 16):
            raise InvalidRequest(f"{below!r:.40} is no number of a job")
        word = query.get("text", "")[:200].strip()
        number = int(word) if word.isascii() and word.isdigit() and len(word) < 16 else 0
        tags = (view.tag,) if view.tag else ()
        states = tuple(state.value for state in view.states)
        asked = Query(view.owner or "*", states, tags, word, newest=PAGE_ROWS + 1)
        return cls(asked, number, int(below))


class Page(Struct, frozen=True):
    """The *records* of one page, of *total* that the view holds; *states* counts those of each state, *pages* the pages."""

    records: list[JobRecord]
    total: int
    page: int
    pages: int
    states: dict[str, int]


class ArchivePage(Struct, frozen=True):
    """The *records* of a page of the archive. *total*: the jobs that its view finds; *first*: the place of the first record
    among them, from 1.
    """

    records: list[JobRecord]
    total: int
    first: int


def page_of(view: View, records: Iterable[JobRecord]) -> Page:
    """The page of *records* that *view* names; the last one where there are fewer pages."""
    passing = [r for r in records if view.has(r)] if view.owner or view.tag or view.text else list(records)
    counts = Counter(r.state for r in passing)
    chosen = [r for r in passing if r.state in view.states] if view.states else passing
    descending = view.sort.startswith("-")
    key = SORTS[view.sort.removeprefix("-")]
    chosen.sort(key=SORTS["job"], reverse=True)
    if key is not SORTS["job"]:
        chosen.sort(key=key, reverse=descending)
    elif not descending:
        chosen.reverse()
    pages = max(1, -(-len(chosen) // PAGE_ROWS))
    page = min(view.page, pages)
    return Page(
        chosen[(page - 1) * PAGE_ROWS : page * PAGE_ROWS],
        len(chosen),
        page,
        pages,
        {state.value: counts[state] for state in JobState},
    )


def choices(records: Iterable[JobRecord]) -> dict[str, list[str]]:
    """The owners and the tags of most jobs, for the lists beside the filters."""
    owners: Counter[str] = Counter()
    tags: Counter[str] = Counter()
    for record in records:
        owners[record.owner] += 1
        tags.update(record.tags)
    return {
        "owners": sorted(visible(name) for name, _ in owners.most_common(MAX_CHOICES)),
        "tags": sorted(visible(name) for name, _ in tags.most_common(MAX_CHOICES)),
    }
