"""The dispatcher alone: given what has come, when a message comes, then this is sent, written and told."""

from __future__ import annotations

import math
import sys
import typing
from datetime import UTC, datetime
from typing import Any

import pytest
from msgspec.structs import replace

from park.broker.accounts.ledger import CreditPolicy, Terms
from park.broker.dispatcher import Dispatcher
from park.broker.effects import Effects, Ref, Write
from park.broker.entities import code_cache as codes_module
from park.broker.entities.code_cache import CodeCache, check_code
from park.broker.entities.maps import JobMap
from park.errors import ProtocolError
from park.model import AccountRecord, JobState
from park.wire import codec, messages
from park.wire.messages import Message
from tests.sim.desk import Desk, accepted, finished, of
from tests.sim.functions import ERROR, blob, code, units
from tests.sim.wire import PYTHON, WALL

KEY = b"k" * 16


def run_of(out: Any) -> messages.Run:
    (run,) = of(out, messages.Run)
    return run  # type: ignore[no-any-return]


def finish(
    desk: Desk, peer: bytes, run: messages.Run, results: list[Any] | None = None, **fields: Any
) -> Any:
    desk.now += 0.05
    return desk.give(peer, *finished(run, results, **({"seconds": 0.05} | fields)))


def call(desk: Desk, peer: bytes, run: messages.Run, key: bytes, count: int = 2, name: str = "square") -> Any:
    """The driver *run* makes a map."""
    desk.give(peer, messages.Blob(code(name)), blob(name))
    message = messages.Map(key * 16, run.job, code(name), count, attempt=run.attempt)
    return desk.give(peer, message, units([0] * count))


# -- a job from its request to its end ---------------------------------------------------------------


def test_a_job_with_inputs_is_stored_run_and_completed() -> None:
    desk = Desk()
    client, kernel = desk.client(), desk.kernel()
    # when it is submitted
    out = desk.submit(client, inputs=[5, 6])
    # then it is acknowledged, and dealt, only when it is on disk, and its units are written whole
    (done,) = [s.message for s in out.sends_after_commit if s.peer == client]
    assert done == messages.Accepted(1, 1, received=2)
    assert Write("units", (1, 0), units([5, 6])) in out.writes
    assert Write("blob", (code("square"),), Ref("blob", (code("square"),))) in out.writes
    assert [type(s.message) for s in out.sends] == [messages.Blob]
    (dealt,) = [s for s in out.sends_after_commit if s.peer == kernel]
    run = run_of(out)
    assert dealt.payload == Ref("units", (1, 0), 0, 1)
    assert (run.start, run.count, run.function) == (0, 1, code("square"))
    assert desk.job(1).state is JobState.RUNNING
    # when its units are answered
    second = run_of(finish(desk, kernel, run, [25]))
    out = finish(desk, kernel, second, [36])
    # then it is complete, and its kernel may clean up
    assert desk.job(1).state is JobState.COMPLETE
    assert desk.job(1).done == desk.job(1).total == 2
    assert messages.Release(1) in of(out, messages.Release)
    assert out.ended == [1]


def test_a_whole_segment_is_sent_as_it_lies_in_the_store() -> None:
    desk = Desk()
    client, kernel = desk.client(), desk.kernel()
    out = desk.submit(client, inputs=[5])
    assert [s.payload for s in out.sends_after_commit if s.peer == kernel] == [Ref("units", (1, 0))]


def test_units_that_are_on_disk_are_dealt_at_once_and_those_that_must_not_run_twice_after_the_note_of_it() -> (
    None
):
    desk = Desk()
    client, kernel = desk.client(), desk.kernel()
    for job, idempotent in ((1, True), (2, False)):
        run = run_of(desk.submit(client, inputs=[5, 6, 7], idempotent=idempotent))
        out = finish(desk, kernel, run, [25])
        at_once = [s for s in out.sends if isinstance(s.message, messages.Run)]
        assert bool(at_once) is idempotent
        assert (
            bool([w for w in out.writes if w.namespace == "attempt" and w.value is not None])
            is not idempotent
        )
        while desk.job(job).state is not JobState.COMPLETE:
            run = run_of(out)
            out = finish(desk, kernel, run, [0] * run.count)


def test_a_job_that_runs_once_and_one_without_inputs() -> None:
    desk = Desk()
    client, kernel = desk.client(), desk.kernel()
    run = run_of(desk.submit(client, "driver", None))
    assert (run.once, run.count) == (True, 1)
    finish(desk, kernel, run, [7])
    assert desk.job(1).state is JobState.COMPLETE
    desk.submit(client, inputs=[])
    assert (desk.job(2).state, desk.job(2).total) == (JobState.COMPLETE, 0)


def test_units_may_follow_and_come_twice() -> None:
    desk = Desk()
    client, kernel = desk.client(), desk.kernel()
    run = run_of(desk.submit(client, inputs=[1], closed=False))
    assert desk.job(1).total is None
    finish(desk, kernel, run)
    assert desk.dispatcher.explain(1) == "waits for more inputs from its client"
    more = messages.Units(1, 2, True, job=1, id=9)
    out = desk.give(client, more, units([2, 3]))
    assert of(out, messages.Done) == [messages.Done(9)]
    assert any(w.namespace == "job" and codec.unpack(w.value)["closed"] for w in out.writes)  # type: ignore[arg-type]
    run = run_of(out)
    # the same again: acknowledged, and nothing else
    out = desk.give(client, more, units([2, 3]))
    assert of(out, messages.Done) == [messages.Done(9)]
    assert out.writes == []
    assert desk.job(1).total == 3
    finish(desk, kernel, run_of(finish(desk, kernel, run)))
    assert desk.job(1).state is JobState.COMPLETE
    # what is beyond the end is a mistake; an empty end is not
    desk.submit(client, inputs=[1], closed=False)
    assert of(desk.give(client, messages.Units(5, 1, True, job=2, id=3), units([1])), messages.Failure)
    desk.give(client, messages.Units(1, 0, True, job=2, id=4))
    assert desk.job(2).total == 1


def test_a_client_that_goes_before_its_inputs_have_come_takes_the_job_along() -> None:
    desk = Desk()
    client = desk.client()
    desk.submit(client, inputs=[1], closed=False)
    desk.give(client, messages.Goodbye("its client has left"))
    assert desk.job(1).state is JobState.FAILED
    assert desk.job(1).reason == "its client has left before all inputs had come"


