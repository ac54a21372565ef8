"""Selectors: which jobs a command is for. ``12``, ``1-5``, ``1,4``, ``last``, ``all``, ``tag:x``, and several of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import click

from park.cli import complete

if TYPE_CHECKING:
    from park.core.server import ServerProxy
    from park.errors import UnknownJob
    from park.model import JobRecord

#: Jobs that one range may name; more is a slip of the finger.
MAX_RANGE_JOBS = 100_000

_PART = re.compile(r"\d{1,18}|\d{1,18}-\d{1,18}|all|last|tag:.+", re.DOTALL)


def check_selectors(
    _: click.Context, __: click.Parameter, given: str | tuple[str, ...]
) -> str | tuple[str, ...]:
    """The callback of what takes selectors: each is one, whatever it names."""
    for text in (given,) if isinstance(given, str) else given:
        for part in text.split(","):
            if not _PART.fullmatch(part.strip()):
                raise click.BadParameter(
                    f"{part!r} names no jobs: give numbers (12, 1-5, 1,4), last, all, or tag:NAME for those with a tag"
                )
    return given


selectors_argument: Callable[[Callable[..., None]], Callable[..., None]] = click.argument(
    "selectors",
    metavar="SEL...",
    nargs=-1,
    required=True,
    callback=check_selectors,
    shell_complete=complete.jobs,
)
one_argument: Callable[[Callable[..., None]], Callable[..., None]] = click.argument(
    "selector", metavar="SEL", callback=check_selectors, shell_complete=complete.jobs
)

#: A job's number, and whether it was named by it.
Chosen = tuple[int, bool]


def chosen(service: ServerProxy, selectors: Sequence[str], ended: bool | None = None) -> list[Chosen]:
    """The jobs of *service* that *selectors* name.

    Numbers name any job. The other words name the user's own jobs, those that have *ended* or those that have not;
    None: all.
    """
    if _are_numbers(selectors):
        return select(selectors, ())
    from park.model import ENDED
    from park.table.query import ACTIVE, Query

    states = {None: (), True: tuple(ENDED), False: ACTIVE}[ended]
    return select(selectors, service.records(Query(service.user, states)))


def chosen_to_follow(service: ServerProxy, selectors: Sequence[str]) -> list[Chosen]:
    """The jobs that *selectors* name for a command about their ends, whether or not these have come already.

    So the answer does not depend on the moment: ``last`` and tags name the user's ended jobs, too. ``all`` names those that
    have not ended, and there may be none.
    """
    if _are_numbers(selectors):
        return select(selectors, ())
    from park.table.query import Query

    return select(selectors, service.records(Query(service.user)), all_ended=False)


def _are_numbers(selectors: Sequence[str]) -> bool:
    return all(re.fullmatch(r"[\d,\s-]+", text) for text in selectors)


def records_of(service: ServerProxy, jobs: Iterable[Chosen]) -> Iterator[JobRecord]:
    """The records of *jobs*, one after the other. Numbers of a range that no job has are left out.

    Raises UnknownJob for a job that was named, and where none is left.
    """
    from park.errors import UnknownJob

    left_out: list[UnknownJob] = []
    some = False
    for job, named in jobs:
        try:
            record = service.status(job)
        except UnknownJob as error:
            if named:
                raise
            left_out.append(error)
            continue
        some = True
        yield record
    if left_out and not some:
        raise none_of(left_out)


def none_of(left_out: Sequence[UnknownJob]) -> UnknownJob:
    """The error for ranges of which no job is left, from the errors of all their jobs."""
    if len(left_out) == 1:
        return left_out[0]
    first = left_out[0].args[0]
    return type(left_out[0])(f"this can be done for none of these {len(left_out):,} jobs; the first: {first}")


def select(selectors: Sequence[str], records: Iterable[JobRecord], all_ended: bool = True) -> list[Chosen]:
    """The jobs that *selectors* name, in their order, each once. *records*: those from which words choose.

    Without *all_ended* the word ``all`` leaves ended jobs out, and may name none.

    Raises InvalidRequest for a range that is none, UnknownJob for a selector that names nothing.

    >>> select(["1,4", "3-5"], [])
    [(1, True), (4, True), (3, False), (5, False)]
    """
    found: dict[int, bool] = {}
    records = list(records)
    for text in selectors:
        for part in text.split(","):
            for job, named in _one(part.strip(), records, all_ended):
                found[job] = found.get(job, False) or named
    return list(found.items())


def _one(part: str, records: list[JobRecord], all_ended: bool) -> Iterable[Chosen]:
    from park.errors import InvalidRequest, UnknownJob

    if re.fullmatch(r"\d{1,18}", part):
        return [(int(part), True)]
    if bounds := re.fullmatch(r"(\d{1,18})-(\d{1,18})", part):
        low, high = int(bounds[1]), int(bounds[2])
        if low > high or high - low >= MAX_RANGE_JOBS:
            raise InvalidRequest(f"{part} is no range of jobs: write the smaller number first")
        return [(job, False) for job in range(low, high + 1)]
    match part.partition(":"):
        case ("all", "", _) if not all_ended:
            return [(r.job, False) for r in records if not r.state.ended]
        case ("all", "", _):
            named = [r.job for r in records]
        case ("last", "", _):
            named = [max(r.job for r in records)] if records else []
        case (_, _, tag):
            named = [r.job for r in records if tag in r.tags]
    if not named:
        raise UnknownJob(f"{part} names none of your jobs for which this can be done")
    return [(job, False) for job in named]
