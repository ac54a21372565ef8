"""When to tell those who wait that nothing of it runs, and why.

A client looks now and then at the job that it waits for. Where nothing has come, and the service says
twice in a row that nothing of the job runs, its reason is told: within three seconds, again when it changes, and when the
job runs after all.
"""

from __future__ import annotations

import math
import re
from typing import Any

#: Seconds between two looks, and after one that has found the job at work.
LOOK, WORKS = 0.75, 10.0
#: Reasons that the client itself is the cause of: its inputs come slowly, or it takes results slowly.
OWN = ("waits for more inputs", "waits until its client")


class Unserved:
    """The state of the job that is waited for longest."""

    def __init__(self) -> None:
        #: when to look next
        self.due = math.inf
        #: the reason has been asked for, and has not come
        self.asked = False
        self._job = self._progress = 0
        self._rests_until = 0.0
        #: nothing of the job ran at the last look
        self._idle = False
        #: the reason that was told last, without its numbers
        self._told = ""

    def begin(self, now: float) -> None:
        """Somebody waits."""
        if self.due == math.inf:
            self.due = now + LOOK

    def look(self, job: int, progress: int, now: float) -> bool:
        """Whether to ask the service now why *job* (0: nobody waits) does not run; *progress* counts what has come."""
        if not job:
            self.due, self._told = math.inf, ""
            return False
        self.due = now + LOOK
        same = (job, progress) == (self._job, self._progress)
        if not same:
            self._job, self._progress = job, progress
            self._rests_until, self._idle = 0.0, False
        return not self.asked and now >= self._rests_until and (same or bool(self._told))

    def heard(self, record: dict[str, Any], now: float) -> str:
        """The sentence to tell, now that the service has answered with the job's *record*; "" for none."""
        job, reason = record["job"], record["reason"]
        if record["running"] or not reason or reason.startswith(OWN):
            self._idle, self._rests_until = False, now + WORKS
            told, self._told = self._told, ""
            return f"job {job} runs" if told and record["running"] else ""
        idle, self._idle = self._idle, True
        kind = re.sub(r"[\d.]+", "", reason)
        if not idle or kind == self._told:
            return ""
        self._told = kind
        return f"job {job} {reason}" if reason.startswith("waits") else f"job {job} waits: {reason}"
