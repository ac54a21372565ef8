"""Lists of jobs: a filter becomes a `Query`, and the rows that it finds come from the table and the archive."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from msgspec.structs import replace

from park.client.link import Link
from park.errors import InvalidRequest
from park.model import ENDED, JobState
from park.table.query import Query
from park.wire import codec, messages
from park.wire.messages import MAX_INT


def query_of(filter: Any, owner: str, since: datetime | float | None) -> Query:
    """The query for a *filter*: a state, a tag, a text, or a callable, which the caller applies. Raises InvalidRequest."""
    query = Query(owner, since=0.0 if since is None else time_ago(since))
    if isinstance(filter, JobState):
        return replace(query, states=(filter.value,))
    if isinstance(filter, str):
        return replace(query, word=filter)
    if filter is None or callable(filter):
        return query
    raise InvalidRequest(f"filter={filter!r} is neither a state, a tag, a text nor a callable")


def time_ago(since: Any) -> float:
    """Seconds since 1970 of a datetime, or of a time that lies *since* seconds back. Raises InvalidRequest."""
    if isinstance(since, datetime):
        return since.timestamp()
    if isinstance(since, int | float) and not isinstance(since, bool) and since >= 0:
        return time.time() - since
    raise InvalidRequest(f"since={since!r} is neither a datetime nor a number of seconds ago")


def find_rows(link: Link, query: Query, names: Sequence[str], archived: bool) -> list[list[Any]]:
    """The fields *names* of each job that *query* finds, by number; with *archived* those in the archive too."""
    found = {row[0]: row[1:] for row in _page(link, query, names)}
    if archived and (not query.states or ENDED.intersection(query.states)):
        below = MAX_INT
        while (not query.newest or len(found) < query.newest) and (page := _page(link, query, names, below)):
            found |= {row[0]: row[1:] for row in page if row[0] not in found}
            below = page[-1][0]
    return [row for _, row in sorted(found.items())][-query.newest :]


def archived_rows(link: Link, query: Query, names: Sequence[str], below: int = 0) -> list[list[Any]]:
    """The fields *names* of a page of jobs in the archive that *query* finds, the newest first: at most `query.newest`.

    *below*: only jobs with smaller numbers; 0: all.
    """
    return [row[1:] for row in _page(link, query, names, below or MAX_INT)]


def count_archived(link: Link, query: Query, below: int = 0) -> int:
    """The number of jobs in the archive that *query* finds. *below*: only jobs with smaller numbers; 0: all."""
    return int(_ask(link, query, [messages.COUNT], below or MAX_INT)[0][0])


def _page(link: Link, q: Query, names: Sequence[str], below: int = 0) -> list[list[Any]]:
    """One answer: the number of each job, then its fields. *below*: archived jobs with lower numbers; 0: the table."""
    return _ask(link, q, ["job", *names], below)


def _ask(link: Link, q: Query, shown: list[str], below: int) -> list[list[Any]]:
    """The rows of one answer."""
    tags, states = list(q.tags), list(q.states)
    _, data = link.ask(
        lambda n: messages.Status(n, 0, q.owner, states, tags, q.word, q.since, q.newest, shown, below)
    )
    found: list[list[Any]] = codec.unpack(data)
    return found
