"""The code of functions and bodies: which process has which code, and which code the kernel keeps."""

from __future__ import annotations

from park.kernel.machine.actions import ToSlot
from park.kernel.machine.process import Process
from park.kernel.machine.state import KernelState
from park.wire import messages
from park.wire.pack import Buffer


def keep(state: KernelState, code: bytes, data: Buffer) -> list[bytes]:
    """Keep code that has come. Returns the codes that were dropped for it."""
    codes_dropped = state.codes.keep(code, data, lambda: _needed(state))
    state.codes_given.difference_update(codes_dropped)
    return codes_dropped


def _needed(state: KernelState) -> set[bytes]:
    """The code of everything that runs or waits for a slot."""
    queued = (run.function for run, _ in state.queued.values())
    return set(queued).union(*(process.needs for process in state.pool))


def note_use(state: KernelState, process: Process, code: bytes, size: int) -> None:
    """Note that the process has this code and uses it. The process may have to drop other code."""
    dropped = process.use_code(code, size)
    if dropped:
        state.do(ToSlot(process.number, messages.Drop(dropped)))


def give(state: KernelState, process: Process, code: bytes) -> None:
    """Send the process the code for its next chunk, unless the process has it."""
    data, known = state.codes.use(code), code in process.known
    note_use(state, process, code, len(data))
    if not known:
        state.do(ToSlot(process.number, messages.Blob(code), data))
