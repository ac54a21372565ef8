"""Where a follower of a job stands among its messages: each comes once, also where he comes back."""

from __future__ import annotations

from park.wire.messages import Stream


class Place:
    """Of one follower of one job.

    >>> place = Place()
    >>> place.passes(Stream(1, "log", at=4))  # he has not joined yet
    False
    >>> place.passes(Stream(1, "join", at=4)), place.passes(Stream(1, "log", at=4)), place.passes(Stream(1, "log", at=5))
    (True, False, True)
    >>> place.ask()  # comes back
    5
    """

    __slots__ = ("_asked", "_at")

    def __init__(self) -> None:
        #: the place of his last message; None: he has not joined
        self._at: int | None = None
        self._asked: int | None = None

    def __repr__(self) -> str:
        return f"<Place {self._at}>"

    def ask(self) -> int | None:
        """He joins, or comes back: what he says in `Watch.since`."""
        self._asked = self._at
        return self._at

    def forget(self) -> None:
        """What he had was of another broker."""
        self._at = None

    def passes(self, message: Stream) -> bool:
        """Whether he gets this message."""
        if message.kind == "join":
            # where the broker goes on after what he asked for, what came since he asked counts
            if self._at is None or message.at != self._asked:
                self._at = message.at
            return True
        if self._at is None or 0 < message.at <= self._at:
            return False
        self._at = max(self._at, message.at)
        return True