def test_a_key_names_one_job() -> None:
    desk = Desk()
    client = desk.client()
    desk.submit(client, inputs=[1, 2], key=KEY)
    out = desk.submit(client, inputs=[1, 2], key=KEY)
    assert of(out, messages.Accepted) == [messages.Accepted(2, 1, existed=True, received=2)]
    assert len(desk.dispatcher.state.jobs) == 1


def test_code_that_is_missing_is_asked_for() -> None:
    desk = Desk()
    client, kernel = desk.client(), desk.kernel()
    submit = messages.Submit(1, KEY, code("square"), count=1, python=PYTHON)
    out = desk.give(client, submit, units([1]))
    assert [s.message for s in out.sends] == [messages.NeedBlob(code("square"))]
    assert not out.sends_after_commit
    desk.give(client, messages.Blob(code("square")), blob("square"))
    run = run_of(desk.give(client, submit, units([1])))
    # a kernel that has lost code says so, and gives the work back
    desk.give(kernel, messages.NeedBlob(code("square")))
    out = finish(desk, kernel, run, [], ended="lost")
    assert of(out, messages.Blob) == [messages.Blob(code("square"))]
    assert run_of(out).start == 0


def test_a_job_waits_for_others_and_for_its_time() -> None:
    desk = Desk()
    client, kernel = desk.client(), desk.kernel()
    run = run_of(desk.submit(client))
    desk.submit(client, after=[1], when=WALL + 50)
    assert desk.job(2).state is JobState.WAITING
    assert desk.dispatcher.explain(2) == "waits for job 1, which is running"
    finish(desk, kernel, run)
    time = f"{datetime.fromtimestamp(WALL + 50, UTC):%Y-%m-%d %H:%M}"
    assert desk.dispatcher.explain(2) == f"waits for its time, {time} UTC"
    # its time is a deadline; the kernel meanwhile says that it lives
    for _ in range(24):
        assert not of(desk.tick(2.0), messages.Run)
        desk.give(kernel, messages.Heartbeat())
    assert desk.dispatcher.next_deadline() == pytest.approx(50, abs=0.01)
    assert run_of(desk.tick(2.0)).job == 2


@pytest.mark.parametrize("length", [3, 3000])
def test_a_failed_job_fails_all_that_come_after_it(length: int) -> None:
    desk = Desk()
    client, kernel = desk.client(), desk.kernel()
    run = run_of(desk.submit(client))
    check, desk.dispatcher.check = desk.dispatcher.check, lambda: None  # type: ignore[method-assign]
    for number in range(1, length):
        desk.submit(client, after=[number])
    finish(desk, kernel, run, [ERROR], cause="ValueError: no")
    check()
    assert (
        length > 3 or desk.job(2).reason == "job 1, which it comes after, has failed: unit 0: ValueError: no"
    )
    assert all(desk.job(n).state is JobState.FAILED for n in range(1, length + 1))
    assert length < sys.getrecursionlimit() or desk.job(length).reason.startswith(f"job {length - 1}, which")


def test_an_open_job_that_waits_may_turn_out_empty() -> None:
    desk = Desk()
    client, kernel = desk.client(), desk.kernel()
    run = run_of(desk.submit(client))
    desk.submit(client, inputs=[], closed=False, after=[1])
    desk.give(client, messages.Units(0, 0, True, job=2, id=5))
    assert desk.job(2).state is JobState.WAITING
    finish(desk, kernel, run)
    assert desk.job(2).state is JobState.COMPLETE


def test_units_that_fail_do_not_stop_the_others_unless_they_shall() -> None:
    desk = Desk()
    client, kernel = desk.client(), desk.kernel()
    run = run_of(desk.submit(client, inputs=[1, 2, 3]))
    run = run_of(finish(desk, kernel, run, [ERROR], cause="KeyError: 1"))
    run = run_of(finish(desk, kernel, run, [ERROR], cause="KeyError: 2", unit=1))
    finish(desk, kernel, run)
    assert desk.job(1).reason == "unit 0: KeyError: 1 (2 of 3 units failed)"
    run = run_of(desk.submit(client, inputs=[1, 2, 3], on_error="stop"))
    finish(desk, kernel, run, [ERROR], cause="KeyError: 1")
    assert (desk.job(2).state, desk.job(2).done) == (JobState.FAILED, 1)


# -- stop and abort ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [messages.Stop, messages.Abort])
@pytest.mark.parametrize("state", ["waiting", "queued"])
def test_a_job_that_never_started_ends_aborted(kind: Any, state: str) -> None:
    desk = Desk()
    client = desk.client()
    desk.submit(client)
    desk.submit(client, after=[1] if state == "waiting" else [])
    assert desk.job(2).state == state
    out = desk.give(client, kind(5, 2))
    assert of(out, messages.Done) == [messages.Done(5)]
    assert desk.job(2).state is JobState.ABORTED
    # twice: it has ended
    (failure,) = of(desk.give(client, kind(6, 2)), messages.Failure)
    assert failure == messages.Failure(6, "UnknownJob", "job 2 has ended: it is aborted")
    (failure,) = of(desk.give(client, kind(7, 99)), messages.Failure)
    assert failure.text == "job 99 is unknown"


def test_a_running_job_is_stopped_once_and_keeps_what_it_has() -> None:
    desk = Desk()
    client, kernel = desk.client(), desk.kernel()
    run = run_of(finish(desk, kernel, run_of(desk.submit(client, inputs=[1, 2, 3]))))
    out = desk.give(client, messages.Stop(5, 1))
    assert of(out, messages.Stop) == [messages.Stop(attempt=run.attempt)]
    assert of(desk.give(client, messages.Stop(6, 1)), messages.Stop) == []
    finish(desk, kernel, run)
    record = desk.job(1)
    assert (record.state, record.stopped, record.done, record.total) == (JobState.COMPLETE, True, 2, 3)
    assert record.reason == "stopped by its owner"


def test_an_abort_after_a_stop_counts_and_a_stop_after_an_abort_does_not() -> None:
    desk = Desk()
    client, kernel = desk.client(), desk.kernel()
    run = run_of(desk.submit(client))
    desk.give(client, messages.Stop(5, 1))
    assert of(desk.give(client, messages.Abort(6, 1)), messages.Abort) == [
        messages.Abort(attempt=run.attempt)
    ]
    assert of(desk.give(client, messages.Stop(7, 1)), messages.Done)
    assert desk.job(1).reason == "aborted by its owner"
    finish(desk, kernel, run, [], ended="abort")
    assert desk.job(1).state is JobState.ABORTED


