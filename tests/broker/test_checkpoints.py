"""Checkpoints: a unit that is run again goes on from its newest state, which nobody overwrites and no disk forgets."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest

import park
from park.broker.effects import Effects, Ref, Write
from park.kernel.machine.checkpoints import CHECKPOINT_RETRY_SECONDS
from park.model import JobState
from park.wire import messages
from tests.sim.desk import Desk, accepted, finished, of
from tests.sim.functions import exact
from tests.sim.wire import brisk
from tests.sim.world import World
from tests.support.bench import Bench, place, told
from tests.support.fabric import Fabric, slots_of, until

# -- the broker ----------------------------------------------------------------------------------------


def dealt(desk: Desk, inputs: Any = None) -> tuple[int, messages.Run]:
    out = desk.submit(desk.client(), "serial", inputs)
    (run,) = of(out, messages.Run)
    return accepted(out), run


def test_a_checkpoint_is_acknowledged_once_it_is_on_disk_and_goes_with_its_unit() -> None:
    desk = Desk()
    kernel = desk.kernel()
    job, run = dealt(desk)
    assert not run.restored
    out = desk.give(kernel, messages.Checkpoint(run.attempt, job, 0, 1), b"one")
    assert Write("checkpoint", (job, 0), b"one") in out.writes
    assert [s.message for s in out.sends_after_commit] == [messages.Checkpointed(run.attempt, 1)]
    assert not of(out, messages.Failure)
    out = desk.give(kernel, *finished(run))
    assert Write("checkpoint", (job, 0), None) in out.writes


def test_the_next_attempt_is_told_that_there_is_one_and_asks_for_it() -> None:
    desk = Desk()
    kernel = desk.kernel()
    job, run = dealt(desk)
    desk.give(kernel, messages.Checkpoint(run.attempt, job, 0, 1), b"one")
    (again,) = of(desk.give(kernel, messages.Crashed([run.attempt], "signal 9")), messages.Run)
    assert again.restored
    (answer,) = desk.give(kernel, messages.Restore(7, again.attempt, 0)).sends_after_commit
    assert answer.message == messages.Checkpoint(again.attempt, job, 0, 0, reply=7)
    assert answer.payload == Ref("checkpoint", (job, 0))


def test_a_late_one_of_a_lost_attempt_is_dropped() -> None:
    desk = Desk()
    first, _ = desk.kernel("k1"), None
    job, run = dealt(desk)
    desk.kernel("k2")
    (again,) = of(desk.give(first, messages.Goodbye()), messages.Run)
    first = desk.kernel("k1")
    desk.give(b"k2", messages.Checkpoint(again.attempt, job, 0, 1), b"new")
    out = desk.give(first, messages.Checkpoint(run.attempt, job, 0, 9), b"old")
    assert not [w for w in out.writes if w.namespace == "checkpoint"]
    out = desk.give(b"k2", messages.Checkpoint(again.attempt, job, 0, 1), b"new")  # it was sent twice
    assert not out.writes
    assert of(out, messages.Checkpointed)


def test_nobody_keeps_checkpoints_of_what_is_not_his() -> None:
    desk = Desk()
    kernel = desk.kernel()
    job, run = dealt(desk)
    for message in (messages.Checkpoint(run.attempt, job, 1, 1), messages.Restore(3, run.attempt, 1)):
        out = desk.give(kernel, message, b"x" if isinstance(message, messages.Checkpoint) else b"")
        assert not out.writes
        assert [m.error for m in of(out, messages.Failure)] == ["ProtocolError"][
            : isinstance(message, messages.Restore)
        ]


def test_all_go_when_the_job_ends() -> None:
    desk = Desk()
    kernel = desk.kernel()
    job, run = dealt(desk, [1, 2])
    desk.give(kernel, messages.Checkpoint(run.attempt, job, 0, 1), b"one")
    desk.give(b"c1", messages.Abort(5, job))
    out = desk.give(kernel, *finished(run, [], ended="abort"))
    assert desk.job(job).state is JobState.ABORTED
    assert Write("checkpoint", (job, 0), None) in out.writes


# -- the kernel ----------------------------------------------------------------------------------------


def checkpoint(bench: Bench, process: int, number: int) -> list[Any]:
    return bench.slot(process, messages.Checkpoint(5, 1, 0, number), b"state %d" % number)


def test_a_kernel_sends_one_at_a_time_and_then_the_newest() -> None:
    bench = Bench()
    process = place(bench.run(5))
    assert [m.number for m in told(checkpoint(bench, process, 1), messages.Checkpoint)] == [1]
    assert not checkpoint(bench, process, 2)
    assert not checkpoint(bench, process, 3)
    actions = bench.broker(messages.Checkpointed(5, 1))
    assert [m.number for m in told(actions, messages.Checkpoint)] == [3]
    assert told(actions, messages.Checkpointed) == [messages.Checkpointed(5, 1)]
    assert not told(bench.broker(messages.Checkpointed(5, 3)), messages.Checkpoint)
    assert [m.number for m in told(checkpoint(bench, process, 4), messages.Checkpoint)] == [4]


def test_a_kernel_hands_in_the_newest_when_the_broker_is_back() -> None:
    bench = Bench()
    process = place(bench.run(5))
    checkpoint(bench, process, 1)
    checkpoint(bench, process, 2)
    back = bench.broker(messages.Welcome("store", 2, 2.0, 20.0))
    assert [m.number for m in told(back, messages.Checkpoint)] == [2]


def test_one_that_found_no_room_is_followed_by_the_next_after_a_while() -> None:
    desk = Desk()
    kernel = desk.kernel()
    job, run = dealt(desk)
    desk.dispatcher.state.disk.tell(2, "here", 0.0)
    out = desk.give(kernel, messages.Checkpoint(run.attempt, job, 0, 1), b"one")
    assert not out.writes
    assert not out.sends_after_commit

    bench = Bench()
    process = place(bench.run(5))
    checkpoint(bench, process, 1)
    bench.machine.tick(CHECKPOINT_RETRY_SECONDS - 1)
    assert not checkpoint(bench, process, 2)
    bench.machine.tick(CHECKPOINT_RETRY_SECONDS)
    assert [m.number for m in told(checkpoint(bench, process, 3), messages.Checkpoint)] == [3]


def test_what_a_process_asks_for_is_asked_again() -> None:
    bench = Bench()
    process = place(bench.run(5, restored=True))
    restore = messages.Restore(1, 5, 0)
    assert told(bench.slot(process, restore), messages.Restore) == [restore]
    assert told(bench.broker(messages.Welcome("store", 2, 2.0, 20.0)), messages.Restore) == [restore]
    answer = bench.broker(messages.Checkpoint(5, 1, 0, 0, reply=1), b"state")
    assert told(answer, messages.Checkpoint) == [messages.Checkpoint(5, 1, 0, 0, reply=1)]
    assert not told(bench.broker(messages.Welcome("store", 3, 2.0, 20.0)), messages.Restore)


# -- both, and accidents -------------------------------------------------------------------------------


def saved_work(seed: int) -> World:
    """Units with checkpoints, whose processes, kernels and broker die."""
    rng = random.Random(f"checkpoints {seed}")
    world = World(seed, pace=exact, latency=brisk)
    world.kernel(2)
    client = world.client("ann")
    world.settle()
    requests = [client.submit("saver", None), client.submit("saver", [40, 20])]
    world.until(lambda: all(r.done for r in requests))
    for _ in range(8):
        world.run_for(rng.uniform(0.0, 2.0))
        match rng.randrange(5):
            case 0:
                for kernel in world.kernels:
                    for process in list(kernel.processes.values()):
                        kernel.die(process, "its process exited with code 0")
            case 1:
                world.lose(world.kernels[0])
                world.kernel(2)
            case 2:
                world.doom = rng.choice(["decided", "committed"])
            case 3:
                world.cut(world.kernels[0])
            case 4:  # the broker dies before its commit, and at once the kernel too
                deaths, world.doom = world.broker_deaths, "decided"
                world.until(lambda d=deaths: world.broker_deaths > d)  # type: ignore[misc]
                world.run_for(0.01)
                world.lose(world.kernels[0])
                world.kernel(2)
    world.until(lambda: all(j.ended for j in world.dispatcher.state.jobs.values()))
    for request, right in zip(requests, ([sum(range(31))], [sum(range(41)), sum(range(21))]), strict=True):
        got = world.result(request.job)
        # a unit whose process was killed three times fails
        assert all(g == r or str(g) == "Error()" for g, r in zip(got, right, strict=True)), got
    assert world.manager.store.count("checkpoint") == 0
    return world


def many_worlds() -> int:
    return sum(saved_work(seed).restores for seed in range(20))


def test_what_was_acknowledged_is_what_a_rerun_goes_on_from() -> None:
    assert many_worlds() > 40


def test_the_worlds_see_an_acknowledgement_before_the_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(self: Effects, peer: bytes, message: Any, payload: Any = b"") -> None:
        early = isinstance(message, messages.Checkpointed)
        (Effects.send if early else answer)(self, peer, message, payload)

    answer = Effects.answer
    monkeypatch.setattr(Effects, "answer", wrong)
    with pytest.raises(AssertionError):
        many_worlds()


# -- real processes ------------------------------------------------------------------------------------


def counting(steps: int, size: int = 0) -> Any:
    """A body that counts to *steps* with a checkpoint at each, and tells where each of its lives began.

    Made here, so that it travels by value.
    """

    class Steps:
        def prepare(self, env: park.Environment) -> None:
            self.env = env

        def run(self) -> tuple[list[int], bool]:
            state = self.env.restored or {"step": 0, "lives": []}
            state["lives"].append(state["step"])
            durable = True
            while state["step"] < steps:
                time.sleep(0.02)
                state["step"] += 1
                durable &= self.env.checkpoint(state | {"ballast": b"x" * size})
                self.env.publish(park.Progress(state["step"], steps))
                self.env.ready()
            return state["lives"], durable

    return Steps()


def reached(job: park.Job, step: int) -> int:
    until(lambda: job.progress is not None and job.progress.done >= step, why=lambda: repr(job))
    assert job.progress is not None
    return int(job.progress.done)


def test_a_local_body_goes_on_where_its_process_was_killed() -> None:
    with park.local_service as service:
        job = service.job(service.start(counting(40)))
        seen = reached(job, 10)
        for pid in slots_of(os.getpid()):
            os.kill(pid, signal.SIGKILL)
        (first, second), durable = job.wait(50)
    assert first == 0
    assert seen <= second < 40
    assert durable


@pytest.mark.heavy
def test_a_body_goes_on_when_its_kernel_and_the_broker_were_killed(tmp_path: Path) -> None:
    with Fabric(tmp_path, lease=5.0) as fabric:
        kernel = fabric.start_kernel()
        service = fabric.connect()
        job = service.job(service.start(counting(25, size=9_000_000)))  # travels in parts
        seen = reached(job, 10)
        kernel.kill()
        fabric.broker.kill()
        fabric.start_broker()
        fabric.start_kernel()
        (first, second), durable = job.wait(50)
        assert first == 0
        assert seen <= second < 25
        assert durable


def test_a_body_goes_on_while_the_broker_is_away_and_its_newest_state_is_handed_in(tmp_path: Path) -> None:
    away, told = tmp_path / "away", tmp_path / "told"

    class Patient:
        def run(self, x: int) -> int:
            env = park.environment()
            if env.restored:
                return int(env.restored)
            env.checkpoint(1)
            env.publish({"kind": "begun"})
            while env.checkpoint(2, wait=0.2):
                time.sleep(0.05)
            env.checkpoint(3, wait=0)
            away.touch()
            began = time.monotonic()
            back = env.checkpoint(4, wait=20)
            told.write_text(f"{back} {time.monotonic() - began < 20}")
            os.kill(os.getpid(), signal.SIGKILL)
            return x

    class Seen:
        begun = False

        def on_begun(self, message: Any) -> None:
            self.begun = True

    with Fabric(tmp_path) as fabric:
        fabric.start_kernel()
        seen, service = Seen(), fabric.connect()
        job = service.job(service.start(Patient(), [1], monitor=seen))
        until(lambda: seen.begun)
        fabric.broker.kill()
        until(away.exists)
        fabric.start_broker()
        assert job.wait(50) == [4]
        assert told.read_text() == "True True"


def test_what_cannot_be_kept_is_refused_in_words() -> None:
    def inner(x: int) -> str:
        try:
            park.environment().checkpoint(x)
        except park.InvalidRequest as error:
            return str(error)
        return "kept"

    def body() -> list[Any]:
        env = park.environment()
        said: list[Any] = [*env.map(inner, [1])]
        for state, wait in ((lambda: env, 1), (1, -1), (1, True)):
            try:
                env.checkpoint(state, wait)
            except park.ParkError as error:
                said.append(str(error))
        return said

    with park.local_service as service:
        inside, unpicklable, negative, true = service.wait(service.start(body), 60)
        assert "only units of a job" in inside
        assert list(service.map(inner, [1])) == [inside]
    assert "the state" in unpicklable
    assert negative == "wait=-1 is not a number of seconds from 0"
    assert true.startswith("wait=True")
