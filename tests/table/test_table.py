"""The public table: what may change, and that everybody who folds in the same deltas has the same table."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from park.errors import ProtocolError
from park.model import ENDED, Delta, JobRecord, JobState, KernelRecord, OwnerRecord
from park.table.table import TRANSITIONS, Table, pack_deltas, unpack_deltas
from park.wire.codec import pack


def new_job(number: int, **fields: Any) -> Delta:
    return Delta("job", number, JobRecord(number, "alice", **fields).as_map())


def table_of(*deltas: Delta) -> Table:
    table = Table()
    for delta in deltas:
        table.apply(delta)
    return table


KERNEL = KernelRecord(3, "node1", 99, slots=4)
FULL = (
    new_job(1, tags=("fit", "sans"), state=JobState.WAITING, after=(7, 8), when=1.5e9, total=None),
    new_job(2, name="free", progress=(1.0, 2.5)),
    Delta("job", 2, {"state": JobState.RUNNING, "running": 2, "started": 2.0}),
    Delta("kernel", 3, KERNEL.as_map()),
    Delta("owner", "alice", OwnerRecord("alice", jobs=2).as_map()),
)


def test_deltas_build_the_table() -> None:
    table = Table()
    waiting = JobRecord(1, "alice", state=JobState.WAITING)

    assert table.apply(Delta("job", 1, waiting.as_map())) == (None, waiting)
    old, new = table.apply(Delta("job", 1, {"state": "queued", "tags": ["a", "b"]}))
    assert old == waiting
    assert new == JobRecord(1, "alice", state=JobState.QUEUED, tags=("a", "b"))
    assert table.apply(Delta("kernel", 3, KERNEL.as_map())) == (None, KERNEL)
    assert table.apply(Delta("kernel", 3, None)) == (KERNEL, None)

    assert dict(table.jobs) == {1: new}
    assert not table.kernels
    assert table.seq == 4
    assert repr(table) == "<Table at 4: 1 jobs, 0 kernels>"


def test_every_state_follows_exactly_the_states_of_the_transitions() -> None:
    assert set(TRANSITIONS) == {None, *JobState}
    for before, allowed in TRANSITIONS.items():
        for after in JobState:
            table = Table()
            if before is not None:
                table = Table.from_header(pack([["job", 1, {"owner": "a", "state": before}]]), 5)
            change = {"state": after} if before else JobRecord(1, "a", state=after).as_map()
            if after in allowed or after is before:
                assert table.apply(Delta("job", 1, change))[1] == JobRecord(1, "a", state=after)
            else:
                with pytest.raises(
                    ProtocolError, match=f"job 1 is {before or 'new'} and cannot become {after}"
                ):
                    table.apply(Delta("job", 1, change))


def test_only_jobs_that_ended_can_go() -> None:
    for state in JobState:
        table = Table.from_header(pack([["job", 1, {"owner": "a", "state": state}]]), 5)
        if state in ENDED:
            table.apply(Delta("job", 1, None))
            assert (dict(table.jobs), table.seq) == ({}, 6)
        else:
            with pytest.raises(ProtocolError, match="before it has ended"):
                table.apply(Delta("job", 1, None))


@pytest.mark.parametrize(
    ("delta", "says"),
    [
        (Delta("jobs", 2, {}), "no table 'jobs'"),
        (Delta("job", 2, {"colour": "red"}), "no field 'colour'"),
        (Delta("job", 2, {"done": "many"}), "done of job 2 cannot be 'many'"),
        (Delta("job", 2, {"tags": None}), "tags of job 2"),
        (Delta("job", 2, {"state": "lost"}), "lost"),
        (Delta("job", 2, {"job": 4}), "job 2 cannot become 4"),
        (Delta("job", "2", {"done": 1}), "no change in the table of jobs"),
        (Delta("job", 5, {"done": 1}), "job 5 cannot be"),
        (Delta("job", 5, None), "no job 5"),
        (Delta("kernel", 9, None), "no kernel 9"),
        (Delta("owner", 5, {"jobs": 1}), "no change in the table of owners"),
        (Delta("job", 2, ["done"]), "no change"),  # type: ignore[arg-type]
    ],
)
def test_a_delta_that_no_right_broker_makes_is_refused_and_changes_nothing(delta: Delta, says: str) -> None:
    table = table_of(*FULL)

    with pytest.raises(ProtocolError, match=says):
        table.apply(delta)

    assert table == table_of(*FULL)


def test_the_rows_are_for_reading() -> None:
    table = table_of(*FULL)

    with pytest.raises(TypeError):
        table.jobs[5] = table.jobs[1]  # type: ignore[index]
    assert 5 not in table.jobs
    assert table.jobs.get(5) is None
    assert list(table.owners) == ["alice"]
    assert repr(table.jobs) == "<Rows 1, 2>"


def test_iterating_sees_one_moment() -> None:
    table = table_of(*FULL)
    seen = []

    for number, record in table.jobs.items():
        table.apply(new_job(number + 10))
        seen.append(record)
    for record in table.jobs.values():
        table.apply(new_job(record.job + 100))
    for number in table.jobs:
        table.apply(new_job(number + 1000))

    assert [record.job for record in seen] == [1, 2]
    assert len(table.jobs) == 16


def test_a_header_holds_the_whole_table() -> None:
    table = table_of(*FULL)

    again = Table.from_header(table.header(), table.seq)

    assert again == table
    assert again.jobs[1].after == (7, 8)
    assert again.jobs[2].state is JobState.RUNNING


def test_deltas_come_back_from_their_payload() -> None:
    changed = unpack_deltas(pack_deltas(FULL))

    assert [(delta.table, delta.key) for delta in changed] == [(delta.table, delta.key) for delta in FULL]
    assert table_of(*changed) == table_of(*FULL)
    assert unpack_deltas(pack_deltas([])) == []


def test_changes_tell_what_differs() -> None:
    before = table_of(*FULL)
    after = table_of(*FULL, Delta("job", 1, {"state": "aborted"}), Delta("kernel", 3, None), new_job(4))

    assert before.changes(after) == [
        (before.jobs[1], after.jobs[1]),
        (None, after.jobs[4]),
        (KERNEL, None),
    ]
    assert after.changes(after) == []


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=3) | st.binary(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
names = st.sampled_from(["job", "kernel", "owner", "state", "tags", "done", "colour"])
rows = st.lists(st.sampled_from(["job", "owner", "x"]) | plain, max_size=1).flatmap(
    lambda head: st.tuples(*map(st.just, head), plain, st.dictionaries(names, plain, max_size=3) | plain)
)


@given(st.binary(max_size=40) | st.lists(rows, max_size=3).map(pack) | plain.map(pack))
def test_a_hostile_payload_raises_protocol_errors_only(payload: bytes) -> None:
    try:
        Table.from_header(payload, 1)
    except ProtocolError:
        pass
    try:
        for delta in unpack_deltas(payload):
            table_of(*FULL).apply(delta)
    except ProtocolError:
        pass
