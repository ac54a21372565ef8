"""Private jobs: only kernels that serve one alone run it, and they are sent away when it is over."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from park.broker.entities.requirements import KernelProfile, Needs, unmet
from park.model import Account, JobState
from park.wire import messages
from tests.sim.desk import Desk, accepted, finished, of
from tests.sim.wire import PYTHON


def own_kernel(desk: Desk, job: int, name: str = "p1", **fields: Any) -> Any:
    """A kernel that serves *job* alone says hello."""
    return desk.give(name.encode(), own_hello(job, name, **fields))


def own_hello(job: int, name: str = "p1", **fields: Any) -> messages.KernelHello:
    return messages.KernelHello((name.encode() * 16)[:16], "kay", "node", 1, 1, PYTHON, job=job, **fields)


def test_private_jobs_and_their_kernels_know_nothing_but_each_other() -> None:
    assert not unmet(Needs(), KernelProfile())
    assert not unmet(Needs(job=3), KernelProfile(job=3))
    assert (
        unmet(Needs(job=3), KernelProfile())
        == unmet(Needs(job=3), KernelProfile(job=4))
        == "serves job 3 alone"
    )
    assert unmet(Needs(), KernelProfile(job=3)) == "serves more than job 3"


def test_a_private_job_runs_on_its_own_kernel_and_sends_it_away_at_its_end() -> None:
    desk = Desk()
    client, shared = desk.client(), desk.kernel()
    out = desk.submit(client, inputs=[5], private=True)
    assert of(out, messages.Run) == [], "a kernel for all does not run it"
    job = accepted(out)
    assert desk.dispatcher.explain(job) == (
        "waiting: no kernel serves it alone, and `park alloc give 1` asks a batch system for some"
    )
    (run,) = of(own_kernel(desk, job), messages.Run)
    assert of(desk.submit(client, inputs=[6]), messages.Run)[0].job == 2, (
        "the other job goes to the other kernel"
    )
    out = desk.submit(client, inputs=[7])
    assert of(out, messages.Run) == [], "it waits for the kernel that serves all"
    out = desk.give(b"p1", *finished(run))
    assert desk.job(job).state is JobState.COMPLETE
    (drain,) = of(out, messages.Drain)
    assert drain.reason == "job 1, which it serves alone, is complete"
    assert [k.draining for k in desk.dispatcher.state.roster.kernels.values()] == [False, True]
    assert shared == b"k1"


def test_an_aborted_job_sends_its_kernels_away_too_and_late_ones_at_once() -> None:
    desk = Desk()
    client = desk.client()
    job = accepted(desk.submit(client, inputs=None, private=True))
    own_kernel(desk, job, "p1")
    own_kernel(desk, job, "p2")
    run = next(iter(desk.dispatcher.state.attempts))
    out = desk.give(client, messages.Abort(50, job))
    assert of(out, messages.Drain) == [], "its unit is still being ended"
    attempt = desk.dispatcher.state.attempts[run]
    message = messages.Finished(run, attempt.map.key, 0, 0, 0.0, ended="abort", epoch=1)
    out = desk.give(attempt.kernel.peer, message)
    assert desk.job(job).state is JobState.ABORTED
    assert len(of(out, messages.Drain)) == 2
    (drain,) = of(own_kernel(desk, job, "p3"), messages.Drain)
    assert drain.reason == "job 1, which it serves alone, is aborted"
    hello = replace(own_hello(job, "p3"), attempts=[])
    assert of(desk.give(b"p9", hello), messages.Drain), "over a new connection it is told again"


def test_a_kernel_for_a_job_that_is_not_private_or_not_there_is_sent_away() -> None:
    desk = Desk()
    job = accepted(desk.submit(desk.client(), inputs=[5]))
    for number in (job, 77):
        (drain,) = of(own_kernel(desk, number, f"p{number}"), messages.Drain)
        assert drain.reason == f"job {number}, which it serves alone, is no private job of this broker"
    assert desk.job(job).state is JobState.QUEUED


def test_how_the_allocation_stands_is_told_by_the_owner_and_shown_as_the_reason() -> None:
    desk = Desk()
    client = desk.client()
    job = accepted(desk.submit(client, inputs=[5], private=True))
    out = desk.give(client, messages.Change(9, job, allocation="4711.head is queued, place 12"))
    assert of(out, messages.Done) == [messages.Done(9)]
    assert desk.job(job).allocation == "4711.head is queued, place 12"
    assert desk.dispatcher.explain(job) == "waiting: its allocation 4711.head is queued, place 12"
    own_kernel(desk, job)
    assert desk.dispatcher.explain(job) == ""
    for text in ("a\nb", "x" * 401):
        (failure,) = of(desk.give(client, messages.Change(9, job, allocation=text)), messages.Failure)
        assert failure.error == "InvalidRequest"
    other = accepted(desk.submit(client, inputs=[5]))
    (failure,) = of(desk.give(client, messages.Change(9, other, allocation="x")), messages.Failure)
    assert "is not private" in failure.text


def test_slots_for_one_job_count_for_that_job_only() -> None:
    desk = Desk()
    client = desk.client()
    job = accepted(desk.submit(client, inputs=[5], private=True))
    own_kernel(desk, job, owner="ann", only=True)
    roster = desk.dispatcher.state.roster
    assert (roster.slots_for("ann"), roster.slots_for("ann", job)) == (0, 1)


def test_jobs_that_share_the_kernels_of_a_private_job_end_with_it() -> None:
    desk = Desk()
    client = desk.client()
    host = accepted(desk.submit(client, inputs=[], closed=False, private=True))
    desk.give(client, messages.Change(9, host, allocation="4711 is queued"))
    job = accepted(desk.submit(client, inputs=[5], shares=host))
    for number in (host, job):
        assert desk.dispatcher.explain(number) == "waiting: its allocation 4711 is queued"
    desk.kernel()
    assert desk.job(job).state is JobState.QUEUED, "a kernel for all does not run it"
    (run,) = of(own_kernel(desk, host), messages.Run)
    assert run.job == job
    assert desk.dispatcher.explain(host) == "waits for the end of the script whose allocation it stands for"
    desk.give(b"p1", *finished(run))
    assert desk.job(job).state is JobState.COMPLETE
    (run,) = of(desk.submit(client, inputs=[6], shares=host), messages.Run)
    late = desk.submit(client, inputs=[7], shares=host, after=[run.job])
    out = desk.give(client, messages.Units(0, 0, True, job=host, id=7))
    assert desk.job(host).state is JobState.COMPLETE
    assert len(of(out, messages.Drain)) == 1
    assert desk.job(accepted(late)).state in (JobState.ABORTED, JobState.FAILED)
    message = messages.Finished(run.attempt, run.map, 0, 0, 0.0, ended="abort", epoch=1)
    desk.give(b"p1", message)
    assert desk.job(run.job).state is JobState.ABORTED
    assert desk.job(run.job).reason == f"job {host}, whose allocation it shares, has ended"
    (failure,) = of(desk.submit(client, inputs=[8], shares=host), messages.Failure)
    assert (failure.error, failure.text) == ("UnknownJob", f"job {host} has ended: it is complete")


def test_only_a_private_job_of_the_same_owner_shares_its_kernels() -> None:
    desk = Desk()
    client, other = desk.client(), desk.client("c2", user="bob", account=Account("bob"))
    host = accepted(desk.submit(client, inputs=[5], private=True))
    sharer = accepted(desk.submit(client, inputs=[5], shares=host))
    (failure,) = of(desk.submit(other, inputs=[5], shares=host), messages.Failure)
    assert failure.error == "Refused"
    (failure,) = of(desk.submit(client, inputs=[5], shares=sharer), messages.Failure)
    assert f"job {sharer} was not submitted with private=True" in failure.text
    (failure,) = of(desk.give(client, messages.Change(9, sharer, allocation="x")), messages.Failure)
    assert "is not private" in failure.text
    desk.give(client, messages.Abort(50, host))
    assert desk.job(sharer).state is JobState.ABORTED


def test_jobs_end_with_a_private_job_that_fails_because_of_another_one() -> None:
    desk = Desk()
    client = desk.client()
    first = accepted(desk.submit(client, inputs=[5]))
    host = accepted(desk.submit(client, inputs=[5], private=True, after=[first]))
    sharer = accepted(desk.submit(client, inputs=[5], shares=host))
    last = accepted(desk.submit(client, inputs=[5], after=[sharer]))
    desk.give(client, messages.Abort(50, first))
    assert [desk.job(n).state for n in (host, sharer, last)] == [
        JobState.FAILED,
        JobState.ABORTED,
        JobState.FAILED,
    ]
