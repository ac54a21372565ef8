"""Rights by the key of a peer: its claims change neither its rights nor the owner that is charged."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from park.broker.effects import Event
from park.broker.entities.roster import Client, Kernel
from park.broker.manager import JobManager
from park.broker.storage.memory import MemoryStore
from park.broker.turns import Turn
from park.model import Account, JobState
from park.wire import messages
from park.wire.messages import Message
from tests.sim.desk import Desk, of
from tests.sim.functions import blob, code, units

ADA, BOB = Account("ada"), Account("bob")


def steering(job: int) -> list[Message]:
    """The requests that only the owner of a job and the admin may make."""
    return [
        messages.Stop(9, job),
        messages.Abort(9, job),
        messages.Fetch(9, job),
        messages.Fetch(9, job, wait=True),
        messages.Fetch(9, job, request=True),
        messages.Submit(9, (1).to_bytes(16, "big"), session=True),  # the key of ada's request
    ]


def refusals(out: Any) -> list[messages.Failure]:
    found: list[messages.Failure] = of(out, messages.Failure)
    return found


def test_a_client_with_a_key_is_who_its_key_says() -> None:
    desk = Desk()
    client = desk.client("c1", "mallory", account=ADA)
    desk.submit(client)
    assert desk.job(1).owner == "ada"
    member = desk.dispatcher.state.roster.member(client)
    assert isinstance(member, Client)
    assert (member.user, member.admin) == ("ada", False)


def test_without_a_key_a_client_is_the_admin_and_who_it_says() -> None:
    desk = Desk()
    client = desk.client("c1", "ann")
    desk.submit(client)
    assert desk.job(1).owner == "ann"
    member = desk.dispatcher.state.roster.member(client)
    assert isinstance(member, Client)
    assert member.admin


@pytest.mark.parametrize("which", range(6))
def test_somebody_elses_job_is_not_steered_and_not_read(which: int) -> None:
    desk = Desk()
    desk.submit(desk.client("c1", account=ADA))
    bob = desk.client("c2", "ada", account=BOB)
    # when bob, who claims to be ada, asks
    out = desk.give(bob, steering(1)[which])
    # then he is refused in words, and nothing has happened
    (failure,) = refusals(out)
    assert (failure.reply, failure.error) == (9, "Refused")
    assert "job 1 is ada's" in failure.text
    assert "bob" in failure.text
    assert not of(out, messages.Fetched)
    assert desk.job(1).state is JobState.QUEUED
    assert desk.dispatcher.state.jobs[1].waiters == []


@pytest.mark.parametrize("which", range(6))
@pytest.mark.parametrize("account", [None, ADA])
def test_the_owner_and_the_admin_may(account: Account | None, which: int) -> None:
    desk = Desk()
    desk.submit(desk.client("c1", account=ADA))
    out = desk.give(desk.client("c2", account=account), steering(1)[which])
    assert not refusals(out)


@pytest.mark.parametrize("account", [BOB, None, Account("ada", pool=True)])
def test_nobody_else_comes_back_as_a_client(account: Account | None) -> None:
    desk = Desk()
    ada = desk.client("c1", account=ADA)
    session = desk.session(ada)
    # when somebody else says hello with ada's incarnation
    out = desk.give(b"c2", messages.Hello(b"c1" * 8, "ada", "3.11", id=7), account=account)
    # then that is refused, and ada is still who she was
    (failure,) = refusals(out)
    assert failure.error == "Refused"
    assert desk.dispatcher.state.roster.member(b"c2") is None
    assert desk.dispatcher.state.roster.member(ada) is not None
    assert desk.job(session).state is JobState.RUNNING
    # and when she says it herself over a new connection, she is back
    out = desk.give(b"c3", messages.Hello(b"c1" * 8, "ada", "3.11"), account=ADA)
    (welcome,) = of(out, messages.Welcome)
    assert not welcome.fresh


def test_nor_does_the_admin_become_somebody_who_has_a_key() -> None:
    desk = Desk()
    desk.client("c1")
    out = desk.give(b"c2", messages.Hello(b"c1" * 8, "ann", "3.11", id=7), account=ADA)
    assert refusals(out)


@pytest.mark.parametrize(
    ("account", "serves", "user"),
    [(None, None, "kay"), (ADA, "ada", "ada"), (Account("ada", pool=True), None, "ada")],
)
def test_whom_a_kernel_serves(account: Account | None, serves: str | None, user: str) -> None:
    desk = Desk()
    kernel = desk.dispatcher.state.roster.member(desk.kernel(account=account))
    assert isinstance(kernel, Kernel)
    assert (kernel.profile.owner if kernel.profile.only else None, kernel.user) == (serves, user)


def test_nobody_else_comes_back_as_a_kernel() -> None:
    desk = Desk()
    kernel = desk.kernel(account=ADA)
    desk.give(b"k2", messages.KernelHello(b"k1" * 8, "ada", "node", 1, 1, "3.11"), account=BOB)
    assert desk.dispatcher.state.roster.member(b"k2") is None
    assert desk.dispatcher.state.roster.member(kernel) is not None


def test_a_kernel_with_a_key_fetches_only_for_the_work_that_it_holds() -> None:
    desk = Desk()
    ada, bob = desk.client("c1", account=ADA), desk.client("c2", account=BOB)
    desk.submit(ada)
    desk.submit(bob)
    kernel = desk.kernel("k1", slots=2, account=Account("pat", pool=True))
    other = desk.kernel("k2", account=Account("pat", pool=True))
    run = next(a for a in desk.dispatcher.state.attempts.values() if a.map.owner == "ada")
    holder, stranger = (kernel, other) if run.kernel.peer == kernel else (other, kernel)
    held = [a.number for a in desk.dispatcher.state.attempts.values() if a.kernel.peer == stranger]
    # work of ada's reads what is ada's, not what is bob's
    assert not refusals(desk.give(holder, messages.Fetch(1, 1, wait=True, attempt=run.number)))
    assert refusals(desk.give(holder, messages.Fetch(2, 2, attempt=run.number)))
    # but nothing else: no body asks its kernel for that
    for message in (
        messages.Abort(5, 1, attempt=run.number),
        messages.Stop(6, 1, attempt=run.number),
        messages.Delete(7, 1),
    ):
        assert refusals(desk.give(holder, message))
    # and neither a kernel that does not hold it nor one that names no work reads anything
    assert refusals(desk.give(stranger, messages.Fetch(3, 1, attempt=run.number)))
    assert refusals(desk.give(holder, messages.Fetch(4, 1)))
    for number in held:
        assert refusals(desk.give(stranger, messages.Fetch(5, 1, attempt=number)))
    assert refusals(desk.give(holder, messages.Stop(6, 2)))


def test_a_kernel_without_a_key_is_the_admins() -> None:
    desk = Desk()
    desk.submit(desk.client("c1", account=ADA))
    assert not refusals(desk.give(desk.kernel(), messages.Fetch(1, 1)))


def test_somebody_elses_map_takes_no_units() -> None:
    desk = Desk()
    ada, bob = desk.client("c1", account=ADA), desk.client("c2", "ada", account=BOB)
    session = desk.session(ada)
    desk.give(ada, messages.Blob(code("square")), blob("square"))
    key = b"m" * 16
    desk.give(ada, messages.Map(key, session, code("square"), 1, closed=False), units([1]))
    before = desk.dispatcher.state.maps[key].total
    desk.give(bob, messages.Units(1, 1, True, map=key), units([2]))
    desk.give(bob, messages.Cancel(key))
    desk.give(bob, messages.Close(8, session))
    assert desk.dispatcher.state.maps[key].total == before
    assert not desk.dispatcher.state.maps[key].cancelled
    assert desk.job(session).state is JobState.RUNNING


@pytest.mark.parametrize("ask", [messages.Logs(9, 1), messages.Watch(9, 1)])
def test_a_job_that_is_being_deleted_is_still_its_owners(ask: Message) -> None:
    manager = JobManager(MemoryStore())
    manager.restore(0.0, 0.0)

    def give(peer: bytes, message: Message, payload: bytes = b"", account: Account | None = None) -> Turn:
        turn = manager.decide([Event(peer, message, payload, account)], 0.0)
        manager.hand_in(turn)
        return turn

    for peer, account in ((b"c1", ADA), (b"c2", BOB)):
        give(peer, messages.Hello(peer * 8, "", "3.11"), account=account)
    give(b"c1", messages.Blob(code("square")), blob("square"))
    give(b"c1", messages.Submit(1, bytes(16), code("square"), count=1), units([1]))
    give(b"c1", messages.Abort(2, 1))
    assert list(manager.completed())
    # when its deletion is decided, and not on disk
    give(b"c1", messages.Delete(3, 1))
    assert 1 in manager.table.jobs
    (send,) = give(b"c2", ask).sends
    assert isinstance(send.message, messages.Failure)
    assert send.message.error == "Refused"
    assert not any(isinstance(s.message, messages.Failure) for s in give(b"c1", ask).sends)
    # and then nobody has it
    list(manager.completed())
    (send,) = give(b"c1", ask).sends
    assert isinstance(send.message, messages.Failure)
    assert send.message.error == "UnknownJob"


# -- what no peer is called --------------------------------------------------------------------------

LONG = "\N{GRINNING FACE}" * 150  # 600 bytes


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"incarnation": b"i" * 600}, "an incarnation has 16 bytes, not 600"),
        ({"user": LONG}, "is no name of an owner: a text of 1 to 200 bytes is"),
        ({"python": "3" * 201}, "python has 201 characters"),
    ],
)
def test_what_becomes_a_key_in_the_store_is_short(changed: dict[str, Any], words: str) -> None:
    desk = Desk()
    hello = messages.Hello(b"i" * 16, "ann", "3.11", id=7)
    (failure,) = refusals(desk.give(b"c1", replace(hello, **changed)))
    assert words in failure.text
    kernel = messages.KernelHello(b"i" * 16, "kay", "node", 1, 1, "3.11")
    out = desk.give(b"k1", replace(kernel, **changed))
    assert (out.writes, out.deltas) == ([], [])
    assert not desk.dispatcher.state.roster.kernels
    out = desk.give(b"k1", replace(kernel, owner=LONG))
    assert not desk.dispatcher.state.roster.kernels
    (failure,) = refusals(desk.give(desk.client(), messages.Grant(8, "x" * 600, 1.0)))
    assert failure.error == "InvalidRequest"


@pytest.mark.parametrize("kind", ["", "two words", "k" * 101, "\N{CJK UNIFIED IDEOGRAPH-4E00}" * 40])
def test_what_no_kind_of_message_is_called_is_not_published(kind: str) -> None:
    desk = Desk()
    desk.submit(desk.client())
    desk.kernel()
    (number,) = desk.dispatcher.state.attempts
    assert not desk.give(b"k1", messages.Publish(1, number, kind, header=True), b"x").publications
    assert desk.give(b"k1", messages.Publish(1, number, "k" * 100, header=True), b"x").publications
