"""Code on its way to kernels: from the broker, or from another kernel (`park.broker.entities.spread`)."""

from __future__ import annotations

import hashlib

from park.broker.effects import Effects, Event, Ref
from park.broker.entities.roster import Kernel
from park.broker.entities.spread import (
    MAX_SPREADS,
    MIN_SPREAD_BYTES,
    CodeLocation,
    Spread,
    SpreadStep,
    share_files,
)
from park.broker.handlers import validate
from park.broker.state import State
from park.wire import messages

#: Seconds within which a ticket is used.
TICKET_SECONDS = 30.0


def give(state: State, effects: Effects, kernel: Kernel, code: bytes) -> None:
    """Give the kernel code that the broker has: send the code, or name the kernel that has it."""
    size = state.code_cache.size(code)
    if size < MIN_SPREAD_BYTES or not (kernel.machine or kernel.peers):
        _send(effects, kernel, code)
        return
    spread = state.sharing.spreads.get(code)
    if spread is None:
        if len(state.sharing.spreads) >= MAX_SPREADS:
            _forget_oldest(state)
        spread = state.sharing.spreads[code] = Spread(size)
    spread.want(kernel)
    _go_on(state, effects, code, spread)


def on_shared(state: State, effects: Effects, event: Event, message: messages.Shared) -> None:
    """A kernel says where others find a code that it has."""
    validate.check_shared(message)
    kernel, spread = state.roster.kernels.get(event.peer), state.sharing.spreads.get(message.hash)
    if kernel is None or spread is None:
        return
    address = ""
    if message.port and kernel.peers:
        address = (
            f"[{kernel.peers}]:{message.port}" if ":" in kernel.peers else f"{kernel.peers}:{message.port}"
        )
    place = CodeLocation(message.process, message.file, address, message.cipher, message.key, message.secret)
    if spread.hold(kernel, place):
        _go_on(state, effects, message.hash, spread)


def on_need_blob(state: State, effects: Effects, event: Event, message: messages.NeedBlob) -> None:
    """A kernel lacks this code: it has dropped the code, or could not get it. It gives back the work that needs the
    code.
    """
    kernel = state.roster.kernels.get(event.peer)
    if kernel is None:
        return
    kernel.known.discard(message.hash)
    if (spread := state.sharing.spreads.get(message.hash)) is not None:
        spread.lack(kernel.number)
        _go_on(state, effects, message.hash, spread)


def forget(state: State, effects: Effects, kernel: Kernel) -> None:
    """Forget what a kernel has: it is gone, or code on its way to it may be lost."""
    for code, spread in state.sharing.spreads.items():
        spread.forget(kernel.number)
        _go_on(state, effects, code, spread)


def _forget_oldest(state: State) -> None:
    """Forget one code for which no kernel waits, the one that was shared first."""
    idle = next((code for code, spread in state.sharing.spreads.items() if spread.is_idle), None)
    state.sharing.spreads.pop(next(iter(state.sharing.spreads)) if idle is None else idle)


def _go_on(state: State, effects: Effects, code: bytes, spread: Spread) -> None:
    if code not in state.code_cache:  # no unit needs it any more; kernels that wait for it give up
        return
    for step, kernel, holder in spread.steps():
        if step is SpreadStep.SEND:
            _send(effects, kernel, code)
        elif step in (SpreadStep.ASK, SpreadStep.ASK_ABROAD):
            effects.send(kernel.peer, messages.Share(code, step is SpreadStep.ASK_ABROAD))
        elif step is SpreadStep.WAIT:
            effects.send(kernel.peer, messages.Offer(code, spread.size))
        else:
            _lead(state, effects, code, spread, kernel, *spread.holders[holder])


def _lead(
    state: State,
    effects: Effects,
    code: bytes,
    spread: Spread,
    kernel: Kernel,
    holder: Kernel,
    place: CodeLocation,
) -> None:
    """Lead the kernel to the holder of the code: to its file, or with a ticket to its server."""
    trusted = kernel.account == holder.account  # the holder of this key could send false results anyway
    if share_files(kernel, holder):
        offer = messages.Offer(code, spread.size, place.process, place.file, trusted=trusted)
    else:
        state.sharing.tickets += 1
        # no stranger can compute it: the secret is random, and only the holder and the broker know it
        said = state.sharing.tickets.to_bytes(8, "big") + kernel.incarnation
        ticket = hashlib.blake2b(said, key=place.secret, digest_size=32).digest()
        effects.send(holder.peer, messages.Serve(place.cipher, ticket, TICKET_SECONDS))
        offer = messages.Offer(
            code,
            spread.size,
            address=place.address,
            cipher=place.cipher,
            key=place.key,
            ticket=ticket,
            trusted=trusted,
        )
    effects.send(kernel.peer, offer)


def _send(effects: Effects, kernel: Kernel, code: bytes) -> None:
    effects.send(kernel.peer, messages.Blob(code), Ref("blob", (code,)))
