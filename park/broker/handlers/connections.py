"""Peers that come, speak, fall silent and leave."""

from __future__ import annotations

from itertools import islice

from msgspec.structs import replace

from park.broker.accounts import budgets
from park.broker.effects import Effects, Event, Flow, Peer, Write
from park.broker.entities.requirements import profile_of
from park.broker.entities.roster import Client, Kernel, Member
from park.broker.handlers import (
    attempt_state,
    attempts,
    code_sharing,
    controls,
    drain,
    fetches,
    job_lifecycle,
    recovery,
    rights,
    suspects,
    validate,
)
from park.broker.state import MAX_REASON_CHARS, State
from park.model import Delta
from park.version import __version__
from park.wire import messages

#: Before the name of a peer that was cut off.
CUT_PREFIX = b"!"


def on_hello(state: State, effects: Effects, event: Event, message: messages.Hello) -> None:
    """A client connects, or comes back."""
    validate.check_hello(message)
    client = state.roster.client_of(message.incarnation)
    rights.check_return(client, event.account)
    _displace(state, effects, event.peer, client)
    fresh = client is None
    if client is None:
        user = message.user if event.account is None else event.account.name
        client = state.roster.join_client(
            event.peer, message.incarnation, user, message.python, effects.now, event.account
        )
    elif client.peer != event.peer:
        _move(state, effects, client, event.peer)
        _hold(state, effects, client, False)
    effects.send(event.peer, replace(_welcome(state, fresh, message.id), number=client.number))


def on_kernel_hello(state: State, effects: Effects, event: Event, message: messages.KernelHello) -> None:
    """A kernel connects or comes back, and says which attempts it holds."""
    validate.check_hello(message)
    kernel = state.roster.kernel_of(message.incarnation)
    rights.check_return(kernel, event.account)
    _displace(state, effects, event.peer, kernel)
    if kernel is None:
        _join(state, effects, event, message)
    elif kernel.peer != event.peer:
        _reconnect(state, effects, kernel, event.peer, message)
    else:  # the kernel has only asked again
        if kernel.joined <= effects.saved:  # else its welcome comes
            effects.send(event.peer, _welcome(state, False, lost=False))
        _take_back_ended(state, effects, kernel, message.attempts)


def _join(state: State, effects: Effects, event: Event, message: messages.KernelHello) -> None:
    """Take up a kernel that is new to this life of the broker; it may hold work of an earlier life."""
    user = message.user if event.account is None else event.account.name
    kernel = state.roster.join_kernel(
        event.peer,
        message.incarnation,
        user,
        message.host,
        message.pid,
        profile_of(message),
        effects.now,
        event.account,
    )
    kernel.batch, kernel.node = message.batch, message.node
    kernel.machine, kernel.peers = message.machine, message.peers
    state.count_slots()
    state.free_slots.join(kernel)
    state.touched.kernels[kernel.number] = kernel
    effects.deltas.append(Delta("kernel", kernel.number, kernel.record().as_map()))
    effects.writes.append(Write("kernel", (message.incarnation,), b""))
    kernel.joined = effects.turn
    drain.serve(state, effects, kernel, message.serves, message.pause)
    if message.draining:
        drain.confirmed(state, effects, kernel)
    effects.answer(event.peer, _welcome(state, True))  # when the next life of the broker would wait for it
    suspects.cleared(state, message.incarnation)
    recovery.take_in(state, effects, kernel, message, event.payload)
    recovery.come_back(state, effects, message.incarnation)
    drain.let_go_of(state, effects, kernel)


def _reconnect(
    state: State, effects: Effects, kernel: Kernel, peer: Peer, message: messages.KernelHello
) -> None:
    """The kernel comes back over a new connection. Messages on the old one may be lost in both directions."""
    _move(state, effects, kernel, peer)
    drain.serve(state, effects, kernel, message.serves, message.pause)
    if message.draining:
        drain.confirmed(state, effects, kernel)
    elif kernel.grace is not None:
        effects.answer(peer, messages.Drain(grace=kernel.grace))
    kernel.known.clear()
    kernel.machine, kernel.peers = message.machine, message.peers
    effects.send(peer, _welcome(state, False))
    code_sharing.forget(state, effects, kernel)
    controls.redeliver(state, effects, kernel)
    held = set(message.attempts)
    claimed = recovery.claims_of(state, kernel)
    recovery.lose_orphans(state, effects, kernel, [n for n in claimed if n not in held])
    for number in sorted(kernel.holds - held, reverse=True):
        attempt = state.attempts.get(number)
        if attempt is not None:
            attempt_state.end_attempt(effects, attempt, "abort")
            attempts.take_back(state, effects, attempt, "the connection to its kernel was lost")
    for number in sorted(held - kernel.holds - claimed):
        effects.send(peer, messages.Abort(attempt=number))
    for attempt in [state.attempts[n] for n in sorted(kernel.holds)]:
        told, attempt.order = attempt.order, ""
        if told:
            attempt_state.end_attempt(effects, attempt, told, soft=not attempt.map.root)


