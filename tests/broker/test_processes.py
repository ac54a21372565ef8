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
    assert list(processes.ready) == last[::-1]
    assert not processes.working


STEPS = ("begin", "go on", "end", "wait", "found", "gone")


@given(st.lists(st.tuples(st.sampled_from(STEPS), st.sampled_from("abc")), max_size=100))
def test_each_process_is_counted_once(steps: list[tuple[str, str]]) -> None:
    processes = Processes(slots=100)  # none ends
    working, resting = Counter[str](), Counter[str]()
    for step, owner in steps:
        if step in ("begin", "go on"):
            assert processes.begin(owner, goes_on=step == "go on") == (not resting[owner])
            working[owner] += 1
            resting[owner] -= bool(resting[owner])
        elif step in ("end", "wait") and working[owner]:
            processes.end(owner, waits=step == "wait")
            working[owner] -= 1
            resting[owner] += 1
        elif step == "found":
            processes.found_waiting(owner)
            resting[owner] += 1
        elif step == "gone":
            before = sum(processes._waiting.values())
            processes.waits_no_more(owner)
            resting[owner] -= before - sum(processes._waiting.values())
        assert processes.working == +working
        assert set(processes.ready) == set(+resting)
        assert processes._idle_count == sum(processes._idle.values())


@given(st.lists(st.tuples(st.booleans(), st.sampled_from("abcdef")), max_size=100))
def test_no_more_are_idle_than_the_kernel_keeps_and_waiting_ones_stay(steps: list[tuple[bool, str]]) -> None:
    processes = Processes(slots=1)
    processes.begin("driver")
    processes.end("driver", waits=True)
    for waits, owner in steps:
        processes.begin(owner)
        processes.end(owner, waits=waits and owner == "a")
        assert "driver" in processes.ready
        assert sum(processes._idle.values()) <= IDLE_PROCESSES_PER_SLOT


def test_the_start_of_a_process_is_a_mean_of_those_that_were_started() -> None:
    processes = Processes(slots=1)
    for _ in range(50):
        processes.note_start(3.0)
        processes.note_start(0.01)  # there was a process
    assert abs(processes.start_seconds - 3.0) < 0.01
