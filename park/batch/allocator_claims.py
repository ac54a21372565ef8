"""The work that other allocators of a broker have claimed: allocations on their way will take it.

Two allocators whose kernels could run the same jobs would both submit for them. So each one claims, with the slots of its
allocations on their way, the work that it shares with the others. A queue may be long where another one is free, so an
allocation that waits claims nothing any more after a time. All here is pure.
"""

from __future__ import annotations

from collections.abc import Mapping

from park.batch.allocator import AllocatorState, Policy, Stage
from park.model import WaitingWork

#: Seconds for which an allocation claims work while the batch system lets it wait.
CLAIM_SECONDS = 600.0


def claims(
    name: str,
    policies: Mapping[str, Policy],
    states: Mapping[str, AllocatorState],
    backlogs: Mapping[str, WaitingWork | None],
    now: float,
) -> dict[str, int]:
    """The slots of the work of allocator *name* that each other one has claimed, by its name."""
    own, found = backlogs.get(name), dict[str, int]()
    left = {} if own is None else dict(own.parts)  # no slot of a job is claimed twice
    for other, policy in policies.items():
        theirs = backlogs.get(other)
        if other == name or theirs is None or other not in states:
            continue
        coming = policy.slots * _coming(states[other], now)
        for job in [each for each in left if each in theirs.parts]:
            taken = min(left[job], coming)
            left[job] -= taken
            coming -= taken
            if taken:
                found[other] = found.get(other, 0) + taken
    return found


def _coming(state: AllocatorState, now: float) -> int:
    """The allocations on their way that claim work."""
    return sum(
        a.stage is Stage.STARTED or (a.stage in (Stage.ASKED, Stage.QUEUED) and now - a.asked < CLAIM_SECONDS)
        for a in state.allocations
    )
