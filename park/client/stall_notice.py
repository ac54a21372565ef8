"""Decides when to tell a waiting user that no unit of the job runs, and why.

A client asks the service now and then about the job that it waits for. If no result has come, and the service says
twice in a row that no unit of the job runs, or that its results wait for the disk, the client tells the user the reason
within three seconds. It tells the reason again when that changes, and says when the job runs after all.
"""

from __future__ import annotations

import math
from typing import Any

from park.wait_reason import OF_CLIENT, Cause, WaitReason, announcement

#: Seconds between two looks, and after a look that has found the job running.
QUESTION_SECONDS, QUESTION_AFTER_RUNNING_SECONDS = 0.75, 10.0


class StallNotice:
    """Decides when to look at the job that has been waited for longest, and which sentence to tell."""

    def __init__(self) -> None:
        #: when to look next
        self.due = math.inf
        #: a question for the reason is open
        self.asked = False
        self._job = self._progress = 0
        self._rests_until = 0.0
        #: no unit of the job ran at the last look
        self._idle = False
        #: the reason that the user was told last; None: none, or the job has run since
        self._told: WaitReason | None = None

    def begin(self, now: float) -> None:
        """A thread begins to wait."""
        if self.due == math.inf:
            self.due = now + QUESTION_SECONDS

    def look(self, job: int, progress: int, now: float) -> bool:
        """Whether to ask the service now why *job* does not run; 0: no thread waits. *progress* counts its results."""
        if not job:
            self.due, self._told = math.inf, None
            return False
        self.due = now + QUESTION_SECONDS
        same = (job, progress) == (self._job, self._progress)
        if not same:
            self._job, self._progress = job, progress
            self._rests_until, self._idle = 0.0, False
        return not self.asked and now >= self._rests_until and (same or self._told is not None)

    def heard(self, record: dict[str, Any], now: float) -> str:
        """The sentence to tell, now that the service has answered with the job's *record*; "" for none."""
        job, reason = record["job"], WaitReason.beside(record)
        runs = record["running"] and reason.cause is not Cause.DISK  # else its results wait for room
        if runs or reason.cause is Cause.NONE or reason.cause in OF_CLIENT:
            self._idle, self._rests_until = False, now + QUESTION_AFTER_RUNNING_SECONDS
            told, self._told = self._told, None
            return f"job {job} runs" if told is not None and runs else ""
        idle, self._idle = self._idle, True
        if not idle or reason.is_like(self._told):
            return ""
        self._told = reason
        return announcement(job, reason)
