"""Controls on their way from the broker to the bodies of jobs: each process gets each control once, in order."""

from __future__ import annotations

from park.kernel.machine.actions import ToSlot
from park.kernel.machine.process import Process
from park.kernel.machine.state import KernelState
from park.wire import messages
from park.wire.pack import Buffer


def on_control(state: KernelState, message: messages.Control, payload: Buffer) -> None:
    """A control has come, for the processes that run the job's own units now or later."""
    state.controls.keep(message.job, message.seq, payload)
    for process in state.pool:
        if any(held.run.stored and held.run.job == message.job for held in process.stack):
            give_new(state, process, message.job)


def give_new(state: KernelState, process: Process, job: int) -> None:
    """Give the process those controls of the job that it does not have."""
    for seq, data in state.controls.after(job, process.controls_given.get(job, 0)):
        process.controls_given[job] = seq
        state.do(ToSlot(process.number, messages.Control(job, seq=seq), data))
