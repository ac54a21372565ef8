"""The reasons why the jobs on open pages wait. The table does not have them, so the broker is asked now and then."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping

from park.core.server import ServerProxy
from park.errors import UnknownJob
from park.model import JobRecord
from park.text import visible

#: Jobs that are asked about, and seconds for which one counts as shown.
MAX_REASONS, SHOWN_SECONDS = 200, 20.0


class Reasons:
    """The sentences that the broker has said last, by job."""

    def __init__(self) -> None:
        self._texts: dict[int, str] = {}
        #: when a page showed the job last (seconds)
        self._shown: dict[int, float] = {}

    def of(self, job: int) -> str:
        """Why *job* waits; "": it does not wait, or its reason is not known yet."""
        return self._texts.get(job, "")

    @property
    def texts(self) -> Mapping[int, str]:
        """All reasons, by job."""
        return self._texts

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

    def take(self, texts: dict[int, str]) -> list[int]:
        """Store the answers of the broker. Returns the jobs on open pages whose reason has changed."""
        before, self._texts = self._texts, texts
        return [job for job in self._shown if texts.get(job) != before.get(job)]


def ask(service: ServerProxy, jobs: Iterable[int]) -> dict[int, str]:
    """The reason why each of *jobs* waits. The questions come one by one: a burst would keep the broker from its work."""
    found = {}
    for job in jobs:
        with contextlib.suppress(UnknownJob):
            found[job] = visible(service.status(job).reason)
    return found
