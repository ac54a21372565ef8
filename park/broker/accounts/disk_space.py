"""The free bytes of the disk: new jobs and inputs that do not fit are refused, and results wait for space.

A full disk must not look like a broken one, and a client must still be able to delete jobs. So the store keeps a
reserve (`park.broker.storage.store`), and new jobs, inputs and results share the other free bytes. A client whose job
does not fit is refused. A result that does not fit waits without an acknowledgement, so that its kernel keeps it, and
its slot, until there is space. The broker keeps waiting results in memory up to a bound, and asks for the others again.
Everything else goes on: readers are answered, sessions run, jobs end.
"""

from __future__ import annotations

import sys
import time

from msgspec.structs import replace

from park.broker.effects import Event
from park.errors import Refused

#: Seconds between two looks at the results that wait.
WAITING_POLL_SECONDS = 1.0
#: The disk is full if fewer bytes are free than a small request takes.
MIN_FREE_BYTES = 24 << 10
#: Bytes of waiting results in memory; of further results only the size is kept.
MAX_WAITING_BYTES = 32 << 20


class DiskSpace:
    """The free bytes by the last reading, less the bytes taken since then, and the results that wait."""

    def __init__(self) -> None:
        self._left = sys.maxsize
        self._where = ""
        #: when it became full, in words; "": it is not
        self._since = ""
        #: results that did not fit, by attempt; of two for one attempt the last
        self.waiting: dict[int, Event] = {}
        #: bytes of their payloads in memory, and the sizes of the payloads that are not in memory
        self.held = 0
        self.sizes: dict[int, int] = {}
        #: attempts whose results were asked for again, and have not come
        self.asked: set[int] = set()
        #: when the waiting results are looked at again
        self.look_at = 0.0

    def tell(self, left: int, where: str, wall: float) -> None:
        """Take a new reading at *wall* clock: *left* bytes are free *where* the store is."""
        self._left, self._where = left, where
        if not self.is_full:
            self._since = ""
        elif not self._since:
            self._since = f", since {time.strftime('%Y-%m-%d %H:%M', time.localtime(wall))}"

    @property
    def is_full(self) -> bool:
        """Whether it was full at the last reading, or results wait."""
        return self._left < MIN_FREE_BYTES or bool(self.waiting)

    def use(self, size: int) -> bool:
        """Take *size* bytes. False: fewer bytes are free, and none is taken."""
        if size > max(0, self._left):
            return False
        self._left -= size
        return True

    def demand(self, size: int) -> None:
        """Take bytes for a job, inputs, a file or a control. Raises Refused if there are fewer, or if results wait."""
        if self.waiting or not self.use(size):
            raise Refused(self.refusal)

    @property
    def refusal(self) -> str:
        """The answer to a request for which there is no room."""
        return (
            f"{self.trouble}: no new jobs, inputs, files and messages are taken until there is room; "
            "`park delete` makes room"
        )

    @property
    def trouble(self) -> str:
        """The sentence that says that the disk is full, where, and since when by the broker's clock."""
        return f"the broker's disk is full (at {self._where}{self._since})"

    def delay(self, job: int) -> str:
        """The answer to a request that the disk has not taken for a while. *job*: the job that it makes; 0: none."""
        what = f"job {job} is taken, do not submit it again" if job else "the request takes effect"
        return (
            f"{self.trouble}: {what}, but it is not on disk, and it is lost if the broker ends before there is room; "
            "`park delete` makes room"
        )

    def unread(self, job: int) -> str:
        """The answer to a reader of a job with changes that the disk has not taken."""
        return f"{self.trouble}: job {job} can be read when its changes are on disk; `park delete` makes room"

    def wait(self, attempt: int, event: Event, now: float) -> None:
        """Let the result of this attempt wait for space."""
        if not self.waiting:
            self.look_at = now + WAITING_POLL_SECONDS
        self._drop(attempt)
        size = len(event.payload)
        if self.held + size > MAX_WAITING_BYTES:
            self.sizes[attempt] = size
            event = replace(event, payload=b"")
        self.held += len(event.payload)
        self.waiting[attempt] = event

    def is_due(self, attempt: int) -> bool:
        """Whether the result of this attempt waits here or was asked for again."""
        return attempt in self.waiting or attempt in self.asked

    def _drop(self, attempt: int) -> None:
        event = self.waiting.pop(attempt, None)
        self.held -= len(event.payload) if event is not None else 0
        self.sizes.pop(attempt, None)

    def let_in(self, now: float) -> tuple[list[Event], list[Event]]:
        """The results that fit now, in the order in which they came, and those that their kernels must send again."""
        fitting: list[Event] = []
        again: list[Event] = []
        if self.waiting and now >= self.look_at:
            self.look_at = now + WAITING_POLL_SECONDS
            left = self._left
            for attempt, event in list(self.waiting.items()):
                left -= self.sizes.get(attempt, len(event.payload))
                if left < 0:
                    break
                if attempt in self.sizes:
                    again.append(event)
                    self.asked.add(attempt)
                else:
                    fitting.append(event)
                self._drop(attempt)
        return fitting, again

    def check(self) -> None:
        """Assert the invariants."""
        assert self.held == sum(len(event.payload) for event in self.waiting.values()) <= MAX_WAITING_BYTES
        assert self.sizes.keys() <= self.waiting.keys()
