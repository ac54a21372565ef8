"""Time limits of jobs: a job over its limit is asked to stop, and aborted if it does not."""

from __future__ import annotations

from park.broker.effects import Effects
from park.broker.entities.jobs import BrokerJob
from park.broker.handlers import job_lifecycle
from park.broker.scheduler.run_times import grace, is_past_grace, length, over
from park.broker.state import State
from park.model import JobState


def enforce(state: State, effects: Effects) -> None:
    """Ask jobs over their time limits to stop, and abort those that did not stop in time."""
    for number in state.run_times.due(effects.now):
        job = state.jobs.get(number)
        if job is None or job.state is not JobState.RUNNING:
            continue  # it is listed again when it runs
        state.run_times.count(job, effects.now)
        if job.overtime is None and over(job):
            _end_in_time(state, effects, job)
        elif is_past_grace(job):
            limit = f"{length(job.submit.max_time)} (max_time)"
            job_lifecycle.begin_end(
                state,
                effects,
                job,
                "abort",
                f"aborted: it went on for {length(grace(job))} after its limit of {limit}",
            )
        else:
            state.job_list.store(job, effects)
        if job.state is JobState.RUNNING and job.ending in ("", "stop"):
            state.run_times.look_again(job, effects.now)


def _end_in_time(state: State, effects: Effects, job: BrokerJob) -> None:
    """End a job over its time limit; a session ends at once."""
    job.overtime = job.ran
    how = "abort" if job.session else "stop"
    job_lifecycle.begin_end(
        state, effects, job, how, f"it ran for as long as it may: {length(job.submit.max_time)} (max_time)"
    )
