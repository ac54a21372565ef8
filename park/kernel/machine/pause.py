"""The pauses of a kernel on a desktop: for a while it takes no new work, or that of its own owner only.

A running chunk ends after its present unit. Its other units, and chunks that wait, go back to the broker at once, so a
pause loses no work. Drivers stay and go on with their own steps; their maps run elsewhere.
"""

from __future__ import annotations

from park.kernel.machine import late_chunks
from park.kernel.machine.actions import ToBroker
from park.kernel.machine.state import KernelState
from park.model import Serves
from park.wire import messages


def admits(state: KernelState, run: messages.Run) -> bool:
    """Whether the kernel takes such work now."""
    return state.serves is Serves.ALL or (state.serves is Serves.OWN and run.owner == state.own)


def serve(state: KernelState, serves: Serves, why: str, own: str) -> None:
    """Take new work of these owners only from now on; *own*: the kernel's own owner."""
    if (serves, why) == (state.serves, state.pause):
        return
    state.serves, state.pause, state.own = serves, why, own
    if state.shutdown is not None:
        return
    state.do(ToBroker(messages.Serving(serves, why, state.epoch)))
    for number, (run, _) in list(state.queued.items()):
        if not admits(state, run):
            del state.queued[number]
            state.do(ToBroker(state.ended(run, "lost")))
    for process in state.pool:
        for held in process.stack:
            if not admits(state, held.run):
                late_chunks.give_back(state, process, held)