def test_a_driver_that_is_to_stop_gets_its_maps_to_their_end() -> None:
    desk = Desk()
    client, kernel = desk.client(), desk.kernel()
    driver = run_of(desk.submit(client, "driver", None))
    unit = run_of(call(desk, kernel, driver, b"a"))
    out = desk.give(client, messages.Stop(5, 1))
    told = of(out, messages.Stop)
    assert {m.attempt: m.soft for m in told} == {driver.attempt: False, unit.attempt: True}
    # its unit crashes, and runs again; the next one is told at once
    out = desk.give(kernel, messages.Crashed([unit.attempt], "signal 9"))
    unit = run_of(out)
    assert of(out, messages.Stop) == [messages.Stop(attempt=unit.attempt, soft=True)]
    out = finish(desk, kernel, unit)
    out = finish(desk, kernel, run_of(out))
    assert of(out, messages.Results)[-1].resume
    finish(desk, kernel, driver, [1])
    assert (desk.job(1).state, desk.job(1).stopped) == (JobState.COMPLETE, True)


def test_a_stopped_driver_without_a_result_is_aborted() -> None:
    desk = Desk()
    client, kernel = desk.client(), desk.kernel()
    run = run_of(desk.submit(client, "driver", None))
    desk.give(client, messages.Stop(5, 1))
    desk.give(kernel, messages.Goodbye())
    assert desk.job(1).reason == "stopped before it had a result"
    assert desk.job(1).state is JobState.ABORTED
    assert run.once


def test_an_aborted_driver_takes_its_maps_along() -> None:
    desk = Desk()
    client, kernel = desk.client(), desk.kernel(slots=2)
    driver = run_of(desk.submit(client, "driver", None))
    first, second = of(call(desk, kernel, driver, b"a", 3), messages.Run)
    out = desk.give(client, messages.Abort(5, 1))
    assert {m.attempt for m in of(out, messages.Abort)} == {r.attempt for r in (driver, first, second)}
    for run in (first, second, driver):
        out = finish(desk, kernel, run, [], ended="abort")
    assert desk.job(1).state is JobState.ABORTED
    assert not desk.dispatcher.state.maps
    assert out.spool == [Write("units", (b"a" * 16, 0), None)] or not out.spool


def test_a_body_that_raises_abort_by_itself_fails_in_the_end() -> None:
    desk = Desk()
    client, kernel = desk.client(), desk.kernel()
    out = desk.submit(client, "aborts", None)
    for _ in range(3):
        out = finish(desk, kernel, run_of(out), [], ended="abort")
    assert desk.job(1).reason == "it raised park.Abort, though no request had aborted it"


# -- sessions ----------------------------------------------------------------------------------------


def test_a_session_s_map_is_not_stored_and_its_results_go_to_the_client() -> None:
    desk = Desk()
    client, kernel = desk.client(), desk.kernel()
    number = desk.session(client)
    desk.give(client, messages.Blob(code("square")), blob("square"))
    desk.tick(0.01)
    out = desk.give(client, messages.Map(KEY, number, code("square"), 1, closed=False), units([3]))
    assert not out.writes
    assert [type(s.message) for s in out.sends] == [messages.Blob, messages.Run]
    out = finish(desk, kernel, run_of(out), [9])
    assert of(out, messages.Results) == [messages.Results(0, 1, map=KEY, job=number)]
    out = desk.give(client, messages.Units(1, 1, True, map=KEY), units([4]))
    out = finish(desk, kernel, run_of(out), [16])
    assert not out.writes
    assert Write("units", (KEY, 1), None) in out.spool
    desk.give(client, messages.Close(5, number))
    assert desk.job(number).state is JobState.COMPLETE


def test_a_cancelled_map_gives_its_slot_back_and_the_session_goes_on() -> None:
    desk = Desk()
    client, kernel = desk.client(), desk.kernel()
    number = desk.session(client)
    desk.give(client, messages.Blob(code("square")), blob("square"))
    run = run_of(desk.give(client, messages.Map(KEY, number, code("square"), 3), units([1, 2, 3])))
    out = desk.give(client, messages.Cancel(KEY))
    assert of(out, messages.Abort) == [messages.Abort(attempt=run.attempt)]
    assert not of(finish(desk, kernel, run, [], ended="abort"), messages.Run)
    assert not desk.dispatcher.state.maps
    assert desk.job(number).state is JobState.RUNNING


def test_units_that_are_not_wanted_any_more_are_dropped_alone() -> None:
    desk = Desk()
    client, kernel = desk.client(), desk.kernel(slots=1)
    number = desk.session(client)
    desk.give(client, messages.Blob(code("square")), blob("square"))
    wanted = messages.Map(KEY, number, code("square"), 8, start=10, calls=True)
    run = run_of(desk.give(client, wanted, units([*range(8)])))
    assert (run.start, run.count) == (10, 1)
    # ranges that overlap, that end before they begin, and of units that run, or do not exist
    out = desk.give(client, messages.Cancel(KEY, 7, spare=True, units=[9, 12, 16, 15, 14, 16, 15, 99]))
    assert of(out, messages.Dropped) == [messages.Dropped(7, KEY, [11, 12, 14, 18])]
    out = desk.give(client, messages.Cancel(KEY, 8, spare=True, units=[14, 16]))
    assert of(out, messages.Dropped) == [messages.Dropped(8, KEY, [])]
    ran = []
    while (runs := of(finish(desk, kernel, run, [0] * run.count), messages.Run)) and len(ran) < 8:
        (run,) = runs
        ran += range(run.start, run.start + run.count)
    assert ran == [12, 13]
    assert not desk.dispatcher.state.maps


def test_calls_of_an_executor_travel_in_short_chunks() -> None:
    for calls, most in ((False, 20), (True, 4)):  # of a millisecond each
        map_ = JobMap(KEY, 1, "ann", code("square"), 0, 1, calls=calls)
        map_.add(0, 1000)
        assert map_.chunk_size(2, 0.001) == most


def test_a_session_ends_with_its_client() -> None:
    desk = Desk()
    client, kernel = desk.client(), desk.kernel()
    number = desk.session(client)
    desk.give(client, messages.Blob(code("square")), blob("square"))
    run = run_of(desk.give(client, messages.Map(KEY, number, code("square"), 3), units([1, 2, 3])))
    out = desk.give(client, messages.Goodbye())
    assert of(out, messages.Abort) == [messages.Abort(attempt=run.attempt)]
    finish(desk, kernel, run, [], ended="abort")
    assert desk.job(number).state is JobState.ABORTED
    assert desk.job(number).reason == "its client has left"


