"""The kernel's machine alone: which process gets what, and what becomes of it."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest

from park.kernel.machine import answer_log, attempts, code_cache, process
from park.kernel.machine.actions import (
    CloseProcess,
    InterruptProcess,
    KillProcess,
    ShareCode,
    StartProcess,
    TakeCode,
    ToBroker,
    ToSlot,
    Withdraw,
)
from park.kernel.machine.late_chunks import LATE_SECONDS
from park.kernel.machine.process import ProcessState
from park.kernel.machine.process_pool import MAX_CLEANING_PER_SLOT
from park.kernel.machine.publish_log import MAX_LATEST_KINDS, MAX_PROCESS_BYTES
from park.kernel.machine.shutdown import ABORT_GRACE_SECONDS, ShutdownPolicy
from park.kernel.spill import Spill
from park.wire import messages
from park.wire.pack import Pack, code_hash
from tests.sim.functions import blob, code, units
from tests.support.bench import A, B, Bench, place, told


def test_a_kernel_starts_a_process_a_slot() -> None:
    assert Bench(3).started == [StartProcess(1, 1), StartProcess(2, 1), StartProcess(3, 1)]


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
    assert not bench.machine.state.attempts


def test_work_waits_for_code_that_comes_from_another_kernel() -> None:
    bench = Bench(2)
    cube = code("cube")
    assert bench.broker(messages.Offer(cube, 5)) == []
    assert bench.run(1, function=cube) == []
    assert place(bench.run(2)) == 1  # other work does not
    offer = messages.Offer(cube, 5, 77, 3)
    assert bench.broker(offer) == [TakeCode(offer)]
    actions = bench.machine.taken(cube, blob("cube"), 1.0)
    bench.machine.check()
    assert place(actions) == 2
    assert actions[-1] == ShareCode(cube, blob("cube"))
    where = messages.Shared(cube, 88, 4)
    assert bench.machine.shared(cube, blob("cube"), where) == [ToBroker(where)]
    assert bench.broker(messages.Share(cube, True)) == [ShareCode(cube, blob("cube"), True)]
    assert bench.machine.shared(cube, blob("cube"), None) == [ToBroker(messages.NeedBlob(cube))]


@pytest.mark.parametrize(
    "how", ["it cannot be taken", "it does not come", "contact is lost", "it comes otherwise"]
)
def test_code_that_another_kernel_does_not_give(how: str) -> None:
    bench = Bench(2)
    cube, gives_back = code("cube"), [messages.NeedBlob(code("cube")), "lost"]
    bench.broker(messages.Offer(cube, 5, 77, 3))
    bench.run(1, function=cube)
    if how == "it cannot be taken":
        actions = bench.machine.taken(cube, None, 1.0)
    elif how == "it does not come":
        due = bench.machine.deadline()
        assert due is not None
        assert bench.machine.tick(due - 0.1) == []
        actions = bench.machine.tick(due)
    elif how == "contact is lost":
        actions = bench.broker(messages.Welcome("store", 1, 2.0, 20.0))
    else:
        assert place(bench.broker(messages.Blob(cube), blob("cube"))) == 1
        return
    sent = [a.message for a in actions if isinstance(a, ToBroker)]
    assert [getattr(m, "ended", m) for m in sent] == gives_back
    assert bench.machine.taken(cube, blob("cube"), 2.0) == []  # it comes too late
    bench.machine.check()


def test_code_that_is_dropped_is_offered_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code_cache, "MAX_CODE_BYTES", 1)
    bench = Bench()
    bench.machine.shared(code("square"), blob("square"), messages.Shared(code("square"), 88, 4))
    assert bench.broker(messages.Blob(code("cube")), blob("cube")) == [
        ToBroker(messages.NeedBlob(code("square")))
    ]
    assert bench.broker(messages.Share(code("square"))) == [ToBroker(messages.NeedBlob(code("square")))]


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
    assert [a for a in actions if isinstance(a, CloseProcess | StartProcess)] == [StartProcess(2, 1)]
    bench.done(2, 2)
    assert StartProcess(3, 4) in bench.run(3, owner="bob", cpus=4)


def test_a_spare_process_is_there_for_the_next_owner() -> None:
    bench = Bench()
    bench.machine.state.pool.spare = True
    assert StartProcess(2, 1) in bench.run(1, owner="ann")
    bench.done(1, 1)
    assert not any(isinstance(a, StartProcess) for a in bench.run(2, owner="ann"))
    bench.done(1, 2)
    started = bench.run(3, owner="bob")
    assert place(started) == 2
    assert StartProcess(3, 1) in started
    bench.done(2, 3)
    assert bench.machine.state.processes[3].is_blank


def test_idle_processes_of_several_owners_are_kept_up_to_a_limit() -> None:
    bench = Bench()
    owners = ["ann", "bob", "cid", "dan", "eva"]
    for n, owner in enumerate(owners, 1):
        started = bench.run(n, owner=owner, job=n)
        assert any(isinstance(a, StartProcess) for a in started) == (n > 1)
        bench.done(n, n)
    # ann's was used longest ago, and had to go; the others are used again
    assert [p.owner for p in bench.machine.state.processes.values() if p.state == "idle"] == owners[1:]
    assert not any(isinstance(a, StartProcess) for a in bench.run(9, owner="bob", job=2))


def test_idle_processes_for_several_needs_of_one_owner_are_kept_too() -> None:
    bench = Bench(1)
    started = []
    for attempt in range(1, 10):
        actions = bench.run(attempt, cpus=1 + attempt % 3)
        started += [action for action in actions if isinstance(action, StartProcess)]
        bench.done(bench.machine.state.attempts[attempt].number, attempt)
    assert len(started) == 2  # and one was there


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
    assert not [a for a in actions if isinstance(a, CloseProcess)]  # it may be wanted again
    bench.broker(messages.Results(0, 3, map=B, attempt=1, resume=True), units([1, 2, 3]))
    actions = bench.done(1, 1)
    assert [a for a in actions if isinstance(a, CloseProcess)]
    assert sum(p.state is ProcessState.IDLE for p in bench.machine.state.processes.values()) == 1


def test_an_abort_interrupts_and_then_kills() -> None:
    bench = Bench()
    bench.run(1)
    actions = bench.broker(messages.Abort(attempt=1), now=5.0)
    assert InterruptProcess(1) in actions
    assert told(actions, messages.Abort) == [messages.Abort(attempt=1)]
    assert bench.machine.deadline() == 5.0 + ABORT_GRACE_SECONDS
    assert bench.machine.tick(5.0 + ABORT_GRACE_SECONDS - 0.1) == []
    assert bench.machine.tick(5.0 + ABORT_GRACE_SECONDS) == [KillProcess(1)]
    assert bench.machine.tick(9.0) == []
    # an attempt that was to be aborted is aborted, not crashed
    (ended,) = told(bench.exited(1, "signal 9"), messages.Finished)
    assert (ended.attempt, ended.ended) == (1, "abort")
    assert bench.broker(messages.Abort(attempt=1)) == []


def test_a_process_that_was_aborted_is_replaced() -> None:
    bench = Bench()
    bench.run(1)
    bench.broker(messages.Abort(attempt=1))
    assert CloseProcess(1) in bench.done(1, 1, ended="abort")
    assert bench.machine.deadline() is None
    assert place(bench.run(2)) == 2


def test_a_death_names_all_attempts_the_innermost_last() -> None:
    bench = Bench()
    bench.run(1, once=True)
    bench.call(1, 1)
    bench.run(2, map=B)
    (crashed,) = told(bench.exited(1), messages.Crashed)
    assert crashed == messages.Crashed([1, 2], "signal 11", "last words", 1)
    assert not bench.machine.state.attempts
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
    assert bench.machine.state.processes[1].width == 1
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
    assert bench.machine.state.holds == [1, 2]
    assert [entry[5] for entry in bench.machine.describe_attempts()] == ["runs", "done"]
    actions = bench.broker(messages.Welcome("store", 2, 2.0, 20.0, fresh=True))
    assert CloseProcess(2) in actions  # no broker would tell it to clean up
    assert [m.attempt for m in told(actions, messages.Finished)] == [2]
    # a running attempt goes on; its process is replaced when it is done, because earlier jobs may have ended
    assert CloseProcess(1) in bench.done(1, 1)
    bench.broker(messages.Committed([2]))
    assert bench.machine.state.holds == [1]  # no broker stores the answer of 1: it is kept for a while
    bench.machine.tick(1000.0)
    assert bench.machine.state.holds == [1]  # its broker has said nothing since, and may be dead
    bench.broker(messages.Heartbeat(2), now=1000.0)
    bench.machine.tick(1000.0)
    assert bench.machine.state.holds == []


def test_an_answer_that_a_hello_has_named_is_there_when_the_welcome_comes() -> None:
    bench = Bench()
    bench.run(1)
    bench.done(1, 1)
    bench.machine.tick(5.0)
    assert len(bench.machine.describe_attempts()) == 1
    bench.machine.tick(1000.0)
    actions = bench.broker(messages.Welcome("store", 2, 2.0, 20.0, fresh=True), now=1000.0)
    assert [m.attempt for m in told(actions, messages.Finished)] == [1]
    bench.machine.tick(1000.1)
    assert bench.machine.state.holds == [1]  # it was said again only now
    bench.broker(messages.Heartbeat(2), now=1011.0)
    bench.machine.tick(1011.0)
    assert bench.machine.state.holds == []


def test_another_broker_never_knew_what_is_held() -> None:
    bench = Bench(2)
    bench.run(1)
    actions = bench.broker(messages.Welcome("another", 1, 2.0, 20.0, fresh=True))
    assert actions == [KillProcess(1)]
    assert bench.done(1, 1) == []
    assert bench.exited(1) == []


def test_what_the_broker_does_not_want_is_kept_no_longer() -> None:
    bench = Bench(2)
    bench.run(1, stored=True)
    bench.done(1, 1)
    (told_so,) = told(bench.broker(messages.Abort(attempt=1)), messages.Finished)
    assert bench.machine.state.holds == []
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
    monkeypatch.setattr(code_cache, "MAX_CODE_BYTES", 40)
    bench = Bench()
    bench.run(1)
    bench.broker(messages.Blob(b"x"), b"x" * 20)
    bench.broker(messages.Blob(b"y"), b"y" * 20)
    assert set(bench.machine.state.codes) == {code("square"), b"y"}
    bench.broker(messages.Blob(b"y"), b"y" * 20)
    assert set(bench.machine.state.codes) == {code("square"), b"y"}


def test_a_process_drops_the_code_that_it_used_longest_ago(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "MAX_CODE_BYTES", 50 + len(blob("square")))
    bench = Bench()
    bench.run(1)
    codes = [bytes([letter]) * 20 for letter in b"abc"]
    a, b, c = map(code_hash, codes)
    assert bench.slot(1, messages.Blob(a), codes[0]) == bench.slot(1, messages.Blob(b), codes[1]) == []
    # when there is too much, what runs stays
    assert ToSlot(1, messages.Drop([a])) in bench.slot(1, messages.Blob(c), codes[2])
    assert set(bench.machine.state.processes[1].known) == {code("square"), b, c}


def test_code_that_was_dropped_while_a_map_of_it_was_on_its_way_comes_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Bench()
    bench.run(1)
    name = code_hash(b"a" * 20)
    bench.slot(1, messages.Blob(name), b"a" * 20)
    monkeypatch.setattr(process, "MAX_CODE_BYTES", 0)
    monkeypatch.setattr(code_cache, "MAX_CODE_BYTES", 0)
    assert ToSlot(1, messages.Drop([name])) in bench.slot(1, messages.Blob(code_hash(b"b")), b"b")
    asked = messages.Map(b"m" * 16, 1, name, 1, attempt=1, epoch=1)
    assert bench.slot(1, asked, units([1])) == [ToBroker(asked, units([1]))]
    # when the broker lacks it too, then the map is said again as soon as its process has sent it
    assert bench.broker(messages.NeedBlob(name)) == []
    again = bench.slot(1, messages.Blob(name), b"a" * 20)
    assert [a.message for a in again if isinstance(a, ToBroker)] == [messages.Blob(name), asked]


def test_what_a_body_sends_out_of_turn_is_dropped() -> None:
    bench = Bench()
    bench.run(1)
    assert bench.call(1, 99) == []
    assert bench.slot(1, messages.Fetch(1, 2, attempt=99)) == []
    assert bench.done(1, 99) == []
    note = messages.Publish(1, 1, "log")
    assert bench.slot(1, note, b"text") == [ToBroker(note, b"text")]


def test_a_process_speaks_for_its_own_attempts_only() -> None:
    bench = Bench(2)
    bench.run(1)
    bench.run(2, owner="bob", job=2)
    for job, attempt in ((2, 2), (1, 2), (2, 1), (1, 3)):
        assert bench.slot(1, messages.Publish(job, attempt, "log", number=1), b"text") == []
    assert not bench.machine.state.published


def test_no_process_gives_other_code_a_known_name() -> None:
    bench = Bench(2)
    bench.run(1)
    bench.slot(1, messages.Blob(code("square")), b"another function")
    (sent,) = [
        a for a in bench.run(2, owner="bob") if isinstance(a, ToSlot) and isinstance(a.message, messages.Blob)
    ]
    assert sent.payload == blob("square")


def test_a_process_makes_the_kernel_keep_few_messages_and_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench()
    bench.run(1)
    for number in range(2 * MAX_LATEST_KINDS):
        bench.slot(1, said(0, f"kind{number}"), b"text")
        bench.slot(1, messages.Cleans(number + 2))
    assert len(again(bench)) == MAX_LATEST_KINDS
    monkeypatch.setattr(attempts, "MAX_CLEANING_JOBS", 20)
    for number in range(40):
        bench.slot(1, messages.Cleans(number + 2))
    assert len(bench.machine.state.processes[1].cleaning) == 20


def said(number: int, kind: str = "count", attempt: int = 1) -> messages.Publish:
    return messages.Publish(1, attempt, kind, number=number)


def again(bench: Bench, **fields: Any) -> list[Any]:
    """The messages that a kernel repeats after a Welcome."""
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
    assert bench.machine.slot(1, said(4), b"x", live=False) == []
    for lost in (True, False):
        assert again(bench, lost=lost) == [said(2), said(3), said(4), said(0, "progress")]
    bench.done(1, 1)
    assert again(bench) == [said(2), said(3), said(4)]
    bench.broker(messages.Committed([], [1, 4, 99, 7]))
    assert again(bench) == []
    assert not bench.machine.state.published


@pytest.mark.parametrize("lost", [True, False])
def test_an_answer_does_not_overtake_what_its_body_has_said(lost: bool) -> None:
    """Given a body that ends while its kernel calls the broker, then its messages are given before its answer, once."""
    bench = Bench()
    bench.run(1)
    finished = messages.Finished(1, A, 0, 0, 0.0)
    bench.machine.slot(1, said(1), b"x", live=False)
    assert bench.machine.slot(1, finished, b"", live=False) == []
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
    bench.machine.drain("it was told to", 10.0, 0.0)
    bench.done(1, 1)
    bench.exited(1, "")
    assert not bench.machine.left(1.0)
    bench.broker(messages.Committed([], [1, 1]))
    assert bench.machine.left(1.0)


def test_a_process_that_says_too_much_is_full_until_some_of_it_was_heard() -> None:
    bench = Bench()
    bench.run(1)
    number = 0
    while not bench.machine.state.published.full(1):
        number += 1
        bench.slot(1, said(number), b"x" * 1000)
    assert MAX_PROCESS_BYTES < number * 1200 < MAX_PROCESS_BYTES + 1200
    bench.broker(messages.Committed([], [1, 1]))
    assert not bench.machine.state.published.full(1)


def test_a_process_that_cleans_up_is_given_nothing_until_it_has() -> None:
    bench = Bench()
    bench.run(1)
    assert bench.slot(1, messages.Cleans(1)) == []
    bench.done(1, 1)
    assert bench.broker(messages.Release(1)) == [ToSlot(1, messages.Release(1))]
    assert place(bench.run(2, job=2)) == 2
    bench.done(2, 2)
    assert CloseProcess(1) in bench.slot(1, messages.Cleans(1, done=True))  # there is a slot for one of them
    # a body that was prepared after its job had ended is cleaned up at once
    bench.run(5, job=5)
    bench.broker(messages.Release(5))
    bench.slot(2, messages.Cleans(5))
    bench.done(2, 5)
    assert not bench.machine.state.processes[2].is_free
    bench.slot(2, messages.Cleans(5, done=True))
    # a cleanup that never ends is killed, and no other job is blamed
    assert place(bench.run(3, job=3)) == 2
    bench.slot(2, messages.Cleans(3))
    bench.done(2, 3)
    bench.broker(messages.Release(3))
    assert bench.exited(2, "its process exited with code 1") == []


def test_only_so_many_processes_clean_up_at_a_time() -> None:
    bench = Bench()
    for n in range(1, MAX_CLEANING_PER_SLOT + 1):
        process = place(bench.run(n, job=n))
        bench.slot(process, messages.Cleans(n))
        bench.done(process, n)
        assert not any(isinstance(a, KillProcess) for a in bench.broker(messages.Release(n)))
    process = place(bench.run(100, job=100))
    bench.slot(process, messages.Cleans(100))
    bench.done(process, 100)
    assert KillProcess(1) in bench.broker(messages.Release(100))


# -- late units --------------------------------------------------------------------------------------


def test_a_chunk_that_is_late_keeps_what_has_begun_and_gives_back_the_rest_once() -> None:
    bench = Bench(2)
    bench.run(1, count=5)
    bench.run(2)
    assert bench.machine.deadline() == LATE_SECONDS
    assert bench.machine.tick(LATE_SECONDS) == [Withdraw(1, 1)]  # attempt 2 has one unit only
    assert bench.machine.withdrawn(1, 1, 3) == [ToBroker(messages.HandBack(1, 2, 1))]
    assert bench.machine.deadline() is None
    assert bench.machine.tick(10.0) == []
    # the broker may not have heard it: it hears it again, and one of another life hears of two units
    assert messages.HandBack(1, 2, 1) in told(
        bench.broker(messages.Welcome("store", 1, 2.0, 20.0)), messages.HandBack
    )
    assert bench.machine.describe_attempts()[0][:3] == [A, 0, 2]


def test_nothing_is_given_back_where_all_units_have_begun() -> None:
    bench = Bench()
    bench.run(1, count=5)
    bench.machine.tick(LATE_SECONDS)
    assert bench.machine.withdrawn(1, 1, 0) == []


def test_the_rest_of_a_chunk_is_given_back_before_its_unit_waits_for_a_map() -> None:
    bench = Bench()
    bench.run(1, count=5)
    actions = bench.call(1, 1)
    made = next(i for i, a in enumerate(actions) if told([a], messages.Map))
    assert actions.index(Withdraw(1, 1)) < made


def test_a_chunk_that_waits_for_a_slot_is_given_back_when_none_becomes_free_in_time() -> None:
    bench = Bench()
    bench.run(1)
    bench.run(2, ahead=True)
    assert told(bench.machine.tick(LATE_SECONDS / 2), messages.Finished) == []
    (back,) = told(bench.machine.tick(LATE_SECONDS), messages.Finished)
    assert (back.attempt, back.count, back.ended) == (2, 0, "lost")
    assert bench.machine.deadline() is None


def test_a_late_unit_that_goes_on_aside_takes_no_slot() -> None:
    bench = Bench()
    bench.run(1, count=5)
    bench.machine.tick(LATE_SECONDS)
    bench.machine.withdrawn(1, 1, 4)
    assert bench.machine.state.pool.free == 0
    assert bench.broker(messages.Aside(1)) == []
    assert bench.machine.state.pool.free == 1
    other = place(bench.run(2))
    assert other != 1
    bench.done(1, 1)
    assert bench.machine.state.pool.free == 0
    bench.done(other, 2)
    assert bench.machine.state.pool.free == 1


# -- it leaves ---------------------------------------------------------------------------------------


def test_a_kernel_that_drains_takes_nothing_new_and_lets_idle_processes_go() -> None:
    bench = Bench(2)
    bench.run(1, count=5)
    bench.run(2, ahead=True)  # there is a slot: it begins
    bench.run(3, ahead=True)
    actions = bench.machine.drain("it was told to", 5.0, now=10.0)
    assert told(actions, messages.Draining) == [messages.Draining(1)]
    (back,) = told(actions, messages.Finished)
    assert (back.attempt, back.count, back.ended) == (3, 0, "lost")
    # the other one has one unit only
    assert [a for a in actions if isinstance(a, Withdraw)] == [Withdraw(1, 1)]
    assert told(bench.machine.withdrawn(1, 1, 3), messages.HandBack) == [messages.HandBack(1, 2, 1)]
    (late,) = told(bench.run(4), messages.Finished)
    assert (late.attempt, late.ended) == (4, "lost")
    # processes that end in time are let go, and the kernel is free when they are gone
    assert CloseProcess(1) in bench.done(1, 1)
    assert CloseProcess(2) in bench.done(2, 2)
    assert not bench.machine.left(11.0)
    bench.exited(1)
    bench.exited(2)
    assert bench.machine.left(11.0)
    assert str(bench.machine.state.shutdown) == "5 units of job 1 handed back"


def test_what_has_not_ended_in_time_is_ended_and_handed_back_and_is_no_crash() -> None:
    bench = Bench()
    bench.run(1, once=True)
    bench.call(1, 1)
    bench.run(2, map=B)
    bench.machine.drain("it was told to", 5.0, now=10.0)
    assert bench.machine.deadline() == 15.0
    actions = bench.machine.tick(15.0)
    assert told(actions, messages.Abort) == [messages.Abort(attempt=2), messages.Abort(attempt=1)]
    assert InterruptProcess(1) in actions
    # the inner one obeys, the outer one is killed
    (inner,) = told(bench.done(1, 2, B, ended="abort"), messages.Finished)
    assert inner.ended == "broken"
    assert bench.machine.tick(15.0 + ABORT_GRACE_SECONDS) == [KillProcess(1)]
    (outer,) = told(bench.exited(1, "signal 9"), messages.Finished)
    assert (outer.attempt, outer.count, outer.ended) == (1, 0, "broken")
    assert bench.machine.left(17.0)
    assert str(bench.machine.state.shutdown) == "1 unit of job 1 and job 1 handed back"


def test_a_kernel_waits_for_its_answers_to_be_on_disk_but_not_for_ever() -> None:
    bench = Bench()
    bench.run(1, stored=True)
    bench.machine.drain("it was told to", 5.0, now=10.0)
    bench.done(1, 1)
    bench.exited(1)
    assert not bench.machine.left(11.0)
    shutdown = bench.machine.state.shutdown
    assert shutdown is not None
    assert bench.machine.left(shutdown.gives_up)
    bench.broker(messages.Committed([1]))
    assert bench.machine.left(11.0)


def test_who_is_told_twice_leaves_no_later() -> None:
    bench = Bench()
    bench.run(1)
    bench.machine.drain("it was told to", 60.0, now=10.0)
    assert bench.broker(messages.Drain(grace=100.0), now=11.0) == []
    assert bench.machine.deadline() == 70.0
    bench.broker(messages.Drain(grace=1.0), now=12.0)
    assert bench.machine.deadline() == 13.0


def test_the_newest_checkpoint_goes_before_what_is_handed_back() -> None:
    bench = Bench()
    bench.run(1, once=True, stored=True)
    for number in (1, 2):
        bench.slot(1, messages.Checkpoint(1, 1, 0, number), b"state")
    bench.machine.drain("it was told to", 0.0, now=10.0)
    bench.machine.tick(10.0)
    first, second = bench.done(1, 1, ended="abort")[:2]
    assert isinstance(first, ToBroker)
    assert isinstance(second, ToBroker)
    assert first.message == messages.Checkpoint(1, 1, 0, 2)
    assert isinstance(second.message, messages.Finished)
    assert second.message.ended == "broken"


def test_when_a_kernel_leaves_by_itself() -> None:
    policy = ShutdownPolicy(100.0, limit=60.0, idle=5.0, grace=4.0)
    assert policy.due(104.9, worked_at=100.0) == ""
    assert policy.due(105.0, worked_at=100.0) == "it had no work for 5 s"
    assert policy.deadline(worked_at=100.0) == 105.0
    assert policy.due(160.0 - policy.needs, worked_at=160.0 - policy.needs) == "its time is over"
    assert policy.deadline(worked_at=159.0) == 160.0 - policy.needs
    assert ShutdownPolicy(100.0).deadline(100.0) is None


# -- answers that wait for their broker --------------------------------------------------------------


def with_spill(folder: Path, monkeypatch: pytest.MonkeyPatch, max_bytes: int) -> tuple[Bench, Spill]:
    """A kernel that has memory for 2,500 bytes of answers, and room for *max_bytes* in the folder."""
    monkeypatch.setattr(answer_log, "MEMORY_BYTES", 2500)
    bench, spill = Bench(8), Spill(str(folder), max_bytes=max_bytes)
    bench.machine.state.answers = answer_log.AnswerLog(spill.put)
    return bench, spill


def test_answers_beyond_what_memory_is_for_lie_on_the_disk_until_they_are_confirmed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, spill = with_spill(tmp_path, monkeypatch, max_bytes=2500)
    results = [bytes([n]) * 1000 for n in range(6)]
    for n, data in enumerate(results):
        process = place(bench.run(n, stored=True))
        bench.slot(process, messages.Finished(n, A, 0, 1, 0.0), data, live=False)
    # two in memory, two on the disk; the others would have to be done again
    assert spill.used == 2000
    assert bench.machine.state.holds == [0, 1, 2, 3]
    assert list(tmp_path.iterdir()) == []
    back = bench.broker(messages.Welcome("store", 2, 2.0, 20.0))
    given = [
        bytes(a.payload) for a in back if isinstance(a, ToBroker) and isinstance(a.message, messages.Finished)
    ]
    assert given == results[:4]
    del back
    bench.broker(messages.Committed([1, 2, 3]))
    gc.collect()
    assert (spill.used, bench.machine.state.holds) == (0, [0])


def test_answers_that_are_given_stay_in_memory_as_long_as_they_may_be_on_their_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, spill = with_spill(tmp_path, monkeypatch, max_bytes=5000)
    for n in range(5):
        bench.slot(place(bench.run(n, stored=True)), messages.Finished(n, A, 0, 1, 0.0), bytes([n]) * 1000)
    bench.machine.tick(answer_log.SPILL_AGE_SECONDS - 1.0)
    assert spill.used == 0
    bench.machine.tick(answer_log.SPILL_AGE_SECONDS)
    assert spill.used == 3000
    bench.machine.check()
    back = bench.broker(messages.Welcome("store", 2, 2.0, 20.0))
    given = [bytes(a.payload) for a in back if isinstance(a, ToBroker) and len(a.payload)]
    assert sorted(given) == [bytes([n]) * 1000 for n in range(5)]


def test_a_shelf_that_is_full_or_is_not_there_says_so(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    spill = Spill(str(tmp_path), max_bytes=10)
    assert spill.put(b"x" * 11) is None
    assert "0 MB lie there already; units whose results are not kept run again" in capfd.readouterr().err
    assert spill.put(b"x" * 11) is None
    assert capfd.readouterr().err == ""
    assert Spill(str(tmp_path / "nowhere")).put(b"x") is None
    assert "No such file" in capfd.readouterr().err
