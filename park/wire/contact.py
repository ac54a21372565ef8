"""Keeping contact with a broker: what a client and a kernel do alike.

A peer says hello until it is welcomed, speaks at least once a heartbeat, and says hello again when the broker
does not know it any more or has said nothing for a lease. Pure: time is an argument.
"""

from __future__ import annotations

import enum
from typing import Any, Protocol

from park.wire.messages import Message, Unwelcome, Welcome

#: Seconds between two hellos that nobody answers.
RETRY = 1.0
#: A broker that has said nothing for so many heartbeats is missed.
MISSED = 2.5


class Contact(enum.StrEnum):
    """Whether the broker has welcomed us."""

    CALLING = "calling"
    LIVE = "live"


class Line(Protocol):
    """The way to the broker: a lane or a socket."""

    def send(self, frames: list[Any], said: Message | None = None) -> None:
        """Send it; *said*: the same, from which it is told what it may pass."""

    def clear(self) -> None:
        """Drop all that waits to be sent."""

    def lively(self) -> bool:
        """Whether a piece of a message that is not whole has come since this was asked last."""

    def waiting(self) -> bool: ...

    def receive(self) -> list[Any] | None: ...

    def close(self) -> None: ...


class Presence:
    """Where a peer stands with its broker."""

    def __init__(self) -> None:
        self.state = Contact.CALLING
        self.store = ""
        self.epoch = 0
        self.number = 0
        #: the broker did not know us before the last Welcome, or before one that was lost
        self.fresh = True
        self.heartbeat = 2.0
        self.lease = 20.0
        #: seconds after which a broker that has said nothing is missed
        self._silence = MISSED * self.heartbeat
        #: since when the broker has been missed, as far as somebody looked; None: it is there
        self._missed: float | None = None
        self._heard = -1e9
        self._said = -1e9
        self._called = -1e9

    def __repr__(self) -> str:
        return f"<Presence {self.state.value}, epoch {self.epoch}>"

    def hear(self, message: Message, now: float) -> bool:
        """Any message of the broker; True if it is the Welcome that makes contact."""
        if isinstance(message, Unwelcome):
            self.state = Contact.CALLING
            self._called = -1e9
        elif isinstance(message, Welcome):
            self.state = Contact.LIVE
            known = self.store, self.epoch, self.number
            self.store, self.epoch, self.number = message.store, message.epoch, message.number
            self.fresh = message.fresh or known != (self.store, self.epoch, self.number)
            self.heartbeat, self.lease = message.heartbeat, message.lease
            self._silence = MISSED * self.heartbeat
        self.feel(now)
        return isinstance(message, Welcome)

    def feel(self, now: float) -> None:
        """A message of the broker is on its way."""
        self._heard = now
        if self.state is Contact.LIVE:
            self._missed = None

    def away(self, now: float) -> float:
        """Seconds for which the broker has been missed, 0 while it is there. Time in which nobody looked does not count."""
        return 0.0 if self._missed is None else now - self._missed

    def say(self, now: float) -> None:
        """Something was sent to the broker."""
        self._said = now

    def due(self, now: float) -> str:
        """ "hello", "heartbeat" or "": what should be said now; the caller then says it.

        Its sums are those of `deadline`: rounded otherwise, a deadline could come and nothing be due.
        """
        if self.state is Contact.LIVE and now >= self._heard + self.lease:
            self.state = Contact.CALLING
        if self._missed is None and (self.state is Contact.CALLING or now >= self._heard + self._silence):
            self._missed = now
        if self.state is Contact.CALLING:
            if now >= self._called + RETRY:
                self._called = self._said = now
                return "hello"
        elif now >= self._said + self.heartbeat:
            self._said = now
            return "heartbeat"
        return ""

    def deadline(self) -> float:
        """When `due` may next say something."""
        if self.state is Contact.CALLING:
            return self._called + RETRY
        missed = self._heard + (self._silence if self._missed is None else self.lease)
        return min(self._said + self.heartbeat, self._heard + self.lease, missed)
