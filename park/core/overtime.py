"""Jobs that have run for as long as they may: they are asked to stop, and aborted if they do not."""

from __future__ import annotations

from park.core.attempts import Attempts
from park.core.jobs import Job
from park.core.timing import length, out_of_patience, over, patience
from park.model import JobState


class Overtime(Attempts):
    """The floor above `Attempts`, on one level with `park.core.dealing`."""

    def _look_at_times(self) -> None:
        for number in self.times.due(self._now):
            job = self.list.jobs.get(number)
            if job is None or job.state is not JobState.RUNNING:
                continue  # it is listed again when it runs
            self.times.count(job, self._now)
            if job.overtime is None and over(job):
                self._end_in_time(job)
            elif out_of_patience(job):
                limit = f"{length(job.submit.max_time)} (max_time)"
                self._begin_end(
                    job,
                    "abort",
                    f"aborted: it went on for {length(patience(job))} after its limit of {limit}",
                )
            else:
                self.list.store(job, self._out)
            if job.state is JobState.RUNNING and job.ending in ("", "stop"):
                self.times.look_again(job, self._now)

    def _end_in_time(self, job: Job) -> None:
        """A session, of which nothing would be left, ends at once."""
        job.overtime = job.ran
        how = "abort" if job.session else "stop"
        self._begin_end(job, how, f"it ran for as long as it may: {length(job.submit.max_time)} (max_time)")
