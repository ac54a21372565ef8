"""Turns that wait for a full disk become one, which leads to the same records and the same table."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from park.broker.effects import Send, Write
from park.broker.turns import Turn, as_one, in_fewer
from park.model import Delta, JobState
from park.table.table import TRANSITIONS, Table
from park.wire import messages


class History:
    """Random changes that a broker may make of its table."""

    def __init__(self, draw: Any) -> None:
        self.draw = draw
        self.table = Table()
        self.deltas: list[Delta] = []

    def step(self) -> None:
        table = self.draw(st.sampled_from(["job", "kernel", "owner"]))
        key: Any = self.draw(st.integers(1, 3)) if table != "owner" else self.draw(st.sampled_from("ab"))
        getattr(self, table)(key)

    def do(self, table: str, key: Any, change: dict[str, Any] | None) -> None:
        self.table.apply(delta := Delta(table, key, change))
        self.deltas.append(delta)

    def job(self, key: int) -> None:
        row = self.table.jobs.get(key)
        number = self.draw(st.integers(0, 9))
        if row is None:
            self.do("job", key, {"job": key, "owner": "a", "state": JobState.QUEUED, "done": number})
        elif row.state.ended and number > 5:
            self.do("job", key, None)
        elif number > 5 and not row.state.ended:
            state = self.draw(st.sampled_from(sorted(TRANSITIONS[row.state])))
            self.do("job", key, {"state": state, "done": number})
        else:
            self.do("job", key, {self.draw(st.sampled_from(["done", "failed", "running"])): number})

    def kernel(self, key: int) -> None:
        if key not in self.table.kernels:
            self.do(
                "kernel",
                key,
                {
                    "kernel": key,
                    "host": self.draw(st.sampled_from("xy")),
                    "pid": 1,
                    "slots": 4,
                    "python": "3.11",
                },
            )
        elif self.draw(st.booleans()):
            self.do("kernel", key, None)
        else:
            self.do("kernel", key, {"busy": self.draw(st.integers(0, 4))})

    def owner(self, key: str) -> None:
        new = {"owner": key} if key not in self.table.owners else {}
        self.do(
            "owner",
            key,
            {**new, self.draw(st.sampled_from(["jobs", "credits"])): self.draw(st.integers(0, 9))},
        )


@given(st.data(), st.integers(0, 20), st.integers(0, 60))
def test_fewer_changes_lead_to_the_same_table_by_the_same_states(data: Any, before: int, after: int) -> None:
    history = History(data.draw)
    for _ in range(before):
        history.step()
    disk = Table.from_header(history.table.header(), 0)
    history.deltas.clear()
    for _ in range(after):
        history.step()
    fewer = in_fewer(history.deltas, disk.names())
    assert len(fewer) <= len(history.deltas)
    for delta in fewer:
        disk.apply(delta)
    assert not disk.changes(history.table)
    assert not history.table.changes(disk)

    def states(deltas: list[Delta], job: int) -> list[Any]:
        changes = [d.change for d in deltas if (d.table, d.key) == ("job", job)]
        return [
            None if change is None else change["state"]
            for change in changes
            if change is None or "state" in change
        ]

    for job in (1, 2, 3):
        assert states(fewer, job) == states(history.deltas, job)


writes = st.lists(
    st.builds(
        Write,
        st.sampled_from(["job", "results"]),
        st.tuples(st.integers(1, 3)),
        st.one_of(st.none(), st.binary(max_size=3)),
    ),
    max_size=6,
)


@given(st.lists(writes, min_size=1, max_size=8))
def test_the_last_write_of_a_record_counts_and_no_message_is_left_out(given_: list[list[Write]]) -> None:
    turns = []
    for number, some in enumerate(given_, 1):
        turn = Turn(number, float(number), writes=some, put=number if some else 0)
        turn.sends_after_commit = [Send(b"c", messages.Done(number))]
        turn.measure()
        turns.append(turn)
    wanted: dict[Any, Any] = {}
    for turn in turns:
        wanted |= {(w.namespace, w.key): w.value for w in turn.writes}
    one, replaced = as_one(turns, set())
    assert {(w.namespace, w.key): w.value for w in one.writes} == wanted
    assert len(one.writes) == len(wanted)
    assert len(replaced) + len(one.writes) == sum(len(some) for some in given_)
    assert [send.message for send in one.sends_after_commit] == [
        messages.Done(n + 1) for n in range(len(turns))
    ]
    assert (one.number, one.put) == (len(turns), max(turn.put for turn in turns))
    assert one.size <= sum(turn.size for turn in turns)
