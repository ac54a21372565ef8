"""Kernels that leave on purpose, or pause, get no new units. Their units end there or come back.

A client may ask a kernel to leave, or the kernel says by itself that it drains. Drivers that wait at a kernel can go on
nowhere else, so they may go on there until the kernel hands them back. A kernel that pauses, for others or for all,
keeps its drivers too, and may take new work again.
"""

from __future__ import annotations

from park.broker.effects import Effects, Event
from park.broker.entities.roster import Kernel
from park.broker.handlers import job_lifecycle, results, rights
from park.broker.state import MAX_REASON_CHARS, State
from park.errors import InvalidRequest, ProtocolError, UnknownKernel
from park.model import Delta, Serves
from park.wire import messages

#: The longest time that a client may give a kernel to hand back its work (seconds).
MAX_GRACE_SECONDS = 30 * 86400.0


def on_drain(state: State, effects: Effects, event: Event, message: messages.Drain) -> None:
    """A client asks a kernel to leave. It gets its answer when the kernel knows."""
    client = state.roster.clients.get(event.peer)
    if client is None:
        raise ProtocolError("this message is a client's")
    if not 0 <= message.grace <= MAX_GRACE_SECONDS:
        raise InvalidRequest(
            f"grace={message.grace:g} is not a number of seconds from 0 to {MAX_GRACE_SECONDS:.0f}"
        )
    if message.epoch != state.epoch:
        raise InvalidRequest(
            "the broker was restarted, and has numbered the kernels anew: see `park kernels`"
        )
    kernel = next((k for k in state.roster.kernels.values() if k.number == message.kernel), None)
    if kernel is None:
        raise UnknownKernel(f"no kernel {message.kernel} is connected: `park kernels` shows those that are")
    rights.check_drain(client, kernel)
    _begin(state, effects, kernel)
    kernel.grace = message.grace
    kernel.drainers.append((event.peer, message.id))
    effects.answer(kernel.peer, messages.Drain(grace=message.grace))  # after its Runs


def on_draining(state: State, effects: Effects, event: Event, message: messages.Draining) -> None:
    """The kernel says that it takes no new work."""
    kernel = state.roster.kernels.get(event.peer)
    if kernel is None:
        raise ProtocolError("this message is a kernel's")
    confirmed(state, effects, kernel)


def on_serving(state: State, effects: Effects, event: Event, message: messages.Serving) -> None:
    """The kernel says whose new work it takes from now on."""
    kernel = state.roster.kernels.get(event.peer)
    if kernel is None:
        raise ProtocolError("this message is a kernel's")
    if message.serves not in tuple(Serves):
        raise ProtocolError(f"a kernel cannot serve {message.serves!r:.40}")
    serve(state, effects, kernel, message.serves, message.pause)


def serve(state: State, effects: Effects, kernel: Kernel, whose: str, pause: str) -> None:
    """Deal to the kernel only new work that it serves now. A kernel without an owner has no work of its own."""
    serves, pause = Serves(whose), pause[:MAX_REASON_CHARS]
    if serves is Serves.OWN and not kernel.announced.owner:
        serves = Serves.NONE
    if kernel.draining or (serves, pause) == (kernel.serves, kernel.pause):
        return
    if serves is not kernel.serves:
        job_lifecycle.unreserve(state, effects, kernel)
        if not kernel.closed:
            state.free_slots.leave(kernel)
    changed = serves is not kernel.serves
    state.roster.serve(kernel, serves, pause)
    effects.deltas.append(Delta("kernel", kernel.number, {"serves": serves, "pause": pause}))
    if changed and not kernel.closed:
        state.free_slots.join(kernel)
    state.touched.kernels[kernel.number] = kernel
    state.count_slots()


def confirmed(state: State, effects: Effects, kernel: Kernel) -> None:
    """The kernel knows that it drains: answer the clients that asked for it."""
    _begin(state, effects, kernel)
    kernel.grace = None
    results.confirm(effects, kernel)
    answer_drainers(effects, kernel)


def answer_drainers(effects: Effects, kernel: Kernel) -> None:
    """Acknowledge the requests that the kernel leave."""
    for peer, request in kernel.drainers:
        effects.answer(peer, messages.Done(request))
    kernel.drainers.clear()


def let_go(state: State, effects: Effects) -> None:
    """Send away the kernels that serve the private jobs that have ended in this turn."""
    if any(job_lifecycle.is_private(state, job) for job in effects.ended):
        for kernel in state.roster.kernels.values():
            let_go_of(state, effects, kernel)


def let_go_of(state: State, effects: Effects, kernel: Kernel) -> None:
    """Send the kernel away if it serves one job alone that has ended or is not private."""
    number = kernel.profile.job
    job = state.jobs.get(number)
    private = job_lifecycle.is_private(state, number)
    if not number or kernel.draining or (job is not None and private and not job.ended):
        return
    how = f"is {job.state}" if job is not None and private else "is no private job of this broker"
    _begin(state, effects, kernel)
    kernel.grace = 0.0
    effects.answer(kernel.peer, messages.Drain(reason=f"job {number}, which it serves alone, {how}"))


def _begin(state: State, effects: Effects, kernel: Kernel) -> None:
    """Deal no new unit to the kernel from now on."""
    if kernel.draining:
        return
    job_lifecycle.unreserve(state, effects, kernel)
    if not kernel.closed:
        state.free_slots.leave(kernel)
    state.roster.drain(kernel)
    state.touched.kernels[kernel.number] = kernel
    effects.deltas.append(Delta("kernel", kernel.number, {"draining": True}))
    state.count_slots()
