"""The cursor of a follower in a job's stream: each message passes once, also after the follower has reconnected."""

from __future__ import annotations

from park.wire.messages import Stream


class Cursor:
    """The position of one follower among the messages of one job.

    >>> cursor = Cursor()
    >>> cursor.passes(Stream(1, "log", at=4))  # the follower has not joined yet
    False
    >>> cursor.passes(Stream(1, "join", at=4)), cursor.passes(Stream(1, "log", at=4)), cursor.passes(Stream(1, "log", at=5))
    (True, False, True)
    >>> cursor.ask()  # the follower reconnects
    5
    """

    __slots__ = ("_asked", "_at")

    def __init__(self) -> None:
        #: the place of the last message that passed; None: the follower has not joined
        self._at: int | None = None
        #: `_at` when the follower last asked to join
        self._asked: int | None = None

    def __repr__(self) -> str:
        return f"<Cursor {self._at}>"

    def ask(self) -> int | None:
        """The follower joins, or joins again: the value of `Watch.since`."""
        self._asked = self._at
        return self._at

    def forget(self) -> None:
        """Forget the position, which belonged to the stream of another broker."""
        self._at = None

    def passes(self, message: Stream) -> bool:
        """Whether the follower is to see *message*; if so, the cursor moves behind it."""
        if message.kind == "join":
            # if the broker resumes at the place that was asked for, messages received since then still count
            if self._at is None or message.at != self._asked:
                self._at = message.at
            return True
        if self._at is None or 0 < message.at <= self._at:
            return False
        self._at = max(self._at, message.at)
        return True
