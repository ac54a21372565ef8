"""Controls: messages of a job's owner to its body, kept and sent to every process with units of the job's own map.

A control is on disk before it is acknowledged, and before a kernel gets it. A kernel that holds a unit of the job's
root map gets all controls in order: earlier ones before the unit, later ones as they come. Over a new connection, and
from a new life of the broker, it gets all of them again, and recognises by their numbers those that it has. The
checkpoint of a job that runs once names the last control in its state: the controls up to that one are deleted.
"""

from __future__ import annotations

from park.broker.effects import Effects, Event, Ref, Write
from park.broker.entities.controls import (
    MAX_KEPT_CONTROL_BYTES,
    MAX_KEPT_CONTROLS,
    MAX_OWNER_CONTROLS,
    Controls,
    record,
)
from park.broker.entities.jobs import BrokerJob
from park.broker.entities.roster import Kernel
from park.broker.handlers import charging, rights, validate
from park.broker.state import State
from park.errors import InvalidRequest, LimitReached
from park.wire import messages


def keep(state: State, effects: Effects, job: BrokerJob, key: bytes, payload: bytes | memoryview) -> None:
    """Keep a control, unless it is known. Raises LimitReached, or Refused on a full disk."""
    size = len(payload)
    controls = job.controls if job.controls is not None else Controls()
    if key in controls:
        return
    if len(controls.kept) >= MAX_KEPT_CONTROLS or controls.bytes + size > MAX_KEPT_CONTROL_BYTES:
        raise LimitReached(
            f"job {job.number} keeps {len(controls.kept):,} controls of {controls.bytes:,} bytes, which it would need "
            f"if it ran again, and may keep {MAX_KEPT_CONTROLS:,} of {MAX_KEPT_CONTROL_BYTES:,} bytes: "
            "it takes more when it has made a checkpoint after them"
        )
    tally = state.job_list.tallies.of(job.owner)
    if tally.controls >= MAX_OWNER_CONTROLS:
        raise LimitReached(
            f"the broker keeps {tally.controls:,} controls for all jobs of {job.owner}, and no more: wait until some "
            "of these have ended"
        )
    charging.check_quota(state, job.owner, 0, 0, size)
    state.disk.demand(size)
    seq = controls.add(key, size, effects.turn)
    state.job_list.grow(job, size)
    tally.controls += 1
    effects.writes.append(Write("control", record(job.number, seq, key), payload))
    if job.controls is None:
        job.controls = controls
        held = (state.attempts[number] for number in job.attempts)
        listeners = {a.kernel.number: a.kernel for a in held if a.map.root}
    else:
        listeners = {number: job.kernels[number] for number in controls.sent}
    state.touched.jobs.add(job.number)
    for kernel in listeners.values():
        deliver(state, effects, job, kernel)


def deliver(state: State, effects: Effects, job: BrokerJob, kernel: Kernel) -> None:
    """Send the new controls to a kernel that holds, or is about to get, a unit of the job's own map."""
    controls = job.controls
    if controls is None:
        return
    for seq, kept in controls.after(controls.sent.get(kernel.number, 0)):
        # after the control is on disk and the kernel is welcome
        control = messages.Control(job.number, seq=seq)
        payload = Ref("control", record(job.number, seq, kept.key))
        effects.send(kernel.peer, control, payload, after=max(kept.turn, kernel.joined))
    controls.sent[kernel.number] = controls.last


def redeliver(state: State, effects: Effects, kernel: Kernel) -> None:
    """Send controls again that were on their way to the kernel, because they may be lost."""
    for number in sorted(kernel.jobs):
        job = state.jobs[number]
        if job.controls is not None and job.controls.sent.pop(kernel.number, None) is not None:
            deliver(state, effects, job, kernel)


def mark_served(state: State, effects: Effects, job: BrokerJob, served: int) -> None:
    """Note that a checkpoint of the job's only unit contains the controls up to *served*."""
    controls = job.controls
    if controls is None or served <= controls.served:
        return
    count, size = len(controls.kept), controls.bytes
    for seq, key, gone in controls.serve(served, effects.turn):
        effects.writes.append(Write("control", record(job.number, seq, key), None if gone else b""))
    state.job_list.grow(job, controls.bytes - size)
    state.job_list.tallies.of(job.owner).controls += len(controls.kept) - count
    state.job_list.store(job, effects)


def blame(job: BrokerJob, seq: int) -> bool:
    """Note the error of a control. True: it is the first process to report this control."""
    kept = job.controls.kept.get(seq) if job.controls is not None else None
    first = kept is None or not kept.blamed  # only one process knows a control that is in a checkpoint
    if kept is not None:
        kept.blamed = True
    return first


def forget(state: State, effects: Effects, job: BrokerJob) -> None:
    """Delete the controls of a job that ends."""
    if job.controls is not None:
        effects.writes += [Write("control", key, None) for key in job.controls.keys(job.number)]
        state.job_list.grow(job, -job.controls.bytes)
        state.job_list.tallies.of(job.owner).controls -= len(job.controls.kept)
        job.controls = None


def on_control(state: State, effects: Effects, event: Event, message: messages.Control) -> None:
    """A client sends a control to the body of a job."""
    job = state.job(message.job)
    rights.check_sender(state, event, job.number, job.owner)
    if job.session:
        raise InvalidRequest(
            f"job {job.number} is a session, which a program of its owner drives: it takes no controls"
        )
    validate.check_control(message, event.payload)
    if not job.ended:
        keep(state, effects, job, message.key, event.payload)
    effects.answer(event.peer, messages.Done(message.id, ignored=job.ended))
