"""Functions and bodies as code: which process has which, and which of them the kernel keeps."""

from __future__ import annotations

from park.kernel.machine.actions import ToSlot
from park.kernel.machine.process import Process
from park.kernel.machine.state import KernelState
from park.wire import messages
from park.wire.pack import Buffer


def keep(state: KernelState, code: bytes, data: Buffer) -> list[bytes]:
    """The code has come. Returns the codes that were dropped in return."""
    codes_dropped = state.codes.keep(code, data, lambda: _needed(state))
    state.codes_given.difference_update(codes_dropped)
    return codes_dropped


def _needed(state: KernelState) -> set[bytes]:
    """The code of everything that runs or waits for a slot."""
    queued = (run.function for run, _ in state.queued.values())
    return set(queued).union(*(process.needs for process in state.pool))


def note_use(state: KernelState, process: Process, code: bytes, size: int) -> None:
    """The process has this code and uses it; it may have to drop others."""
    dropped = process.use_code(code, size)
    if dropped:
        state.do(ToSlot(process.number, messages.Drop(dropped)))


def give(state: KernelState, process: Process, code: bytes) -> None:
    """The process needs this code for its next chunk: send it, unless the process has it."""
    data, known = state.codes.use(code), code in process.known
    note_use(state, process, code, len(data))
    if not known:
        state.do(ToSlot(process.number, messages.Blob(code), data))
