"""The broker's core as a whole, in a world where everything happens: peers come, go, die and come back.

Each test brings about one accident; tests/sim/test_simulator.py makes up whole lives.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from park.broker import manager
from park.broker.effects import Event, Key, Ref, Send, Write
from park.broker.entities.roster import DRIVERS_PER_SLOT
from park.broker.storage.keys import encode_key
from park.broker.storage.store import JobStore, Store
from park.errors import StoreError
from park.model import JobState
from park.table.table import Table
from park.wire import codec, fragments, messages
from tests.sim.client import Client, Request
from tests.sim.functions import ERROR, code, expected, remark_on, units
from tests.sim.wire import WALL
from tests.sim.world import World

# -- one accident at a time --------------------------------------------------------------------------


def begun(slots: int = 1, **options: Any) -> tuple[World, Client]:
    """A world with a kernel and a client that have met the broker."""
    world = World(**options)
    world.kernel(slots)
    client = world.client()
    world.settle()
    return world, client


def outcome(world: World, client: Client, *requests: Request) -> list[list[Any]]:
    """The results of these jobs, as the client gets them when they have ended."""
    world.until(lambda: all(r.done for r in requests))
    fetches = [client.fetch(r.job) for r in requests]
    world.until(lambda: all(f.done for f in fetches))
    return [f.results for f in fetches]


@pytest.mark.parametrize("slots", [1, 2, 3])
def test_all_kinds_of_jobs_give_what_they_should(slots: int) -> None:
    world, client = begun(slots)
    wanted: list[tuple[str, list[Any] | None]] = [
        ("square", list(range(50))),
        ("square", []),
        ("fails", [1, 2, 3, 4]),
        ("kills", [1, 2, 3, 4]),
        ("driver", None),
        ("driver", [1, 2, 3]),
        ("nest", [4]),
        ("chain", [5]),
        ("broad", None),
        ("unlucky", None),
        ("hopeful", None),
    ]
    requests = [client.submit(name, inputs) for name, inputs in wanted]
    got = outcome(world, client, *requests)
    for (name, inputs), results in zip(wanted, got, strict=True):
        assert results == [expected(name, x) for x in ([None] if inputs is None else inputs)], name


@pytest.mark.parametrize("name", ["driver", "unlucky", "hopeful", "broad", "chain"])
def test_more_drivers_than_a_kernel_may_hold(name: str) -> None:
    world, client = begun(1)
    requests = [client.submit(name, None if name != "chain" else [5]) for _ in range(12)]
    most = 0

    def done() -> bool:
        nonlocal most
        most = max([most, *(len(k.processes) for k in world.kernels)])
        return all(r.done and world.dispatcher.state.jobs[r.job].ended for r in requests)

    world.until(done)
    results = [expected(name, None if name != "chain" else 5)]
    assert all(world.result(r.job) == results for r in requests)
    # the waiting ones, one that computes, one idle; code that kills has a process of its own beside
    assert most <= DRIVERS_PER_SLOT + 3, most


@pytest.mark.parametrize("name", ["driver", "broad", "nest"])
@pytest.mark.parametrize("seed", range(8))
def test_a_cut_connection_costs_nothing_but_time(name: str, seed: int) -> None:
    world, client = begun(2, seed=seed)
    request = client.submit(name, [3, 2])
    session = client.session()
    world.until(lambda: session.done and request.done)
    call = client.map(session, "driver", [1, 2, 3])
    for _ in range(6):
        for _ in range(world.random.randint(1, 60)):
            world.step()
        world.cut(world.random.choice(world.peers))
    (results,) = outcome(world, client, request)
    assert results == [expected(name, 3), expected(name, 2)]
    world.until(lambda: call.done)
    assert [call.results[i] for i in range(3)] == [expected("driver", x) for x in (1, 2, 3)]


def test_an_aborted_process_that_does_not_obey_is_killed() -> None:
    world, client = begun()
    request = client.submit("square", [1, 2])
    world.until(lambda: any(p.stack for p in world.kernels[0].processes.values()))
    (process,) = [p for p in world.kernels[0].processes.values() if p.stack]
    process.deaf = True
    world.until(lambda: request.done)
    began = world.now
    stop = client.ask(messages.Abort(0, request.job))
    world.until(lambda: world.dispatcher.state.jobs[request.job].ended)
    assert stop.done
    assert 2.0 <= world.now - began < 3.0
    assert world.dispatcher.state.jobs[request.job].state is JobState.ABORTED
    world.settle()
    assert process.number not in world.kernels[0].processes


def test_a_job_that_ends_as_its_kernel_comes_back_takes_its_controls_along() -> None:
    """The kernel gets the control again, and its hello ends the job: one event sends the control and deletes it."""
    world, client = begun()
    (kernel,) = world.kernels
    request = client.submit("heeds")
    world.until(lambda: any(p.stack for p in kernel.processes.values()))
    (process,) = [p for p in kernel.processes.values() if p.stack]
    process.deaf = True
    client.ask(messages.Control(request.job, key=b"c" * 16), codec.pack(1))
    client.ask(messages.Abort(0, request.job))
    world.until(
        lambda: not kernel.machine.state.attempts
    )  # its process was killed, and the word of that is on its way
    world.cut(kernel)
    world.until(lambda: world.dispatcher.state.jobs[request.job].ended)
    world.settle()
    world.check_nothing_is_left()


def test_what_is_said_of_a_lost_session_does_not_end_the_one_opened_anew() -> None:
    world, client = begun()
    session = client.session()
    world.until(lambda: session.done)
    made = client.map(session, "driver", [1, 2])
    late = [codec.encode(*said) for said in made.call.again(session.job, 1)]
    world.until(lambda: made.call.begun)
    world.now += 25.0  # the client's lease is over
    world.until(lambda: client.presence.fresh and client.sessions[session].number == 0)
    for frames in late:
        client.wire.put_up(frames)
    world.until(lambda: made.done)
    assert made.failure is None
    assert [made.results[i] for i in range(2)] == [expected("driver", x) for x in (1, 2)]


# -- a broker that comes back ------------------------------------------------------------------------


@pytest.fixture(params=["memory", "disk"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Store] | None:
    return (lambda: JobStore(tmp_path / "home")) if request.param == "disk" else None


def test_a_broker_that_comes_back_goes_on_where_it_was(store: Callable[[], Store] | None) -> None:
    world, client = begun(2, store=store)
    half = client.submit("square", list(range(30)))
    world.until(lambda: half.done and world.dispatcher.state.jobs[half.job].done >= 5)
    later = client.submit("square", [7], after=[half.job])
    timed = client.submit("square", [8], when=WALL + world.now + 30)
    opened = client.submit("square", [1], closed=False)
    session = client.session()
    world.until(lambda: session.done and opened.done)
    before = dict(world.manager.table.jobs.items())
    done = len([r for r in world.result(half.job) if r is not None])
    # when the broker is killed and comes back
    world.restart_broker()
    # then what was acknowledged is there, what was answered is not run again, and sessions' numbers are gone
    jobs = world.dispatcher.state.jobs
    assert list(jobs) == [n for n in before if n != session.job]
    assert jobs[half.job].done == done
    assert jobs[half.job].running == 0
    assert jobs[half.job].root is not None
    assert jobs[half.job].root.remaining == 30 - done  # type: ignore[union-attr]
    assert [jobs[r.job].state for r in (half, later, timed)] == ["queued", "waiting", "waiting"]
    client.ask(messages.Units(1, 1, True, job=opened.job), units([2]))
    assert outcome(world, client, half, later, opened) == [[x * x for x in range(30)], [49], [1, 4]]
    assert outcome(world, client, timed) == [[64]]
    again = client.session()
    world.until(lambda: again.done)
    assert again.job > session.job
    assert world.manager.store.epoch == 2
    world.manager.close()


def test_a_broker_that_comes_back_knows_how_jobs_were_to_end(store: Callable[[], Store] | None) -> None:
    world, client = begun(1, store=store)
    failing = client.submit("fails", [3, 1, 2])
    world.until(lambda: failing.done and world.dispatcher.state.jobs[failing.job].failed == 1)
    strict = client.submit("fails", [3, 1, 2, 4], on_error="stop")
    stopped, aborted = client.submit("square", list(range(20))), client.submit("square", list(range(20)))
    once = client.submit("driver")
    closed = client.submit("square", [1, 2], closed=False)
    world.until(
        lambda: closed.done and all(world.dispatcher.state.jobs[r.job].done for r in (stopped, strict))
    )
    tell = [client.ask(messages.Stop(0, stopped.job)), client.ask(messages.Abort(0, aborted.job))]
    tell.append(client.ask(messages.Units(2, 1, True, job=closed.job), units([3])))
    world.until(lambda: all(t.done for t in tell))
    world.restart_broker()
    got = outcome(world, client, failing, strict, closed, once)
    assert got[0] == [ERROR, 1, 2]
    assert got[1][0] is ERROR
    assert got[2:] == [[1, 4, 9], [expected("driver", None)]]
    states = [world.dispatcher.state.jobs[r.job].state for r in (failing, strict, stopped, aborted)]
    assert states == ["failed", "failed", "complete", "aborted"]
    assert world.dispatcher.state.jobs[failing.job].record.reason.startswith("unit 0: it failed")
    assert world.dispatcher.state.jobs[stopped.job].record.stopped
    world.manager.close()


def test_a_remark_outlives_its_broker_and_a_store_without_any_opens(
    store: Callable[[], Store] | None,
) -> None:
    world, client = begun(1, store=store)
    once = client.submit("driver")
    jobs = world.dispatcher.state.jobs
    world.until(lambda: once.done and jobs[once.job].ended)
    remark = remark_on(expected("driver", None))
    assert world.manager.table.jobs[once.job].remark == remark
    world.restart_broker()
    assert world.manager.table.jobs[once.job].remark == remark
    # when it is of a release that knew of no remarks
    record = codec.unpack(world.manager.store.get("job", (once.job,)) or b"")
    del record["remark"], record["argv"]
    world.manager.store.commit([Write("job", (once.job,), codec.pack(record))])
    world.restart_broker()
    row = world.manager.table.jobs[once.job]
    assert (row.state, row.remark, row.argv) == (JobState.COMPLETE, "", ())
    world.manager.close()


def test_a_job_whose_units_were_all_answered_ends_when_the_broker_comes_back() -> None:
    world, client = begun()
    request = client.submit("square", [2])
    jobs = world.dispatcher.state.jobs
    world.until(lambda: request.done and any(p.wire.up for p in world.kernels))
    world.until(lambda: jobs[request.job].ended)
    # as if the broker had died between the results and the end of the job
    record = codec.unpack(world.manager.store.get("job", (request.job,)) or b"")
    unended = codec.pack(record | {"state": "running", "ended": None})
    world.manager.store.commit([Write("job", (request.job,), unended)])
    world.restart_broker()
    assert world.dispatcher.state.jobs[request.job].state is JobState.COMPLETE
    assert outcome(world, client, request) == [[4]]


def test_a_request_said_twice_over_a_restart_is_one_job() -> None:
    world, client = begun()
    world.doom = "committed"
    request = client.submit("square", [2])
    assert outcome(world, client, request) == [[4]]
    assert request.answer.existed
    assert len(world.dispatcher.state.jobs) == 1


@pytest.mark.parametrize("damage", [b"", b"\xc1", codec.pack({}), codec.pack({"job": 1, "owner": "ann"})])
def test_a_record_that_cannot_be_read_is_named(damage: bytes) -> None:
    world, client = begun()
    request = client.submit("square", [2])
    outcome(world, client, request)
    world.manager.store.commit([Write("job", (request.job,), damage)])
    with pytest.raises(StoreError, match="job 1 cannot be read"):
        world.restart_broker()


def spoil(store: Store, namespace: str, key: Key) -> None:
    """Change a bit of a record on the disk."""
    assert isinstance(store, JobStore)
    env, db = store._live(namespace)
    with env.begin(write=True, db=db) as txn:
        record = bytearray(txn.get(encode_key(key)))
        record[-1] ^= 1
        txn.put(encode_key(key), bytes(record))


def test_a_damaged_record_fails_the_jobs_that_need_it_and_the_broker_goes_on(tmp_path: Path) -> None:
    world = World(store=lambda: JobStore(tmp_path / "home"))
    client = world.client()
    requests = [client.submit(name, [2, 3]) for name in ("square", "kills", "square")]
    requests.append(client.submit("square", [4], idempotent=False))
    world.until(lambda: all(r.done for r in requests))
    world.restart_broker()  # it has nothing in memory now
    store = world.manager.store
    spoil(store, "units", (requests[0].job, 0))
    spoil(store, "units", (requests[3].job, 0))
    spoil(store, "blob", (code("kills"),))
    world.kernel()
    jobs = world.dispatcher.state.jobs
    world.until(lambda: all(jobs[r.job].ended for r in requests))
    for request, record in zip(requests, ("'units'", "'blob'", "", "'units'"), strict=True):
        reason = jobs[request.job].facts.reason
        assert (f"in namespace {record} of the store is damaged" in reason) == bool(record), reason
        assert ("delete this job and start it again" in reason) == bool(record)
    assert outcome(world, client, client.submit("square", [5])) == [[25]]
    # and so does its next life: an answer that is lost is computed again
    later = client.submit("square", list(range(100)))
    world.until(lambda: later.done and jobs[later.job].done > 2)
    spoil(store, "results", (later.job, 0))
    world.restart_broker()
    again = world.dispatcher.state.jobs
    assert [again[r.job].facts.reason for r in requests] == [jobs[r.job].facts.reason for r in requests]
    assert outcome(world, client, later) == [[n * n for n in range(100)]]
    # of an ended job it is named
    spoil(world.manager.store, "results", (later.job, 0))
    world.restart_broker()
    fetch = client.fetch(later.job)
    world.until(lambda: fetch.done)
    assert f"({later.job}, 0) in namespace 'results' of the store is damaged" in fetch.answer.text


# -- what a turn does --------------------------------------------------------------------------------


def test_a_watcher_gets_the_stream_s_header_and_a_stranger_to_the_job_words() -> None:
    world, client = begun()
    request = client.submit("square", list(range(200)))
    world.until(lambda: request.done and bool(world.dispatcher.state.attempts))
    (number,) = world.dispatcher.state.attempts
    kernel = world.kernels[0]
    kernel.send(messages.Publish(request.job, number, "progress", 1.0, 2.0), b"one")
    world.until(lambda: world.dispatcher.state.jobs[request.job].progress == (1.0, 2.0))
    watch, unknown = client.ask(messages.Watch(0, request.job)), client.ask(messages.Watch(0, 99))
    snapshot = client.ask(messages.Snapshot(0))
    world.until(lambda: watch.done and unknown.done and snapshot.done)
    (join, record), *others = client.streams
    assert (join, codec.unpack(record)["state"]) == ("join", "running")
    assert others == [("progress", b"one")]
    assert unknown.answer.text == "job 99 is unknown"
    mirror = Table.from_header(snapshot.answers[-1][1], snapshot.answer.seq)
    assert request.job in mirror.jobs
    assert repr(world.manager) == "<JobManager 1 jobs, 1 active, epoch 1>"
    world.leave(client)
    assert not world.manager.public.stream._watchers


def test_records_can_be_asked_for() -> None:
    world, client = begun()
    requests = [client.submit("square", [1]), world.client("bob").submit("fails", [1])]
    world.until(lambda: all(r.done for r in requests))
    mine, everybody = client.ask(messages.Status(0, owner="ann")), client.ask(messages.Status(0))
    world.until(lambda: mine.done and everybody.done)
    assert [r["name"] for r in codec.unpack(mine.answers[-1][1])] == ["square"]
    assert sorted(r["name"] for r in codec.unpack(everybody.answers[-1][1])) == ["fails", "square"]


# -- what cannot travel ------------------------------------------------------------------------------


def test_an_answer_that_cannot_travel_is_a_failure_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    world, _ = begun()
    monkeypatch.setattr(fragments, "MAX_PAYLOAD_BYTES", 10_000)
    answers: list[tuple[Any, Any, str, str]] = [
        (messages.Failure(7, "Busy", "x" * 70_000), b"", "InvalidRequest", "the head of Failure has 70,0"),
        (messages.Records(7), bytes(10_001), "InvalidRequest", "10,001 bytes at once are more than"),
        (messages.Filed(7, 3, True), Ref("file", (1, "gone")), "StoreError", "the store has no file"),
    ]
    for message, payload, error, words in answers:
        failure, _ = codec.decode(world.manager.payloads.frames(Send(b"c1", message, payload)))
        assert isinstance(failure, messages.Failure)
        assert (failure.reply, failure.error) == (7, error)
        assert failure.attempt == getattr(message, "attempt", 0)
        assert failure.text.startswith(words)


def test_a_peer_with_long_answers_waits_for_later_turns_and_is_cut_if_it_sends_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(manager, "MAX_ANSWERS_PER_TURN", 3)
    monkeypatch.setattr(manager, "MAX_POSTPONED", 4)
    jobs = World(0).manager

    def turn(*events: Event) -> list[tuple[bytes, str]]:
        turn = jobs.decide(events, 0.0)
        return [(s.peer, type(s.message).__name__) for s in turn.sends_after_commit + turn.sends]

    hello = messages.KernelHello(b"k" * 16, "eve", "node", 1, 1, "3.11", attempts=[])
    turn(Event(b"k", hello), Event(b"c", messages.Hello(b"c" * 16, "ann", "3.11")))
    wordy = Event(b"k", messages.Heartbeat(jobs.store.epoch, list(range(4))))
    other = Event(b"c", messages.Credits(1))
    aborts = [(b"k", "Abort")] * 4
    assert turn(wordy, wordy, wordy, other) == [*aborts, (b"c", "Records")]
    assert jobs.next_deadline(0.0) == 0.0
    assert turn(other) == [*aborts, (b"c", "Records")]
    assert turn(other) == [*aborts, (b"c", "Records")]
    assert turn(other) == [(b"c", "Records")]
    turn(*[wordy] * 6)
    assert jobs.dispatcher.state.roster.member(b"k") is None
    assert turn(wordy) == [(b"k", "Unwelcome")]
