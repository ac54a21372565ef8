"""Limits of time: units that run too long end alone, jobs stop with what they have, and no clock but one counts."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import park
from park.broker.handlers.startup import StoredRecords
from park.broker.scheduler.run_times import MIN_GRACE_SECONDS, STORE_SECONDS, length
from park.kernel.machine.actions import KillProcess
from park.kernel.machine.unit_timers import CHUNK_SLACK_SECONDS, UnitTimers
from park.model import JobState
from park.wire import codec, messages
from tests.sim.desk import Desk, accepted, finished, of
from tests.support.bench import Bench, place, told
from tests.support.fabric import Fabric, until

# -- the broker ----------------------------------------------------------------------------------------


def started(desk: Desk, inputs: Any = None, **fields: Any) -> tuple[int, messages.Run]:
    out = desk.submit(desk.client(), "serial", inputs, **fields)
    return accepted(out), of(out, messages.Run)[0]


def alive(desk: Desk, seconds: float) -> list[Any]:
    """The messages that are sent in *seconds* in which all peers are there."""
    sent: list[Any] = []
    for _ in range(round(seconds)):
        sent += [s.message for out in [desk.tick(1.0)] for s in (*out.sends, *out.sends_after_commit)]
        for peer in ("c1", "k1"):
            desk.give(peer.encode(), messages.Heartbeat())
    return sent


def test_a_job_over_its_limit_is_asked_to_stop_and_then_aborted() -> None:
    desk = Desk()
    desk.kernel()
    job, run = started(desk, max_time=30.0)
    assert not [m for m in alive(desk, 29) if isinstance(m, messages.Stop | messages.Abort)]
    assert messages.Stop(attempt=run.attempt) in alive(desk, 2)
    assert desk.job(job).reason == "it ran for as long as it may: 30 s (max_time)"
    assert not [m for m in alive(desk, MIN_GRACE_SECONDS - 3) if isinstance(m, messages.Abort)]
    assert messages.Abort(attempt=run.attempt) in alive(desk, 3)
    desk.give(b"k1", *finished(run, [], ended="abort"))
    record = desk.job(job)
    assert record.state is JobState.ABORTED
    assert record.reason == "aborted: it went on for 10 s after its limit of 30 s (max_time)"


def test_a_job_over_its_limit_is_aborted_after_the_grace_of_its_request() -> None:
    desk = Desk()
    desk.kernel()
    job, run = started(desk, max_time=30.0, grace=100.0)
    assert messages.Stop(attempt=run.attempt) in alive(desk, 31)
    assert not [m for m in alive(desk, 98) if isinstance(m, messages.Abort)]
    assert messages.Abort(attempt=run.attempt) in alive(desk, 3)
    desk.give(b"k1", *finished(run, [], ended="abort"))
    assert desk.job(job).reason == "aborted: it went on for 1 min 40 s after its limit of 30 s (max_time)"


@pytest.mark.parametrize(
    ("fields", "grace"),
    [
        ({}, None),
        ({"max_time": 5}, 120.0),
        ({"max_time": "10h"}, 3600.0),
        ({"max_time": 5, "grace": "3s"}, 3.0),
    ],
)
def test_a_fit_has_time_to_end_after_its_limit(fields: dict[str, Any], grace: float | None) -> None:
    from park.fit import Assembly, Model
    from park.fit.job import fit_request

    assembly = Assembly((Model(lambda x, a: a * x, a=(0, 4)), ([1, 2], [2, 4], 0.1)))
    assert fit_request(assembly, **fields).grace == grace


def test_a_job_that_stops_is_complete_and_says_why_it_did() -> None:
    desk = Desk()
    desk.kernel()
    job, run = started(desk, max_time=30.0)
    alive(desk, 31)
    desk.give(b"k1", *finished(run))
    record = desk.job(job)
    assert (record.state, record.stopped) == (JobState.COMPLETE, True)
    assert "30 s (max_time)" in record.reason
    assert not [m for m in alive(desk, 60) if isinstance(m, messages.Stop | messages.Abort)]


def test_only_what_a_job_runs_counts() -> None:
    desk = Desk()
    desk.kernel()
    job, run = started(desk, max_time=30.0)
    alive(desk, 20)
    desk.give(b"c1", messages.Change(5, job, paused=True))
    assert not [m for m in alive(desk, 100) if isinstance(m, messages.Stop)]
    desk.give(b"c1", messages.Change(6, job, paused=False))
    assert not [m for m in alive(desk, 9) if isinstance(m, messages.Stop)]
    assert messages.Stop(attempt=run.attempt) in alive(desk, 2)


def test_the_wall_clock_does_not() -> None:
    desk = Desk()
    desk.kernel()
    job, _ = started(desk, max_time=30.0)
    alive(desk, 10)
    out = desk.dispatcher.handle(park_tick(desk, 1e6), desk.now)
    assert not of(out, messages.Stop)
    out = desk.dispatcher.handle(park_tick(desk, -1e6), desk.now)
    assert desk.job(job).state is JobState.RUNNING


def park_tick(desk: Desk, jump: float) -> Any:
    from park.broker.effects import Tick
    from tests.sim.wire import WALL

    return Tick(WALL + desk.now + jump)


def test_what_a_job_has_run_is_stored_and_counts_in_the_next_life() -> None:
    desk = Desk()
    desk.kernel()
    job, run = started(desk, max_time=30.0)
    submit = desk.dispatcher.state.jobs[job].submit
    records = []
    for _ in range(25):
        out = desk.tick(1.0)
        records += [w.value for w in out.writes if w.namespace == "job"]
        desk.give(b"k1", messages.Heartbeat())
    stored = codec.unpack(records[-1])
    assert 25 - STORE_SECONDS <= stored["ran"] <= 25

    again = Desk(epoch=2)
    again.dispatcher.restore(stored | {"failed": 0}, submit, StoredRecords())
    again.dispatcher.settle(again.now, again.now)
    again.client()
    again.kernel()
    left = round(30 - stored["ran"])
    assert not [m for m in alive(again, left - 2) if isinstance(m, messages.Stop)]
    assert [m for m in alive(again, 4) if isinstance(m, messages.Stop)]
    del run


def test_a_session_over_its_limit_ends_in_words() -> None:
    desk = Desk()
    desk.kernel()
    client = desk.client()
    submit = messages.Submit(id=1, key=b"k" * 16, session=True, python="3.11", max_time=5.0)
    job = accepted(desk.give(client, submit))
    alive(desk, 6)
    assert desk.job(job).state is JobState.ABORTED
    assert desk.job(job).reason == "it ran for as long as it may: 5 s (max_time)"


def test_a_unit_that_ran_too_long_fails_alone_at_once() -> None:
    desk = Desk()
    desk.kernel()
    job, run = started(desk, [1, 2], max_unit_time=5.0)
    assert run.limit == 5.0
    out = desk.give(b"k1", messages.Crashed([run.attempt], "signal 9", late=True))
    assert desk.job(job).failed == 1
    (other,) = of(out, messages.Run)
    assert other.start == 1
    desk.give(b"k1", *finished(other))
    record = desk.job(job)
    assert record.state is JobState.FAILED
    assert record.reason == "unit 0: ran longer than its limit of 5 s"


def test_of_several_each_runs_again_by_itself() -> None:
    desk = Desk()
    desk.kernel()
    job, run = started(desk, list(range(100)), max_unit_time=5.0)
    (run,) = of(desk.give(b"k1", *finished(run, seconds=1e-4)), messages.Run)
    assert run.count > 1
    suspects = range(run.start, run.start + run.count)
    runs = of(desk.give(b"k1", messages.Crashed([run.attempt], "signal 9", late=True)), messages.Run)
    seen = []
    while runs:
        run = runs.pop(0)
        if run.start in suspects:
            assert run.count == 1
            seen.append(run.start)
        runs += of(desk.give(b"k1", *finished(run, seconds=1e-4)), messages.Run)
    assert seen == list(suspects)
    assert desk.job(job).state is JobState.COMPLETE


def test_units_that_must_not_run_twice_run_singly_where_one_may_be_ended() -> None:
    desk = Desk()
    desk.kernel()
    _, run = started(desk, list(range(100)), max_unit_time=5.0, idempotent=False)
    for _ in range(5):
        assert run.count == 1
        run = of(desk.give(b"k1", *finished(run, seconds=1e-4)), messages.Run)[0]


def test_a_body_that_runs_once_has_no_limit_as_a_unit() -> None:
    desk = Desk()
    desk.kernel()
    _, run = started(desk, max_unit_time=5.0)
    assert run.limit == 0.0


# -- the kernel ----------------------------------------------------------------------------------------


def run_of(limit: float = 5.0, count: int = 1) -> messages.Run:
    return messages.Run(7, 1, "ann", b"m" * 16, b"f", 0, count, 0, limit=limit)


def test_timers() -> None:
    timers = UnitTimers()
    timers.begin(run_of(limit=0.0))
    assert timers.deadline() is None
    timers.begin(run_of())
    assert timers.deadline() == 0.0, "it is looked at at once"
    assert timers.tick(100.0) == []
    assert timers.deadline() == 105.0
    assert timers.tick(104.9) == []
    timers.wait(7, 104.9)  # in a map
    assert timers.deadline() is None
    assert timers.tick(1000.0) == []
    timers.go_on(7)
    timers.tick(1000.0)
    assert timers.deadline() == pytest.approx(1000.1)
    assert timers.tick(1000.11) == [7]
    timers.begin(run_of(count=3))  # another unit of a chunk
    timers.tick(2000.0)
    assert timers.deadline() == 2005.0 + CHUNK_SLACK_SECONDS
    timers.end(7)
    assert timers.tick(9000.0) == []


def test_a_process_whose_unit_runs_too_long_is_killed_and_the_broker_told() -> None:
    bench = Bench()
    process = place(bench.run(5, limit=3.0))
    bench.machine.tick(10.0)
    bench.slot(process, messages.Began(5))
    assert bench.machine.tick(10.0) == []
    assert bench.machine.deadline() == 13.0
    assert bench.machine.tick(12.9) == []
    assert bench.machine.tick(13.0) == [KillProcess(process)]
    assert bench.machine.deadline() is None
    (crashed,) = told(bench.exited(process), messages.Crashed)
    assert crashed.late


def test_a_unit_that_ends_just_then_counts() -> None:
    bench = Bench()
    process = place(bench.run(5, limit=3.0))
    bench.slot(process, messages.Began(5))
    bench.machine.tick(10.0)
    bench.machine.tick(13.0)
    assert told(bench.done(process, 5), messages.Finished)
    assert not told(bench.exited(process), messages.Crashed)


# -- words ---------------------------------------------------------------------------------------------


def test_lengths_of_time() -> None:
    assert [length(s) for s in (5, 90, 5400, 90061, 0.25)] == [
        "5 s",
        "1 min 30 s",
        "1 h 30 min",
        "1 d 1 h 1 min 1 s",
        "0.25 s",
    ]
    request = park.Request(abs, max_time="1h30m", max_unit_time=2)
    assert (request.max_time, request.max_unit_time) == (5400.0, 2.0)
    for wrong in ("soon", "", -1, True, float("nan")):
        with pytest.raises(park.InvalidRequest, match=r"max_time=.* is no length of time"):
            park.Request(abs, max_time=wrong)
    with pytest.raises(park.InvalidRequest, match="grace=0 leaves no time; None is the default"):
        park.Request(abs, grace=0)
    with pytest.raises(park.InvalidRequest, match="max_unit_time=0 leaves no time"):
        park.Request(abs, max_unit_time=0)


# -- real processes ------------------------------------------------------------------------------------


def hangs(x: float) -> float:
    deadline = time.monotonic() + x
    while time.monotonic() < deadline:
        pass
    return x


def test_a_local_unit_over_its_limit_is_a_unit_error_and_innocents_are_not() -> None:
    with park.local_service as service:
        job = service.job(service.start(hangs, [0.0, 0.0, 60.0, 0.01, 0.0], max_unit_time=0.5))
        with pytest.raises(park.JobFailed) as failed:
            job.wait(50)
        results = failed.value.results
        assert [results[i] for i in (0, 1, 3, 4)] == [0.0, 0.0, 0.01, 0.0]
        assert isinstance(results[2], park.UnitError)
        assert "ran longer than its limit of 0.5 s" in str(results[2])
        assert service.fetch(job).request.max_unit_time == 0.5
        with pytest.raises(park.UnitError, match=r"longer than its limit of 0\.5 s"):
            list(service.map(hangs, [0.0, 60.0], max_unit_time="0.5s"))


def test_a_driver_waits_longer_than_its_units_may_run_and_keeps_its_process() -> None:
    class Driver:
        def run(self, x: int) -> list[str]:
            env = park.environment()
            said = [str(y) for y in env.map(hangs, [0.3] * 8)]
            try:
                list(env.map(hangs, [60.0]))
            except park.UnitError as error:
                said.append(error.cause)
            return said

    with park.local_service as service:
        ((*times, cause),) = service.wait(service.start(Driver(), [1], max_unit_time=0.9), 30)
    assert times == ["0.3"] * 8
    assert cause == "ran longer than its limit of 0.9 s"


def test_a_fit_over_its_limit_has_its_best(tmp_path: Path) -> None:
    from park.fit import Assembly, Fit, Model

    def line(x: Any, slope: float, floor: float) -> Any:
        time.sleep(0.001)
        return slope * x + floor

    x = np.linspace(0, 1, 20)
    best: list[float] = []

    class Improvements:
        def on_improvement(self, message: park.Improvement) -> None:
            best.append(message.value)

    with Fabric(tmp_path) as fabric:
        fabric.start_kernel()
        service = fabric.connect()
        model = Model(line, slope=(-5.0, 5.0), floor=(-5.0, 5.0))
        fit = Fit(
            Assembly((model, (x, 2 * x + 1, np.full(20, 0.1)))),
            "pt", steps=10**6, max_time=3, service=service, monitor=Improvements(),
        )  # fmt: skip
        result = fit.wait(50)
        assert result.stopped
        assert (fit.state, fit.record.stopped) == (JobState.COMPLETE, True)
        assert fit.reason == "it ran for as long as it may: 3 s (max_time)"
        assert result.nllf == pytest.approx(best[-1])


def test_a_limit_goes_on_over_a_restart_of_the_broker(tmp_path: Path) -> None:
    def body() -> str:
        env = park.environment()
        while not env.should_stop:
            time.sleep(0.02)
        return "its best"

    with Fabric(tmp_path) as fabric:
        fabric.start_kernel()
        service = fabric.connect()
        job = service.job(service.start(body, max_time=3))
        until(lambda: job.state is JobState.RUNNING)
        fabric.broker.kill()
        fabric.start_broker()
        assert job.wait(50) == "its best"
        assert job.record.stopped
