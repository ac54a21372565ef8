"""Rights to jobs. One rule: its owner and the admin steer a job and see its payloads; its record is public.

Rights go by the key that a peer showed, never by what a message claims. A peer without a key came over ipc or a lane,
where only the broker's own Unix user can connect: it is the admin. A kernel may read the results of an owner's jobs,
and nothing else, while it holds work of that owner: bodies refer to other jobs of their owner.
"""

from __future__ import annotations

from park.broker.effects import Event
from park.broker.entities.maps import Attempt
from park.broker.entities.roster import Client, Kernel, Member
from park.broker.state import State
from park.errors import ProtocolError, Refused
from park.model import Account
from park.wire import messages


def client(state: State, event: Event) -> Client:
    """The client that sent the event. Raises ProtocolError for a kernel."""
    client = state.roster.clients.get(event.peer)
    if client is None:
        raise ProtocolError("this message is a client's")
    return client


def check_sender(state: State, event: Event, job: int, owner: str) -> None:
    """Raises Refused unless the sender may steer the *owner*'s job, and see its payloads."""
    member = state.roster.member(event.peer)
    assert member is not None
    message = event.message
    attempt = state.attempts.get(message.attempt) if isinstance(message, messages.Fetch) else None
    check_right(member, job, owner, attempt)


def check_right(member: Member, job: int, owner: str, attempt: Attempt | None = None) -> None:
    """Raises Refused unless *member* may steer *job* of *owner*, and see its payloads; a kernel may for *attempt*."""
    if member.account is None:
        return
    if isinstance(member, Kernel):
        if attempt is not None and attempt.kernel is member and attempt.map.owner == owner:
            return
        raise Refused(f"job {job} is {owner}'s, and this kernel runs nothing of {owner}'s that asks for it")
    if member.account.name != owner:
        raise Refused(
            f"job {job} is {owner}'s: only {owner} and the broker's own user may steer it or see its results "
            f"(by the key that you showed you are {member.account.name})"
        )


def check_drain(member: Member, kernel: Kernel) -> None:
    """Raises Refused unless *member* may send the kernel away: its owner, by the key that it showed, or the admin."""
    if member.account is None or (kernel.account is not None and kernel.account.name == member.account.name):
        return
    whose = (
        "the broker's own user"
        if kernel.account is None
        else f"{kernel.account.name} and the broker's own user"
    )
    raise Refused(
        f"kernel {kernel.number} on {kernel.host} is not yours: only {whose} may send it away "
        f"(by the key that you showed you are {member.account.name})"
    )


def check_return(member: Member | None, account: Account | None) -> None:
    """Raises Refused unless a peer with *account* may come back as *member*."""
    if member is not None and member.account != account:
        raise Refused("another peer has this incarnation: make one of your own, of 16 random bytes")
