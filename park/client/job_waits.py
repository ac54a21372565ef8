"""Waiting for jobs: the progress bar of `wait`, the reasons why a job does not run, and the ends of many jobs."""

from __future__ import annotations

import contextlib
import queue
import time
from collections.abc import Iterable
from typing import Any

from park.body.results import job_result
from park.client.link import ANSWER_SECONDS, Link
from park.client.pending import Reply
from park.client.progress_bar import ProgressBar, is_seen
from park.errors import ParkError
from park.model import JobRecord
from park.util.stdio import tell
from park.wire import codec, messages

#: Seconds of a wait before its progress bar appears, and between two updates of the bar.
BAR_DELAY_SECONDS, BAR_UPDATE_SECONDS = 1.0, 0.2
#: Seconds between two questions why a job does not run.
REASON_SECONDS = 1.0


def result_of(reply: Reply) -> Any:
    """The result of a job, from the answer to a `Fetch`. Raises the error that ended the job."""
    fetched, _ = reply.value()
    assert isinstance(fetched, messages.Fetched)
    pieces = [(m.start, d) for m, d in reply.messages if isinstance(m, messages.Results)]
    return job_result(fetched.record, fetched.once, pieces)


def attend(link: Link, job: int, reply: Reply, limit: float | None) -> bool:
    """Whether the reply comes within *limit* seconds; on a terminal and in a notebook a bar shows how far the job is."""
    if (limit is not None and limit <= BAR_DELAY_SECONDS) or not is_seen():
        return reply.wait(limit)
    deadline = float("inf") if limit is None else time.monotonic() + limit
    if reply.wait(BAR_DELAY_SECONDS):
        return True
    reason = Reason(link, job)
    with link.hush(), ProgressBar(f"job {job}") as bar:
        while not reply.wait(min(BAR_UPDATE_SECONDS, max(0.0, deadline - time.monotonic()))):
            now = time.monotonic()
            if now >= deadline:
                return False
            link.feed.wait_synced(ANSWER_SECONDS)
            record = link.feed.table.jobs.get(job)
            if record is not None:
                bar.update(record.how_far, _why(link, record, reason), now)
    return True


def _why(link: Link, record: JobRecord, reason: Reason) -> str:
    """The words of a progress bar beside the numbers: why the job waits."""
    if link.feed.table.stale:
        return f"no sign of {link.name}"
    if record.running:
        return record.reason
    return record.reason or reason.look() or record.state.value


def leave_running(link: Link, job: int, reply: Reply) -> None:
    """Ctrl-C in a wait for a job of a broker: say how to wait for it again."""
    link.forget(reply)
    where = f"park.connect({link.name!r}).job({job}).wait()"
    tell(f"\npark: job {job} goes on; wait for it again with {where}")


class Reason:
    """Why a job does not run. It asks the service once a second at most, and no call waits for the answer."""

    def __init__(self, link: Link, job: int) -> None:
        self._link = link
        self._job = job
        self._reply: Reply | None = None
        self._due = 0.0
        self._text = ""

    def look(self) -> str:
        """The last answer; the next one is on its way."""
        now = time.monotonic()
        if self._reply is None and now >= self._due:
            self._reply = self._link.request(lambda n: messages.Status(n, self._job))
        if self._reply is not None and self._reply.wait(0):
            with contextlib.suppress(ParkError):
                self._text = codec.unpack(self._reply.value()[1])[0]["reason"]
            self._reply, self._due = None, now + REASON_SECONDS
        return self._text


class Ends:
    """The ends of *jobs*, as they come; their results are not fetched."""

    def __init__(self, link: Link, jobs: Iterable[int]) -> None:
        self._came: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._replies = {
            job: link.request(
                lambda n, job=job: messages.Fetch(n, job, wait=True, results=False),  # type: ignore[misc]
                on_finish=lambda job=job: self._came.put(job),  # type: ignore[misc]
            )
            for job in dict.fromkeys(jobs)
        }

    def next(self, timeout: float) -> JobRecord | None:
        """The record of the next job that has ended; None: no job ended within *timeout* seconds.

        Raises UnknownJob of a deleted job, Refused of another owner's, NoBroker where the broker stays away.
        """
        try:
            job = self._came.get(timeout=timeout)
        except queue.Empty:
            return None
        fetched, _ = self._replies.pop(job).value()
        assert isinstance(fetched, messages.Fetched)
        return JobRecord.from_map(fetched.record)
