"""Lines on stderr for a user who waits: the broker is away, or no unit of the awaited job runs."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from park.client.outgoing import Outgoing, time_in_words
from park.client.pending import Pending, Reply
from park.client.remote_maps import RemoteMaps
from park.client.stall_notice import StallNotice
from park.errors import ParkError
from park.text import visible
from park.util.stdio import tell
from park.wire import codec, messages

#: Seconds after which a line says that the broker is away.
AWAY_NOTICE_SECONDS = 3.0


class WaitNotices:
    """Decides when to write which line, and asks the broker why nothing runs."""

    def __init__(self, out: Outgoing, pending: Pending) -> None:
        self._out = out
        self._pending = pending
        self._stall = StallNotice()
        #: blocks of `hush` that are open
        self._hushed = 0
        #: a line has said that the broker is away
        self.says_away = False

    @contextlib.contextmanager
    def hush(self) -> Iterator[None]:
        """Write no line in this block: the caller shows by itself that the broker is away."""
        self._hushed += 1
        try:
            yield
        finally:
            self._hushed -= 1

    def begin(self) -> None:
        """A thread begins to wait for results, or for the end of a job."""
        self._stall.begin(time.monotonic())

    # -- in the reactor's loop -----------------------------------------------------------------

    def due(self) -> float:
        """The time at which `look` has something to do; infinite while no thread waits."""
        return self._stall.due

    def broker_away(self, away: float, waiting: bool) -> None:
        """The broker has been away for *away* seconds, 0 if it is there; *waiting*: something waits for it."""
        if not away:
            if self.says_away:
                self.says_away = False
                self._tell(f"{self._out.name} is back")
        elif waiting and away >= AWAY_NOTICE_SECONDS and not self.says_away:
            self.says_away = True
            self._tell(
                f"no sign of {self._out.name}: waiting for it to come back, for {time_in_words(self._out.patience)} at most"
            )

    def look(self, maps: RemoteMaps, now: float) -> None:
        """Ask why nothing runs of what is waited for, if it is time to."""
        job = maps.awaited_job() or self._pending.awaited_job()
        if not self._stall.look(job, maps.came, now) or self._hushed or not self._out.live:
            return
        number = self._pending.next_number()
        reply = self._pending.ask(number, messages.Status(number, job))
        reply.on_finish = lambda: self._explain(reply)
        self._stall.asked = True

    def _explain(self, reply: Reply) -> None:
        """Write the reason that the broker has answered."""
        self._stall.asked = False
        with contextlib.suppress(
            ParkError
        ):  # the job may be gone: the thread that waits for it gets an error
            if text := self._stall.heard(codec.unpack(reply.value()[1])[0], time.monotonic()):
                self._tell(text)

    def _tell(self, text: str) -> None:
        if not self._hushed:
            tell(f"park: {visible(text)}")  # one line, whatever a name holds
