"""The part of a kernel's reactor that lets it serve or pause, as its desktop allows.

A thread of its own reads the machine, so that a late answer does not hold up the kernel's heartbeats.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from park.kernel.loop import KernelLoop
from park.kernel.node.desktop import Donation, Readings, Verdict
from park.model import Serves


class DesktopWatch:
    """The watch over the desktop of a donation. *every*: seconds between two readings; *wake* wakes the reactor, *say*
    tells people of a change.
    """

    def __init__(
        self,
        kernel: KernelLoop,
        donation: Donation,
        read: Callable[[], Readings],
        every: float,
        wake: Callable[[], None],
        say: Callable[[str], None],
    ) -> None:
        self._kernel = kernel
        self._donation = donation
        self._read = read
        self._every = every
        self._wake = wake
        self._say = say
        self._news: Readings | None = read()  # no job of others begins before the first look
        self._verdict = Verdict(Serves.ALL)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="desktop", daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._closed.wait(self._every):
            self._news = self._read()
            self._wake()

    # -- the reactor's part ------------------------------------------------------------------------

    def waiting(self) -> bool:
        return self._news is not None

    def turn(self, now: float) -> None:
        readings, self._news = self._news, None
        if readings is None:
            return
        verdict = self._donation.decide(readings, now)
        if verdict == self._verdict:
            return
        self._verdict = verdict
        self._kernel.serve(verdict.serves, verdict.why)
        if verdict.serves is Serves.ALL:
            self._say("serves again")
        else:
            whose = "others' new work" if verdict.serves is Serves.OWN else "new work"
            self._say(f"{whose} pauses: {verdict.why}")

    def deadline(self) -> float | None:
        return None

    def close(self) -> None:
        """Read no more."""
        self._closed.set()