def test_nobody_touches_another_client_s_session() -> None:
    desk = Desk()
    ann, bob = desk.client("c1"), desk.client("c2", "bob")
    number = desk.session(ann)
    desk.give(ann, messages.Blob(code("square")), blob("square"))
    desk.give(ann, messages.Map(KEY, number, code("square"), 1, closed=False), units([1]))
    before = repr(desk.dispatcher.state.maps)
    (failed,) = of(
        desk.give(bob, messages.Map(b"m" * 16, number, code("square"), 1), units([1])), messages.MapFailed
    )
    assert failed.text == f"job {number} is no session of this client"
    desk.give(bob, messages.Map(KEY, number, code("square"), 1), units([1]))
    desk.give(bob, messages.Units(1, 1, True, map=KEY), units([1]))
    desk.give(bob, messages.Cancel(KEY))
    assert of(desk.give(bob, messages.Close(4, number)), messages.Failure)
    assert repr({KEY: desk.dispatcher.state.maps[KEY]}) == before
    desk.submit(ann, inputs=[1], closed=False)
    assert of(desk.give(bob, messages.Units(1, 1, True, job=2, id=8), units([1])), messages.Failure)
    # a map of a session that has ended fails in words
    desk.give(ann, messages.Close(5, number, "enough"))
    (failed,) = of(
        desk.give(ann, messages.Map(b"n" * 16, number, code("square"), 1), units([1])), messages.MapFailed
    )
    assert failed.text == f"session {number} has ended: enough"


def test_a_map_that_is_sent_again_runs_again_what_was_answered() -> None:
    desk = Desk()
    client, kernel = desk.client(), desk.kernel()
    number = desk.session(client)
    desk.give(client, messages.Blob(code("square")), blob("square"))
    made = messages.Map(KEY, number, code("square"), 3)
    run = run_of(desk.give(client, made, units([1, 2, 3])))
    run = run_of(finish(desk, kernel, run))
    # the client comes back over another connection, and has got nothing
    desk.give(b"c9", messages.Hello(b"c1" * 8, "ann", PYTHON))
    desk.give(b"c9", made, units([1, 2, 3]))
    (map_,) = desk.dispatcher.state.maps.values()
    assert (map_.remaining, map_.waiting) == (3, 2)
    out = finish(desk, kernel, run)
    assert [s.peer for s in out.sends if isinstance(s.message, messages.Results)] == [b"c9"]


# -- crashes -----------------------------------------------------------------------------------------


def test_a_unit_that_kills_three_processes_fails_alone() -> None:
    desk = Desk()
    client, kernel = desk.client(), desk.kernel()
    first = run_of(desk.submit(client, "kills", [1, 2, 3, 4]))
    chunk = run_of(finish(desk, kernel, first))
    desk.dispatcher.state.estimates._mean["ann", code("kills")] = 1e-4  # fast: the rest is one chunk
    chunk = run_of(finish(desk, kernel, chunk, seconds=1e-4))
    assert (chunk.start, chunk.count) == (2, 2)
    deaths = 0
    # given a chunk that kills, its units run one at a time
    run = run_of(desk.give(kernel, messages.Crashed([chunk.attempt], "signal 11")))
    deaths += 1
    while run.start == 2:
        assert (run.count, run.apart) == (1, True)
        out = desk.give(kernel, messages.Crashed([run.attempt], "signal 11", "last words"))
        deaths += 1
        run = run_of(out)
    # then three deaths are enough, and the innocent unit beside it is answered
    assert deaths == 3
    assert run.start == 3
    finish(desk, kernel, run)
    assert desk.job(1).reason == "unit 2: signal 11"
    assert (desk.job(1).done, desk.job(1).failed) == (4, 1)


def test_a_driver_whose_chunk_killed_its_process_is_a_victim() -> None:
    desk = Desk()
    client, kernel = desk.client(), desk.kernel()
    driver = run_of(desk.submit(client, "unlucky", None))
    chunk = run_of(call(desk, kernel, driver, b"a", name="kills"))
    assert not chunk.apart
    out = desk.give(kernel, messages.Crashed([driver.attempt, chunk.attempt], "signal 11"))
    # the driver runs again from its start, and its function never again inside a driver
    again = run_of(out)
    assert again.once
    assert run_of(call(desk, kernel, again, b"b", name="kills")).apart


def test_what_must_not_run_twice_fails_when_it_is_lost() -> None:
    desk = Desk()
    client, kernel = desk.client(), desk.kernel()
    desk.submit(client, inputs=[1, 2], idempotent=False)
    desk.give(kernel, messages.Goodbye())
    assert desk.job(1).state is JobState.FAILED
    assert desk.job(1).reason == "the kernel that ran it was lost, and idempotent=False forbids a second run"
    # a chunk of several units, of which nobody knows which one it was
    kernel = desk.kernel("k2")
    desk.dispatcher.state.estimates._mean["ann", code("square")] = 1e-5
    run = run_of(desk.submit(client, inputs=[1, 2], idempotent=False))
    assert run.count == 2
    desk.give(kernel, messages.Crashed([run.attempt], "signal 11"))
    assert desk.job(2).reason == "signal 11, and idempotent=False forbids a second run"
    # a unit alone fails alone
    run = run_of(desk.submit(client, inputs=[1], idempotent=False))
    desk.give(kernel, messages.Crashed([run.attempt], "signal 11"))
    assert desk.job(3).reason == "unit 0: signal 11"


# -- drivers -----------------------------------------------------------------------------------------


def test_a_driver_gives_its_slot_back_and_goes_on_with_its_last_results() -> None:
    desk = Desk()
    client, kernel = desk.client(), desk.kernel()
    driver = run_of(desk.submit(client, "driver", None))
    first = run_of(call(desk, kernel, driver, b"a"))
    assert desk.dispatcher.state.roster.kernels[kernel].record().drivers == 1
    out = finish(desk, kernel, first)
    assert [m.resume for m in of(out, messages.Results)] == [False]
    out = finish(desk, kernel, run_of(out))
    assert [m.resume for m in of(out, messages.Results)] == [True]
    assert not of(out, messages.Resume)


