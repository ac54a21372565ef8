"""Messages that bodies publish: to the streams of their jobs, with acknowledgements to the kernels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from park.broker.effects import Effects, Event, Heard, Peer, Publication, Send
from park.broker.entities.jobs import BrokerJob
from park.broker.entities.roster import Kernel
from park.broker.handlers import controls, validate
from park.broker.state import State
from park.errors import ProtocolError
from park.model import MAX_NOTE_CHARS, remark_of
from park.wire import messages

#: Seconds between two acknowledgements of stream messages to a kernel; and the number of messages after which one goes
#: at once.
STREAM_ACK_SECONDS = 0.5
STREAM_ACKS = 256
#: Numbers in one acknowledgement: two for each attempt.
MAX_ACK_NUMBERS = 2 * 1000


def on_publish(state: State, effects: Effects, event: Event, message: messages.Publish) -> None:
    """A body publishes a message on the stream of its job."""
    kernel = state.roster.kernels.get(event.peer)
    if kernel is None:
        return
    job = _publisher(state, kernel, message)
    if job is None:  # its attempt is void, or its job has ended
        if message.number:
            if message.attempt not in state.attempts and message.attempt not in kernel.stream_acks:
                # first, so that no later life takes in an attempt whose first messages are missing
                effects.answer(event.peer, messages.Abort(attempt=message.attempt))
            effects.sends_after_commit += heard(state, [(event.peer, message.attempt, message.number)])
        return
    kind = message.kind
    try:
        validate.check_publish(message, len(event.payload))
    except ProtocolError:
        kind = ""
    if message.control and not controls.blame(job, message.control):
        kind = ""
    if kind == "progress" and message.done is not None and message.total is not None:
        job.progress = (message.done, message.total)
        job.units, job.note = (
            remark_of(message.units, MAX_NOTE_CHARS),
            remark_of(message.note, MAX_NOTE_CHARS),
        )
        state.job_list.counted(job)
    if not (kind or message.number):
        return
    effects.publications.append(
        Publication(
            job.number, kind, event.payload, message.header, message.attempt, message.number, event.peer
        )
    )


def _publisher(state: State, kernel: Kernel, message: messages.Publish) -> BrokerJob | None:
    """The job of the message; None: the message is dropped.

    An attempt may have been answered in an earlier life, and its last messages come now; an orphan has no map yet. The
    job takes the messages of such attempts if the kernel serves its owner.
    """
    attempt = state.attempts.get(message.attempt)
    if attempt is not None:
        mine = not attempt.void and attempt.kernel is kernel
        return state.job(attempt.map.job) if mine else None
    other = message.attempt < state.epoch << 32 or (kernel.number, message.attempt) in state.recovery.orphans
    job = state.jobs.get(message.job) if other else None
    profile = kernel.announced
    if job is None or job.ended or job.session or not profile.serves(job.owner):
        return None
    return job


def heard(state: State, of: Iterable[Heard], count: int = 1) -> list[Send]:
    """Take receipts for about *count* messages, on disk or dropped. Returns the acknowledgements that are due."""
    for peer, attempt, number in of:
        kernel = state.roster.kernels.get(peer)
        if kernel is not None:
            kernel.stream_acks[attempt] = max(number, kernel.stream_acks.get(attempt, 0))
            kernel.stream_acks_due += count
            state.stream_acks_due.setdefault(peer, kernel.stream_acks_sent + STREAM_ACK_SECONDS)
            if kernel.stream_acks_due >= STREAM_ACKS:  # a body with many messages waits for acknowledgements
                state.stream_acks_due[peer] = state.now
    due = [peer for peer, at in state.stream_acks_due.items() if state.now >= at]
    return [Send(peer, message) for peer in due for message in _acknowledgements(state, peer)]


def _acknowledgements(state: State, peer: Peer) -> Iterator[messages.Committed]:
    """The acknowledgements that are due to this kernel."""
    del state.stream_acks_due[peer]
    kernel = state.roster.kernels.get(peer)
    if kernel is not None:
        flat = [part for mark in kernel.stream_acks.items() for part in mark]
        kernel.stream_acks.clear()
        kernel.stream_acks_sent, kernel.stream_acks_due = state.now, 0
        for n in range(0, len(flat), MAX_ACK_NUMBERS):
            yield messages.Committed([], flat[n : n + MAX_ACK_NUMBERS])
