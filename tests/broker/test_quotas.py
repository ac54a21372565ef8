"""Quotas of owners: refusals and their words, and counts that stay right whatever happens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import park
from park.broker.accounts.quotas import JOB_RECORD_BYTES, LimitPolicy, Limits
from park.broker.entities.archive import RetentionPolicy
from park.wire import messages
from tests.sim.desk import Desk, accepted, finished, of
from tests.sim.functions import blob, code, units
from tests.sim.world import World
from tests.support.fabric import Fabric, until

MANY = 10**9


def desk_with(jobs: int = MANY, units: int = MANY, size: int = MANY) -> Desk:
    return Desk(limits=LimitPolicy(Limits(jobs, units, size), {"bob": Limits()}))


def refusal(out: Any) -> str:
    (failure,) = of(out, messages.Failure)
    assert failure.error == "LimitReached"
    assert not out.writes
    assert not out.deltas
    return str(failure.text)


def tally(desk: Desk, owner: str = "ann") -> tuple[int, int, int]:
    found = desk.dispatcher.state.job_list.tallies.of(owner)
    return found.jobs, found.units, found.bytes


def test_more_jobs_than_an_owner_may_have_are_refused() -> None:
    desk = desk_with(jobs=2)
    ann, bob = desk.client("c1"), desk.client("c2", "bob")
    session = desk.session(ann)
    desk.submit(ann, when=1e11)
    text = refusal(desk.submit(ann, inputs=[1]))
    assert text == (
        "ann has 2 jobs that have not ended, and may have 2: wait until some have ended, or abort some "
        "(the limit is jobs under [limits] in the broker's park.toml)"
    )
    (failure,) = of(desk.give(ann, messages.Submit(id=9, key=b"s" * 16, session=True)), messages.Failure)
    assert failure.error == "LimitReached"
    # who has other limits, or less, is served; and so is what was accepted before and is said again
    assert accepted(desk.submit(bob, inputs=[1]))
    assert accepted(desk.submit(ann, key=(2).to_bytes(16, "big"))) == 2
    desk.give(ann, messages.Close(5, session))
    assert accepted(desk.submit(ann, inputs=[1]))


def test_units_that_wait_or_run_are_limited_those_of_sessions_too() -> None:
    desk = desk_with(units=10)
    ann, kernel = desk.client("c1"), desk.kernel(slots=1)
    text = refusal(desk.submit(ann, inputs=list(range(11))))
    assert text.startswith("these are 11 units, and ann may have 10 at once: submit them in several requests")
    desk.submit(ann, inputs=list(range(6)), closed=False)
    (job,) = desk.dispatcher.state.jobs
    session = desk.session(ann)
    desk.give(ann, messages.Blob(code("square")), blob("square"))
    (failed,) = of(
        desk.give(ann, messages.Map(b"m" * 16, session, code("square"), 5), units([1] * 5)),
        messages.MapFailed,
    )
    assert failed.error == "LimitReached"
    assert failed.text.startswith("ann has 6 units that wait or run, and may have 10, so 5 more are too many")
    desk.give(ann, messages.Map(b"n" * 16, session, code("square"), 4), units([1] * 4))
    assert tally(desk)[1] == 10
    (failure,) = of(desk.give(ann, messages.Units(6, 1, True, job=job, id=7), units([1])), messages.Failure)
    assert failure.error == "LimitReached"
    # what is answered, or cancelled, makes room; what was refused may be said again
    desk.give(ann, messages.Cancel(b"n" * 16))
    (number,) = desk.dispatcher.state.attempts
    run = desk.dispatcher.state.attempts[number]
    told = messages.Run(number, job, "ann", run.map.key, code("square"), 0, len(run.span), 0, 1)
    desk.give(kernel, *finished(told))
    assert tally(desk)[1] == 6 - len(run.span)
    assert of(desk.give(ann, messages.Units(6, 1, True, job=job, id=8), units([1])), messages.Done)
    desk.give(ann, messages.Abort(9, job))
    for n in list(desk.dispatcher.state.attempts):
        a = desk.dispatcher.state.attempts[n]
        desk.give(
            kernel,
            *finished(messages.Run(n, job, "ann", a.map.key, b"", a.span.start, 0, 0, 1), ended="abort"),
        )
    assert tally(desk)[:2] == (1, 0)


def test_bytes_in_the_store_are_limited_until_jobs_are_deleted() -> None:
    desk = desk_with(size=2 * JOB_RECORD_BYTES + 1500)
    ann = desk.client("c1")
    desk.submit(ann, inputs=[])
    before = tally(desk)[2]
    assert JOB_RECORD_BYTES < before < JOB_RECORD_BYTES + 1000
    desk.submit(ann, inputs=[])
    text = refusal(desk.submit(ann, inputs=[]))
    assert text.startswith(
        f"ann has {2 * before:,} bytes in the store, and may have {2 * JOB_RECORD_BYTES + 1500:,}, so "
    )
    assert "delete jobs that have ended, with `park delete`" in text
    desk.give(ann, messages.Delete(9, 1))
    assert tally(desk)[2] == before
    assert accepted(desk.submit(ann, inputs=[]))


def test_an_upload_that_is_given_up_counts_for_what_is_there() -> None:
    desk = desk_with(size=JOB_RECORD_BYTES + 1500)
    ann = desk.client("c1")
    desk.submit(ann, inputs=[1], closed=False)
    (failure,) = of(
        desk.give(ann, messages.Units(1, 500, False, job=1, id=7), units(list(range(500)))), messages.Failure
    )
    assert failure.error == "LimitReached"
    size = tally(desk)[2]
    desk.give(ann, messages.Abort(8, 1))
    assert tally(desk) == (0, 0, size)
    desk.give(ann, messages.Delete(9, 1))
    assert tally(desk) == (0, 0, 0)


@pytest.mark.parametrize("keep", [0, 100])
def test_the_count_is_the_same_after_a_restart(keep: int) -> None:
    world = World(keep=RetentionPolicy(jobs=keep))
    world.kernel(1)
    client = world.client()
    jobs = [client.submit("square", list(range(n))) for n in (3, 4)]
    world.until(lambda: all(r.done for r in jobs))
    fetches = [client.fetch(r.job) for r in jobs]
    world.until(lambda: all(f.done for f in fetches))
    held = client.submit("square", list(range(5)), after=[jobs[0].job], when=1e11)
    opened = client.submit("driver", [1], closed=False, when=1e11)
    world.until(lambda: held.done and opened.done)
    world.settle()

    def counted() -> tuple[int, int, int]:
        found = world.dispatcher.state.job_list.tallies.of("ann")
        return found.jobs, found.units, found.bytes

    before = counted()
    assert before[:2] == (2, 6)
    assert before[2] > 4 * JOB_RECORD_BYTES
    assert world.dispatcher.state.ended.bytes < before[2]
    world.restart_broker()
    assert counted() == before


def test_a_refusal_reaches_the_script_and_the_command_line(tmp_path: Path) -> None:
    settings = {"PARK_LIMITS_JOBS": "2", "PARK_LIMITS_UNITS": "3000", "PARK_LIMITS_BYTES": "100 kB"}
    with Fabric(tmp_path, "--keep", "3s", settings=settings) as fabric:
        service = fabric.connect()
        first, second = service.start(abs, [1], when=1000), service.start(abs, [1], when=1000)
        with pytest.raises(park.LimitReached, match="tester has 2 jobs that have not ended, and may have 2"):
            service.start(abs, [1])
        with pytest.raises(park.Refused, match="2 jobs"):
            service.map(abs, [1])
        service.abort(first)
        with pytest.raises(park.LimitReached, match="may have 3,000"):
            service.start(abs, [None] * 3001)
        third = service.start(abs, [1] * 2000, when=1000)
        service.abort(second)
        with pytest.raises(
            park.LimitReached, match="tester has 2,000 units that wait or run, and may have 3,000"
        ):
            service.start(abs, [1] * 1001)
        service.abort(third)
        with pytest.raises(park.LimitReached, match="bytes in the store"):
            service.start(abs, ["x" * 100_000])
        fabric.start_kernels(1)
        assert service.wait(service.start(abs, [-1])) == [1]
        # what has ended goes after three seconds, and is unknown then
        until(lambda: not service.jobs())
        with pytest.raises(park.UnknownJob):
            service.status(second)