def test_a_driver_whose_slot_was_lent_waits_for_it() -> None:
    desk = Desk()
    client, kernel = desk.client(), desk.kernel()
    driver = run_of(desk.submit(client, "driver", None))
    unit = run_of(call(desk, kernel, driver, b"a", 1))
    desk.kernel("k2")
    other = run_of(desk.submit(desk.client("c2", "bob")))
    assert other.job == 2
    third = desk.submit(desk.client("c3", "cid"))
    assert not of(third, messages.Run)
    out = finish(desk, kernel, unit)
    # either the driver goes on with its results, or another owner's job has the slot, and it goes on later
    if of(out, messages.Run):
        assert not of(out, messages.Results)[0].resume
        out = finish(desk, kernel, run_of(out))
        assert of(out, messages.Resume) == [messages.Resume(driver.attempt)]
    else:
        assert of(out, messages.Results)[0].resume


def test_nested_maps_five_deep_on_one_slot() -> None:
    desk = Desk()
    client, kernel = desk.client(), desk.kernel()
    stack = [run_of(desk.submit(client, "chain", None))]
    for depth in range(5):
        stack.append(run_of(call(desk, kernel, stack[-1], b"%d" % depth, 1, "chain")))
    while len(stack) > 1:
        out = finish(desk, kernel, stack.pop())
        assert of(out, messages.Results) == [
            replace(of(out, messages.Results)[0], attempt=stack[-1].attempt, resume=True)
        ]
    finish(desk, kernel, stack.pop())
    assert desk.job(1).state is JobState.COMPLETE


def test_a_session_s_driver_and_an_open_map() -> None:
    desk = Desk()
    client, kernel = desk.client(), desk.kernel()
    number = desk.session(client)
    desk.give(client, messages.Blob(code("driver")), blob("driver"))
    run = run_of(desk.give(client, messages.Map(KEY, number, code("driver"), 1), units([1])))
    unit = run_of(call(desk, kernel, run, b"a", 1))
    # a session that is closed takes its nested maps along
    desk.give(client, messages.Close(3, number))
    finish(desk, kernel, unit, [], ended="abort")
    finish(desk, kernel, run, [], ended="abort")
    assert desk.job(number).state is JobState.COMPLETE


# -- kernels -----------------------------------------------------------------------------------------


def test_a_lost_kernel_s_units_run_elsewhere_in_their_order() -> None:
    desk = Desk()
    client, kernel = desk.client(), desk.kernel(slots=2)
    runs = of(desk.submit(client, inputs=[1, 2, 3]), messages.Run)
    assert [r.start for r in runs] == [0, 1]
    for _ in range(9):
        desk.tick(2.0)
        desk.give(client, messages.Heartbeat())
    out = desk.tick(2.0)
    assert [d.change for d in out.deltas if d.table == "kernel" and d.key == 1] == [None]
    other = desk.kernel("k2", 3)
    assert [r.span.start for r in desk.dispatcher.state.attempts.values() if r.kernel.peer == other] == [
        0,
        1,
        2,
    ]
    # the late answers of the lost one are counted, and dropped
    desk.give(kernel, messages.KernelHello(b"k1" * 8, "kay", "node", 1, 2, PYTHON))
    for run in runs:
        assert not finish(desk, kernel, run).writes
    assert desk.dispatcher.state.duplicates == 2


def test_a_kernel_that_comes_back_keeps_what_it_holds() -> None:
    desk = Desk()
    client, _ = desk.client(), desk.kernel(slots=2)
    kept, lost = of(desk.submit(client, inputs=[1, 2]), messages.Run)
    out = desk.give(
        b"k7", messages.KernelHello(b"k1" * 8, "kay", "node", 1, 2, PYTHON, attempts=[kept.attempt, 77])
    )
    (welcome,) = of(out, messages.Welcome)
    assert not welcome.fresh
    assert {m.attempt for m in of(out, messages.Abort)} == {lost.attempt, 77}
    assert of(out, messages.Blob) == [messages.Blob(code("square"))]  # it may have been lost
    again = run_of(out)
    assert again.start == lost.start
    finish(desk, b"k7", kept)
    finish(desk, b"k7", again)
    assert desk.job(1).state is JobState.COMPLETE


def test_what_a_kernel_was_told_over_a_lost_connection_is_told_again() -> None:
    desk = Desk()
    client, _ = desk.client(), desk.kernel()
    run = run_of(desk.submit(client))
    hello = messages.KernelHello(b"k1" * 8, "kay", "node", 1, 1, PYTHON, attempts=[run.attempt])
    assert not of(desk.give(b"k7", hello), messages.Stop)
    for number, kind in enumerate((messages.Stop, messages.Abort)):
        desk.give(client, kind(5, 1))
        out = desk.give(b"k%d" % number, hello)
        assert [(s.peer, s.message) for s in out.sends_after_commit if isinstance(s.message, kind)] == [
            (b"k%d" % number, kind(attempt=run.attempt))
        ]


def test_doubled_answers_are_counted_and_dropped() -> None:
    desk = Desk()
    client, kernel = desk.client(), desk.kernel()
    run = run_of(desk.submit(client, inputs=[1, 2]))
    finish(desk, kernel, run)
    assert not finish(desk, kernel, run).writes
    assert (desk.dispatcher.state.duplicates, desk.job(1).done) == (1, 1)


def test_another_kernel_s_answer_is_not_taken() -> None:
    desk = Desk()
    client, kernel = desk.client(), desk.kernel()
    run = run_of(desk.submit(client))
    other = desk.kernel("k2")
    for message in (
        finished(run)[0],
        messages.Crashed([run.attempt], "x"),
        messages.Publish(1, run.attempt, "progress", 1.0, 2.0),
        messages.Map(KEY, 1, code("square"), 1, attempt=run.attempt),
    ):
        out = desk.give(other, message, finished(run)[1] if message.carries else b"")
        assert not out.writes
        assert not out.publications
    assert desk.job(1).done == 0
    finish(desk, kernel, run)
    assert desk.job(1).done == 1


@pytest.mark.parametrize(
    ("fields", "data"),
    [
        ({"start": 5}, None),
        ({"count": 3}, None),
        ({"failed": 9}, None),
        ({}, b"no pack at all, but long enough"),
    ],
)
def test_a_wrong_answer_counts_as_a_crash(fields: dict[str, Any], data: bytes | None) -> None:
    desk = Desk()
    client, kernel = desk.client(), desk.kernel()
    out = desk.submit(client)
    for _ in range(3):
        message, payload = finished(run_of(out), **fields)
        out = desk.give(kernel, message, payload if data is None else data)
    assert desk.job(1).reason == "unit 0: its kernel answered other units than it was given"


