"""The log of a job: what its bodies and their children print becomes messages of the attempt that runs in the process."""

from __future__ import annotations

import math
from collections.abc import Iterable

from msgspec.structs import replace

from park.kernel.machine.actions import ToBroker
from park.kernel.machine.held_attempt import HeldAttempt
from park.kernel.machine.printed_lines import VISIT_SECONDS
from park.kernel.machine.process import Process
from park.kernel.machine.state import KernelState
from park.wire import codec, messages
from park.wire.pack import Buffer
from park.wire.print_marks import Printed

#: Messages before which the lines that were printed before are sent; True: also lines that have not ended.
AFTER_PRINTED = {messages.Map: False, messages.Lent: True, messages.Finished: True}


def on_printed(
    state: KernelState, process: Process, stream: str, pieces: Iterable[Printed], time: float
) -> None:
    """A process or its children have printed; *time*: seconds since 1970.

    While it holds no attempt, its lines wait for the next one of the same job.
    """
    for piece in pieces:
        process.printed.add(stream, piece, time)
    if process.printed.waiting and process.printed.due is None:
        process.printed.due = max(state.now, process.printed.sent_at + VISIT_SECONDS)
        process.printed.is_quiet = False


def send(
    state: KernelState, process: Process, live: bool, everything: bool = False, until: float = math.inf
) -> None:
    """Send the lines that wait, see `PrintedLines.take`. *live* as in `publish`."""
    process.printed.due, process.printed.is_quiet = None, False
    if process.stack and (process.printed.waiting or (everything and process.printed.begun)):
        process.printed.sent_at = state.now
        held = process.stack[-1]
        for log in process.printed.take(everything, until):
            message = messages.Publish(held.run.job, held.run.attempt, "log", number=1)
            publish(state, process, held, message, codec.pack([log.text, log.level, log.time]), live)
        if process.printed.waiting:
            process.printed.due = state.now + VISIT_SECONDS


def tick(state: KernelState, live: bool) -> None:
    """Send lines that have waited long enough, after the messages that their process has sent before."""
    for process in state.pool:
        printed = process.printed
        if printed.due is None or state.now < printed.due:
            continue
        if state.published.full(process.number):  # its messages are not read
            printed.due = state.now + VISIT_SECONDS
        elif printed.is_quiet:
            send(state, process, live)
        else:
            printed.is_quiet = True


def publish(
    state: KernelState,
    process: Process,
    held: HeldAttempt,
    message: messages.Publish,
    payload: Buffer,
    live: bool,
) -> None:
    """Send a message of an attempt at once if the broker has welcomed the kernel (*live*), and keep it for a repetition."""
    if message.number:
        held.published += 1
        message = replace(message, number=held.published)
    if live:
        state.do(ToBroker(message, payload))
    state.published.add(process.number, message, payload)
