"""Contact with a broker, as clients and kernels keep it.

A peer sends hello until the broker welcomes it, then sends at least one message in each heartbeat. It says hello again
when the broker does not know it, or has been silent for a lease. The module is pure: time is an argument.
"""

from __future__ import annotations

import enum
from typing import Any, Protocol

from park.wire.messages import Message, Unwelcome, Welcome

#: Seconds between two hellos while no Welcome comes.
HELLO_RETRY_SECONDS = 1.0
#: Heartbeats without a message after which the broker counts as missed.
MISSED_HEARTBEATS = 2.5


class Contact(enum.StrEnum):
    """Whether the broker has welcomed us."""

    CALLING = "calling"
    LIVE = "live"


class BrokerConnection(Protocol):
    """The connection to the broker: a queue in this process, or a socket."""

    def send(self, frames: list[Any], said: Message | None = None) -> None:
        """Send *frames*. *said* is the message that they encode, which tells what it may pass."""

    def clear(self) -> None:
        """Drop all messages that wait to be sent."""

    def lively(self) -> bool:
        """Whether part of an unfinished message has arrived since the last call."""

    @property
    def moved(self) -> int:
        """A number that changes whenever a piece of a long message has gone or come, or was stored by the broker."""

    def waiting(self) -> bool: ...

    def receive(self) -> list[Any] | None: ...

    def close(self) -> None: ...


class Presence:
    """The state of a peer's contact with its broker."""

    def __init__(self) -> None:
        self.state = Contact.CALLING
        self.store = ""
        self.epoch = 0
        self.number = 0
        #: the broker did not know this peer before the last Welcome, or before a lost one
        self.fresh = True
        self.heartbeat = 2.0
        self.lease = 20.0
        #: seconds without a message after which the broker counts as missed
        self._silence = MISSED_HEARTBEATS * self.heartbeat
        #: the time at which `due` first saw the broker missed; None: it is heard
        self._missed: float | None = None
        self._last_heard = -1e9
        self._last_sent = -1e9
        self._last_hello = -1e9

    def __repr__(self) -> str:
        return f"<Presence {self.state.value}, epoch {self.epoch}>"

    def hear(self, message: Message, now: float) -> bool:
        """Take in any message of the broker. Returns True for a Welcome, which makes contact."""
        if isinstance(message, Unwelcome):
            self.call_again()
        elif isinstance(message, Welcome):
            self.state = Contact.LIVE
            known = self.store, self.epoch, self.number
            self.store, self.epoch, self.number = message.store, message.epoch, message.number
            self.fresh = message.fresh or known != (self.store, self.epoch, self.number)
            self.heartbeat, self.lease = message.heartbeat, message.lease
            self._silence = MISSED_HEARTBEATS * self.heartbeat
        self.feel(now)
        return isinstance(message, Welcome)

    def call_again(self) -> None:
        """Say hello at once: the broker may have forgotten this peer in a time that it did not see pass."""
        self.state = Contact.CALLING
        self._last_hello = -1e9

    def feel(self, now: float) -> None:
        """A sign of life: part of a message of the broker has arrived."""
        self._last_heard = now
        if self.state is Contact.LIVE:
            self._missed = None

    def away(self, now: float) -> float:
        """Seconds for which the broker has been silent too long; 0 while it is heard. Time in which the loop did not look
        does not count.
        """
        return 0.0 if self._missed is None else now - self._missed

    def say(self, now: float) -> None:
        """Note that a message was sent to the broker."""
        self._last_sent = now

    def due(self, now: float) -> str:
        """ "hello", "heartbeat" or "": the message that the caller must send now.

        It adds the same numbers as `deadline`: with another rounding, a deadline could pass while nothing is due.
        """
        if self.state is Contact.LIVE and now >= self._last_heard + self.lease:
            self.state = Contact.CALLING
        if self._missed is None and (
            self.state is Contact.CALLING or now >= self._last_heard + self._silence
        ):
            self._missed = now
        if self.state is Contact.CALLING:
            if now >= self._last_hello + HELLO_RETRY_SECONDS:
                self._last_hello = self._last_sent = now
                return "hello"
        elif now >= self._last_sent + self.heartbeat:
            self._last_sent = now
            return "heartbeat"
        return ""

    def deadline(self) -> float:
        """The time at which `due` may next ask for a message."""
        if self.state is Contact.CALLING:
            return self._last_hello + HELLO_RETRY_SECONDS
        missed = self._last_heard + (self._silence if self._missed is None else self.lease)
        return min(self._last_sent + self.heartbeat, self._last_heard + self.lease, missed)