def test_seconds_that_cannot_be_do_not_move_the_clock() -> None:
    desk = Desk()
    client, kernel = desk.client(), desk.kernel()
    run = run_of(desk.submit(client, inputs=[1, 2, 3]))
    run = run_of(finish(desk, kernel, run, seconds=1e300))
    assert desk.dispatcher.state.estimates.get("ann", code("square")) == pytest.approx(0.05)
    finish(desk, kernel, run, seconds=-1e300)
    assert desk.dispatcher.state.clock._owners["ann"].tag < 10


def test_a_kernel_of_another_python_gets_nothing() -> None:
    desk = Desk()
    client = desk.client()
    desk.submit(client, python="3.99")
    assert desk.dispatcher.explain(1) == "no kernel is connected"
    desk.kernel()
    reason = f"no kernel runs Python 3.99 (connected: {PYTHON}); `park-kernel --python PATH` adds one"
    assert desk.dispatcher.explain(1) == reason
    kernel = desk.kernel("k2", python="3.99")
    assert desk.job(1).state is JobState.RUNNING
    assert desk.dispatcher.explain(1) == ""
    assert len(desk.dispatcher.state.roster.kernels[kernel].running) == 1


def test_a_job_says_that_all_slots_are_busy() -> None:
    desk = Desk()
    client = desk.client()
    desk.kernel()
    desk.submit(client)
    desk.submit(client)
    assert desk.dispatcher.explain(2) == (
        "all slots are busy with work that is due before: its share is 50 % of 1 slot, "
        "its next unit in about a second"
    )


# -- pause and accounts ----------------------------------------------------------------------------


def test_a_paused_driver_gets_a_free_slot_when_it_is_resumed_and_nothing_else_happens() -> None:
    desk = Desk()
    client, kernel = desk.client(), desk.kernel()
    run = run_of(desk.submit(client, inputs=None))
    # given a driver that has lent its slot because its job is paused
    (lend,) = of(desk.give(client, messages.Change(9, run.job, paused=True)), messages.Lend)
    assert lend.attempt == run.attempt
    out = desk.give(kernel, messages.Lent(run.attempt))
    assert not of(out, messages.Resume)
    # when the job is resumed, and its kernel has been idle for long, then it goes on at once
    desk.tick(1.0)
    out = desk.give(client, messages.Change(10, run.job, paused=False))
    assert of(out, messages.Resume) == [messages.Resume(run.attempt)]
    assert desk.job(run.job).state == "running"


def test_an_account_is_told_also_of_who_has_not_paid_yet() -> None:
    desk = Desk(policy=CreditPolicy(Terms(100.0, 10.0), {"bob": Terms(5.0, 0.0)}))
    client = desk.client()

    def told(owner: str) -> list[Any]:
        out = desk.give(client, messages.Credits(9, owner))
        (send,) = [s for s in out.sends if isinstance(s.message, messages.Records)]
        return [AccountRecord.from_map(fields) for fields in codec.unpack(send.payload)]

    assert told("bob") == [AccountRecord("bob", 5.0, 5.0, 0.0)]
    assert told("*") == []  # nobody has come yet
    run = desk.submit(client, priority=2)
    desk.kernel()
    assert of(run, messages.Run) == []
    (ann,) = told("*")
    assert ann == AccountRecord("ann", 100.0, 100.0, 10.0, use=0.0, share=1.0)


# -- results -----------------------------------------------------------------------------------------


def test_a_fetch_waits_for_the_end_and_may_be_forgotten() -> None:
    desk = Desk()
    client, kernel = desk.client(), desk.kernel()
    run = run_of(desk.submit(client))
    for number in (11, 12):
        assert not desk.give(client, messages.Fetch(number, 1, wait=True)).sends_after_commit
    desk.give(client, messages.Forget(12))
    # it comes back as another peer, asks again, and is answered there, once
    desk.give(b"c9", messages.Hello(b"c1" * 8, "ann", PYTHON))
    desk.give(b"c9", messages.Fetch(11, 1, wait=True))
    out = finish(desk, kernel, run, [7])
    answers = [s for s in out.sends_after_commit if s.peer == b"c9"]
    assert [type(s.message) for s in answers] == [messages.Results, messages.Fetched]
    assert answers[0].payload == Ref("results", (1, 0))
    assert {s.message.reply for s in answers} == {11}  # type: ignore[attr-defined]
    assert not desk.dispatcher.state.roster.clients[b"c9"].fetches


def test_a_fetch_that_names_an_attempt_is_not_the_one_that_is_forgotten() -> None:
    """Given two fetches with one id, one of them for an attempt, when one is forgotten, then the other is answered."""
    desk = Desk()
    client, kernel = desk.client(), desk.kernel()
    run = run_of(desk.submit(client))
    desk.give(client, messages.Fetch(11, 1, wait=True))
    desk.give(client, messages.Fetch(11, 1, wait=True, attempt=5))
    desk.give(client, messages.Forget(11))
    (fetched,) = of(finish(desk, kernel, run, [7]), messages.Fetched)
    assert fetched.reply == 11
    desk.give(client, messages.Delete(12, 1))
    desk.give(client, messages.Goodbye())  # it waits for nothing any more


@pytest.mark.parametrize("inputs", [None, [1, 2]])
def test_a_request_can_be_fetched(inputs: list[int] | None) -> None:
    desk = Desk()
    client = desk.client()
    desk.submit(client, inputs=inputs, name="square")
    out = desk.give(client, messages.Fetch(5, 1, request=True))
    refs = [s.payload for s in out.sends_after_commit if isinstance(s.payload, Ref)]
    units_of = [] if inputs is None else [Ref("units", (1, 0))]
    assert refs == [Ref("blob", (code("square"),)), *units_of]
    number = desk.session(client)  # has none
    out = desk.give(client, messages.Fetch(6, number, request=True))
    assert [type(s.message) for s in out.sends_after_commit] == [messages.Fetched]


def test_whoever_is_gone_waits_for_nothing() -> None:
    desk = Desk()
    client, kernel = desk.client(), desk.kernel()
    run = run_of(desk.submit(client))
    desk.give(client, messages.Fetch(3, 1, wait=True))
    desk.give(client, messages.Goodbye())
    assert not of(finish(desk, kernel, run), messages.Fetched)


# -- time --------------------------------------------------------------------------------------------


