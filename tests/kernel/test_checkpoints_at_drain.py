"""A kernel that will leave asks the bodies of jobs for checkpoints, and hands them back once these are on disk."""

from __future__ import annotations

import math

import pytest

from park.kernel.machine.actions import KillProcess
from park.kernel.machine.shutdown import ABORT_GRACE_SECONDS, notice_of
from park.wire import messages
from tests.support.bench import Bench, told


def saved(bench: Bench, attempt: int, number: int = 1, process: int = 1) -> list:
    """The body of the attempt has made a checkpoint, which is now on disk."""
    bench.slot(process, messages.Checkpoint(attempt, 1, 0, number), b"state")
    return bench.broker(messages.Checkpointed(attempt, number), now=bench.machine.state.now)


def test_it_takes_new_work_until_its_driver_s_checkpoint_is_on_disk() -> None:
    bench = Bench(2)
    bench.run(1, once=True, stored=True)
    actions = bench.machine.drain("its time is over", 6.0, now=10.0)
    assert told(actions, messages.Save) == [messages.Save(1)]
    assert not told(actions, messages.Draining)
    assert bench.machine.deadline() == 14.5
    bench.call(1, 1)
    assert told(bench.run(2, map=b"b" * 16), messages.Run), "its driver's map may end nowhere else"
    assert not bench.machine.tick(11.0)
    bench.done(1, 2, map=b"b" * 16)
    saved(bench, 1)
    actions = bench.machine.tick(11.5)
    assert told(actions, messages.Draining) == [messages.Draining(1)]
    # it loses nothing: it need not wait for the end of the grace
    assert messages.Abort(attempt=1) in told(actions, messages.Abort)
    bench.exited(1)
    bench.exited(2)
    assert bench.machine.left(12.0)
    assert "job 1 handed back" in str(bench.machine.state.shutdown)


def test_a_driver_that_makes_no_checkpoint_holds_it_up_for_a_part_of_the_grace() -> None:
    bench = Bench(1)
    bench.run(1, once=True, stored=True)
    bench.machine.drain("its time is over", 6.0, now=10.0)
    assert told(bench.machine.tick(14.5), messages.Draining)
    assert not told(bench.machine.tick(15.9), messages.Abort)
    assert told(bench.machine.tick(16.0), messages.Abort) == [messages.Abort(attempt=1)]


def test_a_checkpoint_that_comes_later_is_in_time_as_well() -> None:
    bench = Bench(1)
    bench.run(1, once=True, stored=True)
    bench.machine.drain("its time is over", 6.0, now=10.0)
    bench.machine.tick(14.5)
    assert told(saved(bench, 1), messages.Abort) == [messages.Abort(attempt=1)]


def test_one_made_before_it_was_asked_is_not_the_one() -> None:
    bench = Bench(1)
    bench.run(1, once=True, stored=True)
    bench.slot(1, messages.Checkpoint(1, 1, 0, 1), b"old")
    bench.machine.drain("its time is over", 6.0, now=10.0)
    bench.broker(messages.Checkpointed(1, 1), now=10.1)
    assert not told(bench.machine.tick(10.2), messages.Draining)
    saved(bench, 1, 2)
    assert told(bench.machine.tick(10.3), messages.Draining)


def test_units_that_are_no_drivers_are_asked_and_not_waited_for() -> None:
    bench = Bench(2)
    bench.run(1, stored=True)
    bench.run(2)  # of a session, which has no checkpoints
    actions = bench.machine.drain("its time is over", 6.0, now=10.0)
    assert told(actions, messages.Save) == [messages.Save(1)]
    assert told(actions, messages.Draining)
    assert told(saved(bench, 1), messages.Abort) == [messages.Abort(attempt=1)]


def test_what_ends_meanwhile_is_waited_for_no_longer() -> None:
    bench = Bench(1)
    bench.run(1, once=True, stored=True)
    bench.machine.drain("its time is over", 6.0, now=10.0)
    bench.done(1, 1)
    assert told(bench.machine.tick(10.1), messages.Draining)


def test_asked_to_leave_by_the_broker_meanwhile_it_drains_at_once() -> None:
    bench = Bench(1)
    bench.run(1, once=True, stored=True)
    bench.machine.drain("its time is over", 6.0, now=10.0)
    assert told(bench.broker(messages.Drain(grace=2.0), now=11.0), messages.Draining)
    assert bench.machine.state.shutdown is not None
    assert (bench.machine.state.shutdown.reason, bench.machine.state.shutdown.until) == (
        "its time is over",
        13.0,
    )


@pytest.mark.parametrize("left", [1.0, 2.0, 5.0, 30.0, math.inf])
def test_it_is_gone_before_it_is_killed(left: float) -> None:
    bench = Bench(1)
    bench.run(1)
    bench.machine.drain("it was told to stop", 6.0, now=0.0, left=left)
    assert bench.machine.state.shutdown is not None
    until = bench.machine.state.shutdown.until
    assert 0 < until <= min(6.0, 0.6 * left) or until == 6.0
    bench.machine.tick(until)
    killed = bench.machine.deadline()
    assert killed is not None
    assert until < killed <= min(until + ABORT_GRACE_SECONDS, left)
    assert KillProcess(1) in bench.machine.tick(killed)
    assert bench.machine.left(min(100.0, left))


def test_a_death_by_what_ends_the_kernel_is_no_fault_of_its_unit() -> None:
    bench = Bench(1)
    bench.run(1)
    bench.machine.drain("it was told to stop", 6.0, now=0.0)
    actions = bench.machine.exited(1, "signal 15", "", foreign=True)
    assert not told(actions, messages.Crashed)
    (answer,) = told(actions, messages.Finished)
    assert answer.ended == "broken"


def test_times_of_a_notice() -> None:
    notice = notice_of("its time is over", 10.0, 6.0)
    assert (notice.at, notice.until, notice.ends) == (14.5, 16.0, math.inf)
