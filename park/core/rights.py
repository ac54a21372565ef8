"""Who may do what with a job. One rule: its owner and the admin steer it and see its payloads; its record is everyone's.

Rights go by the key that a peer showed, never by what a message claims. A peer without one came over ipc or a
lane, where only the broker's own Unix user can connect: it is the admin. A kernel acts for the owner of
the work that it holds, and only as long as it holds it.
"""

from __future__ import annotations

from park.core.outcome import Account
from park.core.roster import Kernel, Member
from park.core.work import Attempt
from park.errors import Refused


def check_right(member: Member, job: int, owner: str, attempt: Attempt | None = None) -> None:
    """Whether *member* may steer *job* of *owner*, or see its payloads; a kernel does so for *attempt*.

    Raises Refused.
    """
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
    """Whether *member* may send the kernel away: its owner, by the key that it showed, or the admin. Raises Refused."""
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
    """Whether a peer with *account* may come back as *member*. Raises Refused."""
    if member is not None and member.account != account:
        raise Refused("another peer has this incarnation: make one of your own, of 16 random bytes")