def test_counters_are_told_some_ten_times_a_second_and_states_at_once() -> None:
    desk = Desk()
    client, kernel = desk.client(), desk.kernel()
    out = desk.submit(client, inputs=list(range(4000)))
    assert any(d.change and d.change.get("state") == JobState.RUNNING for d in out.deltas if d.table == "job")
    told = 0
    for _ in range(100):
        out = finish(desk, kernel, run_of(out))
        told += sum(d.table == "job" for d in out.deltas)
    assert 40 <= told <= 55  # in 5 s
    # the last one is told too, by a deadline
    while any(d.table == "job" for d in out.deltas):
        out = finish(desk, kernel, run_of(out))
    desk.tick()  # heartbeats
    deadline = desk.dispatcher.next_deadline()
    assert desk.now < deadline <= desk.now + 0.1
    out = desk.tick(deadline - desk.now)
    assert [d.change["done"] for d in out.deltas if d.table == "job" and d.change] == [desk.job(1).done]


def test_heartbeats_and_leases_follow_deadlines() -> None:
    desk = Desk(heartbeat=2.0, lease=20.0)
    desk.client()
    beats = 0
    for _ in range(40):
        deadline = desk.dispatcher.next_deadline()
        if deadline == math.inf:
            break
        assert deadline > desk.now, "it spins"
        beats += len(of(desk.tick(deadline - desk.now), messages.Heartbeat))
    assert beats == 9
    assert desk.now == pytest.approx(20.0)
    assert not desk.dispatcher.state.roster.clients
    assert desk.dispatcher.next_deadline() == math.inf


def test_a_stranger_is_told_to_introduce_itself() -> None:
    desk = Desk()
    assert of(desk.give(b"c5", messages.Status(1)), messages.Unwelcome)
    assert not desk.give(b"c5", messages.Goodbye()).sends


def test_a_connection_belongs_to_one_peer() -> None:
    desk = Desk()
    client = desk.client()
    number = desk.session(client)
    desk.give(client, messages.Hello(b"anothers" * 2, "bob", PYTHON))
    assert desk.job(number).state is JobState.ABORTED
    desk.give(client, messages.KernelHello(b"a kernel" * 2, "bob", "node", 1, 1, PYTHON))
    assert not desk.dispatcher.state.roster.clients


# -- what peers should not send ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "error", "words"),
    [
        ({"priority": 7}, "InvalidRequest", "priority 7"),
        ({"on_error": "explode"}, "InvalidRequest", "on_error='explode'"),
        ({"cpus": 0}, "InvalidRequest", "cpus=0"),
        ({"tags": ["t" * 200] * 200}, "InvalidRequest", "name, tags and after"),
        ({"tags": [""]}, "InvalidRequest", "printable text"),
        ({"requires": {"bumps": "new"}}, "InvalidRequest", "no set of versions"),
        ({"key": b"short"}, "ProtocolError", "16 bytes"),
        ({"count": 5}, "ProtocolError", "does not hold 5 units"),
        ({"after": [9]}, "UnknownJob", "job 9 is unknown"),
    ],
)
def test_a_request_that_cannot_be_is_refused_and_leaves_nothing(
    fields: dict[str, Any], error: str, words: str
) -> None:
    desk = Desk()
    client = desk.client()
    out = desk.submit(client, **fields)
    (failure,) = of(out, messages.Failure)
    assert failure.error == error
    assert words in failure.text
    assert not of(out, messages.Accepted)
    assert not out.writes
    assert not desk.dispatcher.state.jobs


def test_words_of_others_are_cut_short() -> None:
    desk = Desk()
    client, kernel = desk.client(), desk.kernel()
    run = run_of(desk.submit(client))
    finish(desk, kernel, run, [ERROR], cause="x" * 50_000)
    (fetched,) = of(desk.give(client, messages.Fetch(3, 1, request=True)), messages.Fetched)
    codec.encode(fetched)
    assert len(desk.job(1).reason) < 1000


def test_a_remark_is_written_with_the_end_of_its_job_and_stays() -> None:
    desk = Desk()
    client, kernel = desk.client(), desk.kernel()
    run = run_of(desk.submit(client, "driver", None))
    # when the body's answer carries a remark
    out = finish(desk, kernel, run, [5], remark="not\nconverged " + "x" * 500)
    # then one turn writes the result, the end and the remark, of which people see one line of a bounded length
    said = ("not converged " + "x" * 200)[:199] + "…"
    kept = [codec.unpack(w.value) for w in out.writes if w.namespace == "job"][-1]
    assert (kept["state"], kept["remark"]) == ("complete", said)
    assert any(w.namespace == "results" for w in out.writes)
    changes = {k: v for delta in out.deltas if delta.table == "job" for k, v in delta.change.items()}
    assert (changes["state"], changes["remark"]) == ("complete", said)


def test_the_last_remark_counts_and_none_of_an_attempt_that_gave_no_result() -> None:
    desk = Desk()
    client, kernel = desk.client(), desk.kernel()
    first = run_of(desk.submit(client, inputs=[1, 2, 3]))
    second = run_of(finish(desk, kernel, first, [1], remark="of the first"))
    assert desk.job(1).remark == "of the first"
    third = run_of(finish(desk, kernel, second, [2] * second.count))
    assert desk.job(1).remark == "of the first"
    again = run_of(finish(desk, kernel, third, [], ended="broken", remark="of none"))
    assert desk.job(1).remark == "of the first"
    finish(desk, kernel, again, [3], remark="of the last")
    assert (desk.job(1).state, desk.job(1).remark) == (JobState.COMPLETE, "of the last")


def test_no_message_raises_or_breaks_an_invariant() -> None:
    desk = Desk()
    client, kernel = desk.client(), desk.kernel(slots=2)
    driver = run_of(desk.submit(client, "driver", None))
    call(desk, kernel, driver, b"a", 5)
    number = desk.session(client)
    numbers = [0, 1, 2, number, 10**9, driver.attempt, driver.attempt + 1]
    for peer in (client, kernel, b"c77"):
        for kind in messages.MESSAGES.values():
            if kind in (messages.Goodbye, messages.Stop, messages.Abort, messages.Close, messages.Delete):
                continue
            for n in numbers:
                desk.give(peer, message_with(kind, n), b"junk" if kind.carries else b"")
    assert set(desk.dispatcher.state.jobs) >= {1, number}


def message_with(kind: type[Message], n: int) -> Message:
    """A message of this kind with *n* wherever a number is, and texts and keys of some length."""
    values: dict[Any, Any] = {int: n, float: float(n), str: "text", bytes: b"b" * 16, bool: bool(n % 2)}
    values |= {list[int]: [n], list[str]: [], list[bytes]: [], dict[str, str]: {}, dict[str, Any]: {}}
    values |= {hint | None: value for hint, value in values.items()}
    hints = typing.get_type_hints(kind)
    fields = {name: values[hints[name]] for name in kind.__struct_fields__}
    return kind(**fields)


