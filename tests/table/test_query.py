"""Finding jobs: the index gives what looking at every record gives."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from park.broker.entities.archive import Catalogue
from park.cli.select import select
from park.cli.show.columns import COLUMNS, fields_of, lines, lines_of, parse
from park.cli.show.tables import ansi, fitted, flat, layout, width
from park.errors import InvalidRequest, UnknownJob
from park.model import JobRecord, JobState
from park.table.query import JobIndex, Query

RECORDS = st.builds(
    JobRecord,
    job=st.integers(1, 30),
    owner=st.sampled_from(["ann", "bob"]),
    name=st.sampled_from(["fit", "refit", "scan"]),
    tags=st.lists(st.sampled_from(["x", "y", "fit"]), unique=True).map(tuple),
    state=st.sampled_from(list(JobState)),
    submitted=st.floats(0, 10),
)
QUERIES = st.builds(
    Query,
    owner=st.sampled_from(["*", "ann", "bob", "cid"]),
    states=st.lists(st.sampled_from(list(JobState)), max_size=3, unique=True).map(tuple),
    tags=st.lists(st.sampled_from(["x", "y", "z"]), max_size=2, unique=True).map(tuple),
    word=st.sampled_from(["", "fit", "x", "running"]),
    since=st.sampled_from([0.0, 5.0]),
    newest=st.integers(0, 4),
)


@given(st.lists(st.tuples(RECORDS, st.booleans())), st.lists(QUERIES, min_size=1, max_size=5))
def test_whatever_happens_to_the_table_the_index_finds_what_a_search_finds(
    story: list[tuple[JobRecord, bool]], queries: list[Query]
) -> None:
    rows: dict[int, JobRecord] = {}
    index = JobIndex()
    for record, stays in story:
        old = rows.pop(record.job, None)
        if old is not None:
            record = replace(record, owner=old.owner)
        if stays:
            rows[record.job] = record
        index.change(old, record if stays else None)
    for query in queries:
        found = [number for number in sorted(rows) if query.matches(rows[number])]
        assert index.find(query, rows) == (found[-query.newest :] if query.newest else found)


@given(
    st.lists(RECORDS, unique_by=lambda r: r.job),
    st.lists(st.integers(1, 30), max_size=5),
    st.lists(QUERIES, min_size=1, max_size=5),
    st.integers(0, 31),
)
def test_the_catalogue_of_archived_jobs_finds_what_a_search_finds(
    records: list[JobRecord], gone: list[int], queries: list[Query], below: int
) -> None:
    catalogue = Catalogue()
    for record in records:
        catalogue.add(record.as_map())
    for number in gone:
        catalogue.remove(number)
    left = sorted((r for r in records if r.job not in gone), key=lambda r: -r.job)
    assert len(catalogue) == len(left)
    for query in queries:
        found = [r.job for r in left if query.matches(r) and r.job < below]
        assert list(catalogue.find(query, below)) == found
        assert catalogue.count(query, below) == len(found)
    assert catalogue.count(Query(), 99) == len(left)
    for record in left:
        catalogue.remove(record.job)
    assert not any(shared.values for shared in catalogue._shared.values())


def job(number: int, *tags: str) -> JobRecord:
    return JobRecord(number, "ann", tags=tags)


MINE = [job(3, "a"), job(7), job(9, "a", "b c")]


@pytest.mark.parametrize(
    ("selectors", "numbers"),
    [
        (["12"], [12]),
        (["1-3", "2"], [1, 2, 3]),
        (["4,1", "4"], [4, 1]),
        (["last"], [9]),
        (["all"], [3, 7, 9]),
        (["tag:a", "7"], [3, 9, 7]),
        (["tag:b c"], [9]),
    ],
)
def test_selectors(selectors: list[str], numbers: list[int]) -> None:
    assert [number for number, _ in select(selectors, MINE)] == numbers


def test_a_job_that_is_also_named_counts_as_named() -> None:
    assert select(["1-2", "2"], []) == [(1, False), (2, True)]


@pytest.mark.parametrize("selector", ["last", "all", "tag:none"])
def test_a_selector_that_names_nothing(selector: str) -> None:
    with pytest.raises(UnknownJob, match=f"{selector} names none of your jobs"):
        select([selector], [])


def test_words_name_jobs_also_when_these_have_just_ended() -> None:
    """`park wait last` says the same before and after the end of the job; `all` are those that go on."""
    ended = [replace(each, state=JobState.COMPLETE) for each in MINE]
    for selectors in (["last"], ["tag:a"], ["7"]):
        assert select(selectors, ended, all_ended=False) == select(selectors, MINE)
    assert select(["all"], [*ended[:2], MINE[2]], all_ended=False) == [(9, False)]
    assert select(["all"], ended, all_ended=False) == []
    with pytest.raises(UnknownJob):
        select(["last"], [], all_ended=False)


@pytest.mark.parametrize("selector", ["5-1", "1-200000"])
def test_no_range(selector: str) -> None:
    with pytest.raises(InvalidRequest, match="is no range of jobs"):
        select([selector], [])


def test_columns_are_named_and_all_can_be_shown() -> None:
    names = parse("job, State,REASON")
    assert names == ["job", "state", "reason"]
    assert lines_of([job(3), job(4)], names) == [("3", "queued", ""), ("4", "queued", "")]
    assert fields_of(["state", "done"]) == ["state", "done", "total", "progress"]
    assert lines([["queued", 3, 8, None]], ["state", "done"], short=True) == [("queued", "3/8")]
    assert lines([], names, short=True) == []
    (all_of_them,) = lines_of([job(3)], list(COLUMNS), short=False)
    assert len(all_of_them) == len(COLUMNS)
    with pytest.raises(InvalidRequest, match=r"there is no column 'what': choose from job, owner, name, "):
        parse("job,what")


def test_where_a_terminal_is_narrow_words_give_way_and_numbers_stay() -> None:
    heads = ["JOB", "NAME", "STATE", "REASON"]
    assert fitted(heads, [5, 40, 8, 90], 200) == [5, 40, 8, 90]
    assert fitted(heads, [5, 40, 8, 90], 120) == [5, 40, 8, 61]
    assert fitted(heads, [5, 40, 8, 90], 80) == [5, 30, 8, 31]
    assert fitted(heads, [5, 40, 8, 90], 48) == [5, 13, 8, 16]
    assert fitted(heads, [5, 40, 8, 90], 10) == [5, 12, 8, 16]


def test_wide_letters_and_those_that_steer_a_terminal_keep_the_columns() -> None:
    rows = [["1", "中性子散乱の長い名前", "failed"], ["2", "[red]\x1b[31m\u202e", "queued"]]
    for room in (None, 24, 10):
        shown = layout(["JOB", "NAME", "STATE"], rows, room)
        assert len({width(text) for text in ("".join(part for part, _ in line) for line in shown)}) == 1
    lines = [flat(line) for line in layout(["JOB", "NAME", "STATE"], rows, 25)]
    assert lines == ["JOB  NAME          STATE", "1    中性子散乱 …  failed", "2    [red]\\x1b[3…  queued"]
    assert ansi(layout(["STATE"], [["failed"]], None)[1]) == "\x1b[31mfailed\x1b[0m"
