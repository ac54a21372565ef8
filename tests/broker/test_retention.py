"""Retention of ended jobs: deletion, the archive, the sweep and its time, and that all else stays."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

import park
from park.broker.effects import Publication, Tick, Write
from park.broker.entities.archive import Archive, RetentionPolicy
from park.broker.handlers.retention import (
    EXPIRY_BATCH,
    MAX_ENDED_SESSIONS,
    MAX_PAUSE_SECONDS,
    MAX_RECALLED_JOBS,
)
from park.broker.manager import JobManager
from park.broker.storage.store import JobStore, Store
from park.broker.storage.sweep import OF_JOBS
from park.core.connect import connect
from park.model import Account, JobState
from park.service import ServiceManager
from park.table.query import Query
from park.wire import codec, messages
from tests.sim import world as worlds
from tests.sim.client import Client, Request
from tests.sim.desk import Desk, of
from tests.sim.functions import code
from tests.sim.wire import WALL
from tests.sim.world import World
from tests.support.fabric import Fabric, until


@pytest.fixture(params=["memory", "disk"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Store] | None:
    return (lambda: JobStore(tmp_path / "home")) if request.param == "disk" else None


def begun(**options: Any) -> tuple[World, Client]:
    """A world with a kernel and a client that have met the broker."""
    world = World(**options)
    world.kernel(2)
    client = world.client()
    world.settle()
    return world, client


def done(world: World, *requests: Request) -> list[Any]:
    """The answers to these requests."""
    world.until(lambda: all(r.done for r in requests))
    return [r.answer for r in requests]


def ended(world: World, client: Client, name: str, inputs: list[Any] | None, **fields: Any) -> int:
    """A job that has ended."""
    request = client.submit(name, inputs, **fields)
    done(world, request)
    fetch = client.fetch(request.job)
    done(world, fetch)
    return request.job


def records(world: World, job: int) -> dict[str, int]:
    """The records of a job in the store."""
    namespaces = ("job", "archive", "trash", *OF_JOBS)
    return {namespace: n for namespace in namespaces if (n := world.manager.store.count(namespace, (job,)))}


def swept(world: World) -> None:
    world.until(lambda: not world.manager.store.count("trash"))


# -- deletion ----------------------------------------------------------------------------------------


def test_the_log_of_a_job_is_not_written_once_its_deletion_is_decided() -> None:
    world, client = begun()
    job = ended(world, client, "square", [1])
    public = world.manager.public
    said = Publication(job, "log", codec.pack(["last words", "out", 0.0]), False, 1, 1, b"k")
    public.job_messages.take(said, stored=True, followed=False)
    public.job_messages._due = float("inf")  # not before
    client.ask(messages.Delete(0, job))
    world.until(lambda: job not in world.dispatcher.state.jobs)
    assert job not in public.job_messages._streams
    swept(world)
    assert not records(world, job)


def test_a_deleted_job_is_nowhere_any_more(store: Callable[[], Store] | None) -> None:
    world, client = begun(store=store)
    job = ended(world, client, "square", list(range(30)))
    other = ended(world, client, "fails", [1])
    (answer,) = done(world, client.ask(messages.Delete(0, job)))
    assert isinstance(answer, messages.Done)
    swept(world)
    # then neither the table, nor the store, nor a mirror has it, and what others have is there
    assert job not in world.manager.table.jobs
    assert records(world, job) == {}
    assert {key[0] for key, _ in world.manager.store.scan("blob")} == {code("fails")}
    world.until(lambda: world.watchers[0].current)
    assert list(world.watchers[0].mirror.jobs) == [other]
    # and whoever asks for it is told
    for message in (
        messages.Status(0, job),
        messages.Fetch(0, job),
        messages.Delete(0, job),
        messages.Watch(0, job),
    ):
        (answer,) = done(world, client.ask(message))
        assert answer.error == "UnknownJob"
        assert answer.text.startswith(f"job {job} is unknown")
    (answer,) = done(world, client.submit("square", [1], after=[job]))
    assert answer.text == f"job {job} is unknown: it was deleted, or it was a session that is over"
    # also after a restart; its number is never given again
    world.restart_broker()
    assert list(world.dispatcher.state.jobs) == [other]
    assert ended(world, client, "square", [1]) > other
    world.manager.close()


def test_code_goes_with_the_last_job_that_has_it(store: Callable[[], Store] | None) -> None:
    world, client = begun(store=store)
    first, second = ended(world, client, "square", [1]), ended(world, client, "square", [2])
    done(world, client.ask(messages.Delete(0, first)))
    assert world.manager.store.count("blob") == 1
    world.restart_broker()  # where only the store has it
    session = client.session()
    done(world, session)
    call = client.map(session, "square", list(range(400)))
    world.until(lambda: bool(call.results) or bool(world.dispatcher.state.attempts))
    # when it leaves the store while a map needs it
    done(world, client.ask(messages.Delete(0, second)))
    assert world.manager.store.count("blob") == 0
    world.kernel(1)  # which has never had it
    world.until(lambda: call.done)
    assert call.results == {x: x * x for x in range(400)}
    assert ended(world, client, "square", [3])
    assert world.manager.store.count("blob") == 1
    world.manager.close()


def test_what_has_not_ended_stays_and_so_does_what_it_comes_after() -> None:
    world, client = begun()
    job = ended(world, client, "square", [1])
    waits = client.submit("square", [2], after=[job], when=WALL + world.now + 50)
    later = client.submit("square", [2], after=[job], when=WALL + world.now + 50)
    done(world, waits, later)
    refused, running = done(
        world, client.ask(messages.Delete(0, job)), client.ask(messages.Delete(0, waits.job))
    )
    assert refused.error == running.error == "Refused"
    assert refused.text == (
        f"job {waits.job}, which comes after job {job}, is waiting: wait until it has ended, or abort it first"
    )
    assert running.text == (
        f"job {waits.job} is waiting: abort it first (`park abort {waits.job}`, in Python job.abort()), then delete it"
    )
    done(world, client.ask(messages.Abort(0, waits.job)), client.ask(messages.Abort(0, later.job)))
    (answer,) = done(world, client.ask(messages.Delete(0, job)))
    assert isinstance(answer, messages.Done)


def test_only_its_owner_and_the_admin_delete_a_job() -> None:
    desk = Desk()
    ada = desk.client("c1", account=Account("ada"))
    desk.submit(ada, inputs=[])
    (failure,) = of(
        desk.give(desk.client("c2", account=Account("bob")), messages.Delete(9, 1)), messages.Failure
    )
    assert failure.error == "Refused"
    assert of(desk.give(desk.client("c3", "root"), messages.Delete(9, 1)), messages.Done)


def test_a_large_job_goes_in_small_transactions(store: Callable[[], Store] | None) -> None:
    world, client = begun(store=store)
    request = client.submit("square", [0], closed=False)
    (accepted,) = done(world, request)
    feeds = [
        client.ask(messages.Units(n, 1, n == 1300, job=accepted.job), request.payload) for n in range(1, 1301)
    ]
    done(world, *feeds, client.fetch(accepted.job))
    total = world.manager.store.count("results", (accepted.job,)) + 1300
    largest = 0
    commit = world.manager.store.commit

    def watched(writes: Any) -> None:
        nonlocal largest
        found = list(writes)
        largest = max(largest, len(found))
        commit(found)

    world.manager.store.commit = watched  # type: ignore[method-assign]
    client.ask(messages.Delete(0, accepted.job))
    world.until(lambda: "trash" in records(world, accepted.job))
    left = world.manager.store.count("units", (accepted.job,))
    assert left
    # a broker that dies in between goes on with it
    world.restart_broker()
    assert accepted.job not in world.dispatcher.state.jobs
    swept(world)
    assert records(world, accepted.job) == {}
    assert total > 1300
    assert largest <= 510
    world.manager.close()


# -- sessions, and the archive -----------------------------------------------------------------------


def test_ended_sessions_leave_the_table_and_every_mirror() -> None:
    world, client = begun()
    numbers = []
    for _ in range(MAX_ENDED_SESSIONS + 20):
        session = client.session()
        done(world, session)
        done(world, client.ask(messages.Close(0, session.job)))
        numbers.append(session.job)
    assert list(world.dispatcher.state.jobs) == numbers[20:]
    assert len(world.dispatcher.state.job_list.by_key) == MAX_ENDED_SESSIONS
    world.until(lambda: world.watchers[0].current)
    assert list(world.watchers[0].mirror.jobs) == numbers[20:]


def test_archived_jobs_are_found_and_take_no_memory(store: Callable[[], Store] | None) -> None:
    world, client = begun(store=store, keep=RetentionPolicy(jobs=2))
    jobs = [ended(world, client, "square", [n, n]) for n in range(6)]
    d = world.dispatcher.state

    def check(remembered: list[int]) -> None:
        assert list(world.dispatcher.state.jobs) == remembered
        assert list(world.manager.table.jobs) == jobs[4:]
        assert set(world.dispatcher.state.job_list.by_key.values()) == set(remembered)

    check(jobs[4:])
    assert d.ledger.costs.keys() <= set(jobs[4:])
    # its result, its request, its record are there, and it may be come after
    fetch, whole = client.fetch(jobs[0]), client.ask(messages.Fetch(0, jobs[0], request=True))
    status = client.ask(messages.Status(0, jobs[1]))
    done(world, fetch, whole, status)
    assert fetch.results == [0, 0]
    assert fetch.record.state is JobState.COMPLETE
    assert [type(m) for m, _ in whole.answers] == [messages.Results] * len(d.jobs[jobs[0]].results) + [
        messages.Blob,
        messages.Units,
        messages.Fetched,
    ]
    assert codec.unpack(status.answers[-1][1])[0]["name"] == "square"
    check([*jobs[4:], *jobs[:2]])
    everything = client.ask(messages.Status(0))
    done(world, everything)
    assert [r["job"] for r in codec.unpack(everything.answers[-1][1])] == jobs[4:]
    # as after a restart
    world.restart_broker()
    check(jobs[4:])
    (unknown,) = done(world, client.ask(messages.Stop(0, jobs[2])))
    assert unknown.text == f"job {jobs[2]} has ended: it is complete"
    assert world.result(jobs[3]) == [9, 9]
    done(world, client.ask(messages.Delete(0, jobs[0])))
    swept(world)
    assert records(world, jobs[0]) == {}
    assert world.manager.store.count("key") == 3
    jobs.append(ended(world, client, "square", [7, 7], after=[jobs[1]]))
    assert world.result(jobs[-1]) == [49, 49]
    world.manager.close()


@pytest.mark.parametrize("room", ["archive", "submit", "spans"])
@pytest.mark.parametrize("damage", [b"", b"\xc1", codec.pack({"job": 1})])
def test_an_archived_job_that_cannot_be_read_is_named_and_ends_nothing(
    room: str, damage: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    world, client = begun(keep=RetentionPolicy(jobs=0))
    jobs = [ended(world, client, "square", [n]) for n in range(3)]
    world.until(lambda: world.manager.store.count("archive") == 3)
    key: Any = (jobs[1], "results") if room == "spans" else (jobs[1],)
    world.manager.store.commit([Write(room, key, damage if room != "spans" else b"odd")])
    for _ in range(2):
        world.restart_broker()
        last = world.client()
        asked = [last.fetch(jobs[1]), last.ask(messages.Delete(0, jobs[1]))]
        for answer in done(world, *asked):
            assert isinstance(answer, messages.Failure)
            assert answer.error == "StoreError"
            assert f"job {jobs[1]} cannot be read from the archive" in answer.text
        assert f"job {jobs[1]} cannot be read from the archive" in capsys.readouterr().err
        fetch = last.fetch(jobs[2])
        done(world, fetch)
        assert fetch.results == [4]


def test_lists_of_jobs_have_the_archived_ones_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("park.broker.queries.ARCHIVED_PAGE_JOBS", 2)
    manager = ServiceManager(JobManager(keep=RetentionPolicy(jobs=3))).listen(home=tmp_path)
    manager.reactor.start("broker")
    try:
        with connect(manager.endpoints["clients"], "ann") as service:
            jobs = [service.start(abs, [1], when=1000, tags=f"t{n % 2}", name=f"fit {n}") for n in range(10)]
            for job in jobs[:9]:
                service.abort(job)
            until(lambda: len(service.table.jobs) == 4)

            def found(filter: Any = None, **more: Any) -> list[int]:
                return [job.id for job in service.jobs(filter, **more)]

            assert found() == found("fit", owner="*") == jobs
            assert found("t1") == jobs[1::2]
            assert found("aborted", since=3600) == jobs[:9]
            assert found("waiting") == jobs[9:]
            assert found("fit 2") == jobs[2:3]
            assert found(owner="bob") == []
            assert found(lambda record: record.job < 3) == jobs[:2]
            rows = service.rows(Query(newest=5, tags=("t0",)), ["name", "state"], archived=True)
            assert rows == [[f"fit {n}", "aborted"] for n in (0, 2, 4, 6, 8)]
            assert [r.job for r in service.records(Query(newest=2), archived=True)] == jobs[8:]
            service.delete(jobs[2])
            assert found("fit 2") == []
    finally:
        manager.close()


def test_a_request_said_again_finds_its_archived_job() -> None:
    world, client = begun(keep=RetentionPolicy(jobs=0))
    request = client.submit("square", [3])
    (accepted,) = done(world, request)
    done(world, client.fetch(accepted.job))
    assert not world.dispatcher.state.jobs
    (again,) = done(world, client.ask(request.message, request.payload, "square"))
    assert (again.job, again.existed, again.received) == (accepted.job, True, 1)


def test_those_that_were_recalled_leave_the_memory_again() -> None:
    world, client = begun(keep=RetentionPolicy(jobs=0))
    jobs = [ended(world, client, "square", []) for _ in range(MAX_RECALLED_JOBS + 30)]
    done(world, *[client.ask(messages.Status(0, job)) for job in jobs])
    done(world, client.ask(messages.Status(0)))
    assert len(world.dispatcher.state.jobs) == MAX_RECALLED_JOBS


def test_a_job_that_failed_long_ago_fails_those_that_come_after_it() -> None:
    world, client = begun(keep=RetentionPolicy(jobs=0))
    job = ended(world, client, "fails", [3])
    later = client.submit("square", [1], after=[job])
    (accepted,) = done(world, later)
    fetch = client.fetch(accepted.job)
    done(world, fetch)
    assert fetch.record.state is JobState.FAILED
    assert fetch.record.reason.startswith(f"job {job}, which it comes after, has failed")


def test_an_archive_forgets_what_was_removed() -> None:
    archive = Archive()
    for n in range(3000):
        archive.add(n, float(n), 1)
    for n in range(0, 3000, 2):
        archive.remove(n)
    assert list(islice(archive, 3)) == [(1, 1.0, 1), (3, 3.0, 1), (5, 5.0, 1)]
    for n in range(1, 2900, 2):
        archive.remove(n)
    assert next(iter(archive)) == (2901, 2901.0, 1)
    assert len(archive) == 50
    assert len(archive._numbers) < 1100


def test_an_archive_stands_by_age_and_needs_no_room_for_what_is_gone_behind_the_first() -> None:
    archive = Archive()
    for n in range(1, 5001):
        archive.add(n, float(n), 1)
    archive.add(9999, 2.5, 1)  # it was needed until now
    assert [number for number, _, _ in islice(archive, 4)] == [1, 2, 9999, 3]
    for n in range(2, 4900):
        archive.remove(n)
    assert [number for number, _, _ in islice(archive, 3)] == [1, 9999, 4900]
    assert len(archive) == 103
    assert len(archive._numbers) < 1300


# -- for how long ------------------------------------------------------------------------------------


@pytest.mark.heavy
def test_what_is_old_goes_by_itself_and_what_is_needed_stays() -> None:
    world, client = begun(keep=RetentionPolicy(age=3600.0, jobs=1))
    first, second = ended(world, client, "square", [1]), ended(world, client, "square", [1])
    needed = ended(world, client, "square", [1])
    waits = client.submit("square", [2], after=[needed], when=WALL + world.now + 9000)
    done(world, waits)
    world.run_for(1800.0)
    young = ended(world, client, "square", [1])
    world.run_for(1700.0)
    assert records(world, first)
    world.run_for(200.0)
    assert records(world, first) == records(world, second) == {}
    assert records(world, needed)
    assert records(world, young)
    world.run_for(1800.0)
    assert records(world, young) == {}
    world.run_for(9000.0)
    assert records(world, needed) == {}
    world.run_for(3600.0)
    assert not world.dispatcher.state.jobs
    assert world.dispatcher.state.ended.bytes == 0


@pytest.mark.parametrize(
    "jobs", [pytest.param(0, marks=pytest.mark.heavy), pytest.param(10_000, marks=pytest.mark.heavy)]
)
def test_old_jobs_that_are_needed_keep_none_behind_them(jobs: int) -> None:
    world, client = begun(keep=RetentionPolicy(age=3600.0, jobs=jobs))
    needed = [ended(world, client, "square", []) for _ in range(EXPIRY_BATCH + 5)]
    waits = [
        client.submit("square", [2], after=needed, when=WALL + world.now + 9000.0 + 3000.0 * n)
        for n in range(2)
    ]
    done(world, *waits)
    others = [ended(world, client, "square", []) for _ in range(5)]
    world.run_for(3700.0)
    # then those behind them have gone
    assert not any(records(world, job) for job in others)
    assert all(records(world, job) for job in needed)
    # and when nobody needs them any more, they go, before what is younger
    last = ended(world, client, "square", [])
    world.run_for(5600.0)
    assert all(records(world, job) for job in needed)
    young = ended(world, client, "square", [])
    world.run_for(2950.0)
    assert not any(records(world, job) for job in [*needed, last])
    assert records(world, young)


def test_beyond_a_size_the_oldest_go() -> None:
    world, client = begun(keep=RetentionPolicy(size=30_000, jobs=3))
    jobs = [ended(world, client, "square", [n]) for n in range(20)]
    world.settle()
    world.run_for(1.0)
    assert world.dispatcher.state.ended.bytes <= 30_000
    left = [job for job in jobs if records(world, job)]
    assert left == jobs[-len(left) :]
    assert 8 < len(left) < 15


@pytest.mark.parametrize("step", [-400 * 86400.0, 400 * 86400.0])
def test_a_step_of_the_wall_clock_deletes_nothing(step: float, monkeypatch: pytest.MonkeyPatch) -> None:
    world, client = begun(keep=RetentionPolicy(age=30 * 86400.0))
    job = ended(world, client, "square", [1])
    world.broker_turn([Tick(WALL + world.now + step)])
    world.run_for(100.0)
    assert records(world, job)
    # nor does a broker that starts with a wrong clock, but for a day
    clock = world.dispatcher.state.retention_clock.read(world.dispatcher.state.now)
    monkeypatch.setattr(worlds, "WALL", WALL + step)
    world.restart_broker()
    assert (
        world.dispatcher.state.retention_clock.read(world.dispatcher.state.now)
        <= clock + MAX_PAUSE_SECONDS + 1
    )
    world.run_for(100.0)
    assert records(world, job)


# -- as people do it ---------------------------------------------------------------------------------


def test_jobs_are_deleted_from_scripts_and_the_command_line(tmp_path: Path) -> None:
    with Fabric(tmp_path) as fabric:
        fabric.start_kernels(1)
        service = fabric.connect()
        jobs = [service.start(abs, [-n]) for n in range(6)]
        held = service.start(abs, [1], when=1000)
        for job in jobs:
            service.wait(job)
        service.delete(jobs[0])
        handle = service.job(jobs[1])
        handle.delete()
        with pytest.raises(park.UnknownJob, match=f"job {jobs[0]} is unknown: it was deleted"):
            service.wait(jobs[0])
        until(lambda: jobs[1] not in service.table.jobs)
        command = fabric.park("delete", f"{jobs[2]}-{jobs[4]}", str(held), str(jobs[0]))
        assert command.wait() == 6
        assert command.text.splitlines() == [
            *(f"job {number} is deleted" for number in jobs[2:5]),
            f"park: job {held} is waiting: abort it first (`park abort {held}`, in Python job.abort()), then delete it",
            f"park: job {jobs[0]} is unknown: it was deleted, or it was a session that is over",
        ]
        assert [job.id for job in service.jobs()] == [jobs[5], held]
        bad = fabric.park("delete", "5-1")
        assert bad.wait() == 2
        assert "5-1 is no range of jobs" in bad.text
        fabric.broker.kill()
        fabric.start_broker()
        assert service.wait(jobs[5], 60) == [5]
        assert [job.id for job in service.jobs()] == [jobs[5], held]
