"""Checkpoints: states of units, from which the units go on when they run again.

The store has the newest checkpoint of each unit of a job. It comes from the present attempt: checkpoints of a lost
attempt are dropped, so an old one never replaces a newer one. It is deleted when the unit is answered, or with its job.
"""

from __future__ import annotations

from park.broker.effects import Effects, Event, Ref, Write
from park.broker.entities.maps import Attempt
from park.broker.handlers import attempts, controls, job_lifecycle
from park.broker.state import State
from park.errors import ProtocolError
from park.wire import messages


def on_checkpoint(state: State, effects: Effects, event: Event, message: messages.Checkpoint) -> None:
    """A kernel brings the newest checkpoint of a unit."""
    attempt = _keeper(state, effects, event, message)
    if attempt is None:
        return
    job = state.job(attempt.map.job)
    known = job.checkpoints.get(message.unit)
    had = job.controls.served if job.controls is not None else 0
    if message.served < had:  # an attempt that came back after another one ran has fewer controls
        return
    if known is None or known < (message.attempt, message.number):
        if not state.disk.use(len(event.payload)):
            return  # the kernel keeps the checkpoint, and sends the next one later
        attempts.settle_twin(state, effects, attempt)  # a unit with a state runs in one attempt only
        job.checkpoints[message.unit] = (message.attempt, message.number)
        effects.writes.append(Write("checkpoint", (job.number, message.unit), event.payload))
        if job.submit.once:  # if there are several units, each one gets the controls
            controls.mark_served(state, effects, job, message.served)
        if known is None or known[0] != message.attempt:
            state.job_list.store(job, effects)
        job_lifecycle.refresh(state, effects, job)
    served = min(message.served, job.controls.served) if job.controls is not None else 0
    effects.answer(event.peer, messages.Checkpointed(message.attempt, message.number, served))


def on_restore(state: State, effects: Effects, event: Event, message: messages.Restore) -> None:
    """A kernel asks for the checkpoint from which a unit goes on."""
    attempt = _keeper(state, effects, event, message)
    if attempt is None:
        return
    job = state.job(attempt.map.job)
    served = job.controls.served if job.controls is not None else 0
    answer = messages.Checkpoint(message.attempt, job.number, message.unit, 0, message.id, served)
    payload = Ref("checkpoint", (job.number, message.unit)) if message.unit in job.checkpoints else b""
    effects.answer(event.peer, answer, payload)


def _keeper(
    state: State, effects: Effects, event: Event, message: messages.Checkpoint | messages.Restore
) -> Attempt | None:
    """The attempt that sent the message; None: it was lost, or its results are of no use."""
    attempt = attempts.held_by(state, event, message.attempt)
    if attempt is None or attempts.ends_if_void(effects, attempt):
        return None
    if not attempt.map.root or not attempt.span.start <= message.unit < attempt.span.stop:
        raise ProtocolError(f"attempt {message.attempt} keeps no checkpoint of unit {message.unit}")
    return attempt