# -- code --------------------------------------------------------------------------------------------


def test_code_that_nobody_needs_goes_when_there_is_too_much() -> None:
    codes = CodeCache(idle_bytes=10)
    assert codes.add(b"a", 6) == []
    codes.use(b"a")
    assert codes.add(b"b", 6) == []
    assert codes.add(b"c", 6) == [b"b"]
    assert b"b" not in codes
    assert codes.leave(b"a") == [b"c"]
    codes.check()
    with pytest.raises(ProtocolError, match="not what its hash says"):
        check_code(code("square"), b"other code")


def test_the_broker_drops_code_of_what_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codes_module.CodeCache.__init__, "__defaults__", (20,))
    desk = Desk()
    client, kernel = desk.client(), desk.kernel()
    run = run_of(desk.submit(client, "square"))
    desk.submit(client, "driver", None)
    finish(desk, kernel, run)
    assert code("square") in desk.dispatcher.state.code_cache
    out = desk.give(client, messages.Blob(code("chain")), blob("chain"))
    assert out.spool[-1] == Write("blob", (code("square"),), None)


def test_numbers_of_sessions_are_never_used_again() -> None:
    desk = Desk()
    client = desk.client()
    numbers = [desk.session(client) for _ in range(40)]
    assert numbers == list(range(1, 41))
    next_life = Dispatcher("store", next_job=49).state
    assert next_life.job_list.new_number(Effects()) == 49


def test_accepted_carries_the_number() -> None:
    desk = Desk()
    assert accepted(desk.submit(desk.client())) == 1


# -- kernels that leave ------------------------------------------------------------------------------


def kernel_hello(name: str) -> messages.KernelHello:
    return messages.KernelHello((name.encode() * 16)[:16], "kay", "node", 1, 1, PYTHON)


def drain(desk: Desk, client: bytes, kernel: int = 1, grace: float = 5.0, id: int = 70) -> Any:
    return desk.give(client, messages.Drain(id, kernel, grace, desk.dispatcher.state.epoch))


def test_a_kernel_that_was_asked_to_leave_gets_nothing_new_and_who_asked_hears_when_it_knows() -> None:
    desk = Desk()
    client, kernel = desk.client(), desk.kernel()
    out = drain(desk, client)
    assert of(out, messages.Drain) == [messages.Drain(grace=5.0)]
    assert of(out, messages.Done) == []
    assert [d.change for d in out.deltas if d.table == "kernel"] == [{"draining": True}]
    assert of(desk.submit(client, inputs=[5, 6]), messages.Run) == []
    assert "are draining" in desk.dispatcher.explain(1)
    assert of(desk.give(kernel, messages.Draining(1)), messages.Done) == [messages.Done(70)]
    assert of(drain(desk, client, id=71), messages.Drain) == [messages.Drain(grace=5.0)]
    assert of(desk.give(kernel, messages.Goodbye("it leaves")), messages.Done) == [messages.Done(71)]
    assert run_of(desk.give(b"k2", kernel_hello("k2"))).start == 0


@pytest.mark.parametrize(
    ("fields", "error", "words"),
    [
        ({"kernel": 7}, "UnknownKernel", "no kernel 7 is connected"),
        ({"grace": 31 * 86400.0}, "InvalidRequest", "grace=2.6784e+06"),
        ({"grace": -1.0}, "InvalidRequest", "grace=-1"),
        ({"epoch": 7}, "InvalidRequest", "was restarted"),
    ],
)
def test_what_no_kernel_can_be_asked(fields: dict[str, Any], error: str, words: str) -> None:
    desk = Desk()
    client, _ = desk.client(), desk.kernel()
    values = {"kernel": 1, "grace": 1.0, "epoch": desk.dispatcher.state.epoch} | fields
    (failure,) = of(desk.give(client, messages.Drain(5, **values)), messages.Failure)
    assert failure.error == error
    assert words in failure.text


def test_a_kernel_that_comes_back_is_told_again_unless_it_knows() -> None:
    desk = Desk()
    client, kernel = desk.client(), desk.kernel("k1")
    drain(desk, client)
    hello = kernel_hello("k1")
    assert of(desk.give(b"k7", hello), messages.Drain) == [messages.Drain(grace=5.0)]
    assert of(desk.give(b"k8", replace(hello, draining=True)), messages.Done) == [messages.Done(70)]
    assert kernel != b"k8"


def test_units_that_are_handed_back_are_dealt_again_and_count_as_no_crash() -> None:
    desk = Desk()
    client, first = desk.client(), desk.kernel("k1")
    run = run_of(desk.submit(client, inputs=[5]))
    second = desk.kernel("k2")
    desk.give(first, messages.Draining(1))
    out = finish(desk, first, run, [], ended="broken")
    again = run_of(out)
    assert (again.start, again.count, again.apart) == (0, 1, False)
    assert desk.dispatcher.state.maps[run.map].kills == {}
    assert desk.job(1).seconds == 0.0
    finish(desk, second, again, [25])
    assert desk.job(1).state is JobState.COMPLETE


def test_what_was_broken_off_is_not_begun_again_where_it_must_not_run_twice() -> None:
    desk = Desk()
    client, kernel = desk.client(), desk.kernel()
    run = run_of(desk.submit(client, inputs=[5], idempotent=False))
    finish(desk, kernel, run, [], ended="broken")
    assert desk.job(1).state is JobState.FAILED
    assert "its kernel has left while it ran" in desk.job(1).reason
    run = run_of(desk.submit(client, inputs=[5], idempotent=False, key=b"2" * 16))
    assert run_of(finish(desk, kernel, run, [], ended="lost")).job == 2  # it had not begun


def test_a_driver_goes_on_where_it_waits_also_while_its_kernel_drains() -> None:
    desk = Desk()
    client, kernel = desk.client(), desk.kernel("k1")
    driver = run_of(desk.submit(client, name="driver"))
    other = desk.kernel("k2")
    run = run_of(call(desk, kernel, driver, b"m", count=1))
    here = other if of(desk.give(kernel, messages.Draining(1)), messages.Run) else kernel
    out = finish(desk, here, run, [0])
    assert any(m.resume for m in of(out, messages.Results)) or of(out, messages.Resume)
