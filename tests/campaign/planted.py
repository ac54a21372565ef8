"""A broker with something planted in it: ``python -m tests.campaign.planted NAME OPTION ...``.

A campaign must notice each of `BUGS`, and the campaign of hostile peers each of `HOLES`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

from park.broker import manager
from park.broker.accounts import budgets
from park.broker.dispatcher import HANDLERS, Dispatcher
from park.broker.effects import Effects, Event
from park.broker.entities.maps import Attempt
from park.broker.entities.roster import Roster
from park.broker.handlers import attempts, rights
from park.broker.state import State
from park.broker.storage import spare
from park.broker.storage.store import JobStore
from park.cli.broker import main
from park.net import descriptors
from park.wire import messages


def acknowledges_before_the_commit() -> None:
    """The broker acknowledges jobs and results before a slow disk has them."""
    commit, answer = JobStore.commit, Effects.answer

    def slow(self: JobStore, *given: Any) -> Any:
        time.sleep(0.1)
        return commit(self, *given)

    def wrong(self: Effects, peer: Any, message: Any, *payload: Any) -> None:
        early = isinstance(message, messages.Accepted | messages.Committed)
        (Effects.send if early else answer)(self, peer, message, *payload)

    JobStore.commit = slow  # type: ignore[method-assign]
    Effects.answer = wrong  # type: ignore[method-assign]


def knows_no_request_again() -> None:
    """A request that is sent again becomes a second job."""
    submit = HANDLERS[messages.Submit]

    def wrong(state: State, *given: Any) -> None:
        state.job_list.by_key.clear()
        submit(state, *given)

    HANDLERS[messages.Submit] = wrong


def never_ends_a_lease() -> None:
    """A kernel that says nothing keeps what it has for ever."""
    look = Roster.look

    def wrong(self: Roster, now: float) -> Any:
        for member in (*self.kernels.values(), *self.clients.values()):
            member.heard = now
        return look(self, now)

    Roster.look = wrong  # type: ignore[method-assign]


def forgets_leases_of_its_last_life() -> None:
    """The broker deals units at once that kernels may still hold."""
    Dispatcher.expect = lambda self, incarnations: None  # type: ignore[method-assign,assignment]


def believes_any_kernel() -> None:
    """Any kernel may answer for any attempt, also for one that another kernel holds."""

    def wrong(state: State, event: Event, number: int) -> Attempt | None:
        return state.attempts.get(number)

    attempts.held_by = wrong


def has_no_budgets() -> None:
    """A peer may have as much open as it likes."""
    budgets.check = lambda *given: None


def lets_anybody_steer() -> None:
    """Every client may steer every job, and read its results."""
    rights.check_right = lambda *given: None


def obeys_resets() -> None:
    """Resets of connections reach ZeroMQ, which ends the process at some of them."""
    descriptors.drop_resets = lambda listener: None


def has_no_spare() -> None:
    """The disk gives no bytes ahead of time, as a file system that copies on each write."""
    spare.SPARE_BYTES = 0


def has_a_short_backlog() -> None:
    """Few bytes may be on their way to the disk."""
    manager.MAX_BACKLOG_BYTES = 1 << 19


HOLES: dict[str, Callable[[], None]] = {
    hole.__name__: hole for hole in (believes_any_kernel, has_no_budgets, lets_anybody_steer, obeys_resets)
}
BUGS: dict[str, Callable[[], None]] = {
    bug.__name__: bug
    for bug in (
        acknowledges_before_the_commit,
        knows_no_request_again,
        never_ends_a_lease,
        forgets_leases_of_its_last_life,
    )
}


if __name__ == "__main__":
    settings = {change.__name__: change for change in (has_no_spare, has_a_short_backlog)}
    (BUGS | HOLES | settings)[sys.argv[1]]()
    main(sys.argv[2:])
