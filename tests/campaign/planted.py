"""A broker with something planted in it: ``python -m tests.campaign.planted NAME OPTION ...``.

A campaign must notice each of `BUGS`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

from park.cli.broker import main
from park.core.dispatcher import Dispatcher
from park.core.roster import Roster
from park.core.store import JobStore
from park.wire import messages


def acknowledges_before_the_commit() -> None:
    """What is accepted, and what is answered, is said to be on a disk that takes its time."""
    commit, answer = JobStore.commit, Dispatcher._answer

    def slow(self: JobStore, *given: Any) -> Any:
        time.sleep(0.1)
        return commit(self, *given)

    def wrong(self: Dispatcher, peer: Any, message: Any, *payload: Any) -> None:
        early = isinstance(message, messages.Accepted | messages.Committed)
        (Dispatcher._send if early else answer)(self, peer, message, *payload)

    JobStore.commit = slow  # type: ignore[method-assign]
    Dispatcher._answer = wrong  # type: ignore[method-assign]


def knows_no_request_again() -> None:
    """A request that is sent again becomes a second job."""
    submit = Dispatcher._submit

    def wrong(self: Dispatcher, *given: Any) -> None:
        self.list.by_key.clear()
        submit(self, *given)

    Dispatcher._HANDLERS = {k: wrong if v is submit else v for k, v in Dispatcher._HANDLERS.items()}


def never_ends_a_lease() -> None:
    """A kernel that says nothing keeps what it has for ever."""
    look = Roster.look

    def wrong(self: Roster, now: float) -> Any:
        for member in (*self.kernels.values(), *self.clients.values()):
            member.heard = now
        return look(self, now)

    Roster.look = wrong  # type: ignore[method-assign]


def forgets_leases_of_its_last_life() -> None:
    """What kernels may hold is dealt at once."""
    Dispatcher.expect = lambda self, incarnations: None  # type: ignore[method-assign,assignment]


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
    BUGS[sys.argv[1]]()
    main(sys.argv[2:])