def _displace(state: State, effects: Effects, peer: Peer, member: Member | None) -> None:
    """The peer that had this connection before is gone, unless it is *member* itself."""
    other = state.roster.member(peer)
    if other is not None and other is not member:
        lose(state, effects, other, "another client took its connection")


def _move(state: State, effects: Effects, member: Member, peer: Peer) -> None:
    """Take up a member that came back. Over a new connection it asks again for the streams that it follows."""
    if member.peer != peer:
        effects.gone.append(member.peer)
    state.roster.move(member, peer, effects.now)


def on_flow(state: State, effects: Effects, event: Flow) -> None:
    """Backpressure: deal no more units of a slow client's sessions. A peer that was cut off counts as one that lost its
    connection.
    """
    member = state.roster.member(event.peer)
    if member is None:
        return
    if event.how == "alive":
        member.last_heard = effects.now
        return
    if isinstance(member, Client):
        _hold(state, effects, member, event.how == "slow")
    if event.how == "cut":  # it is unknown until it says hello again, and no message can reach it
        fetches.forget_all(state, member)
        heard = member.last_heard
        _move(state, effects, member, CUT_PREFIX + event.peer)
        member.last_heard = heard


def _hold(state: State, effects: Effects, client: Client, slow: bool) -> None:
    if client.slow is not slow:
        client.slow = slow
        for job in [state.jobs[n] for n in sorted(client.open)]:
            job.client_slow = slow and job.session
            job_lifecycle.refresh(state, effects, job)


def _welcome(state: State, fresh: bool, reply: int = 0, lost: bool = True) -> messages.Welcome:
    r = state.roster
    return messages.Welcome(
        state.store_id,
        state.epoch,
        r.heartbeat,
        r.lease,
        fresh,
        reply,
        lost,
        release=__version__,
        since=state.began,
        mails=state.notices.ways,
    )


def on_heartbeat(state: State, effects: Effects, event: Event, message: messages.Heartbeat) -> None:
    """Abort the attempts that a kernel names and that were taken from it while contact was lost. (`Roster.heard` has
    renewed its leases.)
    """
    kernel = state.roster.kernels.get(event.peer)
    if kernel is not None:
        unknown = (
            number
            for number in message.attempts
            if number not in kernel.holds and (kernel.number, number) not in state.recovery.orphans
        )
        for number in islice(unknown, budgets.MAX_ABORTS):  # its next heartbeat names the others
            effects.answer(event.peer, messages.Abort(attempt=number))
        _take_back_ended(state, effects, kernel, message.attempts)


def _take_back_ended(state: State, effects: Effects, kernel: Kernel, named: list[int]) -> None:
    """Work that the kernel brought from an earlier life, and does not name any more, has ended in between.

    Such work cannot be on its way to the kernel, as new work may be. Its answers came before this heartbeat, unless
    they wait for free bytes of the disk.
    """
    for number in sorted(kernel.holds - set(named), reverse=True):
        attempt = state.attempts.get(number)
        if attempt is not None and number < state.epoch << 32 and not state.disk.is_due(number):
            attempts.take_back(state, effects, attempt, "its kernel has ended it")


def on_goodbye(state: State, effects: Effects, event: Event, message: messages.Goodbye) -> None:
    """A peer leaves."""
    member = state.roster.member(event.peer)
    assert member is not None
    lose(state, effects, member, message.reason[:MAX_REASON_CHARS] or "its client has left")


def lose(state: State, effects: Effects, member: Member, reason: str, silent: bool = False) -> None:
    """Remove a member that left, or whose lease ran out in silence (*silent*). Jobs that end with it get the *reason*."""
    effects.gone.append(member.peer)
    fetches.forget_all(state, member)
    for number in member.fetches.values():
        job = state.jobs[number]
        job.waiters = [w for w in job.waiters if w.member is not member]
    if isinstance(member, Kernel):
        suspected = suspects.candidates(state, effects, member) if silent and not member.draining else []
        for number in sorted(member.holds, reverse=True):  # the first is dealt first again
            attempt = state.attempts.get(number)
            if attempt is not None:
                attempts.take_back(state, effects, attempt, "the kernel that ran it was lost")
        job_lifecycle.unreserve(state, effects, member)
        drain.answer_drainers(effects, member)
        recovery.lose_orphans(state, effects, member)
        code_sharing.forget(state, effects, member)
        effects.writes.append(Write("kernel", (member.incarnation,), None))
        state.job_list.forget_kernel(member.number, effects)
        for number in member.jobs:
            job = state.jobs[number]
            job.kernels.pop(member.number, None)
            if job.controls is not None:
                job.controls.sent.pop(member.number, None)
        if not member.closed:
            state.free_slots.leave(member)
        state.touched.kernels.pop(member.number, None)
        if suspected:
            suspects.count_loss(state, effects, member, suspected)
    state.roster.drop(member)
    state.count_slots()
    for number in sorted(member.open) if isinstance(member, Client) else ():
        job = state.jobs[number]
        if job.session:
            job_lifecycle.begin_end(state, effects, job, "abort", reason)
        else:
            job_lifecycle.fail(state, effects, job, f"{reason} before all inputs had come")
