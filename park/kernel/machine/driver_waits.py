"""Waits of drivers: for the results of their maps, for other jobs, checkpoints and files, and for the slot that they lent.

A driver goes on when all results of its map are there. After contact was lost the kernel asks again for everything that
its drivers wait for, so a result may come twice. It is passed on once.
"""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from park.errors import ProtocolError
from park.kernel.machine import attempts, checkpoints, code_sharing, code_transfer, late_chunks
from park.kernel.machine.actions import ToBroker, ToSlot
from park.kernel.machine.held_attempt import HeldAttempt, SlotUse
from park.kernel.machine.process import Process
from park.kernel.machine.state import KernelState
from park.wire import messages
from park.wire.calls import Call
from park.wire.pack import Buffer, Pack, code_hash

# -- maps ----------------------------------------------------------------------------------------


def on_map(state: KernelState, held: HeldAttempt, message: messages.Map, payload: Buffer) -> None:
    """A body makes a map, and waits for it without a slot. Raises ProtocolError if the units are not those that it says."""
    if message.count != (Pack(payload).count if len(payload) else 0):
        raise ProtocolError(f"a map says that it has {message.count:,} units, and has others")
    state.timers.wait(message.attempt, state.now)
    call = Call(message, payload)
    held.enter_map(call)
    late_chunks.give_back(state, state.attempts[message.attempt], held)
    _send_map(state, call)
    attempts.start_queued(state)


def _send_map(state: KernelState, call: Call) -> None:
    code = call.map.function
    if code not in state.codes_given and code in state.codes:
        state.codes_given.add(code)
        state.do(ToBroker(messages.Blob(code), state.codes[code]))
    for message, units in call.again(call.map.job, state.epoch):
        state.do(ToBroker(message, units))


def on_results(state: KernelState, message: messages.Results, payload: Buffer) -> None:
    """Pass on results that the driver does not have yet. Replies to its fetches go as they are."""
    if message.reply:
        state.send_to_attempt(message, payload)
        return
    process = state.attempts.get(message.attempt)
    call = process.held(message.attempt).call if process is not None else None
    if process is None or call is None or call.map.map != message.map:
        return
    start, stop = message.start, message.start + message.count
    news = call.news(start, stop)
    resume = message.resume and call.complete
    if news == [(start, stop)]:
        if resume is not message.resume:
            message = replace(message, resume=resume)
        state.do(ToSlot(process.number, message, payload))
    else:
        pack = Pack(payload)
        for lo, hi in news:
            part = replace(message, start=lo, count=hi - lo, resume=False)
            state.do(ToSlot(process.number, part, pack.slice(lo - start, hi - start)))
        if resume:
            state.do(ToSlot(process.number, messages.Resume(message.attempt)))
    if resume:
        _resume(state, process.held(message.attempt))


def on_resume(state: KernelState, message: messages.Resume, payload: Buffer) -> None:
    """The driver may go on, unless results are missing, which the kernel has asked for again."""
    process = state.attempts.get(message.attempt)
    if process is None:
        return
    held = process.held(message.attempt)
    if held.slot_use is SlotUse.LENT or (held.call is not None and held.call.complete):
        state.do(ToSlot(process.number, message))
        _resume(state, held)


def on_map_failed(state: KernelState, message: messages.MapFailed, payload: Buffer) -> None:
    """The broker has refused the driver's map, and counts the driver as running."""
    process = state.attempts.get(message.attempt)
    held = process.held(message.attempt) if process is not None else None
    if (
        process is not None
        and held is not None
        and held.call is not None
        and held.call.map.map == message.map
    ):
        state.do(ToSlot(process.number, message))
        _resume(state, held)


def _resume(state: KernelState, held: HeldAttempt) -> None:
    held.resume(state.now)
    state.timers.go_on(held.run.attempt)
    state.pool.trim()


# -- slots that were lent, and fetches -------------------------------------------------------------


def on_lent(state: KernelState, held: HeldAttempt, message: messages.Lent, payload: Buffer) -> None:
    """A body has lent its slot at a safe point."""
    state.timers.wait(message.attempt, state.now)
    held.lend_slot()
    state.do(ToBroker(message))
    attempts.start_queued(state)


def on_fetch(
    state: KernelState,
    held: HeldAttempt,
    message: messages.Fetch | messages.Restore | messages.File,
    payload: Buffer,
) -> None:
    """A body asks for another job's result, for a checkpoint or for a file."""
    held.fetch = (message, payload)
    state.do(ToBroker(message, payload))


def on_fetched(state: KernelState, message: Any, payload: Buffer) -> None:
    """The last message of the answer to a body's fetch."""
    process = state.attempts.get(message.attempt)
    if process is not None:
        process.held(message.attempt).fetch = None
        state.do(ToSlot(process.number, message, payload))


# -- asking again ----------------------------------------------------------------------------------


def ask_again(state: KernelState) -> None:
    """The connection is a new one: ask again for everything that processes wait for, and repeat their checkpoints."""
    for process in state.pool:
        for held in process.stack:
            if held.call is not None:
                _send_map(state, held.call)
            if held.fetch is not None:
                state.do(ToBroker(*held.fetch))
            if held.slot_use is SlotUse.LENT:
                state.do(ToBroker(messages.Lent(held.run.attempt, state.epoch)))
            checkpoints.save(state, held)


def on_need_blob(state: KernelState, message: messages.NeedBlob, payload: Buffer) -> None:
    """The broker lacks the code of a map."""
    state.codes_given.discard(message.hash)
    if message.hash in state.codes:
        _map_again(state, message.hash)
    else:  # its process was just told to drop it, and sends it again
        state.codes_missing.add(message.hash)


def on_slot_blob(state: KernelState, process: Process, message: messages.Blob, payload: Buffer) -> None:
    """Take the code of a map that a process has sent. Its hash is checked, because processes of other owners may use
    the same code.
    """
    if code_hash(payload) != message.hash:
        return
    code_transfer.note_use(state, process, message.hash, len(payload))
    code_sharing.keep(state, message.hash, payload)
    if message.hash in state.codes_missing:
        state.codes_missing.discard(message.hash)
        _map_again(state, message.hash)


def _map_again(state: KernelState, code: bytes) -> None:
    """Send the maps of this code again, after the code."""
    for process in state.pool:
        for held in process.stack:
            if held.call is not None and held.call.map.function == code:
                _send_map(state, held.call)
