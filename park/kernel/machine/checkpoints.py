"""Checkpoints of units on their way to the broker's disk: of each attempt, one at a time."""

from __future__ import annotations

from park.kernel.machine import drain
from park.kernel.machine.actions import ToBroker, ToSlot
from park.kernel.machine.held_attempt import HeldAttempt
from park.kernel.machine.state import KernelState
from park.wire import messages
from park.wire.pack import Buffer

#: Seconds after which the next checkpoint goes although the last one was not acknowledged, perhaps because the disk is
#: full.
CHECKPOINT_RETRY_SECONDS = 10.0


def on_checkpoint(
    state: KernelState, held: HeldAttempt, message: messages.Checkpoint, payload: Buffer
) -> None:
    """A body has made a checkpoint."""
    held.checkpoint, held.has_driven = (message, payload), True
    state.driver_checkpoints.make(message.attempt, message.number)
    if held.saving_since is None or state.now >= held.saving_since + CHECKPOINT_RETRY_SECONDS:
        save(state, held)


def on_checkpointed(state: KernelState, message: messages.Checkpointed, payload: Buffer) -> None:
    """A checkpoint is on the broker's disk."""
    process = state.attempts.get(message.attempt)
    if process is not None:
        held = process.held(message.attempt)
        if held.checkpoint is not None and held.checkpoint[0].number <= message.number:
            held.checkpoint = None
        save(state, held)
        state.controls.drop(held.run.job, message.served)
        state.do(ToSlot(process.number, message))
    drain.on_checkpoint_saved(state, message.attempt, message.number)


def save(state: KernelState, held: HeldAttempt) -> None:
    """Send the newest checkpoint to the disk, if one waits."""
    held.saving_since = state.now if held.checkpoint is not None else None
    hand_in(state, held)


def hand_in(state: KernelState, held: HeldAttempt) -> None:
    """Send the newest checkpoint of an attempt that ends before its time, even if an older one is on its way."""
    if held.checkpoint is not None:
        state.do(ToBroker(*held.checkpoint))
