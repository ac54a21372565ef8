"""The kernel's machine alone: which process gets what, and what becomes of it."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest

from park.kernel import codes, kept, process
from park.kernel.actions import Action, Interrupt, Kill, Let, Start, ToBroker, ToSlot
from park.kernel.lifecycle import Lifecycle
from park.kernel.pool import MOST_CLEANING
from park.kernel.process import ProcessState
from park.kernel.shelf import Shelf
from park.kernel.term import GRACE, Term
from park.kernel.unheard import MOST
from park.wire import messages
from park.wire.pack import Pack
from tests.sim.functions import blob, code, units
from tests.sim.wire import carried

A, B = b"a" * 16, b"b" * 16


class Bench:
    """A lifecycle whose broker and processes are the test."""

    def __init__(self, slots: int = 1) -> None:
        self.life = Lifecycle(slots)
        self.started = self.life.begin()
        self.broker(messages.Welcome("store", 1, 2.0, 20.0))
        self.broker(messages.Blob(code("square")), blob("square"))

    def broker(self, message: messages.Message, payload: Any = b"", now: float = 0.0) -> list[Action]:
        return self._checked(self.life.broker(*carried(message, payload), now))

    def slot(
        self, process: int, message: messages.Message, payload: Any = b"", live: bool = True
    ) -> list[Action]:
        return self._checked(self.life.slot(process, *carried(message, payload), live))

    def exited(self, process: int, cause: str = "signal 11") -> list[Action]:
        return self._checked(self.life.exited(process, cause, "last words"))

    def _checked(self, actions: list[Action]) -> list[Action]:
        self.life.check()
        return actions

    def run(self, attempt: int, map: bytes = A, **fields: Any) -> list[Action]:
        values = {"job": 1, "owner": "ann", "function": code("square"), "start": 0, "count": 1, "seed": 0}
        return self.broker(messages.Run(attempt=attempt, map=map, **(values | fields)), units([1]))

    def call(self, process: int, attempt: int, map: bytes = B, count: int = 3) -> list[Action]:
        return self.slot(
            process, messages.Map(map, 1, code("square"), count, attempt=attempt), units([0] * count)
        )

    def done(self, process: int, attempt: int, map: bytes = A, ended: str = "") -> list[Action]:
        return self.slot(process, messages.Finished(attempt, map, 0, 0, 0.0, ended=ended))


def place(actions: list[Action]) -> int:
    """The process that got a Run."""
    (process,) = [a.process for a in actions if isinstance(a, ToSlot) and isinstance(a.message, messages.Run)]
    return process


def told(actions: list[Action], kind: type[Any]) -> list[Any]:
    return [a.message for a in actions if isinstance(a, ToBroker | ToSlot) and isinstance(a.message, kind)]


def test_a_kernel_starts_a_process_a_slot() -> None:
    assert Bench(3).started == [Start(1, 1), Start(2, 1), Start(3, 1)]


def test_code_goes_once_to_each_process() -> None:
    bench = Bench()
    assert len(told(bench.run(1), messages.Blob)) == 1
    bench.done(1, 1)
    assert told(bench.run(2), messages.Blob) == []


def test_work_whose_code_is_missing_is_given_back() -> None:
    bench = Bench()
    actions = bench.run(1, function=code("driver"))
    need, back = actions
    assert need == ToBroker(messages.NeedBlob(code("driver")))
    assert isinstance(back, ToBroker)
    assert isinstance(back.message, messages.Finished)
    assert (back.message.attempt, back.message.count, back.message.ended) == (1, 0, "lost")
    assert not bench.life.attempts


def test_the_process_that_has_the_job_prepared_is_preferred() -> None:
    bench = Bench(2)
    assert place(bench.run(1, job=1)) == 1
    assert place(bench.run(2, job=2)) == 2
    bench.done(1, 1)
    bench.done(2, 2)
    assert place(bench.run(3, job=2)) == 2


def test_no_process_serves_two_owners_or_other_thread_limits() -> None:
    bench = Bench()
    bench.run(1)
    bench.done(1, 1)
    actions = bench.run(2, owner="bob")
    assert [a for a in actions if isinstance(a, Let | Start)] == [Start(2, 1)]
    bench.done(2, 2)
    assert Start(3, 4) in bench.run(3, owner="bob", cpus=4)


def test_a_spare_process_is_there_for_the_next_owner() -> None:
    bench = Bench()
    bench.life.pool.spare = True
    assert Start(2, 1) in bench.run(1, owner="ann")
    bench.done(1, 1)
    assert not any(isinstance(a, Start) for a in bench.run(2, owner="ann"))
    bench.done(1, 2)
    started = bench.run(3, owner="bob")
    assert place(started) == 2
    assert Start(3, 1) in started
    bench.done(2, 3)
    assert bench.life.processes[3].blank


def test_idle_processes_of_several_owners_are_kept_up_to_a_limit() -> None:
    bench = Bench()
    owners = ["ann", "bob", "cid", "dan", "eva"]
    for n, owner in enumerate(owners, 1):
        started = bench.run(n, owner=owner, job=n)
        assert any(isinstance(a, Start) for a in started) == (n > 1)
        bench.done(n, n)
    # ann's was used longest ago, and had to go; the others are used again
    assert [p.owner for p in bench.life.processes.values() if p.state == "idle"] == owners[1:]
    assert not any(isinstance(a, Start) for a in bench.run(9, owner="bob", job=2))


def test_a_chunk_runs_inside_the_driver_that_waits_for_it_unless_it_has_killed() -> None:
    bench = Bench()
    bench.run(1, once=True)
    bench.call(1, 1)
    assert place(bench.run(2, map=B)) == 1
    assert place(bench.run(3, map=B)) != 1  # the driver's process is busy with the first
    bench.done(1, 2, B)
    assert place(bench.run(4, map=B, apart=True)) != 1
    assert place(bench.run(5, map=A)) != 1


def test_idle_processes_beyond_the_slots_are_let_go() -> None:
    bench = Bench()
    bench.run(1, once=True)
    bench.call(1, 1)
    bench.run(2, map=B)
    other = place(bench.run(3, map=B))
    bench.done(1, 2, B)
    actions = bench.done(other, 3, B)
    assert not [a for a in actions if isinstance(a, Let)]  # it may be wanted again
    bench.broker(messages.Results(0, 3, map=B, attempt=1, resume=True), units([1, 2, 3]))
    actions = bench.done(1, 1)
    assert [a for a in actions if isinstance(a, Let)]
    assert sum(p.state is ProcessState.IDLE for p in bench.life.processes.values()) == 1


def test_an_abort_interrupts_and_then_kills() -> None:
    bench = Bench()
    bench.run(1)
    actions = bench.broker(messages.Abort(attempt=1), now=5.0)
    assert Interrupt(1) in actions
    assert told(actions, messages.Abort) == [messages.Abort(attempt=1)]
    assert bench.life.deadline() == 5.0 + GRACE
    assert bench.life.tick(5.0 + GRACE - 0.1) == []
    assert bench.life.tick(5.0 + GRACE) == [Kill(1)]
    assert bench.life.tick(9.0) == []
    # what was to be aborted is aborted, not crashed
    (ended,) = told(bench.exited(1, "signal 9"), messages.Finished)
    assert (ended.attempt, ended.ended) == (1, "abort")
    assert bench.broker(messages.Abort(attempt=1)) == []


def test_a_process_that_was_aborted_is_replaced() -> None:
    bench = Bench()
    bench.run(1)
    bench.broker(messages.Abort(attempt=1))
    assert Let(1) in bench.done(1, 1, ended="abort")
    assert bench.life.deadline() is None
    assert place(bench.run(2)) == 2


def test_a_death_names_all_attempts_the_innermost_last() -> None:
    bench = Bench()
    bench.run(1, once=True)
    bench.call(1, 1)
    bench.run(2, map=B)
    (crashed,) = told(bench.exited(1), messages.Crashed)
    assert crashed == messages.Crashed([1, 2], "signal 11", "last words", 1)
    assert not bench.life.attempts
    # an idle one dies unnoticed
    process = place(bench.run(3))
    bench.done(process, 3)
    assert bench.exited(process) == []


def test_results_are_passed_on_once_and_a_driver_goes_on_when_all_are_there() -> None:
    bench = Bench()
    bench.run(1, once=True)
    bench.call(1, 1)
    first = messages.Results(0, 2, map=B, attempt=1)
    assert told(bench.broker(first, units([1, 2])), messages.Results) == [first]
    # a new connection: the map is asked again, with all its units
    (again,) = told(bench.broker(messages.Welcome("store", 1, 2.0, 20.0, fresh=False)), messages.Map)
    assert (again.map, again.count) == (B, 3)
    # a Resume that was under way does not let it go on
    assert bench.broker(messages.Resume(1)) == []
    # unit 1 comes again, with what is new
    (action,) = bench.broker(messages.Results(1, 2, map=B, attempt=1, resume=True), units([2, 3]))[:1]
    assert isinstance(action, ToSlot)
    assert isinstance(action.message, messages.Results)
    assert (action.message.start, action.message.count) == (2, 1)
    assert Pack(action.payload).count == 1
    assert bench.life.processes[1].width == 1
    # of another map, or of no attempt: dropped
    assert bench.broker(messages.Results(0, 1, map=A, attempt=1), units([1])) == []
    assert bench.broker(messages.Results(0, 1, map=B, attempt=9), units([1])) == []


def test_a_fetch_is_asked_again_over_a_new_connection() -> None:
    bench = Bench()
    bench.run(1, once=True)
    fetch = messages.Fetch(7, 3, attempt=1)
    assert bench.slot(1, fetch) == [ToBroker(fetch)]
    assert bench.broker(messages.Welcome("store", 1, 2.0, 20.0, fresh=False)) == [ToBroker(fetch)]
    bench.broker(messages.Fetched(7, {}, attempt=1))
    assert bench.broker(messages.Welcome("store", 1, 2.0, 20.0, fresh=False)) == []


def test_code_of_a_driver_s_function_is_told_once_a_broker() -> None:
    bench = Bench()
    bench.run(1, once=True)
    assert bench.slot(1, messages.Blob(code("driver")), blob("driver")) == []
    call = messages.Map(B, 1, code("driver"), 1, attempt=1)
    assert [type(m) for m in told(bench.slot(1, call, units([1])), messages.Message)] == [
        messages.Blob,
        messages.Map,
    ]
    # the broker lacks it: code and map come again
    actions = bench.broker(messages.NeedBlob(code("driver")))
    assert [type(m) for m in told(actions, messages.Message)] == [messages.Blob, messages.Map]
    bench.done(1, 1)
    # another life of the broker: processes stay, and their code is told anew
    bench.broker(messages.Welcome("store", 2, 2.0, 20.0))
    process = place(bench.run(2, once=True, job=2))
    call = messages.Map(A, 2, code("driver"), 1, attempt=2)
    assert told(bench.slot(process, call, units([1])), messages.Blob) == [messages.Blob(code("driver"))]


def test_an_answer_is_given_again_and_one_that_is_not_kept_runs_again() -> None:
    bench = Bench(2)
    bench.run(1, stored=True)
    first = told(bench.done(1, 1), messages.Finished)
    assert first
    assert told(bench.broker(messages.Again(1)), messages.Finished) == first
    (answer,) = told(bench.broker(messages.Again(3)), messages.Finished)
    assert (answer.attempt, answer.count, answer.ended) == (3, 0, "broken")


def test_a_broker_of_another_life_hears_what_is_held_and_answered() -> None:
    bench = Bench(2)
    bench.run(1)
    assert bench.broker(messages.Welcome("store", 1, 2.0, 20.0, fresh=False)) == []
    bench.run(2, job=2, stored=True)
    bench.done(2, 2)
    assert bench.life.holds == [1, 2]
    assert [entry[5] for entry in bench.life.held()] == ["runs", "done"]
    actions = bench.broker(messages.Welcome("store", 2, 2.0, 20.0, fresh=True))
    assert Let(2) in actions  # nobody would tell it to clean up
    assert [m.attempt for m in told(actions, messages.Finished)] == [2]
    # what runs goes on; its process is replaced when it is done, because earlier jobs may have ended
    assert Let(1) in bench.done(1, 1)
    bench.broker(messages.Committed([2]))
    assert bench.life.holds == [1]  # nobody stores the answer of 1: it is kept for a while
    bench.life.tick(1000.0)
    assert bench.life.holds == [1]  # its broker has said nothing since, and may be dead
    bench.broker(messages.Heartbeat(2), now=1000.0)
    bench.life.tick(1000.0)
    assert bench.life.holds == []


def test_an_answer_that_a_hello_has_named_is_there_when_the_welcome_comes() -> None:
    bench = Bench()
    bench.run(1)
    bench.done(1, 1)
    bench.life.tick(5.0)
    assert len(bench.life.held()) == 1
    bench.life.tick(1000.0)
    actions = bench.broker(messages.Welcome("store", 2, 2.0, 20.0, fresh=True), now=1000.0)
    assert [m.attempt for m in told(actions, messages.Finished)] == [1]
    bench.life.tick(1000.1)
    assert bench.life.holds == [1]  # it was said again only now
    bench.broker(messages.Heartbeat(2), now=1011.0)
    bench.life.tick(1011.0)
    assert bench.life.holds == []


def test_another_broker_never_knew_what_is_held() -> None:
    bench = Bench(2)
    bench.run(1)
    actions = bench.broker(messages.Welcome("another", 1, 2.0, 20.0, fresh=True))
    assert actions == [Kill(1)]
    assert bench.done(1, 1) == []
    assert bench.exited(1) == []


def test_what_the_broker_does_not_want_is_kept_no_longer() -> None:
    bench = Bench(2)
    bench.run(1, stored=True)
    bench.done(1, 1)
    (told_so,) = told(bench.broker(messages.Abort(attempt=1)), messages.Finished)
    assert bench.life.holds == []
    # a broker that has taken it in since, and waits for it, deals it again
    assert (told_so.attempt, told_so.count, told_so.ended) == (1, 0, "broken")


def test_a_released_job_is_cleaned_up_where_it_ran() -> None:
    bench = Bench(2)
    bench.run(1)
    bench.done(1, 1)
    assert bench.broker(messages.Release(1)) == [ToSlot(1, messages.Release(1))]
    assert bench.broker(messages.Release(1)) == []


def test_stops_and_answers_go_to_the_attempt_s_process() -> None:
    bench = Bench()
    bench.run(1)
    for message in (messages.Stop(attempt=1), messages.Failure(3, "UnknownJob", "no", attempt=1)):
        assert bench.broker(message) == [ToSlot(1, message)]
    assert bench.broker(messages.Stop(attempt=9)) == []


def test_code_that_no_process_has_goes_when_there_is_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codes, "CODE_BYTES", 40)
    bench = Bench()
    bench.run(1)
    bench.broker(messages.Blob(b"x"), b"x" * 20)
    bench.broker(messages.Blob(b"y"), b"y" * 20)
    assert set(bench.life.codes) == {code("square"), b"y"}
    bench.broker(messages.Blob(b"y"), b"y" * 20)
    assert set(bench.life.codes) == {code("square"), b"y"}


def test_a_process_drops_the_code_that_it_used_longest_ago(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "CODE_BYTES", 50 + len(blob("square")))
    bench = Bench()
    bench.run(1)
    for name in (b"a", b"b"):
        assert bench.slot(1, messages.Blob(name), name * 20) == []
    # when there is too much, what runs stays
    assert ToSlot(1, messages.Drop([b"a"])) in bench.slot(1, messages.Blob(b"c"), b"c" * 20)
    assert set(bench.life.processes[1].known) == {code("square"), b"b", b"c"}


def test_code_that_was_dropped_while_a_map_of_it_was_on_its_way_comes_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Bench()
    bench.run(1)
    bench.slot(1, messages.Blob(b"a"), b"a" * 20)
    monkeypatch.setattr(process, "CODE_BYTES", 0)
    monkeypatch.setattr(codes, "CODE_BYTES", 0)
    assert ToSlot(1, messages.Drop([b"a"])) in bench.slot(1, messages.Blob(b"b"), b"b" * 20)
    asked = messages.Map(b"m" * 16, 1, b"a", 1, attempt=1, epoch=1)
    assert bench.slot(1, asked, units([1])) == [ToBroker(asked, units([1]))]
    # when the broker lacks it too, then the map is said again as soon as its process has sent it
    assert bench.broker(messages.NeedBlob(b"a")) == []
    again = bench.slot(1, messages.Blob(b"a"), b"a" * 20)
    assert [a.message for a in again if isinstance(a, ToBroker)] == [messages.Blob(b"a"), asked]


def test_what_a_body_sends_out_of_turn_is_dropped() -> None:
    bench = Bench()
    bench.run(1)
    assert bench.call(1, 99) == []
    assert bench.slot(1, messages.Fetch(1, 2, attempt=99)) == []
    assert bench.done(1, 99) == []
    note = messages.Publish(1, 1, "log")
    assert bench.slot(1, note, b"text") == [ToBroker(note, b"text")]


def said(number: int, kind: str = "count", attempt: int = 1) -> messages.Publish:
    return messages.Publish(1, attempt, kind, number=number)


def again(bench: Bench, **fields: Any) -> list[Any]:
    """What is said again after a Welcome."""
    actions = bench.broker(messages.Welcome("store", 2, 2.0, 20.0, **fields))
    return [a.message for a in actions if isinstance(a, ToBroker) and isinstance(a.message, messages.Publish)]


def test_what_was_published_is_given_again_until_it_was_heard() -> None:
    bench = Bench()
    bench.run(1)
    for number in (1, 2, 3):
        assert bench.slot(1, said(number), b"x") == [ToBroker(said(number), b"x")]
    bench.slot(1, said(0, "progress"), b"half")
    bench.slot(1, said(0, "progress"), b"most")
    assert bench.broker(messages.Committed([], [1, 1])) == []
    # also where the broker says that nothing was lost: it was not said while the kernel called
    assert bench.life.slot(1, said(4), b"x", live=False) == []
    for lost in (True, False):
        assert again(bench, lost=lost) == [said(2), said(3), said(4), said(0, "progress")]
    bench.done(1, 1)
    assert again(bench) == [said(2), said(3), said(4)]
    bench.broker(messages.Committed([], [1, 4, 99, 7]))
    assert again(bench) == []
    assert not bench.life.unheard


@pytest.mark.parametrize("lost", [True, False])
def test_an_answer_does_not_overtake_what_its_body_has_said(lost: bool) -> None:
    """Given a body that ends while its kernel calls the broker, then its messages are given before its answer, once."""
    bench = Bench()
    bench.run(1)
    finished = messages.Finished(1, A, 0, 0, 0.0)
    bench.life.slot(1, said(1), b"x", live=False)
    assert bench.life.slot(1, finished, b"", live=False) == []
    epoch = 2 if lost else 1
    actions = bench.broker(messages.Welcome("store", epoch, 2.0, 20.0, lost=lost))
    given = [a for a in actions if isinstance(a, ToBroker)]
    assert given == [ToBroker(said(1), b"x"), ToBroker(finished, b"")]
    again = bench.broker(messages.Welcome("store", epoch, 2.0, 20.0, lost=False))
    assert again == [ToBroker(said(1), b"x")]


def test_a_kernel_that_leaves_stays_until_it_was_heard() -> None:
    bench = Bench()
    bench.run(1)
    bench.slot(1, said(1), b"x")
    bench.life.drain("it was told to", 10.0, 0.0)
    bench.done(1, 1)
    bench.exited(1, "")
    assert not bench.life.left(1.0)
    bench.broker(messages.Committed([], [1, 1]))
    assert bench.life.left(1.0)


def test_a_process_that_says_too_much_is_full_until_some_of_it_was_heard() -> None:
    bench = Bench()
    bench.run(1)
    number = 0
    while not bench.life.unheard.full(1):
        number += 1
        bench.slot(1, said(number), b"x" * 1000)
    assert MOST < number * 1200 < MOST + 1200
    bench.broker(messages.Committed([], [1, 1]))
    assert not bench.life.unheard.full(1)


def test_a_process_that_cleans_up_is_given_nothing_until_it_has() -> None:
    bench = Bench()
    bench.run(1)
    assert bench.slot(1, messages.Cleans(1)) == []
    bench.done(1, 1)
    assert bench.broker(messages.Release(1)) == [ToSlot(1, messages.Release(1))]
    assert place(bench.run(2, job=2)) == 2
    bench.done(2, 2)
    assert Let(1) in bench.slot(1, messages.Cleans(1, done=True))  # there is a slot for one of them
    # what it prepared when its job had ended, it cleans up at once
    bench.run(5, job=5)
    bench.broker(messages.Release(5))
    bench.slot(2, messages.Cleans(5))
    bench.done(2, 5)
    assert not bench.life.processes[2].free
    bench.slot(2, messages.Cleans(5, done=True))
    # one that never ends dies, and nobody else is blamed
    assert place(bench.run(3, job=3)) == 2
    bench.slot(2, messages.Cleans(3))
    bench.done(2, 3)
    bench.broker(messages.Release(3))
    assert bench.exited(2, "its process exited with code 1") == []


def test_only_so_many_processes_clean_up_at_a_time() -> None:
    bench = Bench()
    for n in range(1, MOST_CLEANING + 1):
        process = place(bench.run(n, job=n))
        bench.slot(process, messages.Cleans(n))
        bench.done(process, n)
        assert not any(isinstance(a, Kill) for a in bench.broker(messages.Release(n)))
    process = place(bench.run(100, job=100))
    bench.slot(process, messages.Cleans(100))
    bench.done(process, 100)
    assert Kill(1) in bench.broker(messages.Release(100))


# -- it leaves ---------------------------------------------------------------------------------------


def test_a_kernel_that_drains_takes_nothing_new_and_lets_idle_processes_go() -> None:
    bench = Bench(2)
    bench.run(1, count=5)
    bench.run(2, ahead=True)  # there is a slot: it begins
    bench.run(3, ahead=True)
    actions = bench.life.drain("it was told to", 5.0, now=10.0)
    assert told(actions, messages.Draining) == [messages.Draining(1)]
    (back,) = told(actions, messages.Finished)
    assert (back.attempt, back.count, back.ended) == (3, 0, "lost")
    assert told(actions, messages.HandBack) == [messages.HandBack(1)]  # the others have one unit only
    (late,) = told(bench.run(4), messages.Finished)
    assert (late.attempt, late.ended) == (4, "lost")
    # those that end in time are let go, and the kernel is free when they are gone
    assert Let(1) in bench.done(1, 1)
    assert Let(2) in bench.done(2, 2)
    assert not bench.life.left(11.0)
    bench.exited(1)
    bench.exited(2)
    assert bench.life.left(11.0)
    assert str(bench.life.leave) == "2 units of job 1 handed back"


def test_what_has_not_ended_in_time_is_ended_and_handed_back_and_is_no_crash() -> None:
    bench = Bench()
    bench.run(1, once=True)
    bench.call(1, 1)
    bench.run(2, map=B)
    bench.life.drain("it was told to", 5.0, now=10.0)
    assert bench.life.deadline() == 15.0
    actions = bench.life.tick(15.0)
    assert told(actions, messages.Abort) == [messages.Abort(attempt=2), messages.Abort(attempt=1)]
    assert Interrupt(1) in actions
    # the inner one obeys, the outer one is killed
    (inner,) = told(bench.done(1, 2, B, ended="abort"), messages.Finished)
    assert inner.ended == "broken"
    assert bench.life.tick(15.0 + GRACE) == [Kill(1)]
    (outer,) = told(bench.exited(1, "signal 9"), messages.Finished)
    assert (outer.attempt, outer.count, outer.ended) == (1, 0, "broken")
    assert bench.life.left(17.0)
    assert str(bench.life.leave) == "1 unit of job 1 and job 1 handed back"


def test_a_kernel_waits_for_its_answers_to_be_on_disk_but_not_for_ever() -> None:
    bench = Bench()
    bench.run(1, stored=True)
    bench.life.drain("it was told to", 5.0, now=10.0)
    bench.done(1, 1)
    bench.exited(1)
    assert not bench.life.left(11.0)
    leave = bench.life.leave
    assert leave is not None
    assert bench.life.left(leave.gives_up)
    bench.broker(messages.Committed([1]))
    assert bench.life.left(11.0)


def test_who_is_told_twice_leaves_no_later() -> None:
    bench = Bench()
    bench.run(1)
    bench.life.drain("it was told to", 60.0, now=10.0)
    assert bench.broker(messages.Drain(grace=100.0), now=11.0) == []
    assert bench.life.deadline() == 70.0
    bench.broker(messages.Drain(grace=1.0), now=12.0)
    assert bench.life.deadline() == 13.0


def test_the_newest_checkpoint_goes_before_what_is_handed_back() -> None:
    bench = Bench()
    bench.run(1, once=True, stored=True)
    for number in (1, 2):
        bench.slot(1, messages.Checkpoint(1, 1, 0, number), b"state")
    bench.life.drain("it was told to", 0.0, now=10.0)
    bench.life.tick(10.0)
    first, second = bench.done(1, 1, ended="abort")[:2]
    assert isinstance(first, ToBroker)
    assert isinstance(second, ToBroker)
    assert first.message == messages.Checkpoint(1, 1, 0, 2)
    assert isinstance(second.message, messages.Finished)
    assert second.message.ended == "broken"


def test_the_term_of_a_kernel() -> None:
    term = Term(100.0, limit=60.0, idle=5.0, grace=4.0)
    assert term.due(104.9, worked=100.0) == ""
    assert term.due(105.0, worked=100.0) == "it had no work for 5 s"
    assert term.deadline(worked=100.0) == 105.0
    assert term.due(160.0 - term.needs, worked=160.0 - term.needs) == "its time is over"
    assert term.deadline(worked=159.0) == 160.0 - term.needs
    assert Term(100.0).deadline(100.0) is None


# -- answers that wait for their broker --------------------------------------------------------------


def test_answers_beyond_what_memory_is_for_lie_on_the_disk_until_they_are_confirmed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept, "MEMORY", 2500)
    shelf = Shelf(str(tmp_path), most=2500)
    bench = Bench(8)
    bench.life.answers = kept.Answers(shelf.put)
    results = [bytes([n]) * 1000 for n in range(6)]
    for n, data in enumerate(results):
        process = place(bench.run(n, stored=True))
        bench.slot(process, messages.Finished(n, A, 0, 1, 0.0), data, live=False)
    # two in memory, two on the disk; the others would have to be done again
    assert shelf.used == 2000
    assert bench.life.holds == [0, 1, 2, 3]
    assert list(tmp_path.iterdir()) == []
    back = bench.broker(messages.Welcome("store", 2, 2.0, 20.0))
    given = [
        bytes(a.payload) for a in back if isinstance(a, ToBroker) and isinstance(a.message, messages.Finished)
    ]
    assert given == results[:4]
    del back
    bench.broker(messages.Committed([1, 2, 3]))
    gc.collect()
    assert (shelf.used, bench.life.holds) == (0, [0])


def test_answers_that_are_given_stay_in_memory_as_long_as_they_may_be_on_their_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept, "MEMORY", 2500)
    shelf = Shelf(str(tmp_path), most=5000)
    bench = Bench(8)
    bench.life.answers = kept.Answers(shelf.put)
    for n in range(5):
        bench.slot(place(bench.run(n, stored=True)), messages.Finished(n, A, 0, 1, 0.0), bytes([n]) * 1000)
    bench.life.tick(kept.SETTLE - 1.0)
    assert shelf.used == 0
    bench.life.tick(kept.SETTLE)
    assert shelf.used == 3000
    bench.life.check()
    back = bench.broker(messages.Welcome("store", 2, 2.0, 20.0))
    given = [bytes(a.payload) for a in back if isinstance(a, ToBroker) and len(a.payload)]
    assert sorted(given) == [bytes([n]) * 1000 for n in range(5)]


def test_a_shelf_that_is_full_or_is_not_there_says_so(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shelf = Shelf(str(tmp_path), most=10)
    assert shelf.put(b"x" * 11) is None
    assert "0 MB lie there already; units whose results are not kept run again" in capfd.readouterr().err
    assert shelf.put(b"x" * 11) is None
    assert capfd.readouterr().err == ""
    assert Shelf(str(tmp_path / "nowhere")).put(b"x") is None
    assert "No such file" in capfd.readouterr().err
