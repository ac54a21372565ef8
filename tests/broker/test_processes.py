"""The broker's count of the slot processes of a kernel."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from park.broker.entities.processes import Processes
from park.model import IDLE_PROCESSES_PER_SLOT


def test_a_process_serves_its_owner_only() -> None:
    processes = Processes(slots=1)
    assert processes.begin("ann")
    processes.end("ann")
    assert processes.begin("bob")
    assert not processes.begin("ann")
    assert processes.begin("ann")


def test_the_next_free_slot_has_a_process_of_the_only_owner() -> None:
    processes = Processes(slots=2)
    assert not processes.has_next("ann")
    processes.begin("ann")
    processes.begin("ann")
    assert processes.has_next("ann")
    processes.end("ann")
    processes.begin("bob")
    assert processes.has_next("ann")  # it has an idle process
    processes.begin("ann")
    assert not processes.has_next("ann")  # bob's slot may be free first
    assert not processes.has_next("bob")


@given(st.integers(1, 3), st.lists(st.sampled_from("abcdefghij"), max_size=100))
def test_the_processes_used_last_stay(slots: int, used: list[str]) -> None:
    processes = Processes(slots)
    for owner in used:
        processes.begin(owner)
        processes.end(owner)
    last = list(dict.fromkeys(reversed(used)))[: IDLE_PROCESSES_PER_SLOT * slots]
    assert processes.idle == dict.fromkeys(last, 1)
    assert list(processes.idle) == last[::-1]
    assert not processes.working


@given(st.lists(st.tuples(st.booleans(), st.sampled_from("abc")), max_size=100))
def test_there_are_never_more_than_the_kernel_keeps(steps: list[tuple[bool, str]]) -> None:
    processes, working = Processes(slots=2), Counter[str]()
    for begins, owner in steps:
        had = processes.idle.get(owner, 0)
        if begins:
            working[owner] += 1
            assert processes.begin(owner) == (had == 0)
        elif working[owner]:
            working[owner] -= 1
            processes.end(owner)
            assert processes.idle[owner] >= 1
        assert processes.working == +working
        assert all(count > 0 for count in processes.idle.values())
        assert sum(processes.idle.values()) <= 2 * IDLE_PROCESSES_PER_SLOT


def test_the_start_of_a_process_is_a_mean_of_those_seen() -> None:
    processes = Processes(slots=1)
    for _ in range(50):
        processes.note_start(3.0)
    assert abs(processes.start_seconds - 3.0) < 0.01
