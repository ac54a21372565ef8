"""Long code that a kernel takes from another kernel, and that others take from it.

The broker says from whom (Offer). Until the code is here, attempts that need it wait with those that wait for a slot.
If the kernel cannot get the code, it says so (NeedBlob) and gives the attempts back. The broker then finds another
holder, or sends the code itself.
"""

from __future__ import annotations

from park.kernel.machine import attempts, code_transfer
from park.kernel.machine.actions import ServeCode, ShareCode, TakeCode, ToBroker
from park.kernel.machine.state import KernelState
from park.wire import messages
from park.wire.pack import Buffer

#: Seconds for which the kernel waits for code at least, and bytes of code that take one second more.
MIN_PATIENCE_SECONDS, BYTES_PER_SECOND = 10.0, 2 << 20


def on_blob(state: KernelState, message: messages.Blob, payload: Buffer) -> None:
    """The broker has sent code."""
    keep(state, message.hash, payload)


def on_offer(state: KernelState, message: messages.Offer, payload: Buffer) -> None:
    """Another kernel has this code, or is about to have it."""
    if message.hash in state.codes:
        share(state, message.hash)
        return
    state.codes_awaited[message.hash] = state.now + MIN_PATIENCE_SECONDS + message.size / BYTES_PER_SECOND
    if message.process or message.address:
        state.do(TakeCode(message))


def on_share(state: KernelState, message: messages.Share, payload: Buffer) -> None:
    """Other kernels need this code."""
    if message.hash in state.codes:
        share(state, message.hash, message.abroad)
    else:
        state.do(ToBroker(messages.NeedBlob(message.hash)))


def on_serve(state: KernelState, message: messages.Serve, payload: Buffer) -> None:
    """Another kernel will fetch code here."""
    state.do(ServeCode(message))


def share(state: KernelState, code: bytes, abroad: bool = False) -> None:
    """Tell the broker where others find the code."""
    state.do(ShareCode(code, state.codes[code], abroad))


def shared(state: KernelState, code: bytes, data: Buffer, where: messages.Shared | None) -> None:
    """Note where others find the code, whose bytes are *data*; None: they cannot have it."""
    if code not in state.codes or where is None:
        state.do(ToBroker(messages.NeedBlob(code)))
        return
    state.codes.replace(code, data)
    state.codes_shared.add(code)
    state.do(ToBroker(where))


def keep(state: KernelState, code: bytes, data: Buffer) -> None:
    """Keep code that has come. Code that it displaces is not offered any more, and units that have waited for the code
    begin.
    """
    for dropped in code_transfer.keep(state, code, data):
        if dropped in state.codes_shared:
            state.codes_shared.discard(dropped)
            state.do(ToBroker(messages.NeedBlob(dropped)))
    if state.codes_awaited.pop(code, None) is not None:
        attempts.start_queued(state)


def taken(state: KernelState, code: bytes, data: Buffer | None) -> None:
    """The bytes of code that the kernel has taken from another one; None: it could not."""
    if data is None:
        give_up(state, code)
    elif code in state.codes_awaited:
        keep(state, code, data)
        share(state, code)


def give_up(state: KernelState, code: bytes) -> None:
    """The code does not come: give back what waits for it."""
    if state.codes_awaited.pop(code, None) is None:
        return
    state.do(ToBroker(messages.NeedBlob(code)))
    for number, (run, _) in list(state.queued.items()):
        if run.function == code:
            del state.queued[number]
            state.do(ToBroker(state.ended(run, "lost")))


def tick(state: KernelState) -> None:
    """Give up code that has not come in time."""
    for code, due in list(state.codes_awaited.items()):
        if state.now >= due:
            give_up(state, code)
