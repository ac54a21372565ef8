"""Budgets of the broker's memory and time: of one connection, of one owner's connections, and of all connections together.

They are constants, so that no peer fills or blocks the broker by what it sends. A message over a budget is refused with
the figures, and the broker keeps nothing of it. The quotas in `park.broker.accounts.quotas` are the other limits: on the
stored jobs, units and bytes of an owner, as a park.toml sets them.
"""

from __future__ import annotations

import os

from park.errors import LimitReached


def at_most(size: int, share: float, memory: int | None = None) -> int:
    """The bytes of a budget: *size*, or this *share* of the machine's *memory* if that is less.

    >>> at_most(1 << 30, 1 / 8, memory=4 << 30) >> 20
    512
    """
    if memory is None:
        try:
            memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        except (AttributeError, ValueError, OSError):  # not on Linux
            return size
    return min(size, int(share * memory))


#: Open maps of a client's sessions, with or without units.
MAX_OPEN_MAPS = 50_000
#: Bytes of units of sessions in memory: of one owner, over all connections, and of all owners. An owner with less than a
#: sixteenth of the latter need not wait for others.
MAX_OWNER_UNIT_BYTES, MAX_ALL_UNIT_BYTES = at_most(2 << 30, 1 / 8), at_most(8 << 30, 1 / 4)
#: Bytes of the code of all open maps of an owner's sessions, over all connections.
MAX_SESSION_CODE_BYTES = at_most(1 << 30, 1 / 8)
#: Bytes of the code that all jobs and maps need now, above which sessions open no map with further code.
MAX_ALL_CODE_BYTES = at_most(4 << 30, 1 / 4)
#: Bytes of long messages under way, from the first piece until the broker has decided on them: of all peers, of an owner,
#: of one peer. A single message may have more. A peer sends some megabytes before the broker tells it that there is room.
MAX_ALL_LONG_BYTES, MAX_OWNER_LONG_BYTES = at_most(4 << 30, 1 / 8), at_most(1 << 30, 1 / 16)
MAX_PEER_LONG_BYTES = at_most(512 << 20, 1 / 32)
#: Messages of one peer, and their bytes, that wait behind a long one of the same subject.
MAX_BEHIND_MESSAGES, MAX_BEHIND_BYTES = 50_000, at_most(256 << 20, 1 / 32)
#: Code of fewer bytes is not counted: the limit on open maps bounds it.
SMALL_CODE_BYTES = 16 << 10
#: Fetches of one peer that wait for the end of a job.
MAX_WAITING_FETCHES = 50_000
#: Attempts that one hello of a kernel lists.
MAX_CLAIMS = 50_000
#: Attempts that the answer to one heartbeat tells a kernel to end.
MAX_ABORTS = 100
#: Packages and labels that a kernel announces.
MAX_PACKAGES = 10_000
MAX_LABELS = 100
#: Named environments that a kernel announces.
MAX_ENVIRONMENTS = 100
#: Characters of a name, a label or a version.
MAX_TEXT_CHARS = 200
#: Messages of the answer to a Fetch that are made at a time.
MAX_ANSWER_SLICE = 200
#: Messages that one peer's messages may cause in a turn; beyond this number its further messages wait for later turns.
MAX_ANSWERS_PER_TURN = 1_000
#: Messages of one peer that wait for later turns.
MAX_POSTPONED = 1_000


def check(count: int, limit: int, kind: str, remedy: str) -> None:
    """Raises LimitReached where *count* things of a *kind* are at the *limit*."""
    if count >= limit:
        raise LimitReached(
            f"this connection has {count:,} {kind}, and no more than {limit:,} may be: {remedy}"
        )
