"""The reasons why the jobs on open pages wait. The table does not have them, so the broker is asked now and then."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping

from park.core.server import ServerProxy
from park.errors import UnknownJob
from park.model import JobRecord
from park.text import visible
from park.wait_reason import WaitReason, words

#: Jobs that are asked about, and seconds for which one counts as shown.
MAX_REASONS, SHOWN_SECONDS = 200, 20.0


class Reasons:
    """The last answers of the broker, by job."""

    def __init__(self) -> None:
        #: why each job waits
        self.by_job: Mapping[int, WaitReason] = {}
        #: when a page showed the job last (seconds)
        self._shown: dict[int, float] = {}

    def of(self, job: int) -> str:
        """Why *job* waits; "": it does not wait, or its reason is not known yet."""
        return _shown(self.by_job.get(job))

    def show(self, job: int, now: float) -> None:
        """A page shows the job."""
        self._shown[job] = now

    def wanted(self, records: Mapping[int, JobRecord], also: Iterable[int], now: float) -> list[int]:
        """The jobs to ask about: *also*, and those that a page has shown lately, the latest first."""
        self._shown = {job: at for job, at in self._shown.items() if now - at < SHOWN_SECONDS}
        order = [*also, *sorted(self._shown, key=self._shown.__getitem__, reverse=True)]
        return [
            job
            for job in dict.fromkeys(order)
            if (record := records.get(job)) is not None and not record.state.ended and not record.reason
        ][:MAX_REASONS]

    def take(self, answers: Mapping[int, WaitReason]) -> list[int]:
        """Store the answers of the broker. Returns the jobs on open pages whose reason has changed in words."""
        before, self.by_job = self.by_job, answers
        return [job for job in self._shown if _shown(answers.get(job)) != _shown(before.get(job))]


def ask(service: ServerProxy, jobs: Iterable[int]) -> dict[int, WaitReason]:
    """The reason why each of *jobs* waits. The questions come one by one: a burst would keep the broker from its work."""
    found = {}
    for job in jobs:
        with contextlib.suppress(UnknownJob):
            found[job] = service.wait_reason(job)
    return found


def _shown(reason: WaitReason | None) -> str:
    """The sentence on the page."""
    return "" if reason is None else visible(words(reason))
