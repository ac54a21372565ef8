"""A broker that dies and comes back: what kernels hold and have answered counts, and nothing of it runs again."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest

from park.broker.accounts.ledger import CreditPolicy
from park.broker.effects import Write
from park.model import Account, JobState
from park.wire import codec, messages
from park.wire.calls import Call
from tests.sim.client import Client, Request
from tests.sim.desk import Desk, accepted, finished, of
from tests.sim.functions import blob, code, exact, units
from tests.sim.wire import PYTHON, brisk
from tests.sim.world import World


def populated(seed: int, rng: random.Random) -> tuple[World, Client, Client]:
    """A world with three kernels, and two clients in it."""
    world = World(seed, pace=exact, latency=brisk)
    for _ in range(3):
        world.kernel(rng.randint(1, 3))
    return world, world.client("ann"), world.client("bob")


@pytest.mark.parametrize("seed", [0, *(pytest.param(n, marks=pytest.mark.heavy) for n in range(1, 8))])
def test_nothing_that_a_kernel_holds_runs_again(seed: int) -> None:
    rng = random.Random(f"recovery {seed}")
    world, ann, bob = populated(seed, rng)
    world.settle()
    # as long as the others of their function and owner: none is taken for a straggler
    naps = [0.05] * 600
    alone = {
        ann.submit("nap", naps): sum(naps),
        bob.submit("nap", [0.02] * 300): 6.0,
        ann.submit("serial", [20] * 5): 5 * 20 * 0.03,
        bob.submit("serial", None): 100 * 0.03,
        ann.submit("generations", None): 20 * (10 * 0.05 + 0.01),
        bob.submit("fit", None): 10 * 4 * 3 * (20 * 0.005 + 0.002),
    }
    world.until(lambda: all(r.done for r in alone))
    for _ in range(4):
        world.run_for(rng.uniform(0.0, 4.0))
        if rng.random() < 0.5:
            world.restart_broker()
        else:
            world.doom = rng.choice(["decided", "committed"])
    jobs = world.dispatcher.state.jobs
    world.until(lambda: all(j.ended for j in world.dispatcher.state.jobs.values()))
    world.until(
        lambda: not any(k.machine.state.attempts or k.machine.state.answers.stored for k in world.kernels)
    )
    jobs = world.dispatcher.state.jobs
    for request, seconds in alone.items():
        assert jobs[request.job].state is JobState.COMPLETE
        # what was on its way to a kernel when the broker died may run twice: a unit at each death
        again = world.served[request.job] - seconds
        assert -1e-6 <= again <= 0.05 * world.broker_deaths + 1e-6, jobs[request.job].record


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(n, marks=pytest.mark.heavy) for n in range(2, 8))])
def test_nothing_of_a_session_runs_again_when_its_broker_dies(seed: int) -> None:
    rng = random.Random(f"sessions {seed}")
    world, ann, bob = populated(seed, rng)
    sessions = {client: client.session() for client in (ann, bob)}
    world.until(lambda: all(s.done for s in sessions.values()))
    plan = [6, 10, 0.05, 0.01]
    maps = [
        ann.map(sessions[ann], "nap", [0.05] * 300),
        ann.map(sessions[ann], "nap", *[[0.05] * 40] * 6),
        bob.map(sessions[bob], "nap", [0.05] * 200),
        bob.map(sessions[bob], "generations", [plan] * 3),
    ]
    alone = 740 * 0.05 + 3 * 6 * (10 * 0.05 + 0.01)
    for _ in range(5):
        world.run_for(rng.uniform(0.0, 4.0))
        for client in (ann, bob):
            if rng.random() < 0.3:
                client.wire.hold_up(rng.choice([0.5, 3.0]))
        if rng.random() < 0.5:
            world.restart_broker()
        else:
            world.doom = rng.choice(["decided", "committed"])
    world.until(lambda: all(m.done for m in maps))
    assert not any(m.failure for m in maps)
    assert [len(m.results) for m in maps] == [300, 240, 200, 3]
    assert world.broker_deaths >= 3
    again = sum(world.served.values()) - alone
    assert -1e-6 <= again <= 0.05 * world.broker_deaths + 1e-6


def test_a_client_that_says_less_again_than_it_had_said_would_be_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    again = Call.again

    def wrong(self: Call, job: int, epoch: int) -> Any:
        """The first units of a map, and not those that followed."""
        yield from itertools.islice(again(self, job, epoch), 1)

    def outcome() -> Any:
        world = World(3, pace=exact, latency=brisk)
        world.kernel(2)
        client = world.client("ann")
        session = client.session()
        world.until(lambda: session.done)
        call = client.map(session, "nap", *[[0.05] * 40] * 4)
        world.run_for(0.7)
        world.restart_broker()
        world.until(lambda: call.done)
        return len(call.results)

    monkeypatch.setattr(World, "PATIENCE", 5000)
    assert outcome() == 160
    monkeypatch.setattr(Call, "again", wrong)
    with pytest.raises(AssertionError, match="it never came to that"):
        outcome()


def test_a_session_s_results_that_a_cut_has_lost_come_again() -> None:
    world = World(3, pace=exact, latency=brisk)
    world.kernel(2)
    client = world.client("ann")
    session = client.session()
    world.until(lambda: session.done)
    maps = [client.map(session, "nap", *[[0.05] * 40] * 4), client.map(session, "nap", [0.02] * 200)]
    for _ in range(6):
        world.run_for(0.7)
        world.cut(client)
    world.until(lambda: all(m.done for m in maps))
    # away for longer than a lease: its session has ended there, and is opened anew
    maps = [client.map(session, "nap", *[[0.05] * 40] * 4), client.map(session, "nap", [0.05] * 1500)]
    world.run_for(0.7)
    client.wire.hold_up(50.0)
    first = client.sessions[session].number
    world.until(lambda: all(m.done for m in maps))
    assert client.sessions[session].number > first
    assert not any(m.failure for m in maps)


@pytest.mark.parametrize("body", ["generations", "fit"])
def test_what_a_lost_driver_has_let_others_do_is_paid_once(body: str) -> None:
    world = World(7, pace=exact, latency=brisk, policy=CreditPolicy())
    for _ in range(3):
        world.kernel(2)
    client = world.client("ann")
    world.settle()
    request = client.submit(body, priority=1)
    world.until(lambda: request.done)

    def holders() -> list[Any]:
        roots = [a.number for a in world.dispatcher.state.attempts.values() if a.map.root]
        return [k for k in world.kernels if any(n in k.machine.state.attempts for n in roots)]

    for _ in range(2):  # a third would be held against it
        world.until(lambda: bool(holders()))
        world.run_for(0.7)
        world.lose(holders()[0])
        world.kernel(2)
    world.until(lambda: world.dispatcher.state.jobs[request.job].ended)
    record = world.dispatcher.state.jobs[request.job].record
    alone = {"generations": 20 * (10 * 0.05 + 0.01), "fit": 10 * 4 * 3 * (20 * 0.005 + 0.002)}[body]
    assert record.seconds == pytest.approx(alone, rel=0.02)
    assert record.credits == pytest.approx(alone, rel=0.02)


# -- what a broker takes in --------------------------------------------------------------------------


def held(*entries: list[object]) -> bytes:
    return codec.pack(list(entries))


def hello(
    desk: Desk, name: str, attempts: list[int], payload: bytes, slots: int = 2, account: Account | None = None
) -> Any:
    message = messages.KernelHello(
        (name.encode() * 16)[:16], "kay", "node", 1, slots, PYTHON, attempts=attempts
    )
    return desk.give(name.encode(), message, payload, account)


def test_an_attempt_at_a_known_map_goes_on_as_it_stands() -> None:
    desk = Desk()
    client = desk.client()
    job = accepted(desk.submit(client, inputs=[1, 2, 3]))
    key = desk.dispatcher.state.jobs[job].submit.key
    out = hello(
        desk, "k1", [77, 78], held([key, 1, 1, 1, 0, "runs", 3.0, 0], [key, 2, 1, 1, 0, "done", 5.0, 0])
    )
    assert not of(out, messages.Abort)
    assert {a.span.start for a in desk.dispatcher.state.attempts.values()} == {0, 1, 2}
    run = messages.Run(78, job, "ann", key, b"", 2, 1, 0)
    desk.give(b"k1", *finished(run, [9], seconds=5.0))
    assert desk.job(job).done == 1
    assert desk.job(job).seconds == pytest.approx(5.0)


@pytest.mark.parametrize(
    "entry",
    [
        None,
        "junk",
        [b"short", 0, 1, 1, 0, "runs", 0.0, 0],
        [b"k" * 16, -1, 1, 1, 0, "runs", 0.0, 0],
        [b"k" * 16, 0, 0, 1, 0, "runs", 0.0, 0],
        [b"k" * 16, 0, 1, 9, 0, "runs", 0.0, 0],
        [b"k" * 16, 0, 1, 1, 0, "sleeps", 0.0],
        [b"k" * 16, 0, 1, 1, 0, "runs", -1.0],
        [b"k" * 16, 0, 1, 1, 0, "runs", 1e300],
    ],
)
def test_what_makes_no_sense_is_aborted(entry: object) -> None:
    desk = Desk()
    out = hello(desk, "k1", [77], codec.pack([entry]))
    assert of(out, messages.Abort) == [messages.Abort(attempt=77)]
    assert not desk.dispatcher.state.recovery.orphans


def test_what_nobody_claims_within_a_lease_is_aborted() -> None:
    desk = Desk()
    hello(desk, "k1", [77], held([b"m" * 16, 0, 1, 2, 0, "runs", 0.0, 0]))
    client = desk.client()
    assert not of(desk.submit(client), messages.Run)  # its slots are taken
    for _ in range(9):
        assert not of(desk.tick(2.0), messages.Abort)
        desk.give(client, messages.Heartbeat())
        assert not of(desk.give(b"k1", messages.Heartbeat(attempts=[77])), messages.Abort)
    out = desk.tick(3.0)
    assert of(out, messages.Abort) == [messages.Abort(attempt=77)]
    assert of(out, messages.Run)


def serial_job(world: World) -> tuple[Client, Request]:
    """A job of units that must not run twice, on one kernel."""
    world.kernel(1)
    client = world.client("ann")
    world.settle()
    request = client.submit("serial", [50, 50], idempotent=False)
    world.until(lambda: request.done)
    return client, request


def test_units_that_must_not_run_twice_fail_their_job_when_nobody_brings_them_back() -> None:
    world = World(3)
    _, request = serial_job(world)
    world.run_for(0.5)
    world.lose(world.kernels[0])
    world.restart_broker()
    assert "for kernels of the broker's last life" in world.dispatcher.explain(request.job)
    world.until(lambda: world.dispatcher.state.jobs[request.job].ended)
    record = world.dispatcher.state.jobs[request.job].record
    assert record.state is JobState.FAILED
    assert "idempotent=False forbids a second run" in record.reason


def test_a_kernel_that_claims_the_attempts_of_another_one_changes_nothing() -> None:
    """Given a broker's second life, a kernel names an attempt that another kernel holds: the holder's answer counts."""
    desk = Desk(epoch=2)
    desk.dispatcher.expect({b"k2" * 8, b"k1" * 8})
    bob = Account("bob")
    eve = Account("eve")
    client = desk.client(account=bob, user="bob")
    job = accepted(desk.submit(client, inputs=[1, 2]))
    map_ = desk.dispatcher.state.jobs[job].root
    assert map_ is not None
    forged = [b"x" * 16, 0, 2, 1, 0, "runs", 0.0, 0]
    hello(desk, "k1", [77, 78], held(forged, forged), account=eve)
    desk.give(b"k1", messages.Finished(77, b"x" * 16, 0, 2, 0.1))
    out = hello(desk, "k2", [77], held([map_.key, 0, 2, 1, 0, "runs", 0.0, 0]), account=bob)
    assert not of(out, messages.Abort)
    run = messages.Run(77, job, "bob", map_.key, code("square"), 0, 2, seed=0)
    desk.give(b"k2", *finished(run))
    assert desk.job(job).state is JobState.COMPLETE
    desk.give(b"k1", messages.Goodbye("gone"))


def test_an_attempt_that_was_not_given_out_yet_cannot_be_claimed() -> None:
    desk = Desk()
    number = desk.dispatcher.state.next_attempt
    out = hello(desk, "k1", [number], held([b"x" * 16, 0, 1, 1, 0, "runs", 0.0, 0]))
    assert of(out, messages.Abort) == [messages.Abort(attempt=number)]
    client = desk.client()
    desk.kernel("k2")
    (run,) = of(desk.submit(client), messages.Run)
    assert run.attempt == number
    desk.give(b"k1", messages.Goodbye("gone"))
    desk.give(b"k2", *finished(run))


def test_the_key_of_a_map_of_another_job_makes_no_map() -> None:
    desk = Desk()
    client, other = desk.client(), desk.client("c2", user="eve")
    job = accepted(desk.submit(client, inputs=[1, 2]))
    key = desk.dispatcher.state.jobs[job].submit.key
    session = desk.session(other)
    desk.give(other, messages.Map(key, session, code("square"), 1), units([1]))
    assert desk.dispatcher.state.maps[key].job == job
    assert len(desk.dispatcher.state.maps) == 1


@pytest.mark.parametrize("priority", [0, 2])
def test_the_seconds_that_a_job_has_used_go_on_counting(priority: int) -> None:
    world = World(0, pace=exact, latency=brisk, policy=CreditPolicy())
    world.kernel(2)
    request = world.client("ann").submit("nap", [0.05] * 400, priority=priority)
    for _ in range(2):
        world.run_for(4.0)
        used = world.dispatcher.state.jobs[request.job].seconds
        assert 2.0 < used < 18.0
        world.restart_broker()
        assert world.dispatcher.state.jobs[request.job].seconds > used - 1.0
    world.until(lambda: world.dispatcher.state.jobs[request.job].ended)
    assert world.dispatcher.state.jobs[request.job].seconds == pytest.approx(400 * 0.05, abs=1.0)


def test_a_job_that_ends_as_its_broker_starts_is_an_ended_job_like_others() -> None:
    """Given a unit that must not run twice, and no kernel that could bring it back, the start ends its job."""
    world = World(3)
    client, request = serial_job(world)
    later = client.submit("square", [1], after=[request.job])
    world.until(lambda: later.done)
    world.run_for(0.5)
    world.lose(world.kernels[0])
    world.restart_broker()
    gone = world.dispatcher.state.recovery.expected
    world.manager.store.commit([Write("kernel", (incarnation,), None) for incarnation in gone])
    world.restart_broker()
    for job in (request.job, later.job):
        assert world.dispatcher.state.jobs[job].state is JobState.FAILED


def test_a_chunk_without_use_ends_before_the_driver_of_its_map_goes_on() -> None:
    desk = Desk()
    client = desk.client()
    desk.kernel("k1")
    desk.give(client, messages.Blob(code("square")), blob("square"))
    (run,) = of(desk.submit(client, "driver", None), messages.Run)
    key = b"m" * 16
    number = desk.dispatcher.state.next_attempt
    desk.dispatcher.state.next_attempt += 1  # it was given out in the broker's last life
    hello(desk, "k2", [number], held([key, 0, 1, 1, 0, "runs", 0.0, 0]))
    done = messages.Map(key, run.job, code("square"), 0, attempt=run.attempt, start=1)
    out = desk.give(b"k1", done, units([]))
    told = [s.message for s in out.sends]
    assert [m for m in told if isinstance(m, messages.Abort | messages.Resume)] == [
        messages.Abort(attempt=number),
        messages.Resume(run.attempt),
    ]


def test_what_runs_in_a_stopped_job_counts_after_its_broker_has_died() -> None:
    world = World(0, pace=exact, latency=brisk)
    world.kernel(2)
    client = world.client("ann")
    once = client.submit("serial", None)
    several = client.submit("nap", [3.0] * 20)
    world.until(lambda: once.done and several.done and len(world.dispatcher.state.attempts) == 2)
    stops = [client.ask(messages.Stop(0, request.job)) for request in (once, several)]
    world.until(lambda: all(stop.done for stop in stops))
    assert len(world.dispatcher.state.attempts) == 2
    # when the broker dies before they have ended
    world.restart_broker()
    jobs = world.dispatcher.state.jobs
    world.until(lambda: jobs[once.job].ended and jobs[several.job].ended)
    # then what their kernel holds is their best so far
    for request in (once, several):
        record = jobs[request.job].record
        assert (record.state, record.stopped, record.done) == (JobState.COMPLETE, True, 1), record


def test_a_stopped_job_ends_without_the_kernel_that_ran_it() -> None:
    world = World(0, pace=exact, latency=brisk)
    kernel = world.kernel(1)
    client = world.client("ann")
    request = client.submit("serial", None)
    world.until(lambda: request.done and bool(world.dispatcher.state.attempts))
    stop = client.ask(messages.Stop(0, request.job))
    world.until(lambda: stop.done)
    world.lose(kernel)
    world.restart_broker()
    jobs = world.dispatcher.state.jobs
    world.until(lambda: jobs[request.job].ended)
    assert jobs[request.job].state is JobState.ABORTED
