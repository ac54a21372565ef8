"""Damaged records of the store: the jobs that need them fail, and say which record it is. All others go on."""

from __future__ import annotations

from park.broker.effects import Effects, Unsent
from park.broker.entities.jobs import BrokerJob
from park.broker.handlers import attempts, job_lifecycle
from park.broker.state import MAX_REASON_CHARS, State
from park.wire import messages

#: A job can go on no more without its record.
REMEDY = "delete this job and start it again, or go on with a copy from `park backup` (park-broker --restore)"


def on_unsent(state: State, effects: Effects, event: Unsent) -> None:
    """Fail the job of a message that could not be sent; if its code is lost, all jobs with this code."""
    message = event.message
    if isinstance(message, messages.Blob):
        for kernel in state.roster.kernels.values():
            kernel.known.discard(message.hash)
        for job in list(state.jobs.values()):
            if not job.ended and any(map_.function == message.hash for map_ in job.maps.values()):
                _fail(state, effects, job, event.why)
        return
    found = state.jobs.get(getattr(message, "job", 0))
    if found is not None and not found.ended:
        _fail(state, effects, found, event.why)
    attempt = state.attempts.get(message.attempt) if isinstance(message, messages.Run) else None
    if attempt is not None:  # no kernel has it
        attempts.take_back(state, effects, attempt, event.why)


def _fail(state: State, effects: Effects, job: BrokerJob, why: str) -> None:
    text = f"{why[: MAX_REASON_CHARS - len(REMEDY) - 2]}: {REMEDY}"
    if job.session:
        job_lifecycle.begin_end(state, effects, job, "abort", text)
    else:
        job_lifecycle.fail(state, effects, job, text)
