"""Decides when to tell a user who waits for a job that nothing of it runs, and why.

A client asks the service now and then about the job that it waits for. If no result has come, and the service says twice
in a row that nothing of the job runs, the user is told the reason: within three seconds, again when it changes, and when
the job runs after all.
"""

from __future__ import annotations

import math
import re
from typing import Any

#: Seconds between two looks, and after a look that has found the job running.
LOOK_SECONDS, LOOK_AFTER_RUNNING_SECONDS = 0.75, 10.0
#: Beginnings of reasons that the client itself causes: its inputs come slowly, or it takes results slowly.
CLIENT_REASONS = ("waits for more inputs", "waits until its client")


class StallNotice:
    """Decides when to look at the job that has been waited for longest, and which sentence to tell."""

    def __init__(self) -> None:
        #: when to look next
        self.due = math.inf
        #: a question for the reason is open
        self.asked = False
        self._job = self._progress = 0
        self._rests_until = 0.0
        #: nothing of the job ran at the last look
        self._idle = False
        #: the reason that was told last, without its numbers
        self._told = ""

    def begin(self, now: float) -> None:
        """A thread begins to wait."""
        if self.due == math.inf:
            self.due = now + LOOK_SECONDS

    def look(self, job: int, progress: int, now: float) -> bool:
        """Whether to ask the service now why *job* does not run; 0: no thread waits. *progress* counts its results."""
        if not job:
            self.due, self._told = math.inf, ""
            return False
        self.due = now + LOOK_SECONDS
        same = (job, progress) == (self._job, self._progress)
        if not same:
            self._job, self._progress = job, progress
            self._rests_until, self._idle = 0.0, False
        return not self.asked and now >= self._rests_until and (same or bool(self._told))

    def heard(self, record: dict[str, Any], now: float) -> str:
        """The sentence to tell, now that the service has answered with the job's *record*; "" for none."""
        job, reason = record["job"], record["reason"]
        if record["running"] or not reason or reason.startswith(CLIENT_REASONS):
            self._idle, self._rests_until = False, now + LOOK_AFTER_RUNNING_SECONDS
            told, self._told = self._told, ""
            return f"job {job} runs" if told and record["running"] else ""
        idle, self._idle = self._idle, True
        kind = re.sub(r"[\d.]+", "", reason)
        if not idle or kind == self._told:
            return ""
        self._told = kind
        if reason.startswith("waits"):
            return f"job {job} {reason}"
        return f"job {job} waits: {reason.removeprefix('waiting: ')}"
