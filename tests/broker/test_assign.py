"""Assignment of units to slots: needs, kernels for an owner, wide units, stragglers, pauses and lent slots."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from park.broker import assign
from park.broker.accounts.ledger import MICRO, CreditPolicy, Terms
from park.broker.entities.requirements import KernelProfile, Needs, unmet
from park.broker.scheduler.stragglers import SUPERSEDED_SECONDS
from park.broker.state import State
from park.errors import InvalidRequest
from park.model import JobState
from park.wire import codec, messages
from tests.sim.desk import Desk, accepted, finished, of
from tests.sim.functions import blob, code, units
from tests.sim.wire import PYTHON


def kernel(desk: Desk, name: str, slots: int = 1, **fields: Any) -> bytes:
    desk.give(
        name.encode(),
        messages.KernelHello((name.encode() * 16)[:16], "kay", name, 1, slots, PYTHON, **fields),
    )
    return name.encode()


def runs(out: Any) -> list[tuple[int, int]]:
    """The job and the first unit of each chunk that is dealt."""
    return [(r.job, r.start) for r in of(out, messages.Run)]


def finish(desk: Desk, peer: bytes, run: messages.Run, seconds: float = 0.05, **fields: Any) -> Any:
    desk.now += seconds
    return desk.give(peer, *finished(run, None, **({"seconds": seconds} | fields)))


def change(desk: Desk, peer: bytes, job: int, **fields: Any) -> Any:
    return desk.give(peer, messages.Change(99, job, **fields))


# -- needs -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("needs", "words"),
    [
        (Needs(), ""),
        (Needs(python="3.10"), "runs Python 3.10"),
        (Needs(cpus=5), "has 5 slots"),
        (Needs(cpus=4, memory=8 * 10**9), ""),
        (Needs(memory=9 * 10**9), "has 9 GB of memory"),
        (Needs(labels=("gpu",)), "has the label 'gpu'"),
        (Needs(labels=("fast",), packages=(("bumps", ">=1"),)), ""),
        (Needs(packages=(("bumps", "1.0.3"),)), ""),
        (Needs(packages=(("bumps", "1.0.4"),)), "has bumps 1.0.4"),
        (Needs(packages=(("bumps", "<1"),)), "has bumps <1"),
        (Needs(packages=(("refl1d", ""),)), "has the package refl1d"),
        (Needs(packages=(("odd", ""),)), ""),
        (Needs(packages=(("odd", ">1"),)), "has odd >1"),
    ],
)
def test_what_a_kernel_lacks(needs: Needs, words: str) -> None:
    profile = KernelProfile("3.11", 4, 8 * 10**9, ("fast",), (("bumps", "1.0.3"), ("odd", "no version")))
    assert unmet(needs, profile) == words


def test_a_name_that_no_kernel_has_is_answered_with_those_that_there_are() -> None:
    desk = Desk()
    client = desk.client()
    kernel(desk, "a", labels=["gpu", "a100"], environments={"sas": "3.11"})
    kernel(desk, "b", labels=[f"rack{n}" for n in range(9)])
    labelled = accepted(desk.submit(client, inputs=[1], labels=["gpus"]))
    assert desk.dispatcher.explain(labelled) == (
        "no kernel has the label 'gpus'; kernels have the labels a100, gpu, rack0, rack1, rack2 and 6 more"
    )
    named = accepted(desk.submit(client, inputs=[1], environment="refl1d"))
    assert desk.dispatcher.explain(named) == (
        "no kernel has the environment refl1d; kernels have the environments sas"
    )


def test_units_go_where_their_needs_are_met_and_say_at_once_where_nobody_meets_them() -> None:
    desk = Desk()
    client = desk.client()
    kernel(desk, "plain", 2)
    job = accepted(desk.submit(client, inputs=[1], labels=["gpu"], requires={"Bumps": ">=1"}))
    assert desk.dispatcher.explain(job) == "no kernel has the label 'gpu'"
    kernel(desk, "old", labels=["gpu"], packages={"bumps": "0.9"})
    assert "no kernel has" in desk.dispatcher.explain(job)
    desk.give(
        b"new",
        messages.KernelHello(
            b"n" * 16, "k", "n", 1, 1, PYTHON, labels=["gpu", "x"], packages={"bumps": "1.2"}
        ),
    )
    (attempt,) = desk.dispatcher.state.attempts.values()
    assert attempt.kernel.host == "n"
    # memory is counted as it is used
    kernel(desk, "big", 4, memory=10 * 10**9)
    desk.submit(client, inputs=[1, 2, 3], memory=4 * 10**9)
    assert sum(a.kernel.host == "big" for a in desk.dispatcher.state.attempts.values()) == 2


@pytest.mark.parametrize(
    "fields",
    [
        {"cpus": 0},
        {"labels": [""]},
        {"labels": ["x"] * 99},
        {"requires": {"bumps": "new"}},
        {"requires": {"": ">1"}},
    ],
)
def test_needs_that_make_no_sense_are_refused(fields: dict[str, Any]) -> None:
    desk = Desk()
    (failure,) = of(desk.submit(desk.client(), **fields), messages.Failure)
    assert failure.error == InvalidRequest.__name__
    assert not desk.dispatcher.state.jobs


def test_kernels_for_an_owner_serve_that_owner_first_or_only() -> None:
    desk = Desk()
    ann, bob = desk.client("c1", "ann"), desk.client("c2", "bob")
    desk.submit(ann, inputs=[1] * 9)
    desk.submit(bob, inputs=[1] * 9)
    first = desk.give(b"f", messages.KernelHello(b"f" * 16, "bob", "first", 1, 2, PYTHON, owner="bob"))
    assert [r.owner for r in of(first, messages.Run)] == ["bob", "bob"]
    desk.give(ann, messages.Abort(5, 1))
    only = desk.give(
        b"o", messages.KernelHello(b"o" * 16, "ann", "only", 1, 2, PYTHON, owner="ann", only=True)
    )
    assert not of(only, messages.Run)
    third = accepted(desk.submit(ann, inputs=[1] * 3))
    assert {a.kernel.host for a in desk.dispatcher.state.attempts.values() if a.map.job == third} == {"only"}


# -- wide units --------------------------------------------------------------------------------------


def test_a_wide_unit_is_not_passed_over_for_ever() -> None:
    desk = Desk()
    client, node = desk.client(), kernel(desk, "node", 2)
    held = of(desk.submit(client, inputs=[1] * 50), messages.Run)
    assert len(held) == 2
    wide = accepted(desk.submit(desk.client("c2", "bob"), inputs=[1], cpus=2))
    # the first slot that is free is kept for it
    assert runs(finish(desk, node, held[0])) == []
    assert desk.dispatcher.explain(wide).startswith(
        "waits until 2 slots are free at once on node; its share is 50 %"
    )
    out = finish(desk, node, held[1])
    assert runs(out) == [(wide, 0)]
    (run,) = of(out, messages.Run)
    assert run.cpus == 2
    out = finish(desk, node, run)
    assert {job for job, _ in runs(out)} == {1}
    assert desk.job(wide).seconds == pytest.approx(0.1)  # slot-seconds


def test_a_reservation_ends_with_its_job_and_with_its_kernel() -> None:
    desk = Desk()
    client, node = desk.client(), kernel(desk, "node", 2)
    first, _ = of(desk.submit(client, inputs=[1] * 50), messages.Run)
    for end in ("abort", "pause", "goodbye"):
        wide = accepted(desk.submit(desk.client(end, "bob"), inputs=[1], cpus=2))
        assert runs(finish(desk, node, first)) == []
        if end == "abort":
            out = desk.give(client, messages.Abort(9, wide))
        elif end == "pause":
            out = change(desk, client, wide, paused=True)
        else:
            desk.give(node, messages.Goodbye("going"))
            assert desk.dispatcher.state.jobs[wide].reserved is None
            break
        (first,) = of(out, messages.Run)
        assert first.job == 1


def test_nobody_has_as_many_slots() -> None:
    desk = Desk()
    kernel(desk, "node", 2)
    job = accepted(desk.submit(desk.client(), inputs=[1], cpus=3))
    assert desk.dispatcher.explain(job) == "no kernel has 3 slots (the largest has 2)"


# -- pause, priority, lending ------------------------------------------------------------------------


def test_a_paused_job_gets_no_new_units_and_goes_on_when_resumed() -> None:
    desk = Desk()
    client, node = desk.client(), kernel(desk, "node")
    (run,) = of(desk.submit(client, inputs=[1, 2, 3]), messages.Run)
    out = change(desk, client, 1, paused=True)
    assert of(out, messages.Done)
    assert desk.job(1).state is JobState.PAUSED
    assert runs(finish(desk, node, run)) == []
    assert desk.job(1).done == 1
    assert "park resume 1" in desk.dispatcher.explain(1)
    out = change(desk, client, 1, paused=False)
    assert runs(out) == [(1, 1)]
    assert desk.job(1).state is JobState.RUNNING


def test_a_job_that_waits_may_be_paused_and_looks_again_when_it_is_resumed() -> None:
    desk = Desk()
    client, node = desk.client(), kernel(desk, "node")
    (run,) = of(desk.submit(client, inputs=[1]), messages.Run)
    later = accepted(desk.submit(client, inputs=[1], after=[1]))
    change(desk, client, later, paused=True)
    assert runs(finish(desk, node, run)) == []
    assert desk.job(later).state is JobState.PAUSED
    assert runs(change(desk, client, later, paused=False)) == [(later, 0)]
    # and one whose dependency is still there goes back to waiting
    last = accepted(desk.submit(client, inputs=[1], after=[later]))
    change(desk, client, last, paused=True)
    change(desk, client, last, paused=False)
    assert desk.job(last).state is JobState.WAITING


@pytest.mark.parametrize("how", ["stop", "abort"])
def test_a_paused_job_can_be_ended(how: str) -> None:
    desk = Desk()
    client, node = desk.client(), kernel(desk, "node")
    (run,) = of(desk.submit(client, inputs=[1, 2, 3]), messages.Run)
    change(desk, client, 1, paused=True)
    finish(desk, node, run)
    desk.give(client, messages.Stop(7, 1) if how == "stop" else messages.Abort(7, 1))
    assert desk.job(1).state is (JobState.COMPLETE if how == "stop" else JobState.ABORTED)
    assert desk.job(1).stopped == (how == "stop")


def test_a_driver_lends_its_slot_when_another_job_is_due_and_gets_it_back() -> None:
    desk = Desk()
    client, node = desk.client(), kernel(desk, "node")
    (driver,) = of(desk.submit(client, "driver", None), messages.Run)
    other = accepted(desk.submit(desk.client("c2", "bob"), inputs=[1]))
    out = desk.tick(0.2)
    assert of(out, messages.Lend) == [messages.Lend(driver.attempt)]
    assert not of(desk.tick(0.2), messages.Lend)  # asked once
    out = desk.give(node, messages.Lent(driver.attempt))
    (run,) = of(out, messages.Run)
    assert run.job == other
    # said again, because the connection was cut meanwhile: nothing happens
    assert not desk.give(node, messages.Lent(driver.attempt)).sends
    out = finish(desk, node, run)
    assert of(out, messages.Resume) == [messages.Resume(driver.attempt)]
    finish(desk, node, driver)
    assert desk.job(1).state is JobState.COMPLETE
    assert desk.job(1).seconds == pytest.approx(0.45)


def test_a_driver_is_not_asked_while_nobody_waits_for_its_slot() -> None:
    desk = Desk()
    client, _ = desk.client(), kernel(desk, "node", 2)
    desk.submit(client, "driver", None)
    desk.submit(client, inputs=[1])
    assert not of(desk.tick(0.2), messages.Lend)
    desk.submit(client, inputs=[1])  # whoever is new is due
    assert of(desk.tick(0.2), messages.Lend)


def test_a_paused_driver_waits_at_its_safe_point() -> None:
    desk = Desk()
    client, node = desk.client(), kernel(desk, "node")
    (driver,) = of(desk.submit(client, "driver", None), messages.Run)
    out = change(desk, client, 1, paused=True)
    assert of(out, messages.Lend) == [messages.Lend(driver.attempt)]
    desk.give(node, messages.Lent(driver.attempt))
    assert not of(desk.tick(1.0), messages.Resume)
    assert desk.dispatcher.state.roster.kernels[node].free == 1
    assert of(change(desk, client, 1, paused=False), messages.Resume)


def test_a_body_that_keeps_its_slot_is_named() -> None:
    desk = Desk()
    client, node = desk.client(), kernel(desk, "node")
    desk.submit(client, "driver", None)
    other = accepted(desk.submit(desk.client("c2", "bob"), inputs=[1]))
    for _ in range(5):
        desk.tick(1.0)
        desk.give(node, messages.Heartbeat())
    assert "job 1 was asked for its slot" in desk.dispatcher.explain(other)
    assert "env.ready()" in desk.dispatcher.explain(other)


def test_a_new_priority_counts_from_the_next_chunk() -> None:
    desk = Desk()
    ann, node = desk.client(), kernel(desk, "node")
    (run,) = of(desk.submit(ann, inputs=[1] * 500), messages.Run)
    desk.submit(desk.client("c2", "bob"), inputs=[1] * 500)
    shares = []
    for priority in (0, 2):
        change(desk, ann, 1, priority=priority, tags=["a", "b"])
        served = []
        for _ in range(100):
            ahead = [a for a in desk.dispatcher.state.attempts.values() if a.ahead]
            out = finish(desk, node, run, 0.1)
            served.append(run.job)
            (run,) = of(out, messages.Run)
            assert not ahead
        shares.append(served.count(1) / 100)
    assert shares == [pytest.approx(0.5, abs=0.05), pytest.approx(0.8, abs=0.05)]
    assert desk.job(1).tags == ("a", "b")
    (failure,) = of(change(desk, ann, 1, priority=7), messages.Failure)
    assert "priority 7" in failure.text
    assert of(change(desk, ann, 1, tags=[""]), messages.Failure)


# -- stragglers --------------------------------------------------------------------------------------


def late(desk: Desk, again: bool = True, **fields: Any) -> tuple[bytes, bytes, messages.Run, messages.Run]:
    """Two kernels; the last unit of a job takes too long on the first, and is issued *again* on the other."""
    client, one, two = desk.client(), kernel(desk, "one"), kernel(desk, "two")
    first, second = of(desk.submit(client, inputs=[1] * 4, **{"pure": True} | fields), messages.Run)
    (straggler,) = of(finish(desk, one, first, 0.2), messages.Run)
    (last,) = of(finish(desk, two, second, 0.2), messages.Run)
    finish(desk, two, last, 0.2)
    assert not of(desk.tick(0.1), messages.Run)
    runs = of(desk.tick(0.5), messages.Run)
    assert len(runs) == again
    return one, two, straggler, runs[0] if runs else straggler


def test_a_late_unit_is_issued_again_where_units_are_pure_and_the_first_answer_counts() -> None:
    desk = Desk()
    one, two, straggler, again = late(desk)
    assert (again.start, again.count) == (straggler.start, straggler.count)
    assert again.attempt != straggler.attempt
    assert again.apart
    assert desk.job(1).doubled == 1
    out = finish(desk, two, again, 0.2)
    # the other one ends with the unit that it is at: nothing is killed
    assert of(out, messages.Stop) == [messages.Stop(attempt=straggler.attempt)]
    assert not of(out, messages.Abort)
    assert desk.job(1).state is JobState.COMPLETE
    assert desk.job(1).done == 4
    assert desk.job(1).seconds == pytest.approx(0.8)  # the slower one is not charged
    # its slot is taken until it has ended
    assert desk.dispatcher.state.roster.kernels[one].free == 0
    finish(desk, one, straggler)
    assert desk.dispatcher.state.duplicates == 1
    assert desk.dispatcher.state.roster.kernels[one].free == 1
    assert not desk.dispatcher.state.attempts
    assert not desk.dispatcher.state.superseded


def test_an_attempt_that_was_outrun_is_ended_when_it_never_ends_by_itself() -> None:
    desk = Desk()
    one, two, straggler, again = late(desk)
    finish(desk, two, again, 0.2)
    end = desk.now + SUPERSEDED_SECONDS
    assert desk.dispatcher.next_deadline() <= end
    while desk.now < end - 2.0:
        for peer in (one, two):
            desk.give(peer, messages.Heartbeat(1, [straggler.attempt] if peer == one else []))
        assert not of(desk.tick(2.0), messages.Abort)
    out = desk.tick(end - desk.now)
    assert of(out, messages.Abort) == [messages.Abort(attempt=straggler.attempt)]
    assert not of(desk.tick(1.0), messages.Abort)
    desk.give(one, *finished(straggler, [], ended="abort"))
    assert not desk.dispatcher.state.attempts
    assert desk.dispatcher.state.roster.kernels[one].free == 1


@pytest.mark.parametrize("asks", ["map", "slot", "file"])
def test_an_attempt_that_was_outrun_and_asks_for_something_does_not_wait_for_ever(asks: str) -> None:
    desk = Desk()
    one, two, straggler, again = late(desk)
    finish(desk, two, again, 0.2)
    number = straggler.attempt
    if asks == "map":
        desk.give(one, messages.Blob(code("square")), blob("square"))
        out = desk.give(one, messages.Map(b"m" * 16, 1, code("square"), 1, attempt=number), units([1]))
    elif asks == "slot":
        out = desk.give(one, messages.Lent(number, 1))
    else:
        out = desk.give(one, messages.File(1, number, "", "list"))
    assert of(out, messages.Abort) == [messages.Abort(attempt=number)]


def test_a_job_that_is_aborted_takes_along_what_was_outrun() -> None:
    desk = Desk()
    client, one, two = desk.client(), kernel(desk, "one"), kernel(desk, "two")
    job = desk.session(client, pure=True)
    desk.give(client, messages.Blob(code("square")), blob("square"))
    out = desk.give(client, messages.Map(b"m" * 16, job, code("square"), 4), units([1] * 4))
    first, second = of(out, messages.Run)
    (straggler,) = of(finish(desk, one, first, 0.2), messages.Run)
    (last,) = of(finish(desk, two, second, 0.2), messages.Run)
    finish(desk, two, last, 0.2)
    (again,) = of(desk.tick(0.6), messages.Run)
    assert not of(finish(desk, two, again, 0.2), messages.Abort)
    out = desk.give(client, messages.Close(7, job, "it has been cancelled"))
    assert of(out, messages.Abort) == [messages.Abort(attempt=straggler.attempt)]
    assert not desk.dispatcher.state.superseded


@pytest.mark.parametrize("fate", ["crash", "lost", "stopped", "late"])
def test_either_may_fail_and_the_other_counts(fate: str) -> None:
    desk = Desk()
    one, two, straggler, again = late(desk)
    if fate == "crash":
        desk.give(two, messages.Crashed([again.attempt], "killed"))
    elif fate == "lost":
        desk.give(two, messages.Goodbye())
    elif fate == "stopped":
        desk.give(two, *finished(again, [], ended="lost"))
    else:
        finish(desk, one, straggler)
        desk.give(two, messages.Crashed([again.attempt], "killed"))
        assert desk.dispatcher.state.duplicates == 0
    if fate != "late":
        assert desk.job(1).state is JobState.RUNNING
        finish(desk, one, straggler)
    assert desk.job(1).state is JobState.COMPLETE
    assert desk.job(1).failed == 0
    assert not desk.dispatcher.state.attempts


def test_nothing_runs_twice_that_was_not_said_to_be_pure() -> None:
    desk = Desk()
    late(desk, again=False, pure=False)
    assert desk.job(1).doubled is None
    assert not of(desk.tick(20.0), messages.Run)
    late(Desk(), again=False, idempotent=False)


def test_units_that_make_maps_are_not_issued_again() -> None:
    desk = Desk()
    one, two, straggler, again = late(desk)
    desk.give(one, messages.Blob(code("square")), blob("square"))
    out = desk.give(one, messages.Map(b"m" * 16, 1, code("square"), 1, attempt=straggler.attempt), units([1]))
    assert messages.Stop(attempt=again.attempt) in of(out, messages.Stop)
    out = desk.give(two, messages.Map(b"n" * 16, 1, code("square"), 1, attempt=again.attempt), units([1]))
    assert of(out, messages.Abort) == [messages.Abort(attempt=again.attempt)]
    assert not of(desk.tick(20.0), messages.Run)


# -- credit ------------------------------------------------------------------------------------------


def test_paid_work_is_charged_with_its_unit_and_the_broke_are_served_as_free() -> None:
    desk = Desk(policy=CreditPolicy(Terms(cap=10.0, rate=3_600.0)))
    client, node = desk.client(), kernel(desk, "node")
    (run,) = of(desk.submit(client, inputs=[1] * 9, priority=2), messages.Run)
    out = finish(desk, node, run, 1.0)
    charge = {w.namespace: codec.unpack(w.value) for w in out.writes if w.namespace in ("charge", "account")}  # type: ignore[arg-type]
    assert charge["charge"] == {"owner": "ann", "amount": 3 * MICRO, "used": MICRO}
    assert desk.job(1).credits == 3.0
    # more is spent than comes in
    (run,) = of(out, messages.Run)
    out = finish(desk, node, run, 4.0)
    (run,) = of(out, messages.Run)
    balance = desk.dispatcher.state.ledger.accounts["ann"].balance
    assert balance <= 0
    assert [d.change for d in out.deltas if d.table == "owner"][-1] == {"credits": balance / MICRO}
    assert desk.dispatcher.state.clock.rates(1, desk.now).job == pytest.approx(1.0, rel=0.01)
    paid = desk.job(1).credits
    out = finish(desk, node, run, 0.01)
    assert desk.job(1).credits == paid  # what was dealt to the broke costs nothing
    desk.tick(5.0)
    assert desk.dispatcher.state.clock.rates(1, desk.now).job == pytest.approx(4.0, rel=0.01)


def test_work_that_the_fabric_lost_is_not_charged_and_what_a_user_s_code_did_is() -> None:
    desk = Desk(policy=CreditPolicy())
    client, node = desk.client(), kernel(desk, "node")
    desk.submit(client, inputs=[1], priority=4)
    desk.now += 5.0
    desk.give(node, messages.Goodbye())
    assert desk.job(1).credits == 0.0
    assert desk.job(1).seconds == 0.0
    kernel(desk, "other")
    (attempt,) = desk.dispatcher.state.attempts.values()
    desk.now += 2.0
    desk.give(b"other", messages.Crashed([attempt.number], "killed by its code"))
    assert desk.job(1).credits == pytest.approx(30.0)


def test_only_the_broker_s_own_user_grants() -> None:
    from park.model import Account

    desk = Desk(policy=CreditPolicy())
    admin = desk.client()
    guest = desk.client("guest", account=Account("bob"))
    (refused,) = of(desk.give(guest, messages.Grant(1, "bob", 5.0)), messages.Failure)
    assert refused.error == "Refused"
    assert of(desk.give(admin, messages.Grant(2, "bob", 5.0)), messages.Done)
    assert of(desk.give(admin, messages.Grant(3, "bob", -5.0)), messages.Failure)
    out = desk.give(guest, messages.Credits(4, "bob"))
    (payload,) = [s.payload for s in out.sends if isinstance(s.message, messages.Records)]
    (found,) = codec.unpack(payload)  # type: ignore[arg-type]
    assert (found["owner"], found["balance"], found["rate"]) == ("bob", 36_005.0, 1500.0)


# -- kernels full of drivers -------------------------------------------------------------------------


def test_a_kernel_full_of_drivers_goes_on_with_plain_work_and_tries_what_is_unknown() -> None:
    desk = Desk()
    ann, bob, node = desk.client(), desk.client("c2", "bob"), kernel(desk, "node")
    for job in range(1, 5):
        (driver,) = of(desk.submit(ann, "driver", None), messages.Run)
        change(desk, ann, job, paused=True)
        desk.give(node, messages.Lent(driver.attempt))
    assert desk.dispatcher.state.roster.kernels[node].full_of_drivers
    # a fifth one waits, and says why
    assert not of(desk.submit(ann, "driver", None), messages.Run)
    assert desk.dispatcher.explain(5).startswith(
        "every kernel holds as many waiting drivers as it may, and starts"
    )
    # code that nobody knows is tried beside them, and goes on when it has made no maps
    assert len(of(desk.submit(bob, inputs=[1, 2, 3, 4]), messages.Run)) == 1
    while not desk.job(6).state.ended:
        (attempt,) = [a for a in desk.dispatcher.state.attempts.values() if not a.parked and not a.ahead]
        assert attempt.map.job == 6
        desk.now += 0.01
        desk.give(node, *finished(run_of_attempt(attempt), None, seconds=0.01))
    assert desk.job(6).state is JobState.COMPLETE
    # when one goes on and ends, the fifth has its place
    out = change(desk, ann, 1, paused=False)
    (resumed,) = of(out, messages.Resume)
    (first,) = [a for a in desk.dispatcher.state.attempts.values() if a.number == resumed.attempt]
    out = desk.give(node, *finished(run_of_attempt(first), [1]))
    assert [r.job for r in of(out, messages.Run)] == [5]


def full_of_drivers(owner: str = "ann") -> tuple[Desk, bytes, Any]:
    """A kernel of one slot with four drivers of one owner, all paused."""
    desk = Desk()
    client, node = desk.client("c0", owner), kernel(desk, "node")
    for job in range(1, 5):
        waits_in_pause(desk, client, node, job)
    return desk, node, client


def waits_in_pause(desk: Desk, client: Any, node: bytes, job: int, priority: int = 0) -> None:
    """Submit a driver that starts at once, and pause it. *job*: its number."""
    (driver,) = of(desk.submit(client, "driver", None, priority=priority), messages.Run)
    assert driver.job == job
    change(desk, client, job, paused=True)
    desk.give(node, messages.Lent(driver.attempt))


def test_a_kernel_full_of_drivers_takes_one_more_of_each_other_owner() -> None:
    desk, node, ann = full_of_drivers()
    desk.submit(ann, "driver", None)
    for number, owner in enumerate(["bob", "cleo", "dan", "eve"], 6):
        waits_in_pause(desk, desk.client(f"c{number}", owner), node, number)
        assert desk.dispatcher.explain(5).startswith("every kernel holds")
    # with eight of them, an owner without any waits, too
    assert not of(desk.submit(desk.client("c10", "fay"), "driver", None), messages.Run)
    assert desk.dispatcher.explain(10).startswith("every kernel holds")


def test_a_kernel_full_of_drivers_takes_one_more_of_a_higher_priority() -> None:
    desk, node, ann = full_of_drivers()
    waits_in_pause(desk, ann, node, 5, priority=1)
    assert not of(desk.submit(ann, "driver", None, priority=1), messages.Run)
    waits_in_pause(desk, ann, node, 7, priority=2)
    # the owner of many drivers that wait for their turn stands in nobody's way
    for _ in range(3):
        assert not of(desk.submit(ann, "driver", None), messages.Run)
    waits_in_pause(desk, desk.client("c2", "bob"), node, 11)


def test_code_that_may_be_a_driver_starts_at_a_full_kernel_if_its_owner_has_none_there() -> None:
    desk, node, ann = full_of_drivers()
    waits_in_pause(desk, desk.client("c1", "bob"), node, 5)  # a fifth one: unknown code is tried no more
    assert not of(desk.submit(ann, "square", [1]), messages.Run)
    assert desk.dispatcher.explain(6).startswith("every kernel holds")
    assert [r.job for r in of(desk.submit(desk.client("c2", "cleo"), "square", [1]), messages.Run)] == [7]


def test_a_driver_that_waits_for_a_gpu_keeps_no_other_from_a_full_kernel() -> None:
    desk = Desk()
    hello = messages.KernelHello(b"n" * 16, "kay", "node", 1, 2, PYTHON, gpus=1)
    desk.give(b"knode", hello)
    ann = desk.client("c0", "ann")
    for job in range(1, 9):
        waits_in_pause(desk, ann, b"knode", job)
    (holder,) = of(desk.submit(desk.client("c1", "bob"), "driver", None, gpus=1), messages.Run)
    assert holder.devices == [0]
    assert not of(desk.submit(desk.client("c2", "cleo"), "driver", None, gpus=1), messages.Run)
    (other,) = of(desk.submit(desk.client("c3", "dan"), "driver", None), messages.Run)
    assert other.job == 11
    assert [r.job for r in of(desk.give(b"knode", *finished(holder, [1])), messages.Run)] == [10]


def test_a_wide_driver_gets_the_slots_of_a_full_kernel_one_after_the_other() -> None:
    desk = Desk()
    node = kernel(desk, "node", 2)
    ann, bob, cleo = desk.client("c0", "ann"), desk.client("c1", "bob"), desk.client("c2", "cleo")
    for job in range(1, 9):
        waits_in_pause(desk, ann, node, job)
    (first,) = of(desk.submit(bob, "square", [1]), messages.Run)
    assert not of(desk.submit(cleo, "driver", None, cpus=2), messages.Run)
    assert not of(desk.submit(bob, "square", [2]), messages.Run)  # it would hold the slot again
    assert [r.job for r in of(desk.give(node, *finished(first, [1])), messages.Run)] == [10]


def test_a_kernel_of_one_owner_takes_no_further_driver_of_others() -> None:
    desk = Desk()
    client, node = desk.client("c0", "ann"), b"kdesktop"
    bob = desk.client("c1", "bob")
    hello = messages.KernelHello(b"k" * 16, "kay", "node", 1, 1, PYTHON, owner="ann", only=True)
    desk.give(node, hello)
    for job in range(1, 5):
        waits_in_pause(desk, client, node, job)
    assert not of(desk.submit(bob, "driver", None), messages.Run)
    assert not of(desk.submit(client, "driver", None), messages.Run)
    waits_in_pause(desk, client, node, 7, priority=1)


def run_of_attempt(attempt: Any) -> messages.Run:
    return messages.Run(
        attempt.number, attempt.map.job, "x", attempt.map.key, b"", attempt.span.start, len(attempt.span), 0
    )


# -- chunks ------------------------------------------------------------------------------------------


def test_chunks_come_in_rounds_of_one_for_each_slot_so_that_the_slots_keep_step() -> None:
    desk = Desk()
    client = desk.client()
    desk.dispatcher.state.estimates.learn("ann", code("square"), 1, 1e-3)
    peer = kernel(desk, "node", 2)
    waiting = of(desk.submit(client, inputs=range(50)), messages.Run)
    sizes = []
    while waiting:
        run = waiting.pop(0)
        sizes.append(run.count)
        waiting += of(finish(desk, peer, run, seconds=1e-3 * run.count), messages.Run)
    assert sizes == [17, 17, 6, 6, 2, 2]


# -- one unit at once --------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(12))
def test_a_single_unit_that_is_dealt_at_once_is_dealt_as_in_its_turn(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The outcomes, and all places in the queue, are the same whatever happens beside it."""
    desks = (
        Desk(policy=CreditPolicy(Terms(cap=2.0, rate=3.0))),
        Desk(policy=CreditPolicy(Terms(cap=2.0, rate=3.0))),
    )
    dealt: list[bool] = []
    deal_at_once = assign.deal_at_once

    def counted(state: State, *given: Any) -> bool:
        if state is desks[1].dispatcher.state:
            return False
        dealt.append(deal_at_once(state, *given))
        return dealt[-1]

    monkeypatch.setattr(assign, "deal_at_once", counted)
    rng, running = random.Random(seed), []

    def both(act: Callable[[Desk], Any]) -> Any:
        """Do the same in both, and note the chunks that they deal."""
        one, other = [act(desk) for desk in desks]
        assert one == other
        for send in (*one.sends, *one.sends_after_commit) if one is not None else ():
            if isinstance(send.message, messages.Run):
                running.append((send.peer, send.message))
        places = [
            [
                (j.number, j.tag, j.owner.tag, j.charged, j.slept, j.owner.slept, len(j.work_classes))
                for j in jobs.values()
            ]
            for jobs in (desk.dispatcher.state.clock._jobs for desk in desks)
        ]
        assert places[0] == places[1]
        return one

    # given: three kernels, one of them for bob alone, and people with sessions of several priorities
    for name, fields in (("k1", {}), ("k2", {}), ("k3", {"owner": "bob", "only": True})):
        slots = rng.randint(1, 2)
        hello = messages.KernelHello((name.encode() * 16)[:16], "kay", name, 1, slots, PYTHON, **fields)
        both(lambda desk, name=name, hello=hello: desk.give(name.encode(), hello))
    sessions = []
    for name in ("ann", "bob", "cyd"):
        peer = both(lambda desk, name=name: desk.client(name, user=name) and None) or name.encode()
        both(lambda desk, peer=peer: desk.give(peer, messages.Blob(code("square")), blob("square")))
        for _ in range(2):
            submit = messages.Submit(
                id=7, key=rng.randbytes(16), session=True, python=PYTHON, priority=rng.randint(-3, 4)
            )
            sessions.append((peer, accepted(both(lambda desk, s=submit, peer=peer: desk.give(peer, s)))))
    # when: maps, of one unit mostly, requests, answers and time come as they like
    for _ in range(200):
        chance = rng.random()
        if chance < 0.25:
            peer, number = rng.choice(sessions)
            count = rng.choice((1, 1, 1, 3))
            m = messages.Map(rng.randbytes(16), number, code("square"), count, closed=rng.random() < 0.8)
            both(lambda desk, peer=peer, m=m: desk.give(peer, m, units([0] * m.count)))
        elif chance < 0.26:
            key, inputs = rng.randbytes(16), [1] * rng.randint(1, 5)
            both(lambda desk, key=key, inputs=inputs: desk.submit(b"ann", inputs=inputs, key=key))
        elif chance < 0.9 and running:
            peer, run = running.pop(rng.randrange(len(running)))
            seconds = rng.choice((0.001, 0.3, 5.0))
            for desk in desks:
                desk.now += seconds / 3
            both(lambda desk, peer=peer, run=run, s=seconds: desk.give(peer, *finished(run, None, seconds=s)))
        else:
            passed = rng.choice((0.01, 0.6, 3.0))
            both(lambda desk, passed=passed: desk.tick(passed))
            for peer in (b"k1", b"k2", b"k3", b"ann", b"bob", b"cyd"):
                both(lambda desk, peer=peer: desk.give(peer, messages.Heartbeat(desk.dispatcher.state.epoch)))
    # then: nothing told them apart, and many units were dealt so
    assert sum(dealt) > 10
