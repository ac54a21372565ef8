"""The subjects of a message: two that share none may change their order, as where a short one passes a long one.

Messages of one job, map, attempt, request or code keep their order, so that code comes before what needs it, results before
the end of their request, and an abort behind what it ends.
"""

from __future__ import annotations

from typing import Any

from park.wire import messages
from park.wire.messages import Message

#: They say where a peer stands: none of them passes another message, and none passes them.
_STANDING = (
    messages.Hello,
    messages.KernelHello,
    messages.Welcome,
    messages.Unwelcome,
    messages.Goodbye,
    messages.Drain,
    messages.Draining,
)
#: Fields that name something, and what they name.
_NAMES = {
    "job": "job",
    "attempt": "attempt",
    "map": "map",
    "id": "request",
    "reply": "request",
    "hash": "code",
    "function": "code",
    "body": "code",
}


def about(message: Message) -> frozenset[Any] | None:
    """All that *message* names; None: it keeps its place.

    >>> sorted(about(messages.Fetch(7, 3)))
    [('job', 3), ('request', 7)]
    """
    if isinstance(message, _STANDING):
        return None
    named = {(what, value) for name, what in _NAMES.items() if (value := getattr(message, name, None))}
    named |= {("attempt", number) for number in getattr(message, "attempts", ())}
    return frozenset(named)
