"""The subjects of a message. Two messages without a common subject may change their order: a short one may pass a long
one.

Messages about one job, map, attempt, request or code keep their order. So code arrives before the work that needs it,
results arrive before the end of their request, and an abort arrives after the work that it ends.
"""

from __future__ import annotations

from typing import Any

from park.wire import messages
from park.wire.messages import Message

#: Messages that change the state of a connection. They keep their place: they overtake no message, and no message
#: overtakes them.
_STANDING = (
    messages.Hello,
    messages.KernelHello,
    messages.Welcome,
    messages.Unwelcome,
    messages.Goodbye,
    messages.Drain,
    messages.Draining,
)
#: Fields that name a subject, and the kind of that subject.
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
    """All subjects of *message*; None: it keeps its place among all messages.

    >>> sorted(about(messages.Fetch(7, 3)))
    [('job', 3), ('request', 7)]
    """
    if isinstance(message, _STANDING):
        return None
    named = {(what, value) for name, what in _NAMES.items() if (value := getattr(message, name, None))}
    named |= {("attempt", number) for number in getattr(message, "attempts", ())}
    return frozenset(named)
