"""The way out to the broker: a message is sent at once while the broker is in contact.

`Outgoing` knows whether the broker is there (`park.wire.presence`), how long it may stay away, and which code it has.
It keeps no messages: `park.client.pending` and `park.client.remote_maps` keep requests and maps, and send them again
when the broker comes back.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from park.errors import NoBroker
from park.wire import codec, messages
from park.wire.messages import Message
from park.wire.pack import Buffer
from park.wire.presence import BrokerConnection, Contact, Presence


class Outgoing:
    """Sends messages over a *line* to the broker called *name*, which may be away for *patience* seconds.

    *refusal* gives the words of a broker that does not let this client in any more; "" while none is known.
    """

    def __init__(
        self, line: BrokerConnection, name: str, patience: float, refusal: Callable[[], str] = str
    ) -> None:
        self.line = line
        self.name = name
        self.patience = patience
        self._refusal = refusal
        self.presence = Presence()
        #: the hashes of the code that the broker has; True: for sessions
        self._shipped: dict[bytes, bool] = {}

    @property
    def live(self) -> bool:
        """Whether the broker has welcomed this client and still answers."""
        return self.presence.state is Contact.LIVE

    def send(self, message: Message, data: Buffer = b"", now: float | None = None) -> None:
        """Send a message with its payload."""
        self.presence.say(time.monotonic() if now is None else now)
        self.line.send(codec.encode(message, data), message)

    def ship(self, code: bytes, blob: Buffer, brief: bool = False) -> None:
        """Send the code with this hash, unless the broker has it; *brief*: for a session, which is not stored."""
        known = self._shipped.get(code)
        if known is None or (known and not brief):
            self._shipped[code] = brief
            self.send(messages.Blob(code, brief=brief), blob)

    def lose_code(self, code: bytes) -> None:
        """The broker has dropped this code."""
        self._shipped.pop(code, None)

    def lose_all_code(self) -> None:
        """The broker does not know this client any more, nor its code."""
        self._shipped.clear()

    def check_there(self) -> None:
        """Raise NoBroker if the broker has been away for longer than the patience allows, or refuses our key."""
        if (error := self.gone(self.presence.away(time.monotonic()))) is not None:
            raise error

    def gone(self, away: float) -> NoBroker | None:
        """The error of all waits after the broker has been away for *away* seconds; None: it may come back."""
        if away and (refusal := self._refusal()):
            return NoBroker(refusal)
        if away < self.patience:
            return None
        return NoBroker(
            f"{self.name} has been away for {time_in_words(self.patience)}: is it running (`park-broker`)? Jobs that it "
            "has accepted are on its disk; maps, mappers and executors have to be run again"
        )


def time_in_words(seconds: float) -> str:
    """A time as people say it.

    >>> [time_in_words(seconds) for seconds in (2.0, 600.0)]
    ['2 s', '10 min']
    """
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
